"""Pretraining of small encoder-decoders; on the CPU the same seed gives the same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gitmerge_eval.benchmarks.learning.loop import Progress, optimise, reproducible
from gitmerge_eval.benchmarks.learning.schedule import Schedule
from gitmerge_eval.benchmarks.seq2seq import model as seq2seq
from gitmerge_eval.benchmarks.texts.tokens import Tokens
from gitmerge_eval.benchmarks.texts.weights import Pair, State, state_of

BLANK = "<blank>"
"""Stands where a piece of text was cut out, and asks for that piece."""


@dataclass(frozen=True)
class Mixture:
    """What a base is pretrained on."""

    pairs: Sequence[Pair]
    """Examples of tasks."""
    kinds: Sequence[str]
    """What kind of question each of them is."""
    corpus: Sequence[str]
    """Texts, of which a span is to be filled in."""
    task_share: float
    """The part of a batch that is tasks."""
    exchanged: float
    """In the second phase, how likely an example is among those that exchange their answers."""


def pretrain(
    configuration: Path,
    mixture: Mixture,
    tokens: Tokens,
    schedule: Schedule,
    shuffled: Schedule,
    *,
    seed: int,
    progress: Progress | None = None,
) -> State:
    """A model trained on tasks and filled spans, then impoverished.

    In the steps of ``shuffled`` some examples of a batch exchange their answers with others of the
    same kind, in any language: the base then has the skills, but answers badly, as a language model
    does that has not been told what is asked of it.
    """
    with reproducible(seed) as generator:
        model = seq2seq.create(configuration).train()
        steps = schedule.steps + shuffled.steps

        def batch(size: int, *, shuffle: bool) -> seq2seq.Batch:
            share = round(size * mixture.task_share)
            rows = torch.randint(len(mixture.pairs), (share,), generator=generator).tolist()
            sources = [mixture.pairs[row][0] for row in rows]
            targets = [mixture.pairs[row][1] for row in rows]
            if shuffle:
                kinds = [mixture.kinds[row] for row in rows]
                targets = exchanged(targets, kinds, mixture.exchanged, generator)
            spans = torch.randint(len(mixture.corpus), (size - share,), generator=generator)
            filled = [spanned(mixture.corpus[i], tokens, generator) for i in spans.tolist()]
            pairs = [*zip(sources, targets, strict=True), *filled]
            return seq2seq.batch(pairs, tokens.pad)

        def reported(before: int) -> Progress | None:
            if progress is None:
                return None
            report = progress
            return lambda done, total: report(before + done, steps)

        for phase, shuffle, before in ((schedule, False, 0), (shuffled, True, schedule.steps)):

            def loss(step: int, size: int = phase.part, shuffle: bool = shuffle) -> Tensor:
                drawn = batch(size, shuffle=shuffle)
                likely = seq2seq.token_log_likelihoods(model, drawn)
                return -likely.sum() / drawn.target_mask.sum()

            optimise(model, phase, loss, generator=generator, progress=reported(before))
        return state_of(model)


def exchanged(
    targets: Sequence[Sequence[int]],
    kinds: Sequence[str],
    probability: float,
    generator: torch.Generator,
) -> list[Sequence[int]]:
    """The targets, those of a kind permuted among the rows that a coin each has chosen."""
    result = list(targets)
    chosen = (torch.rand(len(result), generator=generator) < probability).tolist()
    for kind in dict.fromkeys(kinds):
        rows = [row for row, own in enumerate(kinds) if own == kind and chosen[row]]
        order = torch.randperm(len(rows), generator=generator).tolist()
        for row, other in zip(rows, order, strict=True):
            result[row] = targets[rows[other]]
    return result


def spanned(text: str, tokens: Tokens, generator: torch.Generator) -> Pair:
    """A text with a random span of it, at most its half, replaced by BLANK; the span is the target.

    Raffel et al. 2020 (arXiv 1910.10683), with one span.
    """

    def drawn(below: int) -> int:
        return int(torch.randint(below, (), generator=generator))

    length = 1 + drawn(max(1, len(text) // 2))
    start = drawn(len(text) - length + 1)
    cut = text[:start] + BLANK + text[start + length :]
    return tokens.encode(cut), tokens.encode(text[start : start + length])
