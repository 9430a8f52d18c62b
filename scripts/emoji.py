"""Makes the DATA of the generator that comes with the package: python scripts/emoji.py EMOJI.zip DATA.zip

EMOJI.zip: Twemoji's pictures, named by their code points (1f600.png, 1f469-1f3fd-200d-1f52c.png). DATA.zip gets those of four
classes, laid on white, in a folder for each: faces, flags, hands, and single persons seen from the waist up at the most. The
smaller classes go in several times, so that training sees enough of each.
"""

import io
import sys
import zipfile

from PIL import Image

TIMES = {"face": 4, "flag": 2, "hand": 2, "person": 1}

TONES = set(range(0x1F3FB, 0x1F400))
JOINERS = {0x200D, 0xFE0F}
LETTERS = range(0x1F1E6, 0x1F200)  # two of them are the flag of a country
FACES = {
    *range(0x1F600, 0x1F638), *range(0x1F641, 0x1F645), *range(0x1F910, 0x1F918), *range(0x1F920, 0x1F926),
    *range(0x1F927, 0x1F930), *range(0x1F970, 0x1F97B), *range(0x1FAE0, 0x1FAE9), 0x263A, 0x2639, 0x1F9D0,
}  # fmt: skip
HANDS = {
    *range(0x1F446, 0x1F451), *range(0x1F918, 0x1F920), *range(0x1FAF0, 0x1FAF9), *range(0x270A, 0x270E), 0x261D, 0x1F485, 0x1F4AA,
    0x1F590, 0x1F595, 0x1F596, 0x1F64C, 0x1F64F, 0x1F90C, 0x1F90F, 0x1F932,
}  # fmt: skip
PEOPLE = {0x1F466, 0x1F467, 0x1F468, 0x1F469, 0x1F476, 0x1F9D1}
PERSONS = PEOPLE | {
    *range(0x1F470, 0x1F476), *range(0x1F477, 0x1F479), *range(0x1F645, 0x1F648), *range(0x1F934, 0x1F938),
    *range(0x1F9D2, 0x1F9D6), *range(0x1F9D9, 0x1F9E0), 0x1F385, 0x1F46E, 0x1F47C, 0x1F481, 0x1F482, 0x1F486, 0x1F487,
    0x1F575, 0x1F64B, 0x1F64D, 0x1F64E, 0x1F926, 0x1F930, 0x1F931, 0x1F977, 0x1F9B8, 0x1F9B9, 0x1F9CC, 0x1F9CF, 0x1FAC3,
    0x1FAC4, 0x1FAC5,
}  # fmt: skip
# A handshake of two, a cane, wheelchairs: the whole body is shown.
BEYOND_A_PERSON = {0x1F91D, 0x1F9AF, 0x1F9BC, 0x1F9BD}


def class_of(codes: list[int]) -> str | None:
    base = [code for code in codes if code not in TONES | JOINERS]
    if (len(codes) == 2 and all(code in LETTERS for code in codes)) or (codes[0] == 0x1F3F4 and len(codes) > 2):
        return "flag"
    if not base:
        return None
    if len(base) == 1 and base[0] in FACES:
        return "face"
    if base[0] in HANDS:
        return "hand"
    alone = sum(code in PEOPLE for code in base) <= 1
    return "person" if alone and base[0] in PERSONS and not BEYOND_A_PERSON & {*base} else None


def on_white(data: bytes) -> bytes:
    picture, file = Image.open(io.BytesIO(data)).convert("RGBA"), io.BytesIO()
    ground = Image.new("RGB", picture.size, "white")
    ground.paste(picture, mask=picture)
    ground.save(file, "PNG")
    return file.getvalue()


def main() -> None:
    found = dict.fromkeys(TIMES, 0)
    with zipfile.ZipFile(sys.argv[1]) as emoji, zipfile.ZipFile(sys.argv[2], "w") as data:
        for name in sorted(emoji.namelist()):
            stem = name.rpartition("/")[2].removesuffix(".png")
            if not name.endswith(".png") or (kind := class_of([int(code, 16) for code in stem.split("-")])) is None:
                continue
            picture = on_white(emoji.read(name))
            found[kind] += 1
            for number in range(TIMES[kind]):
                data.writestr(f"{kind}/{stem}{f'-{number + 1}' if number else ''}.png", picture)
    sys.stdout.write(", ".join(f"{count} of {kind}, {TIMES[kind]} times" for kind, count in found.items()) + "\n")


if __name__ == "__main__":
    main()
