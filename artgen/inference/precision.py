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
