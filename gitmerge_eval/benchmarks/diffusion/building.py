"""Trains all that a miniature's repository has: judge, pipeline, and an adapter for each cell."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from gitmerge_eval.benchmarks import BuiltModels
from gitmerge_eval.benchmarks.clip import model as clip
from gitmerge_eval.benchmarks.clip import training as contrastive
from gitmerge_eval.benchmarks.clip.drawn import DrawnPictures
from gitmerge_eval.benchmarks.diffusion import lora, training
from gitmerge_eval.benchmarks.diffusion import pipeline as diffusion
from gitmerge_eval.benchmarks.diffusion.functions import JUDGE
from gitmerge_eval.benchmarks.diffusion.grid import Grid
from gitmerge_eval.benchmarks.diffusion.measuring import collect
from gitmerge_eval.benchmarks.learning.building import TaskProgress, named
from gitmerge_eval.benchmarks.learning.loop import Progress, Stopping, reproducible
from gitmerge_eval.benchmarks.learning.measuring import measure
from gitmerge_eval.benchmarks.learning.schedule import Schedule
from gitmerge_eval.records import StatisticFile


def build(
    grid: Grid,
    folder: Path,
    directory: Path,
    *,
    progress: TaskProgress | None = None,
    **means: Any,
) -> BuiltModels:
    """Train and measure everything into ``directory``; the same grid gives the same bytes.

    ``folder`` has the configurations: ``pipeline/`` and the judge's. ``means`` are device and
    precision of the adapters' training; what is trained from nothing is small, and is on the CPU.
    """
    base = directory / "base"
    base.mkdir(parents=True)
    clip.save(train_judge(grid, folder, named(progress, "judge")), base / JUDGE)
    pipeline = train_pipeline(grid, folder / diffusion.FOLDER, progress)
    diffusion.save(pipeline, base / diffusion.FOLDER)
    return build_adapters(grid, base / diffusion.FOLDER, directory, progress=progress, **means)


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
    means: dict[str, Any] = {"device": device, "precision": precision}
    base = untrained(grid, pipeline, directory / "base")

    def trained(name: str, tasks: Sequence[str]) -> Path:
        report = named(progress, name)
        adapter = fine_tune(grid, pipeline, base, tasks, progress=report, **means)
        return lora.save(adapter, directory / name)

    multitask = trained("multitask", grid.held_in)
    constituents: dict[str, Path] = {}
    statistics: dict[str, tuple[StatisticFile, ...]] = {}
    for task in grid.held_in:
        constituents[task] = trained(task, (task,))
        statistics[task] = measure(
            collect, grid, constituents[task], task,
            device=device, progress=progress, pipeline_folder=pipeline,
        )  # fmt: skip
    return BuiltModels(base, constituents, multitask, statistics, grid.settings)


def train_judge(grid: Grid, folder: Path, progress: Progress | None = None) -> clip.State:
    """An open_clip model that tells all prompts of the grid apart, trained on pictures of all."""
    numbers = grid.recipe["judge"]
    configuration = folder / str(numbers["model"])
    cells = [(name, task) for task in grid.tasks for name in grid.classes(task.name)]
    prompts = [grid.prompt(name, task.skills["domain"]) for name, task in cells]
    examples = grid.examples([task.name for task in grid.tasks], "train")
    pictures = torch.stack([examples.picture(row) for row in range(len(examples))])
    data = contrastive.PretrainingData(
        pictures=DrawnPictures(
            pictures, torch.tensor([prompts.index(p) for p in examples.prompts])
        ),
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
        progress=named(progress, "autoencoder"),
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
        progress=named(progress, "pipeline"),
    )  # fmt: skip
    return pipeline


def _siblings(grid: Grid) -> dict[str, list[str]]:
    """prompt -> the prompts of its cell."""
    found = {}
    for task in grid.tasks:
        prompts = grid.prompts(task.name)
        found.update(dict.fromkeys(prompts, prompts))
    return found


def untrained(grid: Grid, folder: Path, target: Path) -> Path:
    """An adapter that changes nothing: what every training starts from."""
    pipeline = diffusion.load(folder)
    with reproducible(grid.seed):
        return lora.save(lora.adapted(pipeline.unet, lora.Settings(**grid.recipe["lora"])), target)


def fine_tune(
    grid: Grid,
    pipeline: Path,
    base: Path,
    tasks: Sequence[str],
    *,
    device: str = "cpu",
    precision: str = "float32",
    state: Path | None = None,
    progress: Progress | None = None,
) -> Any:
    """The UNet of ``pipeline`` with the adapter ``base``, trained on the pictures of ``tasks``."""
    section = "fine_tuning" if len(tasks) == 1 else "multitask"
    every = int(grid.recipe.get("saving", {}).get("every", 0))
    return training.fine_tune(
        diffusion.load(pipeline, device),
        grid.examples(tasks, "train"),
        Schedule(**grid.recipe[section]),
        base,
        seed=grid.seed,
        precision=precision,
        # Nothing is looked at, and so nothing stops it: this says how often it is saved.
        stopping=Stopping(every, patience=1) if every and state else None,
        state=state,
        progress=progress,
    )


def train(
    grid: Grid,
    base: Path,
    tasks: Sequence[str],
    target: Path,
    *,
    device: str = "cpu",
    precision: str = "float32",
    state: Path | None = None,
    progress: Progress | None = None,
) -> None:
    """Fine-tune the adapter ``base``, whose pipeline lies beside it, and write ``target``.

    Rank and scale stay the base's, so that its configuration is the result's too.
    """
    pipeline = base.parent / diffusion.FOLDER
    adapter = fine_tune(
        grid, pipeline, base, tasks,
        device=device, precision=precision, state=state, progress=progress,
    )  # fmt: skip
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        lora.save(adapter, Path(folder)).replace(target)
