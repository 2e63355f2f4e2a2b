"""Fine-tuning of text models; on the CPU the same seed gives the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gitmerge_eval.benchmarks.learning.loop import Progress, Stopping, optimise, reproducible
from gitmerge_eval.benchmarks.learning.schedule import Schedule
from gitmerge_eval.benchmarks.texts.examples import Example
from gitmerge_eval.benchmarks.texts.family import B, Family
from gitmerge_eval.benchmarks.texts.tokens import Tokens
from gitmerge_eval.benchmarks.texts.weights import Pair, State, state_of


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


def encoded(family: Family[Any], examples: Sequence[Example], tokens: Tokens) -> list[Pair]:
    """Each example's source and first target as ids."""
    return [family.pair(tokens, e.source, e.targets[0]) for e in examples]


def mean_loss(family: Family[B], model: nn.Module, batch: B) -> Tensor:
    """The cross-entropy of the batch's target tokens, each counting the same."""
    return -family.likelihoods(model, batch).sum() / batch.target_mask.sum()


def fine_tune(
    family: Family[Any],
    state: State,
    configuration: Path,
    pairs: Sequence[Pair],
    tokens: Tokens,
    schedule: Schedule,
    *,
    seed: int,
    resources: Resources | None = None,
    validate: Callable[[nn.Module], float] | None = None,
    progress: Progress | None = None,
) -> State:
    """All weights trained on ``pairs``; with ``validate``, those of the best look are returned.

    They are trained in float32 at least, and come back in the dtypes that ``state`` has.
    """
    how = resources or Resources()
    with reproducible(seed) as generator:
        # A step of 1e-5 vanishes beside a weight in bfloat16, of which most published models are.
        weights = {
            name: t.to(torch.promote_types(t.dtype, torch.float32), copy=True)
            for name, t in state.items()
        }
        model = family.assemble(configuration, weights, "the base")
        model.to(how.device).train()
        if how.recompute:
            # The second is the first's name in older versions of transformers.
            named = ("activation_checkpointing_enable", "gradient_checkpointing_enable")
            recompute: Any = next(getattr(model, n) for n in named if hasattr(model, n))
            recompute()

        def loss(step: int) -> Tensor:
            rows = torch.randint(len(pairs), (schedule.part,), generator=generator).tolist()
            batch = family.batch([pairs[row] for row in rows], tokens.pad)
            return mean_loss(family, model, batch.to(how.device))

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
        return {name: t.to(state[name].dtype) for name, t in state_of(model).items()}
