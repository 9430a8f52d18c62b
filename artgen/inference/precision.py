"""--precision as torch's number types."""

from __future__ import annotations

import torch

from artgen.errors import UsageError

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def dtype_of(precision: str) -> torch.dtype:
    """Of the forward pass. Raises UsageError for an unknown one."""
    if precision not in _DTYPES:
        raise UsageError(f"--precision {precision}: unknown; use one of {', '.join(_DTYPES)}")
    return _DTYPES[precision]


def bf16_is_fast(device: str) -> bool:
    """Whether this machine multiplies bf16 on `device` ("cuda", "cpu", ...) in hardware made for it: GPUs of 2020 and later,
    CPUs with AMX. Elsewhere it is emulated, at a loss.
    """
    if device == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return device == "cpu" and torch.cpu._is_amx_tile_supported()
