"""Trains all models of a grid's repository: base, one for each held-in cell, multitask."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gitmerge_eval.benchmarks import BuiltModels, pictures
from gitmerge_eval.benchmarks.clip import model as clip
from gitmerge_eval.benchmarks.clip import training
from gitmerge_eval.benchmarks.clip.grid import Grid
from gitmerge_eval.benchmarks.clip.measuring import collect
from gitmerge_eval.benchmarks.learning.loop import Progress, reproducible
from gitmerge_eval.benchmarks.learning.schedule import Schedule
from gitmerge_eval.records import StatisticFile

TaskProgress = Callable[[str, int, int], object]
"""``progress(what, done, total)``; a step of training or an example measured."""


def build(
    grid: Grid,
    directory: Path,
    *,
    tasks: Sequence[str] | None = None,
    progress: TaskProgress | None = None,
) -> BuiltModels:
    """Train and measure everything into ``directory``; the same grid gives the same bytes.

    ``tasks`` are the held-in cells to have a constituent, all by default; multitask is trained on
    the same ones.
    """
    directory.mkdir(parents=True, exist_ok=True)
    chosen = tuple(tasks or grid.held_in)
    base = pretrain(grid, progress=_named(progress, "base"))
    clip.save(base, directory / "base.safetensors")
    multitask = fine_tune(grid, base, chosen, "multitask", progress=_named(progress, "multitask"))
    clip.save(multitask, directory / "multitask.safetensors")
    constituents: dict[str, Path] = {}
    statistics: dict[str, tuple[StatisticFile, ...]] = {}
    for task in chosen:
        state = fine_tune(grid, base, (task,), "fine_tuning", progress=_named(progress, task))
        constituents[task] = directory / f"{task}.safetensors"
        clip.save(state, constituents[task])
        statistics[task] = measure(grid, constituents[task], task, progress)
    return BuiltModels(
        base=directory / "base.safetensors",
        constituents=constituents,
        multitask=directory / "multitask.safetensors",
        statistics=statistics,
        settings={"seed": grid.seed},
    )


def pretrain(grid: Grid, *, progress: Progress | None = None) -> clip.State:
    """The base: contrastive, on pictures of all cells, with confused class names at the end."""
    numbers = dict(grid.recipe["pretraining"])
    shuffled_share = numbers.pop("shuffled_share")
    shuffle_probability = numbers.pop("shuffle_probability")
    categories, domains = (grid.recipe["skills"][axis] for axis in ("category", "domain"))
    pairs = [
        (name, domain)
        for domain in domains
        for category in categories
        for name in pictures.CATEGORIES[category]
    ]
    groups: dict[tuple[str, str], list[int]] = {}
    for position, (name, domain) in enumerate(pairs):
        groups.setdefault((grid.category(name), domain), []).append(position)
    data = training.PretrainingData(
        images=torch.stack([grid.pictures(name, domain, "pretrain") for name, domain in pairs]),
        tokens=clip.tokens([grid.prompt(*pair) for pair in pairs], grid.configuration),
        confusable=tuple(tuple(group) for group in groups.values()),
    )
    return training.pretrain(
        grid.configuration,
        data,
        Schedule(**numbers),
        seed=grid.seed,
        shuffled_share=shuffled_share,
        shuffle_probability=shuffle_probability,
        progress=progress,
    )


def fine_tune(
    grid: Grid,
    base: clip.State,
    tasks: Sequence[str],
    section: str,
    *,
    progress: Progress | None = None,
) -> clip.State:
    """The base trained on the training pictures of ``tasks`` by the recipe's ``section``."""
    cells = [grid.cell(task, "train") for task in tasks]
    images: Tensor = torch.cat([images for images, _ in cells])
    labels: Tensor = torch.cat([labels for _, labels in cells])
    return training.fine_tune(
        base,
        grid.configuration,
        images,
        labels,
        grid.prompts,
        Schedule(**grid.recipe[section]),
        seed=grid.seed,
        progress=progress,
    )


def measure(
    grid: Grid, checkpoint: Path, task: str, progress: TaskProgress | None = None
) -> tuple[StatisticFile, ...]:
    """The Fisher diagonal and the Gram matrices of a constituent."""
    options: Mapping[str, Mapping[str, Any]] = grid.recipe["statistics"]
    with reproducible(grid.seed):
        return tuple(
            collect(
                grid,
                kind,
                checkpoint,
                task,
                options=options.get(kind, {}),
                progress=_named(progress, f"{task}: {kind}"),
            )
            for kind in ("fisher", "gram")
        )


def _named(progress: TaskProgress | None, what: str) -> Progress | None:
    if progress is None:
        return None
    report = progress
    return lambda done, total: report(what, done, total)
