"""What a file is, by its name and, where the name says nothing, by its first bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Literal

FileKind = Literal["image", "tar", "targz", "zip", "parquet", "foreign", "other", "unknown"]

SNIFF_BYTES = 64


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


# What Pillow reads, and sound pictures of kinds that nobody here reads yet: those become a failed row that
# says so, which a person can act on, where silence would lose them.
IMAGE_EXTENSIONS = _set(
    "png apng jpg jpeg jpe jfif gif bmp dib tif tiff webp avif avifs jp2 j2k j2c jpc jpf jpx mpo ico cur icns "
    "ppm pgm pbm pnm pfm pcx dcx tga vda icb vst sgi rgb rgba bw ras psd qoi dds xbm xpm fits fli flc msp pcd "
    "blp ftc ftu im pxr heic heif hif jxl jxr wdp hdr exr dng cr2 cr3 nef arw orf rw2 raf pef srw"
)
_CONTAINERS: dict[str, FileKind] = {"tar": "tar", "tgz": "targz", "zip": "zip", "parquet": "parquet"}
_FOREIGN = _set("7z rar tbz tbz2 txz tzst bz2 xz zst lz4 gz iso cab cpio")
_OTHER = _set(
    "txt json jsonl ndjson cls csv tsv md rst html htm xml xmp yaml yml toml ini cfg conf log py pyc sh bat js css "
    "pdf doc docx odt xls xlsx ods ppt pptx db sqlite sqlite3 lmdb npy npz pt pth ckpt safetensors onnx pkl h5 "
    "hdf5 hdf arrow feather mp4 m4v mov avi mkv webm mpg mpeg wmv mp3 wav flac ogg m4a srt vtt url lnk exe dll so "
    "svg svgz eps ps ai emf wmf ttf otf woff woff2 md5 sha1 sha256 crc sfv par2 index idx lock tmp part"
)
_MAGIC = (
    *(b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"8BPS", b"qoif"),
    *(b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51", b"DDS ", b"icns", b"\0\0\1\0", b"\0\0\2\0", b"\x01\xda", b"BLP"),
    *(b"\0\0\0\x0cJXL ", b"\xff\x0a", b"\x59\xa6\x6a\x95", b"SIMPLE  =", b"/* XPM"),
)
_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"mif1", b"msf1", b"hevc", b"crx ")
_TABLES = [*map(sorted, (IMAGE_EXTENSIONS, _CONTAINERS, _FOREIGN, _OTHER, _MAGIC, _BRANDS))]
RULES = hashlib.sha256(repr(_TABLES).encode()).hexdigest()
"""Another one where other names or first bytes make an image: what was found by other rules is not to be trusted."""


def extension(name: str) -> str:
    """The last extension of a path, lower case, without the dot; "" when there is none."""
    base = name.rpartition("/")[2]
    stem, dot, ext = base.rpartition(".")
    return ext.lower() if dot and stem else ""


def of(name: str) -> FileKind:
    """What the name alone says. `foreign` is an archive that artgen does not open."""
    ext = extension(name)
    if ext == "gz" and extension(name[:-3]) == "tar":
        return "targz"
    if ext in _CONTAINERS:
        return _CONTAINERS[ext]
    if ext in IMAGE_EXTENSIONS:
        return "image"
    if ext in _FOREIGN:
        return "foreign"
    return "other" if ext in _OTHER else "unknown"


def looks_like_image(head: bytes) -> bool:
    """Whether a file that begins with `head` (SNIFF_BYTES or fewer) claims to be a picture, sound or not."""
    if head.startswith(_MAGIC) or b"PNG\r\n" in head[:6] or head.startswith(b"\xff\xd8"):
        return True
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return True
    if head[4:8] == b"ftyp" and head[8:12] in _BRANDS:
        return True
    if len(head) > 2 and head[:1] == b"P" and head[1:2] in b"1234567Ff" and head[2:3].isspace():
        return True
    return len(head) > 3 and head[0] == 0x0A and head[1] <= 5 and head[2] == 1 and head[3] in (1, 2, 4, 8)


def clutter(name: str) -> str:
    """Why a path is nobody's picture whatever its bytes are (resource forks, our own temporary files), or ""."""
    parts = name.split("/")
    base = parts[-1]
    if "__MACOSX" in parts[:-1] or base.startswith("._"):
        return "a macOS resource fork"
    if base in (".DS_Store", "Thumbs.db", "desktop.ini"):
        return "a file of the desktop, not an image"
    return "an unfinished file of artgen" if base.startswith(".artgen-") else ""


def member(name: str, head: Callable[[], bytes]) -> tuple[str, str]:
    """(skip, problem) of a member of an archive: both "" for an image. `head` gives its first bytes."""
    reason = clutter(name)
    if reason:
        return reason, ""
    kind = of(name)
    if kind == "image":
        return "", ""
    if kind == "other":
        return f"not an image (.{extension(name)})", ""
    if kind == "unknown":
        return ("", "") if looks_like_image(head()) else ("not an image (by its first bytes)", "")
    return "", "an archive inside an archive is not opened; unpack the outer one first"
