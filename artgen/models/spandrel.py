"""Foreign weights through spandrel: about 40 architectures, recognised by their tensors.

Imported only when such a model is loaded: spandrel is an extra and imports torchvision.
"""

from __future__ import annotations

import inspect
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import torch
from torch import Tensor, nn

from artgen.errors import UsageError
from artgen.models.spec import Facts, Restorer

try:
    import spandrel
except ImportError as missing:
    raise UsageError(
        "weights that artgen did not write are read by spandrel, which is not installed: pip install 'artgen[spandrel]'"
    ) from missing


def restorer_from(tensors: dict[str, Any], name: str, sha256: str) -> Restorer:
    """Wraps the model that spandrel recognises in the tensors.

    Raises UsageError: no known architecture, a scale above 4, or channels other than 1 or 3 in and out.
    """
    try:
        descriptor = spandrel.ModelLoader().load_from_state_dict(spandrel.canonicalize_state_dict(tensors))
    except Exception as error:
        reason = str(error).split("\n", 1)[0]
        raise UsageError(
            f"spandrel does not recognise the weights in {name!r}: {reason or type(error).__name__}"
        ) from error
    channels = descriptor.input_channels
    if channels not in (1, 3) or descriptor.output_channels != channels or not 1 <= descriptor.scale <= 4:
        raise UsageError(
            f"the model {name!r} takes {channels} and returns {descriptor.output_channels} channels at scale "
            f"{descriptor.scale}; artgen runs models with 1 or 3 channels in and out and scale 1 to 4"
        )
    sizes = descriptor.size_requirements
    facts = Facts(
        name=PurePosixPath(name).stem,
        architecture=f"spandrel/{descriptor.architecture.id}",
        channels=channels,
        takes_mask=isinstance(descriptor, spandrel.MaskedImageModelDescriptor),
        multiple=sizes.multiple_of,
        scale=descriptor.scale,
        min_size=max(sizes.minimum, sizes.multiple_of),
        half=descriptor.supports_half,
        bfloat16=descriptor.supports_bfloat16,
        seamless=descriptor.tiling is not spandrel.ModelTiling.DISCOURAGED,
    )
    _settle(descriptor.model)
    return Restorer(_Adapter(descriptor), facts, sha256)


def _settle(model: nn.Module) -> None:
    """What is not the same in every pass becomes so: some networks (SPAN) merge their kernels anew in each, in place, where
    threads that share the model would meet; others (GFPGAN) draw noise from torch's global generator.
    """
    if "randomize_noise" in inspect.signature(model.forward).parameters:
        object.__setattr__(model, "forward", partial(model.forward, randomize_noise=False))
    for module in model.modules():
        update = getattr(module, "update_params", None)
        if callable(update):
            update()
            object.__setattr__(module, "update_params", _nothing)


def _nothing() -> None:
    """Has been done once and for all."""


class _Adapter(nn.Module):
    """Calls a descriptor picture by picture, which is all that spandrel promises to work."""

    one_by_one = True

    def __init__(self, descriptor: spandrel.ModelDescriptor) -> None:
        super().__init__()
        self.model = descriptor.model
        self._descriptor = descriptor

    def forward(self, x_BCHW: Tensor, mask_B1HW: Tensor | None = None) -> Tensor:
        if isinstance(self._descriptor, spandrel.MaskedImageModelDescriptor):
            if mask_B1HW is None:
                mask_B1HW = torch.zeros_like(x_BCHW[:, :1])
            pairs = zip(x_BCHW.split(1), mask_B1HW.split(1), strict=True)
            return torch.cat([self._descriptor(image, mask) for image, mask in pairs])
        return torch.cat([self._descriptor(image) for image in x_BCHW.split(1)])
