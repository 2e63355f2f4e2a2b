"""What benchmark.toml and constituents/<name>.toml say, and what is wrong with bad ones."""

import pytest

from gitmerge_eval.errors import EvaluationError
from gitmerge_eval.evaluation.declarations import (
    BenchmarkDeclaration,
    ConstituentDeclaration,
    benchmark_at,
    benchmark_in,
    constituent_blobs,
    constituents_at,
    constituents_in,
)

BENCHMARK = BenchmarkDeclaration(
    "grid", {"seed": 0, "scale": 0.5, "name": 'a "b"\\c\nd', "on": True}
)
FRUIT = ConstituentDeclaration(
    "fruit-quickdraw", "grid", "fruit-quickdraw", "model.safetensors", "Apache-2.0", "früh\t✓"
)
BIRD = ConstituentDeclaration(
    "bird", "grid", "bird-real", "deep/model.safetensors",
    licence="other", licence_name="x", licence_link="https://x.example", authors=("A", 'B "b"'),
    hub="a/bird", base_model="base",
)  # fmt: skip


def test_what_is_written_is_read_at_a_revision_and_in_the_work_tree(repository, commit):
    first = commit({"benchmark.toml": BENCHMARK.toml(), FRUIT.path: FRUIT.toml()})
    commit({"benchmark.toml": 'name = "other"\n', BIRD.path: BIRD.toml(), "constituents/a.md": ""})
    assert benchmark_at(repository, first) == BENCHMARK
    assert constituents_at(repository, first) == {FRUIT.path: FRUIT}
    assert benchmark_in(repository.directory) == BenchmarkDeclaration("other")
    assert constituents_in(repository.directory) == {FRUIT.path: FRUIT, BIRD.path: BIRD}
    assert set(constituent_blobs(repository, "HEAD")) == {FRUIT.path, BIRD.path}


def test_a_repository_without_declarations_has_none(repository, commit):
    commit({"file": "text"})
    assert benchmark_at(repository, "HEAD") is None
    assert benchmark_in(repository.directory) is None
    assert constituents_at(repository, "HEAD") == {}
    assert constituents_in(repository.directory) == {}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("name = ", "is not TOML"),
        ("\udcff", "is not TOML"),
        ("[settings]\nseed = 0\n", "has no 'name'"),
        ("name = 3\n", "has no 'name'"),
        ('name = "grid"\nsettings = 1\n', r"write it as '\[settings\]'"),
    ],
)
def test_a_bad_benchmark_file_is_named(repository, commit, text, complaint):
    commit({"benchmark.toml": text.encode(errors="surrogateescape")})
    with pytest.raises(EvaluationError, match=rf"benchmark\.toml.*{complaint}"):
        benchmark_at(repository, "HEAD")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (("task =", "tasks ="), "has no 'task'"),
        (("model.safetensors", "../model.safetensors"), "give a path from the top"),
        (("model.safetensors", "/etc/passwd"), "give a path from the top"),
        (("model.safetensors", "a/../.."), "give a path from the top"),
        (('licence = "Apache-2.0"', "licence = 2"), "has no 'licence'"),
        (('licence = "Apache-2.0"', "license = 2"), "has no 'licence'"),
        (('licence = "Apache-2.0"', "authors = [2]"), "'authors' is no list of names"),
        (('licence = "Apache-2.0"', 'authors = ""'), "'authors' is no list of names"),
    ],
)
def test_a_bad_constituent_file_is_named(repository, commit, change, complaint):
    commit({FRUIT.path: FRUIT.toml().replace(*change)})
    with pytest.raises(EvaluationError, match=rf"{FRUIT.path}.*{complaint}"):
        constituents_at(repository, "HEAD")


def test_a_setting_that_toml_text_cannot_hold_is_refused():
    with pytest.raises(EvaluationError, match="use text, a number, true or false"):
        BenchmarkDeclaration("grid", {"list": [1]}).toml()
