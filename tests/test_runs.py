"""The table of what sweeps and scalings measured."""

import sqlite3
from dataclasses import replace

import pytest

from gitmerge_eval.costs import Cost
from gitmerge_eval.evaluation.note import TaskScore
from gitmerge_eval.evaluation.results import Score, ScoreKey, open_results
from gitmerge_eval.evaluation.runs import Run, open_runs

RUN = Run(
    spec="5" * 64,
    path="model.safetensors",
    method="ties",
    options={"scale": 0.3, "density": 0.2, "scope": "group"},
    constituents=(("fruit ü", "a" * 40), ("bird", "b" * 40)),
    base="c" * 40,
    checkpoint="merge:" + "5" * 64,
    benchmark="plain",
    settings={"seed": 3},
    evaluator_version="1",
    metric="skill",
    scores={
        "test": (
            TaskScore("x", "held-in", 60.0, 20.0, 80.0, None, "f1"),
            TaskScore("y", "held-in", 50.0, 30.0, 90.0, None, "f2"),
            TaskScore("z", "generalization", 40.0, 32.0, fingerprint="f3"),
        )
    },
    cost=Cost(1.5, 10, 2**20, 7, 8, 9, 10, "cpu"),
    study="9" * 64,
    recorded="2026-11-01T10:00:00+00:00",
)


def test_a_run_comes_back_as_it_was_stored(tmp_path):
    with open_runs(tmp_path / "folder" / "results.sqlite") as runs:
        runs.store([RUN, replace(RUN, sample=1)])
        runs.store([replace(RUN, chosen=True)])
    with open_runs(tmp_path / "folder" / "results.sqlite") as runs:
        assert runs.find() == [replace(RUN, chosen=True), replace(RUN, sample=1)]
        assert runs.find(source="scale") == runs.find(study="x") == []
        assert len(runs.find(source="sweep", study="9" * 64)) == 2


def test_averages_and_ratios():
    assert RUN.average("held-in") == 55.0
    assert RUN.average("held-in", model="individual") == 85.0
    assert RUN.average("held-in", model="multitask") is None
    assert RUN.average("held-in", "validation") is None
    assert RUN.normalised("held-in") == pytest.approx(55 / 85)
    assert RUN.normalised("generalization") == pytest.approx(40 / 32)


def test_the_table_joins_a_cache_that_is_there_already(tmp_path):
    path, key = tmp_path / "results.sqlite", ScoreKey("a", "plain", "{}", "x", "test", "1", "f")
    with open_results(path) as results:
        results.store({key: Score(1.0, 2.0, "cpu")})
    with open_runs(path) as runs:
        runs.store([replace(RUN, recorded="")])
        assert runs.find()[0].recorded.startswith("20")
    with open_results(path) as results:
        assert results.find([key]) == {key: Score(1.0, 2.0, "cpu")}


def test_a_row_that_cannot_be_read_hides_no_other(tmp_path):
    path = tmp_path / "results.sqlite"
    with open_runs(path) as runs:
        runs.store([RUN])
    with sqlite3.connect(path) as connection:
        for number, text in enumerate(("{}", "{", "[]", '{"scores": 3}')):
            row = ("scale", "e" * 64, number, "f" * 64, "", "", text)
            connection.execute("INSERT INTO runs VALUES (?, ?, ?, ?, ?, ?, ?)", row)
    connection.close()
    with open_runs(path) as runs:
        assert runs.find() == [RUN]
        assert len(runs.remarks) == 4
        assert runs.remarks[0] == (
            "a stored run is left out (scale eeeeeeeeee, sample 0, spec ffffffffff): a run lacks "
            "'spec', 'path', 'method', 'options', 'constituents', 'base', 'checkpoint', "
            "'benchmark', 'settings', 'evaluator_version', 'metric', 'scores'; the command that "
            "made it computes it again"
        )
        runs.store([replace(RUN, source="scale", study="e" * 64, spec="f" * 64)])
        assert len(runs.find()) == 2
        assert len(runs.remarks) == 3
