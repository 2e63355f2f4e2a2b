"""A family's functions as a Benchmark has them; imports torch when one of them is called."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gitmerge_eval.records import StatisticFile, Task, canonical_json

if TYPE_CHECKING:
    from gitmerge_eval.benchmarks import BuiltModels

Settings = Mapping[str, Any]


class Functions:
    """The functions of a benchmark; the grid of some settings, with its data, is made once.

    ``family`` is a package beside this one, whose modules ``scoring``, ``measuring`` and
    ``building`` take the grid that ``grid_of(settings)`` makes.
    """

    def __init__(self, family: str, grid_of: Callable[[Settings], Any]) -> None:
        self._family = family
        self._grid_of = grid_of
        self._grids: dict[str, Any] = {}

    @property
    def evaluator(self) -> str:
        """What the evaluator's version says of a program that is not ours; begins with a blank."""
        return ""

    def grid(self, settings: Settings | None) -> Any:
        """The grid of what ``benchmark.toml`` says."""
        given = {key: value for key, value in (settings or {}).items() if key != "name"}
        identity = canonical_json(given)
        if identity not in self._grids:
            self._grids[identity] = self._grid_of(given)
        return self._grids[identity]

    def evaluate(
        self,
        checkpoint: Path,
        tasks: Sequence[str],
        *,
        settings: Settings | None = None,
        **how: Any,
    ) -> Mapping[str, float]:
        """As :attr:`Benchmark.evaluate`."""
        grid = self.grid(settings)
        scores: Mapping[str, float] = self._module("scoring").evaluate(
            grid, checkpoint, tasks, **how
        )
        return scores

    def fingerprint(self, task: str, split: str, settings: Settings | None = None) -> str:
        """As :attr:`Benchmark.fingerprint`."""
        digest: str = self.grid(settings).fingerprint(task, split)
        return digest

    def collect(
        self,
        kind: str,
        checkpoint: Path,
        task: str,
        *,
        settings: Settings | None = None,
        **how: Any,
    ) -> StatisticFile:
        """As :attr:`Benchmark.collect`."""
        grid = self.grid(settings)
        found: StatisticFile = self._module("measuring").collect(
            grid, kind, checkpoint, task, **how
        )
        return found

    def build(
        self, directory: Path, *, settings: Settings | None = None, **how: Any
    ) -> BuiltModels:
        """As :attr:`Benchmark.build`."""
        grid = self.grid(settings)
        built: BuiltModels = self._module("building").build(grid, directory, **how)
        return built

    def train(
        self,
        base: Path,
        tasks: Sequence[str],
        target: Path,
        *,
        settings: Settings | None = None,
        **how: Any,
    ) -> None:
        """As :attr:`Benchmark.train`."""
        grid = self.grid(settings)
        self._module("building").train(grid, base, tasks, target, **how)

    def _module(self, name: str) -> Any:
        # After the grid, which says in a line what is missing.
        return importlib.import_module(f"gitmerge_eval.benchmarks.{self._family}.{name}")


def axes_of(tasks: Sequence[Task]) -> dict[str, tuple[str, ...]]:
    """The axes that the tasks' skills name, with their values in order."""
    return {
        axis: tuple(dict.fromkeys(task.skills[axis] for task in tasks)) for axis in tasks[0].skills
    }
