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


_LARGEST_CHUNK = 128
_GRADIENT_BYTES = {"cpu": 1 << 26}
_GRADIENT_BYTES_ELSEWHERE = 1 << 32


def likely_chunk(parameters: Mapping[str, Tensor]) -> int:
    """How many examples' gradients to hold: 128, if they take no more than 64 MB on a processor
    and 4 GB on a GPU.

    A processor's arithmetic on a large model is no quicker in a batch, while gradients that do not
    fit its caches are written to memory and read again: for ViT-B/32 one at a time is best.
    """
    size = sum(tensor.numel() * tensor.element_size() for tensor in parameters.values())
    device = next((tensor.device.type for tensor in parameters.values()), "cpu")
    room = _GRADIENT_BYTES.get(device, _GRADIENT_BYTES_ELSEWHERE)
    return max(1, min(_LARGEST_CHUNK, room // max(1, size)))


def update(
    state: FisherState,
    loss: Loss,
    parameters: Mapping[str, Tensor],
    batch: Sequence[Tensor],
    *,
    chunk: int | None = None,
) -> FisherState:
    """Add the squared gradients of every example of ``batch``.

    ``batch`` holds tensors that share their first axis, one row an example; ``chunk`` bounds how
    many gradients are in memory at once and does not change the result beyond rounding. By default
    it is :func:`likely_chunk`.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    single = torch.func.grad(loss)
    gradients = torch.func.vmap(single, in_dims=(None, *(0 for _ in batch)))
    fixed = {name: tensor.detach() for name, tensor in parameters.items()}
    examples = len(batch[0])
    chunk = chunk or likely_chunk(fixed)
    if chunk == 1:
        # Without a batching rule to apply, attention may take its fused kernels.
        for row in range(examples):
            _add(state, {n: g[None] for n, g in single(fixed, *(t[row] for t in batch)).items()})
        state.examples += examples
        return state
    for start in range(0, examples, chunk):
        rows = [tensor[start : start + chunk] for tensor in batch]
        # The fused attention kernels have no batching rule; the plain formula has one.
        with sdpa_kernel(SDPBackend.MATH):
            _add(state, gradients(fixed, *rows))
    state.examples += examples
    return state


def _add(state: FisherState, gradients: Mapping[str, Tensor]) -> None:
    """The squares of gradients that have an axis of examples in front."""
    import torch

    for name, gradient in gradients.items():
        # float32: squared gradients under 6e-8 vanish in float16
        exact = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
        if name not in state.sums:
            state.sums[name] = exact.square().sum(0)
        elif len(exact) == 1:
            state.sums[name].addcmul_(exact[0], exact[0])
        else:
            state.sums[name] += exact.square().sum(0)


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
