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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from gitmerge_eval.records import Statistic

STATISTIC = Statistic(
    name="gram",
    title="Gram matrices of the linear layers' inputs",
    reference="Jin et al. 2023, arXiv 2212.09849",
    needs_data=True,
    combine_exact_for=("regmean",),
    options=("examples", "convolutions"),
)

_PRODUCTS = {torch.matmul, torch.mm, Tensor.matmul, Tensor.mm, Tensor.__matmul__}


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


class Recorder(TorchFunctionMode):
    """While entered, adds to ``state`` what each watched parameter is multiplied with.

    ``parameters`` are the live ones of the model by name (they are recognised by identity).
    ``mask`` may be set to a boolean tensor of the inputs' leading shape: only tokens where it is
    true count. ``convolutions`` includes convolutions whose patches do not overlap, as linear maps
    of the flattened patch.
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        *,
        convolutions: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.state = GramState()
        self.mask: Tensor | None = None
        self._names = {id(tensor): name for name, tensor in parameters.items()}
        self._kept_alive = dict(parameters)
        self._convolutions = convolutions
        self._dtype = dtype

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Record the call where a watched parameter takes part, then make it."""
        given = dict(kwargs or {})
        if func is functional.multi_head_attention_forward:
            return self._attention(func, args, given)
        if func is functional.linear:
            self._add(*_arguments(("input", "weight"), args, given), axis=1)
        elif func in _PRODUCTS:
            self._add(*_arguments(("input", "other"), args, given), axis=0)
        elif func in (torch.conv2d, functional.conv2d):
            self._convolution(args, given)
        return func(*args, **given)

    def _add(self, inputs: Tensor, weight: Tensor, *, axis: int) -> None:
        name = self._names.get(id(weight))
        if name is None:
            return
        if self.mask is not None and inputs.shape[:-1] == self.mask.shape:
            inputs = inputs[self.mask]
        update(self.state, name, inputs, dtype=self._dtype, axis=axis)

    def _attention(
        self, func: Callable[..., Any], args: tuple[Any, ...], given: dict[str, Any]
    ) -> Any:
        call = dict(zip(_ATTENTION_ARGUMENTS, args, strict=False)) | given
        query, key, value = call["query"], call["key"], call["value"]
        # Sequence first is how torch passes the tensors on; a mask is (batch, sequence).
        batched = query.dim() == 3
        turned = [t.transpose(0, 1) if batched else t for t in (query, key, value)]
        if call.get("use_separate_proj_weight"):
            for inputs, kind in zip(turned, ("q", "k", "v"), strict=True):
                self._add(inputs, call[f"{kind}_proj_weight"], axis=1)
        elif query is key and key is value:
            self._add(turned[0], call["in_proj_weight"], axis=1)
        elif id(call["in_proj_weight"]) in self._names:
            name = self._names[id(call["in_proj_weight"])]
            self.state.refused[name] = "one fused weight meets different inputs (cross-attention)"
        weight, bias = call["out_proj_weight"], call["out_proj_bias"]
        unit = torch.eye(weight.shape[1], dtype=weight.dtype, device=weight.device)
        # With the unit matrix in its place, attention returns what out_proj is about to see.
        seen, attention = func(**{**call, "out_proj_weight": unit, "out_proj_bias": None})
        self._add(seen.transpose(0, 1) if batched else seen, weight, axis=1)
        return functional.linear(seen, weight, bias), attention

    def _convolution(self, args: tuple[Any, ...], given: dict[str, Any]) -> None:
        names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
        call: dict[str, Any] = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
        call |= dict(zip(names, args, strict=False)) | given
        inputs, weight = call["input"], call["weight"]
        name = self._names.get(id(weight))
        if name is None:
            return
        kernel = tuple(weight.shape[2:])
        plain = _pair(call["stride"]) == kernel and call["groups"] == 1
        plain = plain and _pair(call["padding"]) == (0, 0) and _pair(call["dilation"]) == (1, 1)
        if not self._convolutions:
            self.state.refused[name] = "a convolution (included with the option 'convolutions')"
        elif not plain:
            self.state.refused[name] = (
                "a convolution whose patches overlap or are padded or grouped"
            )
        else:
            patches = functional.unfold(inputs, kernel, stride=kernel).transpose(1, 2)
            update(self.state, name, patches, dtype=self._dtype, axis=1)


_ATTENTION_ARGUMENTS = (
    "query", "key", "value", "embed_dim_to_check", "num_heads", "in_proj_weight", "in_proj_bias",
    "bias_k", "bias_v", "add_zero_attn", "dropout_p", "out_proj_weight", "out_proj_bias",
)  # fmt: skip


def _arguments(names: Sequence[str], args: tuple[Any, ...], given: Mapping[str, Any]) -> list[Any]:
    return [args[i] if i < len(args) else given[name] for i, name in enumerate(names)]


def _pair(value: int | Sequence[int] | str) -> tuple[int, ...] | str:
    if isinstance(value, str):
        return (0, 0) if value == "valid" else value
    pair = (value,) if isinstance(value, int) else tuple(value)
    return pair * 2 if len(pair) == 1 else pair


@contextlib.contextmanager
def recording(recorder: Recorder) -> Iterator[Recorder]:
    """Run a model in eval mode under the recorder, without gradients and torch's fast path."""
    fast = torch.backends.mha.get_fastpath_enabled()
    # The fast path is one fused call for all of attention, which shows none of its inputs.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), recorder:
            yield recorder
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def compute(state: GramState) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    """What is stored: ``(tensors, layout)``.

    ``tensors`` has the packed upper half of Σ zzᵀ / L by key, a vector of d(d+1)/2; groups with
    equal matrices (q, k and v that see the same input) share the first one's key. ``layout`` is
    ``{group: {'key': key, 'input_axis': axis}}``.
    """
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
    shared = [name for name in states[0] if all(name in state for state in states[1:])]
    return {name: functools.reduce(torch.add, (state[name] for state in states)) for name in shared}


def pack_symmetric(matrix: Tensor) -> Tensor:
    """The upper half with the diagonal, row by row: (d, d) -> (d(d+1)/2).

    >>> pack_symmetric(torch.tensor([[1.0, 2.0], [2.0, 3.0]]))
    tensor([1., 2., 3.])
    """
    rows, columns = torch.triu_indices(*matrix.shape, device=matrix.device)
    return matrix[rows, columns]


def unpack_symmetric(vector: Tensor) -> Tensor:
    """The symmetric matrix whose upper half is ``vector``: (d(d+1)/2) -> (d, d).

    Raises ValueError where the length is no d(d+1)/2.
    """
    side = (math.isqrt(8 * vector.numel() + 1) - 1) // 2
    if side * (side + 1) // 2 != vector.numel():
        raise ValueError(f"{vector.numel()} numbers are not half of a symmetric matrix")
    rows, columns = torch.triu_indices(side, side, device=vector.device)
    matrix = vector.new_empty((side, side))
    matrix[rows, columns] = vector
    matrix[columns, rows] = vector
    return matrix
