"""Grids of tasks and how a checkpoint is evaluated on them; knows no Git.

A module here exports BENCHMARK, and adding the file adds the benchmark; a package here is a family
of models or a source of data that benchmarks share. Third parties add theirs through the
entry-point group ``gitmerge_eval.benchmarks``. Importing a benchmark's module must not import
torch: that waits for the first evaluation.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from gitmerge_eval.errors import EvaluationError, UnknownName
from gitmerge_eval.records import Benchmark, StatisticFile

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["BuiltModels", "get", "load", "names", "read_recipe", "recipe_folder"]

GROUP = "gitmerge_eval.benchmarks"


@dataclass(frozen=True)
class BuiltModels:
    """What a benchmark's ``build`` made: plain safetensors files and statistics, no repository.

    The benchmark's companions are taken from a checkpoint's own folder: a constituent that has none
    of its own keeps the base's.
    """

    base: Path
    constituents: Mapping[str, Path]
    """task -> the checkpoint fine-tuned on it."""
    multitask: Path
    statistics: Mapping[str, tuple[StatisticFile, ...]]
    """task -> the statistics of its checkpoint."""
    settings: Mapping[str, object] = field(default_factory=dict)
    """What ``benchmark.toml`` must say beside the name, for evaluations to use the same data."""


def names() -> tuple[str, ...]:
    """The names of all benchmarks, sorted; imports none of them."""
    own = [m.name.replace("_", "-") for m in pkgutil.iter_modules(__path__) if not m.ispkg]
    return tuple(sorted({*own, *(entry.name for entry in entry_points(group=GROUP))}))


def load() -> dict[str, Benchmark]:
    """Every benchmark by name; imports no torch."""
    return {name: get(name) for name in names()}


def get(name: str) -> Benchmark:
    """The benchmark called ``name``; UnknownName suggests near ones."""
    if name not in names():
        raise UnknownName.among("benchmark", name, names())
    for entry in entry_points(group=GROUP):
        if entry.name == name:
            value = entry.load()
            benchmark: Benchmark = getattr(value, "BENCHMARK", value)
            return benchmark
    found: Benchmark = importlib.import_module(f"{__name__}.{name.replace('-', '_')}").BENCHMARK
    return found


def recipe_folder(name: str) -> Path:
    """The folder with a benchmark's recipe: in the wheel, else in the checkout.

    Raises EvaluationError where neither has it.
    """
    package = Path(__file__).parents[1]
    for folder in (package / "_benchmark_repos" / name, package.parent / "benchmark_repos" / name):
        if folder.is_dir():
            return folder
    raise EvaluationError(
        f"the recipe of benchmark '{name}' is not in this installation of gitmerge-eval; "
        "install it again"
    )


def read_recipe(name: str) -> Mapping[str, Any]:
    """The numbers of a benchmark's recipe as it is shipped, in ``recipe.toml``."""
    text = (recipe_folder(name) / "recipe.toml").read_text(encoding="utf-8")
    recipe: Mapping[str, Any] = tomllib.loads(text)
    return recipe
