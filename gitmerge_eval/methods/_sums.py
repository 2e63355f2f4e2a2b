"""Sums of tensors in a fixed order of IEEE operations: the same bytes on every device.

Only separate multiplications and additions are used. A fused ``add(alpha=)`` or ``lerp``, a
division by a number, and a library's own reduction round differently on CPU and GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_BLOCK = 1 << 18


def combination(
    tensors: Sequence[Tensor], coefficients: Sequence[float], *, total: float | None = None
) -> Tensor:
    """Σ c_i x_i, computed as s·x_r + Σ c_i (x_i - x_r) with s = Σ c_i and c_r the largest.

    Fine-tuned models are near one another, so that the differences are almost exact and the sum is
    good to about one rounding. Equal tensors with s = 1 give themselves. ``total`` is s where it is
    known better than by adding up. Two tensors with one coefficient give (x_1 + x_2)·c, which does
    not depend on their order.

    May return one of ``tensors`` itself.
    """
    if len(tensors) == 2 and coefficients[0] == coefficients[1]:
        return (tensors[0] + tensors[1]).mul_(coefficients[0])
    largest = max(range(len(tensors)), key=lambda i: coefficients[i])
    reference = tensors[largest]
    whole = sum(coefficients) if total is None else total
    result = reference if whole == 1 else reference * whole
    difference = None
    for i, (tensor, coefficient) in enumerate(zip(tensors, coefficients, strict=True)):
        if i != largest and coefficient != 0:
            part = (tensor - reference).mul_(coefficient)
            difference = part if difference is None else difference.add_(part)
    return result if difference is None else result + difference


def add_scaled(base: Tensor, vectors: Sequence[Tensor], factor: float) -> Tensor:
    """θ_p + factor · Σ v_i; the base itself where there are no vectors."""
    if not vectors:
        return base
    total = plain_sum(vectors)
    return total.mul_(factor).add_(base)


def plain_sum(tensors: Sequence[Tensor]) -> Tensor:
    """Σ x_i from the first to the last, in a tensor of its own."""
    total = tensors[0].clone()
    for tensor in tensors[1:]:
        total.add_(tensor)
    return total


def inner_product(first: Tensor, second: Tensor) -> Tensor:
    """⟨x, y⟩ in float64 as a 0-d tensor on the device, in one order on every device.

    Blocks of a fixed size are added up by halving, and the blocks' sums from first to last.
    """
    import torch

    left, right = first.reshape(-1), second.reshape(-1)
    total = torch.zeros((), dtype=torch.float64, device=first.device)
    for start in range(0, left.numel(), _BLOCK):
        block = left[start : start + _BLOCK].double() * right[start : start + _BLOCK].double()
        total = total + _halved(block)
    return total


def _halved(values: Tensor) -> Tensor:
    """The sum of a 1-d tensor by adding its second half to its first until one value is left."""
    import torch

    size = 1 << (values.numel() - 1).bit_length()
    values = torch.nn.functional.pad(values, (0, size - values.numel()))
    while size > 1:
        size //= 2
        values = values[:size] + values[size:]
    return values[0]
