"""Fisher and Gram statistics of an open_clip model's vision tower."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gitmerge_eval.benchmarks.clip import model as clip
from gitmerge_eval.benchmarks.clip.grid import Grid
from gitmerge_eval.benchmarks.clip.source import Pictures
from gitmerge_eval.benchmarks.learning.loop import Progress
from gitmerge_eval.benchmarks.learning.measuring import (
    fisher_file,
    gram_file,
    statistic_options,
    thinned,
)
from gitmerge_eval.records import StatisticFile
from gitmerge_eval.statistics import fisher, gram

BATCH = 128


def vision_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The vision tower's parameters under the names that they have in the checkpoint."""
    return {name: p for name, p in model.named_parameters() if name.startswith("visual.")}


def fisher_diagonal(
    model: nn.Module,
    pictures: Pictures,
    weights: Tensor,
    *,
    rows: Tensor | None = None,
    sampled: torch.Generator | None = None,
    progress: Progress | None = None,
) -> dict[str, Tensor]:
    """The Fisher diagonal of each vision parameter, on ``rows`` of the pictures or on all.

    ``weights`` (classes, embed) are on the model's device. With ``sampled`` the labels are drawn
    from the model's own distribution instead.
    """
    chosen = torch.arange(len(pictures.labels)) if rows is None else rows

    def loss(parameters: Mapping[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        encoded = torch.func.functional_call(model, dict(parameters), (image[None], None))[0]
        scale: Any = model.logit_scale
        return nn.functional.cross_entropy(scale.exp() * encoded @ weights.T, label[None])

    state = fisher.FisherState()
    for several in torch.split(chosen, BATCH):
        inputs = pictures.inputs(several).to(weights.device)
        targets = pictures.labels[several].to(weights.device)
        if sampled is not None:
            with torch.no_grad():
                likely = clip.logits(model, inputs, weights).softmax(1).cpu()
            targets = torch.multinomial(likely, 1, generator=sampled)[:, 0].to(weights.device)
        fisher.update(state, loss, vision_parameters(model), (inputs, targets))
        if progress:
            progress(state.examples, len(chosen))
    return fisher.compute(state)


def gram_matrices(
    model: nn.Module,
    pictures: Pictures,
    *,
    rows: Tensor | None = None,
    convolutions: bool = False,
    progress: Progress | None = None,
) -> gram.GramState:
    """The sums of input outer products of each linear map in the vision tower."""
    chosen = torch.arange(len(pictures.labels)) if rows is None else rows
    encode: Callable[..., Tensor] = model.encode_image  # type: ignore[assignment]
    watched = vision_parameters(model)
    device = next(iter(watched.values())).device
    done = 0
    with gram.recording(watched, convolutions=convolutions, dtype=torch.float64) as recorder:
        for several in torch.split(chosen, BATCH):
            encode(pictures.inputs(several).to(device))
            done += len(several)
            if progress:
                progress(done, len(chosen))
    return recorder.state


def collect(
    grid: Grid,
    kind: str,
    checkpoint: Path,
    task: str,
    *,
    options: Mapping[str, Any] | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> StatisticFile:
    """The statistic of a checkpoint on its task's training pictures.

    Raises UnknownName for a kind that needs no data or does not exist, and for unknown options.
    """
    chosen = statistic_options(grid.name, kind, options)
    pictures = grid.cell(task, str(grid.recipe["statistics"]["split"]))
    rows = thinned(len(pictures.labels), chosen["examples"])
    model = clip.load(checkpoint, grid.configuration, device)
    if kind == "fisher":
        weights = clip.classifier(model, grid.prompts, grid.configuration, device)
        seeded = torch.Generator().manual_seed(chosen["sampling_seed"])
        sampled = seeded if chosen["sampled"] else None
        tensors = fisher_diagonal(
            model, pictures, weights, rows=rows, sampled=sampled, progress=progress
        )
        return fisher_file(
            grid, task, tensors, examples=len(rows), tokens=len(rows), options=chosen
        )
    state = gram_matrices(
        model, pictures, rows=rows, convolutions=chosen["convolutions"], progress=progress
    )
    return gram_file(grid, task, state, examples=len(rows), options=chosen)
