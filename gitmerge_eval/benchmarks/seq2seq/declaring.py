"""A benchmark of this family as the contract wants it; imports no torch before it is used."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gitmerge_eval.errors import EvaluationError
from gitmerge_eval.records import Benchmark, StatisticFile, Task

if TYPE_CHECKING:
    from gitmerge_eval.benchmarks import BuiltModels
    from gitmerge_eval.benchmarks.seq2seq.grid import Grid

Settings = Mapping[str, Any]


def declare(
    name: str,
    title: str,
    tasks: tuple[Task, ...],
    make_grid: Callable[[Settings], Grid],
    reference: str,
) -> Benchmark:
    """The benchmark of a grid over the axes that its tasks' skills name.

    ``make_grid(settings)`` is called once for each settings.
    """
    functions = Functions(make_grid)
    axes = {
        axis: tuple(dict.fromkeys(task.skills[axis] for task in tasks)) for axis in tasks[0].skills
    }
    return Benchmark(
        name=name,
        title=title,
        axes=axes,
        tasks=tasks,
        metric="; ".join(dict.fromkeys(task.metric for task in tasks)),
        evaluator_version="1",
        evaluate=functions.evaluate,
        fingerprint=functions.fingerprint,
        collect=functions.collect,
        build=functions.build,
        train=functions.train,
        reference=reference,
    )


def need(*modules: str) -> None:
    """Check that the extra's packages are there; EvaluationError says what to install."""
    import importlib.util

    def absent(module: str) -> bool:
        try:
            return importlib.util.find_spec(module) is None
        except ModuleNotFoundError:  # the package that a module with a dot is in
            return True

    missing = [module for module in modules if absent(module)]
    if missing:
        raise EvaluationError(
            f"this benchmark needs {', '.join(missing)}: pip install 'gitmerge-eval[language]'"
        )


class Functions:
    """A benchmark's functions; the grid of a repository's settings, with its data, is made once."""

    def __init__(self, make_grid: Callable[[Settings], Grid]) -> None:
        self._make = make_grid
        self._grids: dict[str, Grid] = {}

    def grid(self, settings: Settings | None) -> Grid:
        """The grid of what ``benchmark.toml`` says."""
        need("transformers")
        given = {key: value for key, value in (settings or {}).items() if key != "name"}
        identity = repr(sorted(given.items()))
        if identity not in self._grids:
            self._grids[identity] = self._make(given)
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
        from gitmerge_eval.benchmarks.seq2seq import scoring

        return scoring.evaluate(grid, checkpoint, tasks, **how)

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
        grid = self.grid(settings)
        from gitmerge_eval.benchmarks.seq2seq import measuring

        return measuring.collect(grid, kind, checkpoint, task, **how)

    def build(
        self, directory: Path, *, settings: Settings | None = None, **how: Any
    ) -> BuiltModels:
        """As :attr:`Benchmark.build`."""
        grid = self.grid(settings)
        from gitmerge_eval.benchmarks.seq2seq import building

        return building.build(grid, directory, **how)

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
        from gitmerge_eval.benchmarks.seq2seq import building

        building.train(grid, base, tasks, target, **how)
