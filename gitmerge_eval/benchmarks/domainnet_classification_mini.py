"""domainnet-classification-mini: drawn pictures of DomainNet's classes, a tiny open_clip model.

The grid of arXiv 2409.18314: skills are a category of objects and a visual domain; a task is the
classification of one category's pictures in one domain, among the classes of all categories.
Recipe and numbers: ``benchmark_repos/domainnet-classification-mini``.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gitmerge_eval.benchmarks import recipe_folder
from gitmerge_eval.records import Benchmark, StatisticFile, Task

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from gitmerge_eval.benchmarks import BuiltModels
    from gitmerge_eval.benchmarks.clip.grid import Grid

NAME = "domainnet-classification-mini"
Settings = Mapping[str, Any]


class _Functions:
    """A recipe's functions; the grid of a seed, with its pictures, is made once."""

    def __init__(self, recipe: Mapping[str, Any], folder: Path, tasks: tuple[Task, ...]) -> None:
        self._recipe, self._folder, self._tasks = recipe, folder, tasks
        self._grids: dict[int, Grid] = {}

    def grid(self, settings: Settings | None) -> Grid:
        from gitmerge_eval.benchmarks.clip.grid import Grid, seed_of

        seed = seed_of(settings or {})
        if seed not in self._grids:
            self._grids[seed] = Grid(NAME, self._recipe, self._folder, self._tasks, seed)
        return self._grids[seed]

    def evaluate(
        self,
        checkpoint: Path,
        tasks: Sequence[str],
        *,
        settings: Settings | None = None,
        **how: Any,
    ) -> Mapping[str, float]:
        from gitmerge_eval.benchmarks.clip import scoring

        return scoring.evaluate(self.grid(settings), checkpoint, tasks, **how)

    def fingerprint(self, task: str, split: str, settings: Settings | None = None) -> str:
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
        from gitmerge_eval.benchmarks.clip import measuring

        return measuring.collect(self.grid(settings), kind, checkpoint, task, **how)

    def build(
        self, directory: Path, *, settings: Settings | None = None, **how: Any
    ) -> BuiltModels:
        from gitmerge_eval.benchmarks.clip import building

        return building.build(self.grid(settings), directory, **how)


def benchmark(recipe: Mapping[str, Any], folder: Path) -> Benchmark:
    """The benchmark of a recipe, whose model configuration lies in ``folder``."""
    axes = {axis: tuple(values) for axis, values in recipe["skills"].items()}
    tasks = tuple(
        Task(
            f"{category}-{domain}",
            {"category": category, "domain": domain},
            "held-in" if recipe["held_in"].get(category) == domain else "generalization",
        )
        for category in axes["category"]
        for domain in axes["domain"]
    )
    functions = _Functions(recipe, folder, tasks)
    return Benchmark(
        name=NAME,
        title=recipe["title"],
        axes=axes,
        tasks=tasks,
        metric="accuracy",
        evaluator_version="1",
        evaluate=functions.evaluate,
        fingerprint=functions.fingerprint,
        collect=functions.collect,
        build=functions.build,
        reference="arXiv 2409.18314, section 4 and appendix C.1",
    )


def load_recipe() -> Mapping[str, Any]:
    """The numbers of the recipe as it is shipped."""
    text = (recipe_folder(NAME) / "recipe.toml").read_text(encoding="utf-8")
    recipe: Mapping[str, Any] = tomllib.loads(text)
    return recipe


BENCHMARK = benchmark(load_recipe(), recipe_folder(NAME))
