"""Between NumPy and torch, bit-exact and without a copy; the one module here that imports torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gitmerge_eval.checkpoints.dtypes import BY_NAME
from gitmerge_eval.errors import CheckpointError

if TYPE_CHECKING:
    import torch

_CARRIERS = {1: np.dtype(np.int8), 2: np.dtype(np.int16)}
"""Integers of equal width carry the bits of the dtypes that torch.from_numpy does not know."""


def torch_dtype(name: str) -> torch.dtype:
    """torch's dtype for a name of :mod:`~gitmerge_eval.checkpoints.dtypes`.

    CheckpointError if the installed torch has none.
    """
    import torch

    dtype = getattr(torch, name, None)
    if name not in BY_NAME or not isinstance(dtype, torch.dtype):
        raise CheckpointError(f"torch {torch.__version__} has no dtype '{name}'; update torch")
    return dtype


def to_torch(array: NDArray[Any]) -> torch.Tensor:
    """A tensor with the array's bits; it shares the memory unless that is read-only."""
    import torch

    dtype = torch_dtype(array.dtype.name)
    array = np.require(array, requirements=["C", "W"])
    if BY_NAME[array.dtype.name].extended:
        return torch.from_numpy(array.view(_CARRIERS[array.dtype.itemsize])).view(dtype)
    return torch.from_numpy(array)


def to_numpy(tensor: torch.Tensor) -> NDArray[Any]:
    """An array with the tensor's bits; it shares the memory of a contiguous CPU tensor."""
    import torch

    name = str(tensor.dtype).removeprefix("torch.")
    if name not in BY_NAME:
        raise CheckpointError(f"dtype '{name}' cannot be stored; convert the tensor")
    dtype = BY_NAME[name].numpy
    tensor = tensor.detach().cpu().contiguous()
    if BY_NAME[name].extended:
        carrier = torch.int8 if dtype.itemsize == 1 else torch.int16
        return tensor.view(carrier).numpy().view(dtype)
    return tensor.numpy()
