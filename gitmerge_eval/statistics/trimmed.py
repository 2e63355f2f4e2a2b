"""The trimmed task vector: τ = θ - θ_p with all but its largest magnitudes set to zero.

Yadav et al. 2023 (arXiv 2306.01708), step 'trim', over the whole model: of the n elements of the
groups that differ from the base, those with |τ| at least the k-th largest stay, k = max(1,
floor(density · n)); elements equal to the threshold all stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from gitmerge_eval.records import Statistic

STATISTIC = Statistic(
    name="trimmed",
    title="trimmed task vector",
    reference="Yadav et al. 2023, arXiv 2306.01708",
    needs_data=False,
    combine_exact_for=(),
    options=("density",),
)

Pairs = Callable[[], Iterator[tuple[str, Tensor, Tensor]]]
"""Starts a pass over (group name, base, constituent); integer groups may be among them."""


def task_vectors(pairs: Pairs) -> Iterator[tuple[str, Tensor]]:
    """(name, θ - θ_p) of each floating-point group that differs from its base, float32 at least."""
    for name, base, tensor in pairs():
        if tensor.is_floating_point() and not torch.equal(base, tensor):
            dtype = torch.promote_types(tensor.dtype, torch.float32)
            yield name, tensor.to(dtype) - base.to(dtype)


def kth_largest_magnitude(tensors: Callable[[], Iterator[Tensor]], k: int) -> float:
    """The k-th largest |x| over all elements (k from 1), exactly, in streamed passes.

    A radix selection on the bits: the bit pattern of a non-negative float grows with its value.
    Two passes over the tensors for float32, four for float64, and 2^16 counters of memory.
    """
    wide = any(tensor.dtype == torch.float64 for tensor in tensors())
    dtype, bits = (torch.float64, torch.int64) if wide else (torch.float32, torch.int32)
    digits = 4 if wide else 2
    prefix, left = 0, k
    for digit in reversed(range(digits)):
        counts = torch.zeros(1 << 16, dtype=torch.int64)
        for tensor in tensors():
            pattern = tensor.detach().reshape(-1).to(dtype).abs().view(bits).to(torch.int64)
            pattern = (
                pattern[pattern >> 16 * (digit + 1) == prefix] if digit < digits - 1 else pattern
            )
            found = torch.bincount(pattern >> 16 * digit & 0xFFFF, minlength=1 << 16)
            counts += found.cpu()
        above = counts.flip(0).cumsum(0)
        position = int(torch.searchsorted(above, left))
        left -= int(above[position - 1]) if position else 0
        prefix = prefix << 16 | ((1 << 16) - 1 - position)
    return float(torch.tensor(prefix, dtype=bits).view(dtype))


def threshold(pairs: Pairs, density: float) -> float:
    """The smallest magnitude that stays; 0 where the constituent equals the base."""
    elements = sum(vector.numel() for _, vector in task_vectors(pairs))
    if elements == 0:
        return 0.0
    kept = max(1, int(density * elements))
    return kth_largest_magnitude(lambda: (vector for _, vector in task_vectors(pairs)), kept)


def trim(pairs: Pairs, density: float) -> dict[str, Tensor]:
    """The trimmed task vector by group name: dense, zero where trimmed, shapes the groups'."""
    least = threshold(pairs, density)
    return {
        name: torch.where(vector.abs() >= least, vector, torch.zeros_like(vector))
        for name, vector in task_vectors(pairs)
    }
