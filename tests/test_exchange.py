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


RUN_LINE = {"schema": 1, "kind": "run", **RUN.as_dict()}


def run_line(**changes):
    return json.dumps({**RUN_LINE, **changes})


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "it is no JSON from column 2 on"),
        ("[]", "it is [] and should be an object"),
        ('"text"', 'it is "text" and should be an object'),
        ("[" * 100_000, "it is no JSON that can be read"),
        ('{"schema":1}', "it lacks 'kind'"),
        ('{"kind":"run"}', "it lacks 'schema'"),
        (spoilt(schema=2), "its schema is 2, and 1 is known here"),
        (spoilt(kind="gossip"), 'its kind is "gossip"; known are score, run, published'),
        (spoilt(kind=[]), "its kind is []; known are"),
        (spoilt(value=float("nan")), "'value' of a score is NaN and should be finite"),
        (spoilt(value="81"), "'value' of a score is \"81\" and should be a number"),
        (spoilt(value=None), "'value' of a score is null and should be a number"),
        (spoilt(value=True), "'value' of a score is true and should be a number"),
        (spoilt(task=3), "'task' of a score is 3 and should be a text"),
        (spoilt(more=1), "a score has 'more', which this version does not know"),
        (json.dumps({"schema": 1, "kind": "score", "task": "x"}), "a score lacks 'checkpoint', "),
        ('{"schema":1,"kind":"run","spec":"x"}', "a run lacks 'path', 'method', 'options'"),
        (run_line(constituents=5), "'constituents' of a run is 5 and should be a list"),
        (run_line(constituents=[["a"]]), 'is ["a"] and should be [name, checkpoint]'),
        (run_line(scores=[]), "'scores' of a run is [] and should be an object"),
        (run_line(scores={"test": [{"task": "x"}]}), "a score of a run (test) lacks 'status'"),
        (run_line(cost={"second": 1}), "the cost of a run has 'second', which this version"),
        (run_line(sample=[1]), "'sample' of a run is [1] and should be a number"),
        (run_line(chosen="yes"), "'chosen' of a run is \"yes\" and should be true or false"),
        ('{"schema":1,"kind":"published","source":"x"}', "a published number lacks 'method'"),
    ],
)
def test_a_line_that_is_no_result_stops_the_import_and_says_why_in_words(tmp_path, line, said):
    path = machine(tmp_path)
    with pytest.raises(EvaluationError) as caught:
        exchange.take(path, [lines_of_score, line])
    message = str(caught.value)
    assert message.startswith("line 2 is no result that this version reads: ")
    assert said in message
    for python in ("__init__", "Error", "NoneType", "None", "object is not", "argument"):
        assert python not in message
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
