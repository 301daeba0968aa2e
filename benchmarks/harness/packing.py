"""Arrays as JSON, on their way between processes and in reports: deflated bytes in base64."""

from __future__ import annotations

import base64
import zlib
from typing import Any

import numpy as np


def packed(array: np.ndarray) -> dict[str, Any]:
    """An array as plain data."""
    return {"dtype": str(array.dtype), "shape": list(array.shape), "bytes": pack(array)}


def unpacked(packed: dict[str, Any]) -> np.ndarray:
    """The inverse of `packed`."""
    return unpack(packed["bytes"], dtype=packed["dtype"], shape=tuple(packed["shape"]))


def pack(array: np.ndarray) -> str:
    """The array's bytes alone."""
    return base64.b64encode(zlib.compress(array.tobytes(), 9)).decode()


def unpack(text: str, *, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """The inverse of `pack`; one size of the shape may be -1."""
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype=dtype).reshape(shape)
