"""domainnet-classification: DomainNet's published pictures, open_clip's ViT-B/32.

The paper's own setting (arXiv 2409.18314, section 4 and appendix C.1): 24 held-in and 120
generalization cells. Numbers: ``benchmark_repos/domainnet-classification``; what has to be
downloaded: ``docs/settings.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gitmerge_eval.benchmarks import read_recipe
from gitmerge_eval.benchmarks.clip.functions import declared
from gitmerge_eval.benchmarks.domainnet import DOMAINS
from gitmerge_eval.benchmarks.domainnet.categories import Category, categories, tasks_of
from gitmerge_eval.benchmarks.learning.functions import Settings
from gitmerge_eval.errors import EvaluationError
from gitmerge_eval.records import Benchmark

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
        from gitmerge_eval.benchmarks.learning.settings import seed_of, text_of

        seed = seed_of(settings, SETTINGS)
        model = text_of(settings, "model") or str(recipe["model"])
        configuration = Path(model).expanduser() if model.endswith(".json") else model
        domainnet = opened(settings, validation=recipe["pictures"]["validation"])
        return Grid(
            NAME,
            recipe,
            configuration,
            tasks,
            {c.name: c.classes for c in _overridden(published, settings)},
            DOMAINS,
            PublishedSource(domainnet, preprocessing(configuration, text_of(settings, "weights"))),
            seed,
            settings={"seed": seed} | dict(settings),
        )

    return declared(NAME, recipe["title"], tasks, grid)


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


BENCHMARK = benchmark(read_recipe(NAME), categories())
