"""domainnet-generation: Stable Diffusion 2.1 with an adapter for each category and domain.

The paper's own setting (arXiv 2409.18314, section 5 and appendix C.2): 24 held-in and 120
generalization cells. Numbers: ``benchmark_repos/domainnet-generation``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gitmerge_eval.benchmarks import read_recipe
from gitmerge_eval.benchmarks.diffusion.functions import declared
from gitmerge_eval.benchmarks.domainnet.categories import Category, categories, tasks_of
from gitmerge_eval.benchmarks.learning.functions import Settings
from gitmerge_eval.records import Benchmark

if TYPE_CHECKING:
    from gitmerge_eval.benchmarks import BuiltModels
    from gitmerge_eval.benchmarks.diffusion.grid import Grid
    from gitmerge_eval.benchmarks.diffusion.judging import Judge

NAME = "domainnet-generation"
SETTINGS = ("name", "seed", "data", "weights", "clip_model", "clip_weights")
"""What ``benchmark.toml`` may say: the seed of everything; DomainNet's folder
(GITMERGE_EVAL_DOMAINNET in the environment goes before it); the folder of the pipeline's weights,
for the build; the open_clip model of the CLIP score, by name or by its configuration file, with
its pretrained weights, by tag or by file."""


def benchmark(recipe: Mapping[str, Any], published: tuple[Category, ...]) -> Benchmark:
    """The benchmark of a recipe over some categories of DomainNet."""
    tasks = tasks_of(published)

    def grid(settings: Settings) -> Grid:
        from gitmerge_eval.benchmarks.diffusion import published as real
        from gitmerge_eval.benchmarks.diffusion.grid import Grid
        from gitmerge_eval.benchmarks.domainnet.reading import opened
        from gitmerge_eval.benchmarks.learning.settings import seed_of, text_of

        seed = seed_of(settings, SETTINGS)
        numbers = recipe["judge"]
        model = text_of(settings, "clip_model") or str(numbers["model"])
        weights = text_of(settings, "clip_weights") or numbers["weights"]

        def judge(beside: Path, device: str) -> Judge:
            configuration = Path(model).expanduser() if model.endswith(".json") else model
            return real.judge(configuration, weights, numbers["dimensions"], device)

        domainnet = opened(settings, validation=recipe["pictures"]["validation"])
        return Grid(
            NAME,
            recipe,
            tasks,
            {category.name: category.classes for category in published},
            real.PublishedSource(domainnet, recipe["pictures"]["side"]),
            judge,
            seed,
            {"seed": seed} | dict(settings),
        )

    def build(made: Grid, directory: Path, **how: Any) -> BuiltModels:
        from gitmerge_eval.benchmarks.diffusion import published as real

        return real.build(made, directory, **how)

    companions = ("adapter_config.json", "pipeline")
    return declared(NAME, recipe["title"], tasks, grid, build, companions)


BENCHMARK = benchmark(read_recipe(NAME), categories())
