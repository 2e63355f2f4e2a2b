"""A benchmark of this family as the contract wants it; imports no torch before it is used."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from gitmerge_eval.benchmarks.learning.functions import Functions, Settings, axes_of
from gitmerge_eval.errors import EvaluationError
from gitmerge_eval.records import Benchmark, Task

if TYPE_CHECKING:
    from gitmerge_eval.benchmarks.texts.grid import Grid


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
    functions = Functions("texts", checked(make_grid))
    return Benchmark(
        name=name,
        title=title,
        axes=axes_of(tasks),
        tasks=tasks,
        metric="; ".join(dict.fromkeys(task.metric for task in tasks)),
        evaluator_version="1",
        evaluate=functions.evaluate,
        fingerprint=functions.fingerprint,
        collect=functions.collect,
        build=functions.build,
        train=functions.train,
        reference=reference,
        family="transformers",
    )


def need(*modules: str, extra: str = "language") -> None:
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
            f"this benchmark needs {', '.join(missing)}: pip install 'gitmerge-eval[{extra}]'"
        )


def checked(grid_of: Callable[[Settings], Grid]) -> Callable[[Settings], Grid]:
    """``grid_of``, after a look for the family's own package."""

    def grid(settings: Settings) -> Grid:
        need("transformers")
        return grid_of(settings)

    return grid
