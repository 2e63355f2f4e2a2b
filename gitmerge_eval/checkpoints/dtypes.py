"""The dtypes a checkpoint may have: their names in NumPy, safetensors and zarr.

``ml_dtypes`` is imported with this module, so that ``numpy.dtype('bfloat16')`` is known.
"""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np


@dataclass(frozen=True)
class Dtype:
    """One element type under its three names."""

    name: str
    """NumPy's name, which git-theta writes: 'float32', 'bfloat16'."""
    safetensors: str
    """The name in a safetensors header: 'F32', 'BF16'."""
    zarr: str
    """The name in a ``.zarray`` document, always little-endian: '<f4', 'bfloat16'."""
    numpy: np.dtype

    @property
    def extended(self) -> bool:
        """Whether the type is one of ml_dtypes', which the buffer protocol does not know."""
        return self.zarr == self.name

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return int(self.numpy.itemsize)


def _native(name: str, safetensors: str) -> Dtype:
    dtype = np.dtype(name)
    return Dtype(name, safetensors, dtype.newbyteorder("<").str, dtype)


def _extended(name: str, safetensors: str) -> Dtype:
    return Dtype(name, safetensors, name, np.dtype(getattr(ml_dtypes, name)))


# The order of safetensors' own enumeration: its writer puts the later ones first in a file.
IN_FILE_ORDER = (
    _native("uint64", "U64"),
    _native("int64", "I64"),
    _native("float64", "F64"),
    _native("complex64", "C64"),
    _native("float32", "F32"),
    _native("uint32", "U32"),
    _native("int32", "I32"),
    _extended("bfloat16", "BF16"),
    _native("float16", "F16"),
    _native("uint16", "U16"),
    _native("int16", "I16"),
    _extended("float8_e5m2fnuz", "F8_E5M2FNUZ"),
    _extended("float8_e4m3fnuz", "F8_E4M3FNUZ"),
    _extended("float8_e8m0fnu", "F8_E8M0"),
    _extended("float8_e4m3fn", "F8_E4M3"),
    _extended("float8_e5m2", "F8_E5M2"),
    _native("int8", "I8"),
    _native("uint8", "U8"),
    _native("bool", "BOOL"),
)

BY_NAME = {dtype.name: dtype for dtype in IN_FILE_ORDER}
BY_SAFETENSORS = {dtype.safetensors: dtype for dtype in IN_FILE_ORDER}
FILE_RANK = {dtype.name: rank for rank, dtype in enumerate(IN_FILE_ORDER)}
