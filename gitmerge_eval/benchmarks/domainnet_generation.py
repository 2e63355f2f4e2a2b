"""domainnet-generation: Stable Diffusion 2.1 with an adapter for each category and domain.

The paper's own setting (arXiv 2409.18314, section 5 and appendix C.2): 24 held-in and 120
generalization cells. Numbers: ``benchmark_repos/domainnet-generation``.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gitmerge_eval.benchmarks import recipe_folder
from gitmerge_eval.benchmarks.diffusion.functions import Functions, Settings, declared
from gitmerge_eval.benchmarks.domainnet.categories import Category, categories, tasks_of
from gitmerge_eval.errors import InvalidOption
from gitmerge_eval.records import Benchmark

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

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
        from gitmerge_eval.benchmarks.learning.settings import seed_of

        seed = seed_of(settings, SETTINGS)
        numbers = recipe["judge"]
        model = _text(settings, "clip_model") or str(numbers["model"])
        weights = _text(settings, "clip_weights") or numbers["weights"]

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
            {"seed": seed} | {k: v for k, v in settings.items() if k != "name"},
        )

    def build(made: Grid, directory: Path, **how: Any) -> BuiltModels:
        from gitmerge_eval.benchmarks.diffusion import published as real

        return real.build(made, directory, **how)

    companions = ("adapter_config.json", "pipeline")
    return declared(NAME, recipe["title"], tasks, Functions(grid, build), companions)


def _text(settings: Settings, key: str) -> str | None:
    value = settings.get(key)
    if value is not None and not isinstance(value, str):
        raise InvalidOption(f"the benchmark's '{key}' is {value!r}, which is not a text")
    return value


def load_recipe() -> Mapping[str, Any]:
    """The numbers of the recipe as it is shipped."""
    text = (recipe_folder(NAME) / "recipe.toml").read_text(encoding="utf-8")
    recipe: Mapping[str, Any] = tomllib.loads(text)
    return recipe


BENCHMARK = benchmark(load_recipe(), categories())
