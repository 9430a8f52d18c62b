"""Makes a trained run the restorer that comes with the package: python scripts/ship.py RUN

Takes RUN/model.safetensors (the running mean of the weights), halves its precision and adds what the header of shipped
weights says. The model card, artgen/models/weights/default.md, gets its scores from scripts/card.py.
"""

import dataclasses
import sys
from pathlib import Path

from safetensors.torch import save_file

from artgen.models import registry
from artgen.models.weights import load

TARGET = Path(__file__).resolve().parents[1] / "artgen" / "models" / "weights" / "default.safetensors"
LICENCE = "Apache-2.0; training pictures under their own licences, listed in the card"
DAMAGE = ("noise", "salt-pepper", "missing", "holes", "scratches", "jpeg", "mixture")


def main() -> None:
    trained = load(sys.argv[1])
    _, facts = registry.build(trained.facts.name, trained.facts.params)
    facts = dataclasses.replace(facts, damage=DAMAGE, licence=LICENCE, card="artgen/models/weights/default.md")
    tensors = {name: tensor.half().contiguous() for name, tensor in trained.module.state_dict().items()}
    save_file(tensors, TARGET, metadata={"artgen": facts.to_json()})
    sys.stdout.write(f"{TARGET}: {TARGET.stat().st_size / 1e6:.1f} MB, tiles overlap by {facts.overlap} px\n")


if __name__ == "__main__":
    main()
