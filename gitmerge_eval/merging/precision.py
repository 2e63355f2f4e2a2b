"""Between the stored dtypes and that of sums: values are widened once and rounded once."""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from gitmerge_eval.checkpoints import bridge
from gitmerge_eval.checkpoints.dtypes import BY_NAME
from gitmerge_eval.errors import NonFiniteValue, NumericalError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from gitmerge_eval.records import Array


def widened(array: NDArray[Any], accumulate: str, where: str) -> NDArray[Any]:
    """The stored values in the dtype of sums; may share the array's memory.

    Raises NonFiniteValue, naming ``where``, if one is NaN or infinite. NumPy's warnings of such
    values are the caller's to silence, once for many tiles.
    """
    values = wide(array, accumulate)
    # A float32 is as finite as the float64 that it becomes, and read in half the time.
    if not np.isfinite(array if array.dtype == np.float32 else values).all():
        raise _non_finite(where)
    return values


def wide(array: NDArray[Any], accumulate: str) -> NDArray[Any]:
    """:func:`widened`, whatever the values are."""
    return _readable(array).astype(accumulate, copy=False)


def finite(tensor: Tensor, where: str) -> Tensor:
    """The tensor; NonFiniteValue, naming ``where``, if it holds NaN or infinity."""
    # One pass without a mask: a sum of finite numbers is finite, or so large that it is looked at.
    if math.isfinite(float(tensor.sum())) or bool(tensor.isfinite().all()):
        return tensor
    raise _non_finite(where)


def stored(value: Array | NDArray[Any], dtype: str) -> NDArray[Any]:
    """The value rounded to the stored dtype, as torch does it: to float32 first where that is less.

    NumericalError where a value overflows. What float8 dtypes cannot hold becomes NaN or infinity
    here, and so an error, where some versions of torch take the nearest that there is.
    """
    kind = BY_NAME[dtype]
    if isinstance(value, np.ndarray):
        rounded = _rounded(value, kind.numpy)
        visible = _readable(rounded)
        fits = np.isfinite(visible.astype(np.float32) if visible.itemsize == 2 else visible).all()
    elif kind.itemsize == 1:
        return stored(bridge.to_numpy(value.float()), dtype)
    else:
        tensor = value.to(bridge.torch_dtype(dtype))
        seen = tensor if tensor.element_size() >= 4 else tensor.float()
        fits = math.isfinite(float(seen.sum())) or seen.isfinite().all()
        rounded = bridge.to_numpy(tensor)
    if not fits:
        raise _unfit(dtype)
    return rounded


def store(value: Array | NDArray[Any], out: NDArray[Any]) -> None:
    """:func:`stored` in the dtype and the memory of ``out``, which has as many elements."""
    if isinstance(value, np.ndarray) and out.dtype.itemsize >= 4:
        np.copyto(out, value.reshape(out.shape), casting="unsafe")
        if not np.isfinite(out).all():
            raise _unfit(out.dtype.name)
    else:
        out[...] = stored(value, out.dtype.name).reshape(out.shape)


def _rounded(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    with np.errstate(all="ignore"):
        if dtype.itemsize < 4:
            values = values.astype(np.float32, copy=False)
        return values.astype(dtype, copy=False)


def _readable(array: NDArray[Any]) -> NDArray[Any]:
    """The array; one of an 8-bit dtype in float32."""
    if array.dtype.itemsize > 1:
        return array
    values: NDArray[Any] = _table(array.dtype).take(array.view(np.uint8))
    return values


@cache
def _table(dtype: np.dtype[Any]) -> NDArray[Any]:
    """The values of the 256 elements of an 8-bit dtype: converting them one by one is slower."""
    return np.arange(256, dtype=np.uint8).view(dtype).astype(np.float32)


def _unfit(dtype: str) -> NumericalError:
    return NumericalError(f"the merged values do not fit {dtype}; choose a smaller scale")


def _non_finite(where: str) -> NonFiniteValue:
    return NonFiniteValue(
        f"{where}: it holds NaN or infinity; fine-tune again from the last good "
        "checkpoint, or leave this branch out of the merge"
    )
