"""Scores of a checkpoint on tasks: multiple choice by likelihood, everything else by generation.

A multiple choice takes the option with the largest mean log-likelihood of its tokens,
1/|o| Σ_t log p(o_t | o_<t, source), the end of text counted as a token: normalised by length as in
Liu et al. 2022 (arXiv 2205.05638), so that a long option is not at a disadvantage. Of equal ones
the first counts. Generation is greedy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gitmerge_eval.benchmarks.seq2seq import metrics
from gitmerge_eval.benchmarks.seq2seq import model as seq2seq
from gitmerge_eval.benchmarks.seq2seq.examples import Example
from gitmerge_eval.benchmarks.seq2seq.grid import Grid
from gitmerge_eval.benchmarks.seq2seq.tokens import Tokens

TaskProgress = Callable[[str, int, int], object]
"""``progress(task, done, total)`` examples."""


def evaluate(
    grid: Grid,
    checkpoint: Path,
    tasks: Sequence[str],
    *,
    split: str = "test",
    device: str = "cpu",
    progress: TaskProgress | None = None,
) -> dict[str, float]:
    """The score in percent by task, in the task's own metric."""
    for task in tasks:
        grid.task(task)
    model = seq2seq.load(checkpoint, grid.configuration, device)
    return {task: score(grid, model, task, split, progress=progress) for task in tasks}


def score(
    grid: Grid,
    model: nn.Module,
    task: str,
    split: str,
    *,
    examples: int | None = None,
    progress: TaskProgress | None = None,
) -> float:
    """The score in percent of a model in eval mode; of the first ``examples`` only, if given."""
    cell = grid.cell(task, split)[:examples]
    if progress:
        progress(task, 0, len(cell))
    total, done = 0.0, 0
    for chunk in _chunks(cell, int(grid.recipe["evaluation"]["batch"])):
        total += sum(_points(grid, model, grid.task(task).metric, chunk))
        done += len(chunk)
        if progress:
            progress(task, done, len(cell))
    return 100.0 * total / len(cell)


def _chunks(cell: Sequence[Example], size: int) -> Iterator[Sequence[Example]]:
    # By length: a batch is as wide as its longest text.
    ordered = sorted(cell, key=lambda example: len(example.source))
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]


def _points(
    grid: Grid, model: nn.Module, metric: str, examples: Sequence[Example]
) -> Iterator[float]:
    tokens = grid.tokens
    if metric == metrics.ACCURACY:
        found = choices(model, tokens, examples)
        yield from (float(e.options[i] in e.targets) for e, i in zip(examples, found, strict=True))
        return
    longest = int(grid.recipe["evaluation"]["longest_answer"])
    texts = generate(model, tokens, [example.source for example in examples], longest=longest)
    for example, text in zip(examples, texts, strict=True):
        if metric == metrics.EXACT_MATCH_AND_F1:
            yield metrics.exact_match_and_f1(text, example.targets)
        else:
            yield metrics.sp_rouge(text, example.targets, tokens.pieces)


@torch.no_grad()
def option_scores(
    model: nn.Module, tokens: Tokens, examples: Sequence[Example]
) -> list[list[float]]:
    """The mean log-likelihood of the tokens of each option of each example."""
    device = next(model.parameters()).device
    sources, mask = seq2seq.padded((tokens.encode(e.source) for e in examples), tokens.pad)
    of = torch.tensor([row for row, e in enumerate(examples) for _ in e.options])
    targets, target_mask = seq2seq.padded(
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
    likely = seq2seq.picked(logits, targets, target_mask)
    means: list[float] = (likely.sum(1) / target_mask.sum(1)).tolist()
    remaining = iter(means)
    return [[next(remaining) for _ in example.options] for example in examples]


def choices(model: nn.Module, tokens: Tokens, examples: Sequence[Example]) -> list[int]:
    """For each example the position of the option that the model finds the most likely."""
    return [
        max(range(len(scores)), key=scores.__getitem__)
        for scores in option_scores(model, tokens, examples)
    ]


@torch.no_grad()
def generate(
    model: nn.Module, tokens: Tokens, sources: Sequence[str], *, longest: int
) -> list[str]:
    """The most likely next token, again and again: at most ``longest`` for each source."""
    device = next(model.parameters()).device
    ids, mask = seq2seq.padded((tokens.encode(source) for source in sources), tokens.pad)
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
