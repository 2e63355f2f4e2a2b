"""cross-lingual-mini: tasks about numbers in five languages, a tiny mT5 that reads characters.

An analogue of the cross-lingual grid of arXiv 2409.18314, Table 1: skills are a task and a
language; constituents have one language each. Recipe and numbers:
``benchmark_repos/cross-lingual-mini``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gitmerge_eval.benchmarks import read_recipe, recipe_folder
from gitmerge_eval.benchmarks.learning.settings import seed_of
from gitmerge_eval.benchmarks.texts.declaring import declare, need
from gitmerge_eval.records import Benchmark, Task

if TYPE_CHECKING:
    from gitmerge_eval.benchmarks.texts.grid import Grid

NAME = "cross-lingual-mini"


def benchmark(recipe: Mapping[str, Any], folder: Path) -> Benchmark:
    """The benchmark of a recipe, whose model configuration lies in ``folder``."""
    tasks = tuple(
        Task(
            f"{kind}-{language}",
            {"task": kind, "language": language},
            "held-in" if recipe["held_in"].get(kind) == language else "generalization",
            metric=recipe["metrics"][kind],
        )
        for kind in recipe["skills"]["task"]
        for language in recipe["skills"]["language"]
    )

    def make_grid(settings: Mapping[str, Any]) -> Grid:
        need("num2words")
        from gitmerge_eval.benchmarks.number_words import Numbers
        from gitmerge_eval.benchmarks.seq2seq.family import FAMILY
        from gitmerge_eval.benchmarks.texts.grid import Grid
        from gitmerge_eval.benchmarks.texts.tokens import CharacterTokens

        vocabulary = recipe["vocabulary"]
        return Grid(
            NAME,
            recipe,
            folder,
            tasks,
            Numbers(seed_of(settings), recipe["numbers"]),
            lambda: CharacterTokens(vocabulary["markers"], vocabulary["characters"]),
            FAMILY,
        )

    return declare(
        NAME, recipe["title"], tasks, make_grid, "arXiv 2409.18314, section 4 and appendix C"
    )


BENCHMARK = benchmark(read_recipe(NAME), recipe_folder(NAME))
