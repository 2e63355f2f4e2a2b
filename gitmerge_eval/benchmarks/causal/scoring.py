"""What a decoder-only model answers: the likelihood of options, and greedy generation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gitmerge_eval.benchmarks.causal import model as causal
from gitmerge_eval.benchmarks.texts.examples import Example
from gitmerge_eval.benchmarks.texts.tokens import Tokens


@torch.no_grad()
def option_scores(
    model: nn.Module, tokens: Tokens, examples: Sequence[Example]
) -> list[list[float]]:
    """The mean log-likelihood of the tokens of each option of each example."""
    device = next(model.parameters()).device
    found: list[list[float]] = []
    # An example at a time: a row is a prompt with one option, and prompts may be long.
    for example in examples:
        pairs = [causal.pair(tokens, example.source, option) for option in example.options]
        batch = causal.batch(pairs, tokens.pad).to(device)
        likely = causal.target_log_likelihoods(model, batch)
        found.append((likely.sum(1) / batch.target_mask.sum(1)).tolist())
    return found


@torch.no_grad()
def generate(
    model: nn.Module, tokens: Tokens, sources: Sequence[str], *, longest: int
) -> list[str]:
    """The most likely next token, again and again: at most ``longest`` for each source.

    White space around a text is left out: behind a prompt, a word's token begins with some.
    """
    room = None if tokens.longest is None else tokens.longest - longest
    rows = [causal.prompt(tokens, source, room) for source in sources]
    width = max(len(row) for row in rows)
    ids = torch.tensor([[tokens.pad] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    device = next(model.parameters()).device
    write: Any = model.generate
    found: Tensor = write(
        input_ids=ids.to(device),
        attention_mask=mask.to(device),
        max_new_tokens=longest,
        do_sample=False,
        num_beams=1,
        pad_token_id=tokens.pad,
        eos_token_id=tokens.end,
    )
    return [tokens.decode(row).strip() for row in found[:, width:].tolist()]
