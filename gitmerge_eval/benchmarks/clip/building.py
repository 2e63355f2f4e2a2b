"""Trains all models of a grid's repository: base, one for each held-in cell, multitask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gitmerge_eval.benchmarks import BuiltModels
from gitmerge_eval.benchmarks.clip import model as clip
from gitmerge_eval.benchmarks.clip import training
from gitmerge_eval.benchmarks.clip.grid import Grid
from gitmerge_eval.benchmarks.clip.measuring import collect
from gitmerge_eval.benchmarks.clip.source import Joined, Pictures
from gitmerge_eval.benchmarks.clip.weights import pretrained
from gitmerge_eval.benchmarks.learning import building
from gitmerge_eval.benchmarks.learning.building import TaskProgress
from gitmerge_eval.benchmarks.learning.loop import Progress, Stopping
from gitmerge_eval.benchmarks.learning.measuring import measure
from gitmerge_eval.benchmarks.learning.schedule import Schedule
from gitmerge_eval.records import StatisticFile


def build(
    grid: Grid,
    directory: Path,
    *,
    tasks: Sequence[str] | None = None,
    device: str = "cpu",
    precision: str = "float32",
    progress: TaskProgress | None = None,
) -> BuiltModels:
    """Train and measure everything into ``directory``; the same grid gives the same bytes.

    ``tasks`` are the held-in cells to have a constituent, all by default; multitask is trained on
    the same ones.
    """
    chosen = tuple(tasks or grid.held_in)
    for task in chosen:
        grid.cell(task, "train")  # what is missing is said before hours of training
    trainer = _Trainer(grid, training.Means(device, precision))
    return building.build(trainer, directory, tasks=chosen, progress=progress)


@dataclass(frozen=True)
class _Trainer:
    grid: Grid
    means: training.Means

    @property
    def held_in(self) -> tuple[str, ...]:
        return self.grid.held_in

    @property
    def settings(self) -> Mapping[str, object]:
        return self.grid.settings

    def pretrain(self, progress: Progress | None) -> clip.State:
        return base_of(self.grid, progress=progress)

    def fine_tune(
        self, base: clip.State, tasks: Sequence[str], section: str, progress: Progress | None
    ) -> clip.State:
        return fine_tune(self.grid, base, tasks, section, self.means, progress=progress)

    def save(self, state: clip.State, checkpoint: Path) -> None:
        clip.save(state, checkpoint)

    def measure(
        self, checkpoint: Path, task: str, progress: TaskProgress | None
    ) -> tuple[StatisticFile, ...]:
        device = self.means.device
        return measure(collect, self.grid, checkpoint, task, device=device, progress=progress)


def base_of(grid: Grid, *, progress: Progress | None = None) -> clip.State:
    """The base: pretrained weights, or where the recipe has a section for it, pretrained here."""
    if "pretraining" in grid.recipe:
        return pretrain(grid, progress=progress)
    return pretrained(grid.configuration, grid.settings.get("weights"))


def pretrain(grid: Grid, *, progress: Progress | None = None) -> clip.State:
    """Contrastive, on pictures of all cells, with confused class names at the end."""
    numbers = dict(grid.recipe["pretraining"])
    shuffled_share = numbers.pop("shuffled_share")
    shuffle_probability = numbers.pop("shuffle_probability")
    cells: list[Pictures] = []
    prompts: list[str] = []
    groups: dict[tuple[str, str], list[int]] = {}
    for domain in grid.domains:
        for category, names in grid.categories.items():
            for name in names:
                groups.setdefault((category, domain), []).append(len(cells))
                cells.append(grid.source.pictures((name,), domain, "pretrain", grid.classes))
                prompts.append(grid.prompt(name, domain))
    data = training.PretrainingData(
        pictures=Joined(cells),
        tokens=clip.tokens(prompts, grid.configuration),
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
    means: training.Means,
    *,
    progress: Progress | None = None,
) -> clip.State:
    """The base trained on the training pictures of ``tasks`` by the recipe's ``section``.

    The recipe's section ``stopping``, where there is one, says when validation is looked at.
    """
    stopping = Stopping(**grid.recipe["stopping"]) if "stopping" in grid.recipe else None
    given = training.FineTuning(
        training=_joined(grid, tasks, "train"),
        prompts=grid.prompts,
        schedule=Schedule(**grid.recipe[section]),
        validation=_joined(grid, tasks, "validation") if stopping else None,
        stopping=stopping,
        means=means,
    )
    return training.fine_tune(base, grid.configuration, given, seed=grid.seed, progress=progress)


def _joined(grid: Grid, tasks: Sequence[str], split: str) -> Pictures:
    cells = [grid.cell(task, split) for task in tasks]
    return cells[0] if len(cells) == 1 else Joined(cells)


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
    """Fine-tune the checkpoint ``base`` on ``tasks`` and write it to ``target``.

    With ``state``, a folder, a training that was killed goes on. Raises UnknownName for an unknown
    task and EvaluationError for data that are not there or a base of another architecture.
    """
    for task in tasks:
        grid.task(task)
    section = "fine_tuning" if len(tasks) == 1 else "multitask"
    means = training.Means(device, precision, state)
    trained = fine_tune(grid, clip.read(base), tasks, section, means, progress=progress)
    clip.save(trained, target)
