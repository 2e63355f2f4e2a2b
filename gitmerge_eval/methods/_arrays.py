"""What operators cannot say, of torch tensors and NumPy arrays alike.

Kernels are written once, in operators and these functions, and do the same IEEE operations in the
same order on both: so they give the same bytes. Neither library is imported before an array of it
is met. NumPy arrays have at least one axis; without one they are numbers of another dtype's rules.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gitmerge_eval.records import Array


def is_torch(array: object) -> bool:
    """Whether it is a tensor; False without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(array, getattr(torch, "Tensor", ()))


def on_gpu(array: Array) -> bool:
    """Whether it is a tensor on another device than the CPU."""
    return is_torch(array) and array.device.type != "cpu"


def sign(array: Array) -> Array:
    """-1, 0 or 1 for each element."""
    found: Array = _library(array).sign(array)
    return found


def maximum(first: Array, second: Array) -> Array:
    """The greater of the two, element by element."""
    found: Array = _library(first).maximum(first, second)
    return found


def where(condition: Array, array: Array, number: float) -> Array:
    """The array's element where the condition holds, else the number."""
    found: Array = _library(array).where(condition, array, number)
    return found


def raise_to(array: Array, least: float) -> Array:
    """The array itself, with ``least`` in the place of what was less."""
    if is_torch(array):
        return array.clamp_(min=least)
    import numpy

    found: Array = numpy.maximum(array, least, out=array)  # type: ignore[call-overload]
    return found


def zeros_like(array: Array) -> Array:
    """Zeros of its shape and dtype."""
    found: Array = _library(array).zeros_like(array)
    return found


def counters_like(array: Array) -> Array:
    """Zeros of its shape to count constituents in: of int16, which any float holds exactly."""
    library = _library(array)
    found: Array = library.zeros_like(array, dtype=library.int16)
    return found


def count(mask: Array) -> int:
    """The number of elements that are True."""
    return int(_library(mask).count_nonzero(mask))


def numbers(values: Sequence[Any]) -> tuple[float, ...]:
    """0-d arrays as Python's numbers, brought to the host in one transfer."""
    if any(map(is_torch, values)):
        import torch

        return tuple(torch.stack([torch.as_tensor(value) for value in values]).tolist())
    return tuple(map(float, values))


def as_float64(array: Array) -> Array:
    """Its values in float64; may be the array itself."""
    if is_torch(array):
        return array.double()
    untyped: Any = array
    found: Array = untyped.astype("float64", copy=False)
    return found


def float64_bits(array: Array) -> Array:
    """The bits of the values in float64, as int64; may share the array's memory."""
    wide = as_float64(array.reshape(-1))
    return wide.view(_library(wide).int64)


def bincount(digits: Array) -> Array:
    """How often each number from 0 to the greatest occurs."""
    found: Array = _library(digits).bincount(digits)
    return found


def integers_like(array: Array, size: int) -> Array:
    """``size`` zeros of int64 on the array's device."""
    library = _library(array)
    found: Array = library.zeros(size, dtype=library.int64, **_device(array))
    return found


def kth_largest(parts: Sequence[Array], rank: int) -> int:
    """The integer of that rank, 1 being the largest, among all parts'."""
    library = _library(parts[0])
    if is_torch(parts[0]):
        return int(library.cat(tuple(parts)).sort(descending=True).values[rank - 1])
    whole = library.concatenate(parts)
    whole.partition(len(whole) - rank)
    return int(whole[len(whole) - rank])


def words(values: Sequence[int], array: Array) -> Array:
    """Numbers under 2^63 as words of 64 bits on the array's device."""
    library = _library(array)
    found: Array = library.asarray(values, dtype=_word(array), **_device(array))
    return found


def word_range(count: int, array: Array) -> Array:
    """The words 0 to ``count`` - 1."""
    found: Array = _library(array).arange(count, dtype=_word(array), **_device(array))
    return found


def upper_half(word: Array) -> Array:
    """The upper 32 bits of words of 64. Torch's are signed, and shift their sign in."""
    shifted = word >> 32
    return shifted.bitwise_and_(0xFFFFFFFF) if is_torch(word) else shifted


def interleaved(parts: Sequence[Array]) -> Array:
    """The elements of matrices in turn: all first ones of a row, all second ones, …"""
    library = _library(parts[0])
    found: Array = library.stack(tuple(parts), -1).reshape(len(parts[0]), -1)
    return found


def mask_like(array: Array) -> Array:
    """An uninitialised mask of the array's shape."""
    library = _library(array)
    found: Array = library.empty_like(
        array, dtype=library.bool if is_torch(array) else library.bool_
    )
    return found


def shifted_rows(matrix: Array, shifts: Sequence[int], width: int) -> Array:
    """Of row r of a matrix the ``width`` elements from ``shifts[r]`` on."""
    library, device = _library(matrix), _device(matrix)
    firsts = library.asarray(shifts, dtype=library.int64, **device)[:, None]
    columns = firsts + library.arange(width, dtype=library.int64, **device)
    if is_torch(matrix):
        return matrix.gather(1, columns)
    found: Array = library.take_along_axis(matrix, columns, 1)
    return found


def _library(array: object) -> Any:
    """The module that the array is of; what both call alike is called from it."""
    if is_torch(array):
        import torch

        return torch
    import numpy

    return numpy


def _device(array: Array) -> dict[str, Any]:
    """Where a new array shall be, as torch's functions take it."""
    return {"device": array.device} if is_torch(array) else {}


def _word(array: Array) -> Any:
    """64 bits: NumPy has unsigned ones, torch has but few operations for them."""
    library = _library(array)
    return library.int64 if is_torch(array) else library.uint64
