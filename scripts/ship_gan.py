"""Makes a trained GAN the generator that comes with the package: python scripts/ship_gan.py RUN

Takes RUN/model.safetensors (the running mean of the weights), halves the precision of its matrices and adds what the header of
shipped weights says. Its hash, which the model card (artgen/models/weights/gans/default.md) names, is printed.
"""

import dataclasses
import hashlib
import sys
from pathlib import Path

from artgen.models.gans.weights import load_painter, to_bytes

TARGET = Path(__file__).resolve().parents[1] / "artgen" / "models" / "weights" / "gans" / "default.safetensors"
LICENCE = "Apache-2.0 for the weights; trained on Twemoji graphics (CC-BY 4.0, Twitter, Inc and other contributors)"


def main() -> None:
    trained = load_painter(sys.argv[1])
    facts = dataclasses.replace(trained.facts, licence=LICENCE, card="artgen/models/weights/gans/default.md")
    for weights in trained.module.parameters():
        if weights.ndim > 1:  # the statistics of batch norm stay as they are
            weights.data = weights.data.half()
    data = to_bytes(trained.module, facts)
    TARGET.write_bytes(data)
    sys.stdout.write(f"{TARGET}: {len(data) / 1e6:.1f} MB, sha256 {hashlib.sha256(data).hexdigest()}\n")


if __name__ == "__main__":
    main()
