"""transformers' encoder-decoder models as checkpoints: one safetensors file with the state dict."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    MT5Config,
    MT5ForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
)

from gitmerge_eval.benchmarks.texts.weights import Pair, State, check, padded, picked, read
from gitmerge_eval.errors import EvaluationError

MODELS = {
    "mt5": (MT5Config, MT5ForConditionalGeneration),
    "t5": (T5Config, T5ForConditionalGeneration),
}
"""``model_type`` in a configuration -> transformers' classes."""
_SURPLUS = (
    "encoder.embed_tokens.weight",
    "decoder.embed_tokens.weight",
    "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",
)
"""What old files have beside a model's parameters: other names of 'shared.weight', and a tensor
that is not used. transformers leaves them out, too."""


def create(configuration: Path) -> nn.Module:
    """A model with random weights, of transformers' own class.

    ``configuration`` is a config.json as it is published. Where that says that the word embeddings
    are not tied, as mT5's does, the model has an output layer of its own: transformers 5 sets
    MT5Config to tied, whatever the file says, and unties only on loading a file that has both.
    Raises EvaluationError for a ``model_type`` of another family.
    """
    numbers: dict[str, Any] = json.loads(configuration.read_text(encoding="utf-8"))
    kind = numbers.pop("model_type", None)
    if kind not in MODELS:
        raise EvaluationError(
            f"'{configuration}' has the model_type {kind!r}; this family has {', '.join(MODELS)}"
        )
    tied = numbers.get("tie_word_embeddings", True)
    config_class, model_class = MODELS[kind]
    model: nn.Module = model_class(config_class(**numbers))
    head, shared = _weights(model)
    if not tied and head is shared:
        untied = nn.Parameter(torch.empty_like(shared))
        nn.init.normal_(untied, std=numbers["d_model"] ** -0.5)
        model.lm_head.weight = untied  # type: ignore[union-attr]
    return model


def _weights(model: nn.Module) -> tuple[nn.Parameter, nn.Parameter]:
    return model.lm_head.weight, model.shared.weight  # type: ignore[union-attr,return-value]


def is_tied(model: nn.Module) -> bool:
    """Whether the output layer's weight is the word embedding."""
    head, shared = _weights(model)
    return head is shared


def assemble(configuration: Path, state: Mapping[str, Tensor], what: str) -> nn.Module:
    """The model with the weights of ``state``; ``what`` names them in errors.

    Raises EvaluationError where they are another architecture's.
    """
    # Without weights first: random ones for billions of parameters take minutes.
    with torch.device("meta"):
        model = create(configuration)
    put(model, state, what)
    return model


def published(folder: Path) -> State:
    """The weights of a model as transformers saves it, in one file or in shards.

    Raises EvaluationError where the folder has no safetensors files.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise EvaluationError(
            f"'{folder}' has no model.safetensors; download the base with 'hf download' or save it "
            "by transformers' save_pretrained, and name its folder with the setting 'weights' in "
            "benchmark.toml"
        )
    state: State = {}
    for file in files:
        state |= read(file)
    return {name: tensor for name, tensor in state.items() if name not in _SURPLUS}


def put(model: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Make the tensors of ``state`` the model's weights; ``what`` names them in errors.

    Raises EvaluationError where names or shapes are not the model's.
    """
    given = {name: tensor for name, tensor in state.items() if name not in _SURPLUS}
    tied = is_tied(model)
    head, shared = given.get("lm_head.weight"), given.get("shared.weight")
    if tied and head is not None and shared is not None and torch.equal(head, shared):
        del given["lm_head.weight"]
    check(model, given, what)
    model.load_state_dict(given, strict=False, assign=True)
    for stack in (model.encoder, model.decoder):
        stack.embed_tokens.weight = model.shared.weight  # type: ignore[union-attr]
    if tied:
        model.lm_head.weight = model.shared.weight  # type: ignore[union-attr]


@dataclass(frozen=True)
class Batch:
    """Sources and targets as padded token ids, shapes (n, longest)."""

    sources: Tensor
    source_mask: Tensor
    """True where there is a token."""
    targets: Tensor
    target_mask: Tensor

    def __len__(self) -> int:
        return len(self.sources)

    def to(self, device: str | torch.device) -> Batch:
        """The same on another device."""
        return Batch(
            self.sources.to(device),
            self.source_mask.to(device),
            self.targets.to(device),
            self.target_mask.to(device),
        )


def batch(pairs: Sequence[Pair], pad: int) -> Batch:
    """Several examples as one batch."""
    return Batch(
        *padded((source for source, _ in pairs), pad), *padded((target for _, target in pairs), pad)
    )


def decoder_input(model: nn.Module, targets: Tensor) -> Tensor:
    """What the decoder reads to predict ``targets``: the start token, then all but the last."""
    config: Any = model.config
    start = targets.new_full((len(targets), 1), config.decoder_start_token_id)
    return torch.cat([start, targets[:, :-1]], 1)


def token_log_likelihoods(model: nn.Module, batch: Batch) -> Tensor:
    """log p(token | tokens before, source), shape (n, longest target); 0 where there is none."""
    logits = model(
        input_ids=batch.sources,
        attention_mask=batch.source_mask.long(),
        decoder_input_ids=decoder_input(model, batch.targets),
        use_cache=False,
    ).logits
    return picked(logits, batch.targets, batch.target_mask)
