"""Results of two machines: what unites, what is known already, and what is in conflict."""

import json
from dataclasses import replace

import pytest
from test_results import KEY, SCORE
from test_runs import RUN

from gitmerge_eval.errors import EvaluationError, UsageError
from gitmerge_eval.evaluation import exchange
from gitmerge_eval.evaluation.published import Published, open_published, read_csv
from gitmerge_eval.evaluation.results import open_results
from gitmerge_eval.evaluation.runs import open_runs

ROW = Published("a paper, Table 1", "ties", 70.5, None, "plain", "λ = 0.3", "skill")
TABLE = "Method,Held-in,Generalization,remark\nties,70.5,48.25,x\n\nmats, 80 ,-,\n"


def machine(folder, scores=(), runs=(), rows=()):
    """The cache of a machine that measured these."""
    path = folder / "results.sqlite"
    with open_results(path) as results:
        results.store(dict(scores))
    with open_runs(path) as table:
        table.store(list(runs))
    with open_published(path) as published:
        published.store(list(rows))
    return path


def lines(path):
    return list(exchange.export(path))


def test_what_is_exported_comes_back_as_it_was(tmp_path):
    scores = {KEY: replace(SCORE, value=100 / 3), replace(KEY, task="bird-real"): SCORE}
    first = machine(tmp_path / "first", scores, [RUN, replace(RUN, sample=1)], [ROW])
    second = machine(tmp_path / "second")
    taken = exchange.take(second, lines(first))
    assert (taken.added, taken.known, taken.conflicts) == (5, 0, ())
    assert lines(second) == lines(first)
    with open_results(second) as results, open_runs(second) as runs:
        assert results.find(list(scores)) == scores
        assert runs.find() == [RUN, replace(RUN, sample=1)]
    with open_published(second) as published:
        assert published.find() == [ROW]


def test_taking_the_same_lines_again_changes_nothing(tmp_path):
    path = machine(tmp_path, {KEY: SCORE}, [RUN], [ROW])
    before = lines(path)
    taken = exchange.take(path, before + before)
    assert (taken.added, taken.known, taken.conflicts) == (0, 6, ())
    assert lines(path) == before


def test_two_machines_unite_whichever_takes_first(tmp_path):
    other = replace(KEY, task="bird-real")
    a = machine(tmp_path / "a", {KEY: SCORE}, [RUN])
    b = machine(tmp_path / "b", {other: SCORE}, [replace(RUN, spec="6" * 64)])
    from_a, from_b = lines(a), lines(b)
    exchange.take(a, from_b)
    exchange.take(b, from_a)
    assert lines(a) == lines(b)
    assert len(lines(a)) == 4


def test_another_value_for_a_key_is_named_and_not_taken(tmp_path):
    ours = machine(tmp_path / "ours", {KEY: SCORE}, [RUN], [ROW])
    score = replace(RUN.scores["test"][0], merged=61.0)
    run = replace(RUN, scores={"test": (score, *RUN.scores["test"][1:])})
    theirs = machine(
        tmp_path / "theirs", {KEY: replace(SCORE, value=80.5)}, [run], [replace(ROW, held_in=1.0)]
    )
    before = lines(ours)
    taken = exchange.take(ours, lines(theirs))
    assert (taken.added, taken.known) == (0, 0)
    assert [str(conflict) for conflict in taken.conflicts] == [
        "score of fruit-quickdraw (test) by aaaaaaaaaaaaaaaa: 81.25 here, 80.5 in the file",
        "run of ties 5555555555: merged on x (test) 60.0 here, merged on x (test) 61.0 in the file",
        "published of ties by a paper, Table 1: 70.5 here, 1.0 in the file",
    ]
    assert lines(ours) == before
    assert exchange.take(ours, lines(theirs), replacing=True).replaced
    assert lines(ours) == lines(theirs)


def test_time_and_device_are_each_machines_own(tmp_path):
    ours = machine(tmp_path / "ours", {KEY: SCORE}, [RUN])
    slow = replace(RUN, cost=replace(RUN.cost, seconds=9.0), evaluation_seconds=5.0)
    theirs = machine(tmp_path / "t", {KEY: replace(SCORE, seconds=9.0, device="cuda")}, [slow])
    before = lines(ours)
    taken = exchange.take(ours, lines(theirs))
    assert (taken.known, taken.conflicts, lines(ours)) == (2, (), before)


def test_a_run_with_more_of_the_same_scores_is_taken(tmp_path):
    less = replace(RUN, scores={"test": RUN.scores["test"][:1]}, chosen=False)
    ours, theirs = machine(tmp_path / "a", runs=[less]), machine(tmp_path / "b", runs=[RUN])
    assert exchange.take(ours, lines(theirs)).added == 1
    assert lines(ours) == lines(theirs)
    assert exchange.take(ours, lines(machine(tmp_path / "c", runs=[less]))).known == 1
    assert lines(ours) == lines(theirs)


def spoilt(**changes):
    record = {**json.loads(lines_of_score), **changes}
    return json.dumps(record)


lines_of_score = json.dumps({"schema": 1, "kind": "score", **KEY.__dict__, **SCORE.__dict__})


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        '"text"',
        spoilt(schema=2),
        spoilt(kind="gossip"),
        spoilt(value=float("nan")),
        spoilt(value="81"),
        spoilt(more=1),
        '{"schema":1,"kind":"run","spec":"x"}',
        '{"schema":1,"kind":"published","source":"x"}',
    ],
)
def test_a_line_that_is_no_result_stops_the_import_before_it_writes(tmp_path, line):
    path = machine(tmp_path)
    with pytest.raises(EvaluationError, match=r"^line 2 is no result that this version reads"):
        exchange.take(path, [lines_of_score, line])
    assert lines(path) == []


def test_a_published_table_is_read_with_its_source(tmp_path):
    rows = read_csv(TABLE, "a paper", "plain")
    assert rows == [
        Published("a paper", "ties", 70.5, 48.25, "plain"),
        Published("a paper", "mats", 80.0, None, "plain"),
    ]
    path = machine(tmp_path)
    assert exchange.take_published(path, rows).added == 2
    assert exchange.take_published(path, rows).known == 2
    with open_published(path) as published:
        assert published.find() == rows


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lacks the column method, held-in, generalization"),
        ("method,held-in\n", "lacks the column generalization"),
        ("method,held_in,generalisation\n,1,2\n", "line 2 names no method"),
        ("method,held in,generalization\nties,1,2\nties,1,2\n", "line 3 has 'ties' a second time"),
        ("method,held-in,generalization\nties,much,2\n", "line 2 has 'much', which is no number"),
        ("method,held-in,generalization\nties,inf,2\n", "line 2 has 'inf', which is no number"),
        ('method,held-in,generalization\n"ties,1,2\n', "the table is no CSV"),
    ],
)
def test_a_table_that_cannot_be_read_says_where(text, message):
    with pytest.raises(UsageError, match=message):
        read_csv(text, "a paper")
