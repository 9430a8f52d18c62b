"""Writes measured scores into the shipped restorer's card: python scripts/card.py QUALITY.json ...

Each file is what `bench/quality.py --out FOLDER` left, of the shipped weights. A row of the card's tables that was measured
gets its new scores; peers that were not run this time keep theirs, which the weights do not change.
"""

import hashlib
import json
import re
import sys
from pathlib import Path

WEIGHTS = Path(__file__).resolve().parents[1] / "artgen" / "models" / "weights"
ROW = re.compile(r"\| (?P<set>\w+) \(\d+\) \| (?P<damage>[\w-]+) (?P<strength>[\d.]+) \|")
NO_PEERS = {"set", "damage", "strength", "images", "input", "restored", "restored_ssim", "published"}


def main() -> None:
    sha256 = hashlib.sha256((WEIGHTS / "default.safetensors").read_bytes()).hexdigest()
    rows = {}
    for file in sys.argv[1:]:
        measured = json.loads(Path(file).read_text())
        if measured["sha256"] != sha256:
            sys.exit(
                f"{file} measures other weights than the shipped ones ({measured['sha256'][:8]}, not {sha256[:8]})"
            )
        rows |= {(row["set"], row["damage"], float(row["strength"])): row for row in measured["rows"]}
    card = WEIGHTS / "default.md"
    lines = [with_scores(line, rows) for line in card.read_text().splitlines()]
    text = re.sub(r"sha256 `[0-9a-f]{64}`", f"sha256 `{sha256}`", "\n".join(lines) + "\n")
    card.write_text(text)
    sys.stdout.write(f"{len(rows)} rows are in {card}\n")


def with_scores(line: str, rows: dict[tuple[str, str, float], dict]) -> str:
    """A row of a table, its scores replaced where it was measured; any other line as it is."""
    found = ROW.match(line)
    row = rows.get((found["set"], found["damage"], float(found["strength"]))) if found else None
    if row is None:
        return line
    peers = dict(peer.rsplit(" ", 1) for peer in line.split("|")[6].strip(" -").split(", ") if peer)
    peers |= {name: f"{score:.2f}" for name, score in row.items() if name not in NO_PEERS}
    told = ", ".join(f"{name} {score}" for name, score in peers.items()) or "-"
    cells = (
        f"{row['set']} ({row['images']})", f"{row['damage']} {row['strength']:g}", f"{row['input']:.2f}",
        f"**{row['restored']:.2f}**", f"{row['restored_ssim']:.4f}", told, row["published"] or "-",
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
