"""What a model's parameters are multiplied with, seen from torch's functional calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from gitmerge_eval.statistics.gram import GramState, update

_PRODUCTS = {torch.matmul, torch.mm, Tensor.matmul, Tensor.mm, Tensor.__matmul__}
_PRODUCTS_WITH_BIAS = {torch.addmm, Tensor.addmm}


class Recorder(TorchFunctionMode):
    """While entered, adds to ``state`` what each watched parameter is multiplied with."""

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        convolutions: bool,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.state = GramState()
        self.mask: Tensor | None = None
        self.masks: Mapping[str, Tensor] = {}
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
        elif func in _PRODUCTS_WITH_BIAS:
            # GPT-2's layers: bias + x @ weight, with the weight as (in, out).
            self._add(*_arguments(("input", "mat1", "mat2"), args, given)[1:], axis=0)
        elif func in (torch.conv2d, functional.conv2d):
            self._convolution(args, given)
        return func(*args, **given)

    def _add(self, inputs: Tensor, weight: Tensor, *, axis: int) -> None:
        name = self._names.get(id(weight))
        if name is None:
            return
        if name in self.masks:
            mask = self.masks[name]
            if inputs.dim() == 2:
                # Batch and sequence in one axis, as GPT-2's layers see them.
                mask = mask.flatten()
            if inputs.shape[:-1] != mask.shape:
                raise ValueError(
                    f"the mask of '{name}' has the shape {tuple(self.masks[name].shape)}, its "
                    f"inputs {tuple(inputs.shape)}"
                )
            inputs = inputs[mask]
        elif self.mask is not None and inputs.shape[:-1] == self.mask.shape:
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
