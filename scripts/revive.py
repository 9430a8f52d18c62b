"""Begins the dead units of a restorer anew: python scripts/revive.py MODEL DATA OUT.safetensors

Units that fire on none of 768 training crops (artgen/training/firing.py) get fresh weights and, for the time being, no say.
OUT gives the same pictures as MODEL and is meant for `artgen train restorer DATA RUN --set start="OUT.safetensors"`.
"""

import sys

import torch
from safetensors.torch import save_file

from artgen.models import weights
from artgen.training.data import Crops
from artgen.training.firing import revive, silent_share, watched
from artgen.training.pictures import Pictures, list_sources
from artgen.training.recipe import load_recipe

CROPS, AT_ONCE = 768, 32


def main() -> None:
    model, data, out = sys.argv[1:]
    restorer = weights.load(model)
    recipe = load_recipe("default", {"seed": 1})
    with Pictures(list_sources(data), recipe.patch_px) as pictures, watched(restorer.module) as highest:
        crops = Crops(pictures, recipe)
        with torch.inference_mode():
            for first in range(0, CROPS, AT_ONCE):
                batch = crops.batch(first, AT_ONCE)
                restorer.module(batch.damaged, batch.mask)
    share, count = silent_share(highest), revive(restorer.module, highest)
    tensors = {name: tensor.contiguous() for name, tensor in restorer.module.state_dict().items()}
    save_file(tensors, out, metadata={"artgen": restorer.facts.to_json()})
    sys.stdout.write(f"{count} of the hidden units ({share:.0%}) never fired and begin anew: {out}\n")


if __name__ == "__main__":
    main()
