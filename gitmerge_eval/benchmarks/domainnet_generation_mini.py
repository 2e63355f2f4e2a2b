"""domainnet-generation-mini: a tiny Stable Diffusion, and an adapter for each category and domain.

The grid of arXiv 2409.18314: skills are a category of objects and a visual domain; a task is making
pictures from the prompts 'a {domain} of a {class}' of one cell. Recipe and numbers:
``benchmark_repos/domainnet-generation-mini``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gitmerge_eval.benchmarks import read_recipe, recipe_folder
from gitmerge_eval.benchmarks.diffusion.functions import JUDGE, declared
from gitmerge_eval.benchmarks.learning.functions import Settings
from gitmerge_eval.records import Benchmark, Task

if TYPE_CHECKING:
    from gitmerge_eval.benchmarks import BuiltModels
    from gitmerge_eval.benchmarks.diffusion.grid import Grid
    from gitmerge_eval.benchmarks.diffusion.judging import Judge

NAME = "domainnet-generation-mini"


def benchmark(recipe: Mapping[str, Any], folder: Path) -> Benchmark:
    """The benchmark of a recipe, whose model configurations lie in ``folder``."""
    tasks = tuple(
        Task(
            f"{category}-{domain}",
            {"category": category, "domain": domain},
            "held-in" if recipe["held_in"].get(category) == domain else "generalization",
        )
        for category in recipe["skills"]["category"]
        for domain in recipe["skills"]["domain"]
    )

    def judge(beside: Path, device: str) -> Judge:
        from gitmerge_eval.benchmarks.diffusion.judging import OpenClip

        return OpenClip.load(beside / JUDGE, folder / str(recipe["judge"]["model"]), device)

    def grid(settings: Settings) -> Grid:
        from gitmerge_eval.benchmarks import pictures
        from gitmerge_eval.benchmarks.diffusion.drawn import DrawnSource
        from gitmerge_eval.benchmarks.diffusion.grid import Grid
        from gitmerge_eval.benchmarks.learning.settings import seed_of

        seed = seed_of(settings)
        return Grid(
            NAME,
            recipe,
            tasks,
            {name: tuple(pictures.CATEGORIES[name]) for name in recipe["skills"]["category"]},
            DrawnSource(NAME, recipe["pictures"], seed),
            judge,
            seed,
            {"seed": seed},
        )

    def build(made: Grid, directory: Path, **how: Any) -> BuiltModels:
        from gitmerge_eval.benchmarks.diffusion import building

        return building.build(made, folder, directory, **how)

    companions = ("adapter_config.json", JUDGE, "pipeline")
    return declared(NAME, recipe["title"], tasks, grid, build, companions)


BENCHMARK = benchmark(read_recipe(NAME), recipe_folder(NAME))
