"""What a safetensors file says of itself."""

from __future__ import annotations

import json


def metadata_of(data: bytes) -> dict[str, str]:
    """The metadata in the header of a sound safetensors file (8 bytes of length, then JSON); empty without.

    Check the file first, by loading its tensors: this looks at nothing else.
    """
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__", {})
