"""domainnet-classification: DomainNet's published pictures, open_clip's ViT-B/32.

The paper's own setting (arXiv 2409.18314, section 4 and appendix C.1): 24 held-in and 120
generalization cells. Numbers: ``benchmark_repos/domainnet-classification``; what has to be
downloaded: ``docs/settings.md``.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gitmerge_eval.benchmarks import recipe_folder
from gitmerge_eval.benchmarks.clip.functions import Functions, Settings, declared
from gitmerge_eval.benchmarks.domainnet import DOMAINS
from gitmerge_eval.benchmarks.domainnet.categories import Category, categories, tasks_of
from gitmerge_eval.errors import EvaluationError, InvalidOption
from gitmerge_eval.records import Benchmark

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from gitmerge_eval.benchmarks.clip.grid import Grid

NAME = "domainnet-classification"
SETTINGS = ("name", "seed", "data", "model", "weights", "categories")
"""What ``benchmark.toml`` may say: the seed of the validation split and of training; DomainNet's
folder (GITMERGE_EVAL_DOMAINNET in the environment goes before it); the open_clip model, by name or
by its configuration file; its pretrained weights, by tag or by file; and other classes for the
categories, as a file or a table of the form of ``categories.toml``."""


def benchmark(recipe: Mapping[str, Any], published: tuple[Category, ...]) -> Benchmark:
    """The benchmark of a recipe over some categories of DomainNet."""
    tasks = tasks_of(published)

    def grid(settings: Settings) -> Grid:
        from gitmerge_eval.benchmarks.clip.grid import Grid
        from gitmerge_eval.benchmarks.clip.published import PublishedSource
        from gitmerge_eval.benchmarks.clip.weights import preprocessing
        from gitmerge_eval.benchmarks.domainnet.reading import opened
        from gitmerge_eval.benchmarks.learning.settings import seed_of

        seed = seed_of(settings, SETTINGS)
        model = _text(settings, "model") or str(recipe["model"])
        configuration = Path(model).expanduser() if model.endswith(".json") else model
        domainnet = opened(settings, validation=recipe["pictures"]["validation"])
        return Grid(
            NAME,
            recipe,
            configuration,
            tasks,
            {c.name: c.classes for c in _overridden(published, settings)},
            DOMAINS,
            PublishedSource(domainnet, preprocessing(configuration, _text(settings, "weights"))),
            seed,
            settings={"seed": seed} | {k: v for k, v in settings.items() if k != "name"},
        )

    return declared(NAME, recipe["title"], tasks, Functions(grid))


def _overridden(published: tuple[Category, ...], settings: Settings) -> tuple[Category, ...]:
    source = settings.get("categories")
    if source is None:
        return published
    found = categories(Path(source).expanduser() if isinstance(source, str) else source)
    if {(c.name, c.held_in) for c in found} != {(c.name, c.held_in) for c in published}:
        raise EvaluationError(
            f"the setting 'categories' has other categories, or other held-in domains, than "
            f"'{NAME}'; change their classes only, since the tasks are named by them"
        )
    return found


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
