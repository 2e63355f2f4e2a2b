"""Trains all models of a grid's repository: base, one for each held-in cell, multitask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from gitmerge_eval.benchmarks import BuiltModels
from gitmerge_eval.benchmarks.learning import building
from gitmerge_eval.benchmarks.learning.building import TaskProgress
from gitmerge_eval.benchmarks.learning.loop import Progress, Stopping
from gitmerge_eval.benchmarks.learning.measuring import measure
from gitmerge_eval.benchmarks.learning.schedule import Schedule
from gitmerge_eval.benchmarks.texts import scoring, training
from gitmerge_eval.benchmarks.texts.grid import Grid
from gitmerge_eval.benchmarks.texts.measuring import collect
from gitmerge_eval.benchmarks.texts.weights import State, read, save
from gitmerge_eval.errors import EvaluationError
from gitmerge_eval.records import StatisticFile


def build(
    grid: Grid,
    directory: Path,
    *,
    tasks: Sequence[str] | None = None,
    device: str = "cpu",
    precision: str | None = None,
    progress: TaskProgress | None = None,
) -> BuiltModels:
    """Train and measure everything into ``directory``; on the CPU the same grid gives the same
    bytes.

    ``tasks`` are the held-in cells to have a constituent, all by default; multitask is trained on
    the same ones. ``precision`` goes before the recipe's.
    """
    chosen = tuple(tasks or grid.held_in)
    for task in chosen:
        grid.cell(task, "train")  # what is missing is said before hours of training
    trainer = _Trainer(grid, device, precision)
    return building.build(trainer, directory, tasks=chosen, progress=progress)


def train(
    grid: Grid,
    base: Path,
    tasks: Sequence[str],
    target: Path,
    *,
    device: str = "cpu",
    precision: str | None = None,
    state: Path | None = None,
    progress: Progress | None = None,
) -> None:
    """Fine-tune the checkpoint ``base`` on ``tasks`` and write it to ``target``.

    One task is trained by the recipe's 'fine_tuning', several by 'multitask'. With ``state``, a
    folder, a training that was killed goes on. Raises UnknownName for an unknown task and
    EvaluationError for data that are not there or a base of another architecture.
    """
    section = "fine_tuning" if len(tasks) == 1 else "multitask"
    trained = fine_tune(
        grid,
        read(base),
        tasks,
        section,
        device=device,
        precision=precision,
        state=state,
        progress=progress,
    )
    save(trained, target)


def pretrain(grid: Grid, *, progress: Progress | None = None) -> State:
    """The base: loaded where the grid has one, else trained as the family does it.

    Raises EvaluationError where a published base is not there.
    """
    if grid.base is not None:
        return grid.family.published(grid.base())
    if grid.family.pretrain is None:
        raise EvaluationError(f"benchmark '{grid.name}' has no base to build models from")
    return grid.family.pretrain(grid, progress=progress)


def fine_tune(
    grid: Grid,
    base: State,
    tasks: Sequence[str],
    section: str,
    *,
    device: str = "cpu",
    precision: str | None = None,
    state: Path | None = None,
    progress: Progress | None = None,
) -> State:
    """The base trained on the training examples of ``tasks`` by the recipe's ``section``.

    Where the section has ``every`` and ``patience``, the mean validation score over the tasks is
    looked at each ``every`` steps. ``state`` is a folder in which a training that was interrupted
    goes on.
    """
    numbers = dict(grid.recipe[section])
    looks = {k: int(numbers.pop(k)) for k in ("every", "patience", "looked_at") if k in numbers}
    examples = [example for task in tasks for example in grid.cell(task, "train")]
    own = str(numbers.pop("precision", "float32"))
    resources = training.Resources(
        device=device,
        precision=precision or own,
        recompute=bool(numbers.pop("recompute", False)),
        state=state,
        stopping=Stopping(looks["every"], looks["patience"]) if looks else None,
    )

    def validate(model: nn.Module) -> float:
        scores = [
            scoring.score(grid, model, task, "validation", examples=looks["looked_at"])
            for task in tasks
        ]
        return sum(scores) / len(scores)

    return training.fine_tune(
        grid.family,
        base,
        grid.configuration,
        training.encoded(grid.family, examples, grid.tokens),
        grid.tokens,
        Schedule(**numbers),
        seed=grid.seed,
        resources=resources,
        validate=validate if looks else None,
        progress=progress,
    )


@dataclass(frozen=True)
class _Trainer:
    grid: Grid
    device: str
    precision: str | None

    @property
    def held_in(self) -> tuple[str, ...]:
        return self.grid.held_in

    @property
    def settings(self) -> Mapping[str, object]:
        return self.grid.source.settings

    def pretrain(self, progress: Progress | None) -> State:
        return pretrain(self.grid, progress=progress)

    def fine_tune(
        self, base: State, tasks: Sequence[str], section: str, progress: Progress | None
    ) -> State:
        return fine_tune(
            self.grid,
            base,
            tasks,
            section,
            device=self.device,
            precision=self.precision,
            progress=progress,
        )

    def save(self, state: State, checkpoint: Path) -> None:
        save(state, checkpoint)

    def measure(
        self, checkpoint: Path, task: str, progress: TaskProgress | None
    ) -> tuple[StatisticFile, ...]:
        return measure(collect, self.grid, checkpoint, task, device=self.device, progress=progress)
