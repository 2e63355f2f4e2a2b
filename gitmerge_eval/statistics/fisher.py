"""The diagonal of the Fisher information: F = 1/N Σ_n (∂ log p(y_n | x_n) / ∂θ)².

Matena and Raffel 2022 (arXiv 2111.09832). Empirical with the labels of the data, as the paper has
it, or with labels drawn from the model. Per-example gradients come vectorised, a chunk at a time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gitmerge_eval.records import Statistic

if TYPE_CHECKING:
    from torch import Tensor

STATISTIC = Statistic(
    name="fisher",
    title="diagonal Fisher information",
    reference="Matena and Raffel 2022, arXiv 2111.09832",
    needs_data=True,
    combine_exact_for=("fisher",),
    options=("examples", "sampled", "sampling_seed"),
)


@dataclass
class FisherState:
    """Sums of squared gradients over the examples seen so far."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    """group name -> Σ_n g_n², float32 at least."""
    examples: int = 0


Loss = Callable[..., "Tensor"]
"""``loss(parameters, *example) -> scalar``: -log p(y | x) of one example without a batch axis."""


def update(
    state: FisherState,
    loss: Loss,
    parameters: Mapping[str, Tensor],
    batch: Sequence[Tensor],
    *,
    chunk: int = 32,
) -> FisherState:
    """Add the squared gradients of every example of ``batch``.

    ``batch`` holds tensors that share their first axis, one row an example; ``chunk`` bounds how
    many gradients are in memory at once and does not change the result beyond rounding.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    gradients = torch.func.vmap(torch.func.grad(loss), in_dims=(None, *(0 for _ in batch)))
    fixed = {name: tensor.detach() for name, tensor in parameters.items()}
    examples = len(batch[0])
    for start in range(0, examples, chunk):
        rows = [tensor[start : start + chunk] for tensor in batch]
        # The fused attention kernels have no batching rule; the plain formula has one.
        with sdpa_kernel(SDPBackend.MATH):
            found = gradients(fixed, *rows)
        for name, gradient in found.items():
            # float32: squared gradients under 6e-8 vanish in float16
            squares = (
                gradient.to(torch.promote_types(gradient.dtype, torch.float32)).square().sum(0)
            )
            state.sums[name] = state.sums[name] + squares if name in state.sums else squares
    state.examples += examples
    return state


def compute(state: FisherState) -> dict[str, Tensor]:
    """The mean over examples, by group name; shapes are the parameters'."""
    return {name: total / state.examples for name, total in state.sums.items()}


def combine(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The statistic of a Fisher merge: the sum of the constituents'.

    With Σ F_i a merge of merges equals the joint merge. Keys that some constituent lacks are left
    out.
    """
    import torch

    shared = [name for name in states[0] if all(name in state for state in states[1:])]
    return {name: functools.reduce(torch.add, (state[name] for state in states)) for name in shared}
