"""Trains all that a miniature's repository has: judge, pipeline, and an adapter for each cell."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from gitmerge_eval.benchmarks import BuiltModels
from gitmerge_eval.benchmarks.clip import model as clip
from gitmerge_eval.benchmarks.clip import training as contrastive
from gitmerge_eval.benchmarks.diffusion import lora, training
from gitmerge_eval.benchmarks.diffusion import pipeline as diffusion
from gitmerge_eval.benchmarks.diffusion.grid import Grid
from gitmerge_eval.benchmarks.diffusion.measuring import collect
from gitmerge_eval.benchmarks.learning.loop import Progress, reproducible
from gitmerge_eval.benchmarks.learning.schedule import Schedule
from gitmerge_eval.records import StatisticFile

TaskProgress = Callable[[str, int, int], object]
"""``progress(what, done, total)``; a step of training or an example measured."""
JUDGE = "judge.safetensors"
"""The open_clip model that judges pictures, beside the adapter."""


def build(
    grid: Grid,
    folder: Path,
    directory: Path,
    *,
    progress: TaskProgress | None = None,
) -> BuiltModels:
    """Train and measure everything into ``directory``; the same grid gives the same bytes.

    ``folder`` has the configurations: ``pipeline/`` and the judge's.
    """
    base = directory / "base"
    base.mkdir(parents=True)
    clip.save(train_judge(grid, folder, _named(progress, "judge")), base / JUDGE)
    pipeline = train_pipeline(grid, folder / diffusion.FOLDER, progress)
    diffusion.save(pipeline, base / diffusion.FOLDER)
    return build_adapters(grid, base / diffusion.FOLDER, directory, progress=progress)


def build_adapters(
    grid: Grid,
    pipeline: Path,
    directory: Path,
    *,
    device: str = "cpu",
    precision: str = "float32",
    progress: TaskProgress | None = None,
) -> BuiltModels:
    """A pipeline's adapters: one that changes nothing, one for each held-in cell, multitask."""
    untrained = directory / "base"
    base = _untrained(grid, pipeline, untrained)
    means: dict[str, Any] = {"device": device, "precision": precision}
    multitask = fine_tune(
        grid, pipeline, grid.held_in, "multitask", directory / "multitask",
        progress=_named(progress, "multitask"), **means,
    )  # fmt: skip
    constituents: dict[str, Path] = {}
    statistics: dict[str, tuple[StatisticFile, ...]] = {}
    for task in grid.held_in:
        constituents[task] = fine_tune(
            grid, pipeline, (task,), "fine_tuning", directory / task,
            progress=_named(progress, task), **means,
        )  # fmt: skip
        statistics[task] = measure(
            grid, pipeline, constituents[task], task, device=device, progress=progress
        )
    return BuiltModels(base, constituents, multitask, statistics, {"seed": grid.seed})


def train_judge(grid: Grid, folder: Path, progress: Progress | None = None) -> clip.State:
    """An open_clip model that tells all prompts of the grid apart, trained on pictures of all."""
    numbers = grid.recipe["judge"]
    configuration = folder / str(numbers["model"])
    cells = [(name, task) for task in grid.tasks for name in grid.classes(task.name)]
    prompts = [grid.prompt(name, task.skills["domain"]) for name, task in cells]
    examples = grid.examples([task.name for task in grid.tasks], "train")
    pictures = torch.stack([examples.picture(row) for row in range(len(examples))])
    data = contrastive.PretrainingData(
        images=pictures.reshape(len(cells), -1, *pictures.shape[1:]),
        tokens=clip.tokens(prompts, configuration),
        confusable=(),
    )
    return contrastive.pretrain(
        configuration,
        data,
        Schedule(**numbers["training"]),
        seed=grid.seed,
        shuffled_share=0.0,
        shuffle_probability=0.0,
        progress=progress,
    )


