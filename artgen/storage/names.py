"""Keys into output names: safe on every file system and store, unique, the tree kept."""

from __future__ import annotations

import re
import sqlite3
import unicodedata
from collections.abc import Iterable
from hashlib import blake2b

from artgen.errors import UsageError
from artgen.storage import kind

COMPONENT_BYTES = 200
NAME_BYTES = 700
"""A name longer than this loses middle folders to a hash: S3 keys end at 1,024 bytes, paths at 4,096."""

_BATCH = 10_000
_ROOM = 24  # for an extension, ~ and a number behind a cut stem
_BAD = re.compile(r'[<>:"\\|?*\x00-\x1f\x7f-\x9f]')
_BAD_CATEGORIES = ("Cc", "Cf", "Cs", "Zl", "Zp")
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$)(\.|$)", re.IGNORECASE)
_OWN = {"jpg": ".jpg", "jpeg": ".jpg", "jpe": ".jpg", "jfif": ".jpg", "webp": ".webp"}


class Names:
    """Gives every key of a listing its output name, in two passes over the listing with flat memory.

    A name is the key's path, sanitised, its image extension replaced by `extension` ("source": .jpg and
    .webp keep theirs, all else becomes .png). Where several keys want one name, regardless of case, the
    first that bears the extension itself keeps it and the others keep their own as well
    (foo.jpg.png); what still collides gets ~2, ~3. The same listing gives the same names.

    taken: names given by earlier runs, which stay theirs; add only keys that still need a name.

        with Names() as names:
            for key in keys(): names.add(key)
            for key in keys(): print(names.name(key))     # in the same order
    """

    def __init__(self, extension: str = ".png", taken: Iterable[str] = ()) -> None:
        self._extension = extension
        # A temporary file that sqlite removes. Rows are 64-bit hashes: should two of 10^7 names ever meet
        # (chance 3e-6), one of them gets a longer name than it needs.
        self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._db.executescript(
            "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-65536;"
            "CREATE TABLE names (hash INTEGER PRIMARY KEY, wanted INTEGER, folder INTEGER, used INTEGER)"
        )
        self._rows: list[tuple[int, int, int, int]] = []
        self._folder = ("", "")
        self._noted = ""
        self._taken = False
        for name in taken:
            self._taken = True
            self._note(_hash(name), used=1)
            self._note_folders(name.rpartition("/")[0])
        self._flush()

    def add(self, key: str) -> None:
        """First pass: notes the name that `key` wants."""
        folder, base = self._split(key)
        self._note(_hash(folder + self._stem(base) + self._suffix(base)), wanted=1)
        self._note_folders(folder.rstrip("/"))

    def name(self, key: str) -> str:
        """Second pass, in the order of the first: the name of `key`. Raises UsageError when it was not added."""
        self._flush()
        folder, base = self._split(key)
        suffix, stem = self._suffix(base), self._stem(base)
        best = folder + stem + suffix
        wanted, is_folder, used = self._facts(best)
        if not wanted:
            raise UsageError(f"{key!r} was not added before its name was asked for; pass the same keys twice")
        bears = base.lower().endswith(suffix)
        if not is_folder and not used and (wanted == 1 or bears):
            if wanted > 1:
                self._use(best)
            return best
        full = stem if bears else _component(base, COMPONENT_BYTES - _ROOM)
        found, number = folder + full + suffix, 1
        while any(self._facts(found)):
            number += 1
            found = f"{folder}{full}~{number}{suffix}"
        self._use(found)
        return found

    def close(self) -> None:
        """Drops the temporary file; no name can be asked for after it."""
        self._db.close()

    def __enter__(self) -> Names:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _split(self, key: str) -> tuple[str, str]:
        """(sanitised folder with its slash or "", last component as it is)."""
        above, _, base = key.rpartition("/")
        if above != self._folder[0] or not above:
            self._folder = (above, self._sanitised(above))
        return self._folder[1], base

    def _sanitised(self, above: str) -> str:
        folder = "".join(_component(p) + "/" for p in above.split("/") if p not in ("", "."))
        limit = NAME_BYTES - COMPONENT_BYTES
        if len(folder.encode()) > limit:
            head = folder.encode()[: limit - 20].decode("utf-8", "ignore").rpartition("/")[0]
            folder = f"{head}/{blake2b(folder.encode(), digest_size=8).hexdigest()}/".lstrip("/")
        if self._taken:
            folder = self._beside_files(folder)
        return folder

    def _beside_files(self, folder: str) -> str:
        """A folder that bears the name of a file of an earlier run gets ~ behind it."""
        self._flush()
        path = ""
        for part in folder.rstrip("/").split("/") if folder else ():
            while self._facts(path + part)[2]:
                part += "~"
            path += part + "/"
        return path

    def _suffix(self, base: str) -> str:
        return _OWN.get(kind.extension(base), ".png") if self._extension == "source" else self._extension

    def _stem(self, base: str) -> str:
        ext = kind.extension(base)
        return _component(base[: -len(ext) - 1] if ext in kind.IMAGE_EXTENSIONS else base, COMPONENT_BYTES - _ROOM)

    def _note_folders(self, folder: str) -> None:
        if folder == self._noted:
            return
        self._noted = folder
        while folder:
            self._note(_hash(folder), folder=1)
            folder = folder.rpartition("/")[0]

    def _note(self, number: int, wanted: int = 0, folder: int = 0, used: int = 0) -> None:
        self._rows.append((number, wanted, folder, used))
        if len(self._rows) >= _BATCH:
            self._flush()

    def _use(self, name: str) -> None:
        self._note(_hash(name), used=1)
        self._flush()

    def _flush(self) -> None:
        if not self._rows:
            return
        self._rows.sort()  # neighbours share a page of the index
        self._db.execute("BEGIN")
        self._db.executemany(
            "INSERT INTO names VALUES (?, ?, ?, ?) ON CONFLICT (hash) DO UPDATE SET wanted = wanted + excluded.wanted,"
            " folder = folder | excluded.folder, used = used | excluded.used",
            self._rows,
        )
        self._db.execute("COMMIT")
        self._rows.clear()

    def _facts(self, name: str) -> tuple[int, int, int]:
        row = self._db.execute("SELECT wanted, folder, used FROM names WHERE hash = ?", (_hash(name),)).fetchone()
        return row or (0, 0, 0)


def _component(text: str, limit: int = COMPONENT_BYTES) -> str:
    """One path component: NFC, no character or word that Windows, a shell or a store chokes on, at most
    `limit` bytes of UTF-8 (a cut one ends in a hash of the whole).
    """
    if not text.isascii():
        text = "".join(
            "_" if unicodedata.category(c) in _BAD_CATEGORIES else c for c in unicodedata.normalize("NFC", text)
        )
    clean = _BAD.sub("_", text)
    if len(clean.encode()) > limit:
        digest = blake2b(text.encode("utf-8", "backslashreplace"), digest_size=8).hexdigest()
        clean = clean.encode()[: limit - 17].decode("utf-8", "ignore") + "-" + digest
    tail = len(clean) - len(clean.rstrip(" ."))
    clean = clean[: len(clean) - tail] + "_" * tail
    if _RESERVED.match(clean) or clean.startswith(".artgen-"):
        clean = "_" + clean
    return clean or "_"


def _hash(name: str) -> int:
    folded = unicodedata.normalize("NFC", name.casefold()) if not name.isascii() else name.lower()
    return int.from_bytes(blake2b(folded.encode(), digest_size=8).digest(), "little", signed=True)
