"""transformers' decoder-only models as checkpoints, and what such a model reads.

An example is one row: the prompt's tokens, the target's, and an end of text. Only the target's and
the end are predicted; the prompt is read. Rows are padded on the right, where a causal model never
looks, so that no mask is needed to keep it out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.initialization import no_init_weights

from gitmerge_eval.benchmarks.texts.tokens import Tokens
from gitmerge_eval.benchmarks.texts.weights import Pair, State, check, padded, picked, read
from gitmerge_eval.errors import EvaluationError


def create(configuration: Path) -> nn.Module:
    """A model with random weights, of transformers' own class.

    ``configuration`` is a config.json as it is published. Raises EvaluationError for a
    ``model_type`` that transformers does not know or that is no decoder-only model.
    """
    numbers: dict[str, Any] = json.loads(configuration.read_text(encoding="utf-8"))
    kind = numbers.pop("model_type", None)
    try:
        # By name, never by 'auto_map': the code is transformers' own.
        config = AutoConfig.for_model(kind, **numbers)
        if config.is_encoder_decoder:
            raise ValueError("an encoder-decoder")
        make: Any = AutoModelForCausalLM.from_config
        model: nn.Module = make(config, trust_remote_code=False)
    except ValueError as error:
        raise EvaluationError(
            f"'{configuration}' has the model_type {kind!r}, which is no causal language model of "
            f"the installed transformers ({str(error).splitlines()[0][:100]})"
        ) from error
    return model


def assemble(configuration: Path, state: Mapping[str, Tensor], what: str) -> nn.Module:
    """The model with the weights of ``state``, in their dtype; ``what`` names them in errors.

    Names that are no parameters, such as the attention masks in old files of GPT-2, are left out
    where transformers leaves them out. An output layer that is stored although it is tied is taken
    for the embedding's other name. Raises EvaluationError where names or shapes are another
    model's, and where the two stored tensors of a tie differ.
    """
    # Neither with random weights, which take minutes for billions of parameters, nor without
    # memory as T5: rotary embeddings have buffers that no checkpoint holds.
    with no_init_weights():
        model: Any = create(configuration)
    model.tie_weights()
    own = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    surplus = [*(model._keys_to_ignore_on_load_unexpected or ()), r"rotary_emb\.inv_freq$"]
    given = {
        n: t for n, t in state.items() if n in own or not any(re.search(p, n) for p in surplus)
    }
    head, embedding = tied_names(model)
    if head and head in given and embedding in given:
        if not torch.equal(given[head], given[embedding]):
            raise EvaluationError(
                f"{what} has a '{head}' that differs from '{embedding}', and the configuration "
                "says that they are tied; correct 'tie_word_embeddings' in config.json"
            )
        del given[head]
    prefix = f"{model.base_model_prefix}."
    if given and not any(name.startswith(prefix) for name in given):
        raise EvaluationError(
            f"{what} has names without '{prefix}', as a model without its output layer has; load "
            "it with AutoModelForCausalLM and save it again by save_pretrained"
        )
    check(model, given, what)
    model.load_state_dict(given, strict=False, assign=True)
    model.tie_weights()
    made: nn.Module = model
    return made


def tied_names(model: nn.Module) -> tuple[str, str]:
    """The names of output layer and word embedding where they are one; else two empty ones."""
    own: Any = model
    head, embedding = own.get_output_embeddings(), own.get_input_embeddings()
    if head is None or head.weight is not embedding.weight:
        return "", ""
    named = {
        id(module): f"{name}.weight" for name, module in model.named_modules(remove_duplicate=False)
    }
    return named[id(head)], named[id(embedding)]


def published(folder: Path) -> State:
    """The weights of a model as transformers saves it, in one file or in shards.

    Raises EvaluationError where the folder has no safetensors files.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise EvaluationError(f"'{folder}' has no model.safetensors; save the base there")
    state: State = {}
    for file in files:
        state |= read(file)
    return state


@dataclass(frozen=True)
class Batch:
    """Prompts with their targets as padded token ids, shapes (n, longest)."""

    ids: Tensor
    mask: Tensor
    """True where there is a token."""
    target_mask: Tensor
    """True where the token is the target's."""

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: str | torch.device) -> Batch:
        """The same on another device."""
        return Batch(self.ids.to(device), self.mask.to(device), self.target_mask.to(device))


def batch(pairs: Sequence[Pair], pad: int) -> Batch:
    """Several examples as one batch."""
    ids, mask = padded(([*source, *target] for source, target in pairs), pad)
    prompts = torch.tensor([len(source) for source, _ in pairs])
    return Batch(ids, mask, mask & (torch.arange(ids.shape[1]) >= prompts[:, None]))


def prompt(tokens: Tokens, source: str, room: int | None = None) -> list[int]:
    """The ids that a model reads before it writes; the last ``room`` where there are more.

    White space at the end is left to the answer: most tokenizers have it in the token of the word
    that follows. A prompt of nothing is the begin or the end of text, to predict the first token
    from.
    """
    ids = tokens.plain(source.rstrip())
    if room is not None:
        ids = ids[max(0, len(ids) - max(1, room - len(tokens.begin))) :]
    return [*tokens.begin, *ids] or [tokens.end]


def pair(tokens: Tokens, source: str, target: str) -> Pair:
    """Prompt and answer, the end of text last, together at most the tokenizer's ``longest``.

    The answer's tokens are those that it has behind its prompt, as lm-evaluation-harness takes
    them; where the two share a token, those that it has alone.
    """
    kept = source.rstrip()
    before = tokens.plain(kept)
    whole = tokens.plain(source + target)
    answer = whole[len(before) :]
    if whole[: len(before)] != before or not answer:
        answer = tokens.plain(source[len(kept) :] + target)
    if tokens.longest is None:
        return prompt(tokens, source), [*answer, tokens.end]
    # What goes is the beginning of the prompt, as at generation.
    answer = answer[: max(1, tokens.longest - 2 - len(tokens.begin))]
    return prompt(tokens, source, tokens.longest - len(answer) - 1), [*answer, tokens.end]


def target_log_likelihoods(model: nn.Module, batch: Batch) -> Tensor:
    """log p(token | tokens before), shape (n, longest - 1); 0 where there is no target's token."""
    # Nothing is hidden: padding is on the right. Without a mask, transformers may warn of it.
    seen = torch.ones_like(batch.ids)
    logits = model(input_ids=batch.ids, attention_mask=seen, use_cache=False).logits
    return picked(logits[:, :-1], batch.ids[:, 1:], batch.target_mask[:, 1:])
