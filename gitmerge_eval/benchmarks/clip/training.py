"""Training of small open_clip models on the CPU: the same seed gives the same bytes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from open_clip.loss import ClipLoss
from torch import Tensor, nn

from gitmerge_eval.benchmarks.clip import model as clip
from gitmerge_eval.benchmarks.learning.loop import Progress, optimise, reproducible
from gitmerge_eval.benchmarks.learning.schedule import Schedule


@dataclass(frozen=True)
class PretrainingData:
    """Pictures and prompts of a grid of (domain, class) pairs."""

    images: Tensor
    """uint8, shape (pairs, pictures of a pair, side, side, 3)."""
    tokens: Tensor
    """The prompt of each pair, shape (pairs, context)."""
    confusable: tuple[tuple[int, ...], ...]
    """Groups of pairs whose prompts may be exchanged: one category in one domain."""


def pretrain(
    configuration: Path,
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
        pairs, pictures = data.images.shape[:2]
        impoverished_from = round(schedule.steps * (1 - shuffled_share))

        def loss(step: int) -> Tensor:
            chosen = torch.randperm(pairs, generator=generator)[: schedule.batch]
            which = torch.randint(pictures, (len(chosen),), generator=generator)
            names = torch.arange(pairs)
            if step >= impoverished_from:
                names = _shuffled(names, data.confusable, shuffle_probability, generator)
            features = model(
                clip.normalised(data.images[chosen, which]), data.tokens[names[chosen]]
            )
            value: Tensor = contrastive(*features[:3])
            return value

        optimise(model, schedule, loss, progress=progress)
        return _state(model)


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


def fine_tune(
    state: clip.State,
    configuration: Path,
    images: Tensor,
    labels: Tensor,
    prompts: list[list[str]],
    schedule: Schedule,
    *,
    seed: int,
    progress: Progress | None = None,
) -> clip.State:
    """The vision tower trained by cross-entropy against the frozen text embeddings.

    ``images`` is uint8 (n, side, side, 3), ``labels`` (n,) indexes ``prompts``.
    """
    with reproducible(seed) as generator:
        model = clip.create(configuration)
        model.load_state_dict(state)
        weights = clip.classifier(model.eval(), prompts, configuration)
        model.requires_grad_(False)
        visual: nn.Module = model.visual  # type: ignore[assignment]
        visual.requires_grad_(True)
        model.train()

        def loss(step: int) -> Tensor:
            rows = torch.randint(len(images), (schedule.batch,), generator=generator)
            predicted = clip.logits(model, clip.normalised(images[rows]), weights)
            return nn.functional.cross_entropy(predicted, labels[rows])

        optimise(model, schedule, loss, progress=progress)
        return _state(model)


def _state(model: nn.Module) -> clip.State:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
