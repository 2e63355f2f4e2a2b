"""Training of encoder-decoders; on the CPU the same seed gives the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gitmerge_eval.benchmarks.learning.loop import Progress, Stopping, optimise, reproducible
from gitmerge_eval.benchmarks.learning.schedule import Schedule
from gitmerge_eval.benchmarks.seq2seq import model as seq2seq
from gitmerge_eval.benchmarks.seq2seq.examples import Example
from gitmerge_eval.benchmarks.seq2seq.tokens import Tokens

BLANK = "<blank>"
"""Stands where a piece of text was cut out, and asks for that piece."""


@dataclass(frozen=True)
class Mixture:
    """What a base is pretrained on."""

    pairs: Sequence[seq2seq.Pair]
    """Examples of tasks."""
    kinds: Sequence[str]
    """What kind of question each of them is."""
    corpus: Sequence[str]
    """Texts, of which a span is to be filled in."""
    task_share: float
    """The part of a batch that is tasks."""
    exchanged: float
    """In the second phase, how likely an example is among those that exchange their answers."""


@dataclass(frozen=True)
class Resources:
    """How a large training is run; the defaults are those of a small one on the CPU."""

    device: str = "cpu"
    precision: str = "float32"
    recompute: bool = False
    """Whether activations are computed again on the way back rather than kept."""
    state: Path | None = None
    """A folder in which an interrupted training is continued."""
    stopping: Stopping | None = None


def encoded(examples: Sequence[Example], tokens: Tokens) -> list[seq2seq.Pair]:
    """Each example's source and first target as ids."""
    return [(tokens.encode(e.source), tokens.encode(e.targets[0])) for e in examples]


def mean_loss(model: nn.Module, batch: seq2seq.Batch) -> Tensor:
    """The cross-entropy of the batch's target tokens, each counting the same."""
    return -seq2seq.token_log_likelihoods(model, batch).sum() / batch.target_mask.sum()


def pretrain(
    configuration: Path,
    mixture: Mixture,
    tokens: Tokens,
    schedule: Schedule,
    shuffled: Schedule,
    *,
    seed: int,
    progress: Progress | None = None,
) -> seq2seq.State:
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
                return mean_loss(model, batch(size, shuffle=shuffle))

            optimise(model, phase, loss, generator=generator, progress=reported(before))
        return seq2seq.state_of(model)


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


def spanned(text: str, tokens: Tokens, generator: torch.Generator) -> seq2seq.Pair:
    """A text with a random span of it, at most its half, replaced by BLANK; the span is the target.

    Raffel et al. 2020 (arXiv 1910.10683), with one span.
    """

    def drawn(below: int) -> int:
        return int(torch.randint(below, (), generator=generator))

    length = 1 + drawn(max(1, len(text) // 2))
    start = drawn(len(text) - length + 1)
    cut = text[:start] + BLANK + text[start + length :]
    return tokens.encode(cut), tokens.encode(text[start : start + length])


def fine_tune(
    state: seq2seq.State,
    configuration: Path,
    pairs: Sequence[seq2seq.Pair],
    tokens: Tokens,
    schedule: Schedule,
    *,
    seed: int,
    resources: Resources | None = None,
    validate: Callable[[nn.Module], float] | None = None,
    progress: Progress | None = None,
) -> seq2seq.State:
    """All weights trained on ``pairs``; with ``validate``, those of the best look are returned."""
    how = resources or Resources()
    with reproducible(seed) as generator:
        with torch.device("meta"):
            model = seq2seq.create(configuration)
        seq2seq.put(model, {n: t.clone() for n, t in state.items()}, "the base")
        model.to(how.device).train()
        if how.recompute:
            # The second is the first's name in older versions of transformers.
            named = ("activation_checkpointing_enable", "gradient_checkpointing_enable")
            recompute: Any = next(getattr(model, n) for n in named if hasattr(model, n))
            recompute()

        def loss(step: int) -> Tensor:
            rows = torch.randint(len(pairs), (schedule.part,), generator=generator).tolist()
            batch = seq2seq.batch([pairs[row] for row in rows], tokens.pad)
            return mean_loss(model, batch.to(how.device))

        def look() -> float:
            assert validate is not None
            model.eval()
            found = validate(model)
            model.train()
            return found

        optimise(
            model,
            schedule,
            loss,
            generator=generator,
            validate=look if validate else None,
            stopping=how.stopping,
            precision=how.precision,
            state=how.state,
            progress=progress,
        )
        return seq2seq.state_of(model)
