"""The registry of benchmarks and the recipe's grid."""

import subprocess
import sys

import pytest

from gitmerge_eval import benchmarks
from gitmerge_eval.benchmarks import pictures, read_recipe
from gitmerge_eval.errors import EvaluationError, UnknownName

NAME = "domainnet-classification-mini"


def test_every_benchmark_is_found_under_its_own_name():
    loaded = benchmarks.load()
    assert NAME in loaded
    assert all(benchmark.name == name for name, benchmark in loaded.items())


def test_an_unknown_benchmark_suggests_the_near_one():
    with pytest.raises(UnknownName, match=f"did you mean '{NAME}'"):
        benchmarks.get("domainnet-classification-mimi")


def test_loading_imports_nothing_heavy():
    heavy = ("torch", "open_clip", "numpy", "PIL")
    code = (
        "import sys; from gitmerge_eval import benchmarks; benchmarks.load(); "
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_missing_recipe_is_said():
    with pytest.raises(EvaluationError, match="no-such-benchmark"):
        benchmarks.recipe_folder("no-such-benchmark")


def test_the_grid_is_six_by_six_with_a_held_in_diagonal():
    benchmark = benchmarks.get(NAME)
    assert len(benchmark.tasks) == 36
    held_in = [task for task in benchmark.tasks if task.status == "held-in"]
    for axis in benchmark.axes:
        assert sorted(task.skills[axis] for task in held_in) == sorted(benchmark.axes[axis])
    assert {"fruit-quickdraw", "bird-real"} <= {task.name for task in held_in}


def test_generalization_is_the_other_cells_of_the_skills():
    spanned = benchmarks.get(NAME).generalization(["fruit-quickdraw", "bird-real"])
    assert {task.name for task in spanned} == {"fruit-real", "bird-quickdraw"}


def test_the_recipe_and_the_drawings_name_the_same_skills():
    skills = read_recipe(NAME)["skills"]
    assert skills["category"] == list(pictures.CATEGORIES)
    assert skills["domain"] == list(pictures.DOMAINS)
    assert all(len(classes) == 4 for classes in pictures.CATEGORIES.values())
