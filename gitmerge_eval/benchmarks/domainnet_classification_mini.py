"""domainnet-classification-mini: drawn pictures of DomainNet's classes, a tiny open_clip model.

The grid of arXiv 2409.18314: skills are a category of objects and a visual domain; a task is the
classification of one category's pictures in one domain, among the classes of all categories.
Recipe and numbers: ``benchmark_repos/domainnet-classification-mini``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gitmerge_eval.benchmarks import read_recipe, recipe_folder
from gitmerge_eval.benchmarks.clip.functions import declared
from gitmerge_eval.benchmarks.learning.functions import Settings
from gitmerge_eval.records import Benchmark, Task

if TYPE_CHECKING:
    from gitmerge_eval.benchmarks.clip.grid import Grid

NAME = "domainnet-classification-mini"


def benchmark(recipe: Mapping[str, Any], folder: Path) -> Benchmark:
    """The benchmark of a recipe, whose model configuration lies in ``folder``."""
    skills = recipe["skills"]
    tasks = tuple(
        Task(
            f"{category}-{domain}",
            {"category": category, "domain": domain},
            "held-in" if recipe["held_in"].get(category) == domain else "generalization",
        )
        for category in skills["category"]
        for domain in skills["domain"]
    )

    def grid(settings: Settings) -> Grid:
        from gitmerge_eval.benchmarks import pictures
        from gitmerge_eval.benchmarks.clip.drawn import DrawnSource
        from gitmerge_eval.benchmarks.clip.grid import Grid
        from gitmerge_eval.benchmarks.learning.settings import seed_of

        seed = seed_of(settings)
        return Grid(
            NAME,
            recipe,
            folder / str(recipe["model"]),
            tasks,
            {name: tuple(pictures.CATEGORIES[name]) for name in skills["category"]},
            tuple(skills["domain"]),
            DrawnSource(NAME, recipe["pictures"], seed),
            seed,
            settings={"seed": seed},
        )

    return declared(NAME, recipe["title"], tasks, grid)


BENCHMARK = benchmark(read_recipe(NAME), recipe_folder(NAME))
