"""domainnet-classification-mini: drawn pictures of DomainNet's classes, a tiny open_clip model.

The grid of arXiv 2409.18314: skills are a category of objects and a visual domain; a task is the
classification of one category's pictures in one domain, among the classes of all categories.
Recipe and numbers: ``benchmark_repos/domainnet-classification-mini``.
"""

from __future__ import annotations

import functools
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

    @functools.cache
    def of_seed(seed: int) -> Grid:
        from gitmerge_eval.benchmarks.clip.grid import Grid

        return Grid(NAME, recipe, folder, tasks, seed)

    def grid(settings: Settings) -> Grid:
        from gitmerge_eval.benchmarks.clip.grid import seed_of

        return of_seed(seed_of(settings))

    def evaluate(
        checkpoint: Path, tasks: Sequence[str], *, settings: Settings | None = None, **how: Any
    ) -> Mapping[str, float]:
        from gitmerge_eval.benchmarks.clip import scoring

        return scoring.evaluate(grid(settings or {}), checkpoint, tasks, **how)

    def fingerprint(task: str, split: str, settings: Settings | None = None) -> str:
        return grid(settings or {}).fingerprint(task, split)

    def collect(
        kind: str, checkpoint: Path, task: str, *, settings: Settings | None = None, **how: Any
    ) -> StatisticFile:
        from gitmerge_eval.benchmarks.clip import measuring

        return measuring.collect(grid(settings or {}), kind, checkpoint, task, **how)

    def build(directory: Path, *, settings: Settings | None = None, **how: Any) -> BuiltModels:
        from gitmerge_eval.benchmarks.clip import building

        return building.build(grid(settings or {}), directory, **how)

    return Benchmark(
        name=NAME,
        title=recipe["title"],
        axes=axes,
        tasks=tasks,
        metric="accuracy",
        evaluator_version="1",
        evaluate=evaluate,
        fingerprint=fingerprint,
        collect=collect,
        build=build,
        reference="arXiv 2409.18314, section 4 and appendix C.1",
    )


def load_recipe() -> Mapping[str, Any]:
    """The numbers of the recipe as it is shipped."""
    text = (recipe_folder(NAME) / "recipe.toml").read_text(encoding="utf-8")
    recipe: Mapping[str, Any] = tomllib.loads(text)
    return recipe


BENCHMARK = benchmark(load_recipe(), recipe_folder(NAME))
