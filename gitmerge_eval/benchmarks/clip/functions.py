"""A grid's functions as a Benchmark has them; imports torch when one of them is called."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gitmerge_eval.records import Benchmark, StatisticFile, Task, canonical_json

if TYPE_CHECKING:
    from gitmerge_eval.benchmarks import BuiltModels
    from gitmerge_eval.benchmarks.clip.grid import Grid

Settings = Mapping[str, Any]


class Functions:
    """The functions of a benchmark; the grid of some settings, with its pictures, is made once."""

    def __init__(self, grid_of: Callable[[Settings], Grid]) -> None:
        self._grid_of = grid_of
        self._grids: dict[str, Grid] = {}

    def grid(self, settings: Settings | None) -> Grid:
        """The grid of what ``benchmark.toml`` says."""
        key = canonical_json(dict(settings or {}))
        if key not in self._grids:
            self._grids[key] = self._grid_of(settings or {})
        return self._grids[key]

    def evaluate(
        self,
        checkpoint: Path,
        tasks: Sequence[str],
        *,
        settings: Settings | None = None,
        **how: Any,
    ) -> Mapping[str, float]:
        """As :attr:`Benchmark.evaluate`."""
        from gitmerge_eval.benchmarks.clip import scoring

        return scoring.evaluate(self.grid(settings), checkpoint, tasks, **how)

    def fingerprint(self, task: str, split: str, settings: Settings | None = None) -> str:
        """As :attr:`Benchmark.fingerprint`."""
        return self.grid(settings).fingerprint(task, split)

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
        from gitmerge_eval.benchmarks.clip import measuring

        return measuring.collect(self.grid(settings), kind, checkpoint, task, **how)

    def build(
        self, directory: Path, *, settings: Settings | None = None, **how: Any
    ) -> BuiltModels:
        """As :attr:`Benchmark.build`."""
        from gitmerge_eval.benchmarks.clip import building

        return building.build(self.grid(settings), directory, **how)

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
        from gitmerge_eval.benchmarks.clip import building

        building.train(self.grid(settings), base, tasks, target, **how)


def declared(name: str, title: str, tasks: tuple[Task, ...], functions: Functions) -> Benchmark:
    """The benchmark of a grid of categories and domains."""
    axes = {
        axis: tuple(dict.fromkeys(task.skills[axis] for task in tasks))
        for axis in ("category", "domain")
    }
    return Benchmark(
        name=name,
        title=title,
        axes=axes,
        tasks=tasks,
        metric="accuracy",
        evaluator_version="1",
        evaluate=functions.evaluate,
        fingerprint=functions.fingerprint,
        collect=functions.collect,
        build=functions.build,
        train=functions.train,
        reference="arXiv 2409.18314, section 4 and appendix C.1",
    )
