"""Trains all models of a repository, whatever their family: base, constituents, multitask."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from gitmerge_eval.benchmarks import BuiltModels
from gitmerge_eval.benchmarks.learning.loop import Progress
from gitmerge_eval.records import StatisticFile

TaskProgress = Callable[[str, int, int], object]
"""``progress(what, done, total)``; a step of training or an example measured."""


class Trainer(Protocol):
    """How one family makes its models; a state is whatever the family's weights are."""

    @property
    def held_in(self) -> tuple[str, ...]:
        """The tasks that have a constituent."""

    @property
    def settings(self) -> Mapping[str, object]:
        """What ``benchmark.toml`` must say for the same data to be found again."""

    def pretrain(self, progress: Progress | None) -> Any:
        """The base."""

    def fine_tune(
        self, base: Any, tasks: Sequence[str], section: str, progress: Progress | None
    ) -> Any:
        """``base`` trained on ``tasks`` by the recipe's ``section``."""

    def save(self, state: Any, checkpoint: Path) -> None:
        """Write a state as a checkpoint."""

    def measure(
        self, checkpoint: Path, task: str, progress: TaskProgress | None
    ) -> tuple[StatisticFile, ...]:
        """The statistics of a constituent."""


def build(
    trainer: Trainer,
    directory: Path,
    *,
    tasks: Sequence[str] | None = None,
    progress: TaskProgress | None = None,
) -> BuiltModels:
    """Train and measure everything into ``directory``.

    ``tasks`` are the held-in cells to have a constituent, all by default; multitask is trained on
    the same ones.
    """
    directory.mkdir(parents=True, exist_ok=True)
    chosen = tuple(tasks or trainer.held_in)
    base = trainer.pretrain(named(progress, "base"))
    trainer.save(base, directory / "base.safetensors")
    multitask = trainer.fine_tune(base, chosen, "multitask", named(progress, "multitask"))
    trainer.save(multitask, directory / "multitask.safetensors")
    del multitask
    constituents: dict[str, Path] = {}
    statistics: dict[str, tuple[StatisticFile, ...]] = {}
    for task in chosen:
        state = trainer.fine_tune(base, (task,), "fine_tuning", named(progress, task))
        constituents[task] = directory / f"{task}.safetensors"
        trainer.save(state, constituents[task])
        statistics[task] = trainer.measure(constituents[task], task, progress)
    return BuiltModels(
        base=directory / "base.safetensors",
        constituents=constituents,
        multitask=directory / "multitask.safetensors",
        statistics=statistics,
        settings=trainer.settings,
    )


def named(progress: TaskProgress | None, what: str) -> Progress | None:
    """``progress`` of one of several things."""
    if progress is None:
        return None
    report = progress
    return lambda done, total: report(what, done, total)
