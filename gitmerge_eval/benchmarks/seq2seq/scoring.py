"""What an encoder-decoder answers: the likelihood of options, and greedy generation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gitmerge_eval.benchmarks.seq2seq import model as seq2seq
from gitmerge_eval.benchmarks.texts.examples import Example
from gitmerge_eval.benchmarks.texts.tokens import Tokens
from gitmerge_eval.benchmarks.texts.weights import padded, picked


@torch.no_grad()
def option_scores(
    model: nn.Module, tokens: Tokens, examples: Sequence[Example]
) -> list[list[float]]:
    """The mean log-likelihood of the tokens of each option of each example."""
    device = next(model.parameters()).device
    sources, mask = padded((tokens.encode(e.source) for e in examples), tokens.pad)
    of = torch.tensor([row for row, e in enumerate(examples) for _ in e.options])
    targets, target_mask = padded(
        (tokens.encode(option) for e in examples for option in e.options), tokens.pad
    )
    sources, mask, of = sources.to(device), mask.to(device), of.to(device)
    targets, target_mask = targets.to(device), target_mask.to(device)
    encoder: Any = model.encoder
    # Once for each source, however many options it has.
    encoded = encoder(input_ids=sources, attention_mask=mask.long())[0]
    logits = model(
        encoder_outputs=(encoded[of],),
        attention_mask=mask[of].long(),
        decoder_input_ids=seq2seq.decoder_input(model, targets),
        use_cache=False,
    ).logits
    likely = picked(logits, targets, target_mask)
    means: list[float] = (likely.sum(1) / target_mask.sum(1)).tolist()
    remaining = iter(means)
    return [[next(remaining) for _ in example.options] for example in examples]


@torch.no_grad()
def generate(
    model: nn.Module, tokens: Tokens, sources: Sequence[str], *, longest: int
) -> list[str]:
    """The most likely next token, again and again: at most ``longest`` for each source."""
    device = next(model.parameters()).device
    ids, mask = padded((tokens.encode(source) for source in sources), tokens.pad)
    write: Any = model.generate
    found: Tensor = write(
        input_ids=ids.to(device),
        attention_mask=mask.long().to(device),
        max_new_tokens=longest,
        do_sample=False,
        num_beams=1,
    )
    # The first is the decoder's start token.
    return [tokens.decode(row) for row in found[:, 1:].tolist()]