def train_pipeline(grid: Grid, folder: Path, progress: TaskProgress | None = None) -> Any:
    """Autoencoder, text encoder and UNet, trained from nothing on pictures of all cells.

    In the last ``shuffled_share`` of the steps a prompt names, with ``shuffle_probability``, any
    class of its category: what comes out then knows categories and domains better than classes.
    """
    tasks = [task.name for task in grid.tasks]
    examples = grid.examples(tasks, "train")
    pictures = torch.stack([examples.picture(row) for row in range(len(examples))])
    with reproducible(grid.seed):
        unet, vae, text_encoder = (
            diffusion.configured(folder, part) for part in ("unet", "vae", "text_encoder")
        )
    numbers = dict(grid.recipe["autoencoder"])
    training.train_autoencoder(
        vae,
        pictures,
        kl_weight=numbers.pop("kl_weight"),
        schedule=Schedule(**numbers),
        seed=grid.seed,
        progress=_named(progress, "autoencoder"),
    )
    length = text_encoder.config.max_position_embeddings
    tokens = diffusion.tokenizer(examples.prompts, length)
    pipeline = diffusion.assembled(unet, vae, text_encoder, tokens, diffusion.scheduler(folder))
    numbers = dict(grid.recipe["pretraining"])
    share, probability = numbers.pop("shuffled_share"), numbers.pop("shuffle_probability")
    without = numbers.pop("without_prompt")
    schedule = Schedule(**numbers)
    siblings = _siblings(grid)

    def prompt(step: int, row: int, generator: torch.Generator) -> str:
        own = examples.prompts[row]
        if step < round(schedule.steps * (1 - share)):
            return own
        if torch.rand((), generator=generator) >= probability:
            return own
        others = siblings[own]
        return others[int(torch.randint(len(others), (), generator=generator))]

    training.pretrain(
        pipeline, examples, schedule, seed=grid.seed, without_prompt=without, prompt=prompt,
        progress=_named(progress, "pipeline"),
    )  # fmt: skip
    return pipeline


def _siblings(grid: Grid) -> dict[str, list[str]]:
    """prompt -> the prompts of its cell."""
    found = {}
    for task in grid.tasks:
        prompts = grid.prompts(task.name)
        found.update(dict.fromkeys(prompts, prompts))
    return found


def _untrained(grid: Grid, folder: Path, target: Path) -> Path:
    pipeline = diffusion.load(folder)
    with reproducible(grid.seed):
        return lora.save(lora.adapted(pipeline.unet, _settings(grid)), target)


def fine_tune(
    grid: Grid,
    pipeline: Path,
    tasks: Sequence[str],
    section: str,
    target: Path,
    *,
    device: str = "cpu",
    precision: str = "float32",
    state: Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """An adapter trained on the training pictures of ``tasks``, saved in the folder ``target``."""
    loaded = diffusion.load(pipeline, device)
    adapted = training.fine_tune(
        loaded,
        grid.examples(tasks, "train"),
        Schedule(**grid.recipe[section]),
        _settings(grid),
        seed=grid.seed,
        precision=precision,
        state=state,
        progress=progress,
    )
    return lora.save(adapted, target)


def _settings(grid: Grid) -> lora.Settings:
    return lora.Settings(**grid.recipe["lora"])


def measure(
    grid: Grid,
    pipeline: Path,
    checkpoint: Path,
    task: str,
    *,
    device: str = "cpu",
    progress: TaskProgress | None = None,
) -> tuple[StatisticFile, ...]:
    """The Fisher diagonal and the Gram matrices of a constituent's ΔW."""
    options: Mapping[str, Mapping[str, Any]] = grid.recipe["statistics"]
    with reproducible(grid.seed):
        return tuple(
            collect(
                grid,
                kind,
                checkpoint,
                task,
                pipeline_folder=pipeline,
                options=options.get(kind, {}),
                device=device,
                progress=_named(progress, f"{task}: {kind}"),
            )
            for kind in ("fisher", "gram")
        )


def _named(progress: TaskProgress | None, what: str) -> Progress | None:
    if progress is None:
        return None
    report = progress
    return lambda done, total: report(what, done, total)
