"""Gram matrices of linear layers' inputs: G = ZᵀZ / L over the L tokens that a layer has seen.

Jin et al. 2023, RegMean (arXiv 2212.09849). A layer here is any parameter that meets its input in
a product: ``torch.nn.Linear``, ``x @ weight``, attention's in_proj and out_proj. Attention uses
those two weights without calling a submodule, so forward hooks do not fire on them; the recorder
therefore sees the functional calls themselves.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gitmerge_eval.records import Statistic

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from gitmerge_eval.statistics._recorder import Recorder

STATISTIC = Statistic(
    name="gram",
    title="Gram matrices of the linear layers' inputs",
    reference="Jin et al. 2023, arXiv 2212.09849",
    needs_data=True,
    combine_exact_for=("regmean",),
    options=("examples", "convolutions"),
)


@dataclass
class GramState:
    """Sums of outer products over the tokens seen so far, by group name."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    """name -> Σ z zᵀ, shape (d, d)."""
    tokens: dict[str, int] = field(default_factory=dict)
    input_axis: dict[str, int] = field(default_factory=dict)
    """The axis of the weight that meets the input: 1 for (out, in), 0 for (in, out)."""
    refused: dict[str, str] = field(default_factory=dict)
    """Parameters that were used as a linear map but have no Gram matrix, and why."""


def update(state: GramState, name: str, inputs: Tensor, *, dtype: torch.dtype, axis: int) -> None:
    """Add the outer products of ``inputs``, shape (..., d), accumulated in ``dtype``."""
    rows = inputs.detach().reshape(-1, inputs.shape[-1]).to(dtype)
    product = rows.T @ rows
    state.sums[name] = state.sums[name] + product if name in state.sums else product
    state.tokens[name] = state.tokens.get(name, 0) + rows.shape[0]
    state.input_axis[name] = axis


@contextlib.contextmanager
def recording(
    parameters: Mapping[str, Tensor],
    *,
    convolutions: bool = False,
    dtype: torch.dtype | None = None,
) -> Iterator[Recorder]:
    """Run a model in eval mode, without gradients and torch's fast path, and record its inputs.

    The recorder that it gives adds to its ``state`` what each of ``parameters`` is multiplied with:
    the live ones of the model by name (they are recognised by identity). Sums are of ``dtype``,
    by default float32. ``convolutions`` includes convolutions whose patches do not overlap, as
    linear maps of the flattened patch. The recorder's ``mask`` may be set to a boolean tensor of
    the inputs' leading shape: only tokens where it is true count. ``masks`` has one of its own for
    each parameter named there, for models whose layers see different tokens, as an encoder's and
    a decoder's do; ValueError where its shape is not that of the parameter's inputs, whose batch
    and sequence may be one axis.
    """
    import torch

    from gitmerge_eval.statistics._recorder import Recorder

    fast = torch.backends.mha.get_fastpath_enabled()
    # The fast path is one fused call for all of attention, which shows none of its inputs.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), Recorder(parameters, convolutions, dtype or torch.float32) as found:
            yield found
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def compute(state: GramState) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    """What is stored: ``(tensors, layout)``.

    ``tensors`` has the packed upper half of Σ zzᵀ / L by key, a vector of d(d+1)/2; groups with
    equal matrices (q, k and v that see the same input) share the first one's key. ``layout`` is
    ``{group: {'key': key, 'input_axis': axis}}``.
    """
    import torch

    tensors: dict[str, Tensor] = {}
    layout: dict[str, dict[str, Any]] = {}
    keys: dict[tuple[int, int, float], list[str]] = {}
    for name, total in state.sums.items():
        likely = keys.setdefault((len(total), state.tokens[name], float(total.trace())), [])
        key = next((k for k in likely if torch.equal(state.sums[k], total)), name)
        if key == name:
            likely.append(name)
            tensors[name] = pack_symmetric((total / state.tokens[name]).to(torch.float32))
        layout[name] = {"key": key, "input_axis": state.input_axis[name]}
    return tensors, layout


def without_gram(parameters: Mapping[str, Tensor], state: GramState) -> dict[str, str]:
    """The parameters that have no Gram matrix, each with the reason."""
    reasons = {}
    for name, tensor in parameters.items():
        if name in state.sums:
            continue
        unused = "not multiplied with an input (an embedding, or not used on this data)"
        reason = unused if tensor.dim() > 1 else "not a matrix"
        reasons[name] = state.refused.get(name, reason)
    return reasons


def combine(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The statistic of a RegMean merge: the sum of the constituents' (packed or square).

    With Σ G_i a merge of merges equals the joint merge. Keys that some constituent lacks are left
    out.
    """
    import torch

    shared = [name for name in states[0] if all(name in state for state in states[1:])]
    return {name: functools.reduce(torch.add, (state[name] for state in states)) for name in shared}


def pack_symmetric(matrix: Tensor) -> Tensor:
    """The upper half with the diagonal, row by row: (d, d) -> (d(d+1)/2).

    >>> import torch
    >>> pack_symmetric(torch.tensor([[1.0, 2.0], [2.0, 3.0]]))
    tensor([1., 2., 3.])
    """
    import torch

    rows, columns = torch.triu_indices(*matrix.shape, device=matrix.device)
    return matrix[rows, columns]


def unpack_symmetric(vector: Tensor) -> Tensor:
    """The symmetric matrix whose upper half is ``vector``: (d(d+1)/2) -> (d, d).

    Raises ValueError where the length is no d(d+1)/2.
    """
    import torch

    side = (math.isqrt(8 * vector.numel() + 1) - 1) // 2
    if side * (side + 1) // 2 != vector.numel():
        raise ValueError(f"{vector.numel()} numbers are not half of a symmetric matrix")
    rows, columns = torch.triu_indices(side, side, device=vector.device)
    matrix = vector.new_empty((side, side))
    matrix[rows, columns] = vector
    matrix[columns, rows] = vector
    return matrix
