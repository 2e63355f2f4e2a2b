"""Training of open_clip models; on one machine the same seed gives the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from open_clip.loss import ClipLoss
from torch import Tensor, nn

from gitmerge_eval.benchmarks.clip import model as clip
from gitmerge_eval.benchmarks.clip.source import Pictures
from gitmerge_eval.benchmarks.learning.loop import Progress, Stopping, optimise, reproducible
from gitmerge_eval.benchmarks.learning.schedule import Schedule


@dataclass(frozen=True)
class Means:
    """What a training is computed with; device and precision take part in the result."""

    device: str = "cpu"
    precision: str = "float32"
    state: Path | None = None
    """A folder for what a killed training goes on from; without one it begins anew."""


@dataclass(frozen=True)
class PretrainingData:
    """Pictures and prompts of a grid of (domain, class) pairs."""

    pictures: Pictures
    """Pair by pair, as many of each."""
    tokens: Tensor
    """The prompt of each pair, shape (pairs, context)."""
    confusable: tuple[tuple[int, ...], ...]
    """Groups of pairs whose prompts may be exchanged: one category in one domain."""


def pretrain(
    configuration: Path | str,
    data: PretrainingData,
    schedule: Schedule,
    *,
    seed: int,
    shuffled_share: float,
    shuffle_probability: float,
    progress: Progress | None = None,
) -> clip.State:
    """A model trained with open_clip's contrastive loss on 'a {domain} of a {class}'.

    Every batch has at most one picture of a pair, so that no prompt is its own negative. The token
    embeddings stay random: there are about forty different tokens in all prompts.
    """
    with reproducible(seed) as generator:
        model = clip.create(configuration).train()
        model.token_embedding.requires_grad_(False)
        contrastive = ClipLoss()
        pairs = len(data.tokens)
        pictures = len(data.pictures.labels) // pairs
        impoverished_from = round(schedule.steps * (1 - shuffled_share))

        def loss(step: int) -> Tensor:
            chosen = torch.randperm(pairs, generator=generator)[: schedule.batch]
            which = torch.randint(pictures, (len(chosen),), generator=generator)
            names = torch.arange(pairs)
            if step >= impoverished_from:
                names = _shuffled(names, data.confusable, shuffle_probability, generator)
            inputs = data.pictures.inputs(chosen * pictures + which)
            features = model(inputs, data.tokens[names[chosen]])
            value: Tensor = contrastive(*features[:3])
            return value

        optimise(model, schedule, loss, progress=progress)
        return clip.state_of(model)


def _shuffled(
    names: Tensor,
    groups: tuple[tuple[int, ...], ...],
    probability: float,
    generator: torch.Generator,
) -> Tensor:
    shuffled = names.clone()
    for group in groups:
        if torch.rand((), generator=generator) < probability:
            members = torch.tensor(group)
            shuffled[members] = members[torch.randperm(len(group), generator=generator)]
    return shuffled


@dataclass(frozen=True)
class FineTuning:
    """What a vision tower is trained on, and for how long."""

    training: Pictures
    prompts: Sequence[Sequence[str]]
    """Of each class that a label may be."""
    schedule: Schedule
    validation: Pictures | None = None
    """Looked at as ``stopping`` says; the weights of the best look are kept."""
    stopping: Stopping | None = None
    means: Means = field(default_factory=Means)


def fine_tune(
    state: clip.State,
    configuration: Path | str,
    given: FineTuning,
    *,
    seed: int,
    progress: Progress | None = None,
) -> clip.State:
    """The vision tower trained by cross-entropy against the frozen text embeddings.

    Rows are drawn with replacement. With ``given.stopping`` the accuracy on the validation pictures
    decides when it ends. Raises EvaluationError for a state of another architecture.
    """
    means = given.means
    labels = given.training.labels
    with reproducible(seed) as generator:
        model = clip.create(configuration)
        clip.fill(model, state, "the base", clip.registered(configuration))
        model.to(means.device)
        weights = clip.classifier(model.eval(), given.prompts, configuration, means.device)
        model.requires_grad_(False)
        visual: nn.Module = model.visual  # type: ignore[assignment]
        visual.requires_grad_(True)
        model.train()

        def loss(part: int) -> Tensor:
            rows = torch.randint(len(labels), (given.schedule.part,), generator=generator)
            predicted = clip.logits(model, given.training.inputs(rows).to(means.device), weights)
            return nn.functional.cross_entropy(predicted, labels[rows].to(means.device))

        optimise(
            model,
            given.schedule,
            loss,
            generator=generator,
            validate=_validation(model, given.validation, weights) if given.stopping else None,
            stopping=given.stopping,
            precision=means.precision,
            state=means.state,
            progress=progress,
        )
        return clip.state_of(model)


def _validation(
    model: nn.Module, pictures: Pictures | None, weights: Tensor
) -> Callable[[], float] | None:
    """The accuracy in percent, as a function that leaves the model in training mode."""
    if pictures is None:
        return None
    looked_at = pictures

    def accuracy() -> float:
        model.eval()
        right = clip.correct(model, looked_at, weights)
        model.train()
        return 100.0 * right / len(looked_at.labels)

    return accuracy
