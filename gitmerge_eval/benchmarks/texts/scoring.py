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

from torch import nn

from gitmerge_eval.benchmarks.texts import metrics
from gitmerge_eval.benchmarks.texts.examples import Example
from gitmerge_eval.benchmarks.texts.family import Family
from gitmerge_eval.benchmarks.texts.grid import Grid
from gitmerge_eval.benchmarks.texts.tokens import Tokens

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
    model = grid.family.load(checkpoint, grid.configuration, device)
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
        found = choices(grid.family, model, tokens, examples)
        yield from (float(e.options[i] in e.targets) for e, i in zip(examples, found, strict=True))
        return
    longest = int(grid.recipe["evaluation"]["longest_answer"])
    sources = [example.source for example in examples]
    texts = grid.family.generate(model, tokens, sources, longest=longest)
    for example, text in zip(examples, texts, strict=True):
        if metric == metrics.EXACT_MATCH_AND_F1:
            yield metrics.exact_match_and_f1(text, example.targets)
        else:
            yield metrics.sp_rouge(text, example.targets, tokens.pieces)


def choices(
    family: Family[Any], model: nn.Module, tokens: Tokens, examples: Sequence[Example]
) -> list[int]:
    """For each example the position of the option that the model finds the most likely."""
    return [
        max(range(len(scores)), key=scores.__getitem__)
        for scores in family.option_scores(model, tokens, examples)
    ]
