"""Evaluation notes: the table that a person reads and the record that a program reads."""

import json
import re
from dataclasses import replace

import pytest

from gitmerge_eval.errors import EvaluationError
from gitmerge_eval.evaluation import reporting
from gitmerge_eval.evaluation.note import EvaluationNote, TaskScore
from gitmerge_eval.git import notes

NOTE = EvaluationNote(
    benchmark="domainnet-classification-mini",
    metric="accuracy",
    split="test",
    evaluator_version="1",
    path="model.safetensors",
    checkpoint="c" * 40,
    scores=(
        TaskScore("fruit-quickdraw", "held-in", 81.25, 40.625, 93.75, 89.0625, "1" * 64),
        TaskScore("bird-real", "held-in", 78.125, 41.6667, 92.1875, 90.1042, "2" * 64),
        TaskScore("fruit-real", "generalization", 57.8125, 44.7917, None, 51.0417, "3" * 64),
        TaskScore("bird-quickdraw", "generalization", 52.0833, 46.3542, None, 48.4375, "4" * 64),
    ),
    settings={"seed": 0},
    method="mats",
    options={"iterations": 20, "init": "task-arithmetic", "init-scale": 0.30000000000000004},
    spec="5" * 64,
    constituents=("fruit-quickdraw", "bird-real"),
    seconds=3.217,
    device="cpu",
)


def figures(table: str) -> dict[str, list[float | None]]:
    """name -> the numbers of that row of the table, None for '-'."""
    rows = {}
    section = ""
    for line in table.splitlines():
        if line in reporting.STATUSES:
            section = line
        found = re.match(r"^  (\S.*?)((?:\s+(?:-|\d+\.\d+))+)$", line)
        if found:
            name = found[1].strip()
            key = name if "-" in name and name.count(" ") == 0 else f"{section}: {name}"
            rows[key] = [None if n == "-" else float(n) for n in found[2].split()]
    return rows


def test_the_table_holds_every_score_average_and_ratio():
    rows = figures(reporting.note_table(NOTE))
    for score in NOTE.scores:
        values = [getattr(score, model) for model in reporting.MODELS]
        assert rows[score.task] == [None if v is None else round(v, 2) for v in values]
    assert rows["held-in: average"] == pytest.approx(
        [(81.25 + 78.125) / 2, (40.625 + 41.6667) / 2, 92.96875, 89.58335], abs=0.0051
    )
    assert rows["generalization: average"][2] is None
    held_in = (81.25 + 78.125) / (93.75 + 92.1875)
    general = (57.8125 + 52.0833) / (44.7917 + 46.3542)
    assert rows["held-in: normalised by individual"] == pytest.approx([held_in], abs=0.00051)
    assert rows["generalization: normalised by pretrained"] == pytest.approx([general], abs=0.00051)


def test_the_table_says_what_was_merged_how_and_on_what():
    table = reporting.note_table(NOTE)
    for words in ("domainnet-classification-mini", "accuracy", "test split", "mats", "bird-real"):
        assert words in table
    assert "(init=task-arithmetic, init-scale=0.3, iterations=20)" in " ".join(table.split())


def test_no_line_is_wider_than_a_terminal():
    long = replace(
        NOTE,
        scores=(TaskScore("x" * 90, "held-in", 100.0, 100.0, 100.0, 100.0), *NOTE.scores),
        constituents=tuple(f"constituent-number-{i}" for i in range(20)),
        remarks=("the multitask model " * 12,),
    )
    lines = reporting.note_table(long).splitlines()
    assert max(map(len, lines)) <= 78
    assert any(line.startswith("  xxxxx") and "…" in line for line in lines)


def test_no_line_of_the_table_is_taken_for_a_record():
    odd = replace(NOTE, benchmark='{"a": 1}', remarks=('{"b": 2}',))
    table = reporting.note_table(odd)
    assert notes.records(table) == []


def test_unknown_baselines_are_dashes_and_give_no_ratio():
    bare = replace(
        NOTE, scores=(TaskScore("fruit-quickdraw", "held-in", 81.25),), remarks=("no base",)
    )
    table = reporting.note_table(bare)
    assert figures(table)["fruit-quickdraw"] == [81.25, None, None, None]
    assert "normalised" not in table
    assert "generalization" not in table
    assert "note: no base" in table


def test_a_model_that_is_no_merge_has_its_path_for_an_origin():
    table = reporting.note_table(replace(NOTE, method=None, options={}, spec=None))
    assert table.splitlines()[0].endswith("model.safetensors")


def test_the_record_gives_the_note_back():
    assert reporting.note_from_record(json.loads(reporting.note_line(NOTE))) == NOTE
    bare = replace(NOTE, method=None, spec=None, scores=NOTE.scores[2:], remarks=("no base",))
    assert reporting.note_from_record(json.loads(reporting.note_line(bare))) == bare


def test_the_record_rounds_to_a_ten_thousandth_and_is_stable_from_then_on():
    exact = replace(NOTE, scores=(TaskScore("a-b", "held-in", 100 / 3, fingerprint="f"),))
    once = reporting.note_record(exact)
    assert once["tasks"][0]["merged"] == 33.3333
    assert reporting.note_record(reporting.note_from_record(once)) == once


def test_the_record_is_one_canonical_line_below_four_kilobytes():
    line = reporting.note_line(NOTE)
    assert "\n" not in line
    assert line == json.dumps(json.loads(line), sort_keys=True, separators=(",", ":"))
    assert len(line) + len(reporting.note_table(NOTE)) < 4096
    assert len(reporting.note_record(NOTE)["averages"]["held-in"]) == 5


def test_records_of_other_schemas_and_broken_ones_are_refused():
    record = reporting.note_record(NOTE)
    with pytest.raises(EvaluationError, match="schema 2"):
        reporting.note_from_record({**record, "schema": 2})
    with pytest.raises(EvaluationError, match="malformed"):
        reporting.note_from_record({k: v for k, v in record.items() if k != "tasks"})
    for value in ("81.25", True, None, float("nan"), [1.0]):
        task = {**record["tasks"][0], "merged": value}
        with pytest.raises(EvaluationError, match="is no score"):
            reporting.note_from_record({**record, "tasks": [task]})


def test_the_summary_is_one_line_with_both_averages():
    assert reporting.summary(NOTE) == (
        "held-in 79.69 (0.857 of individual), generalization 54.95 (1.206 of pretrained)"
    )


def test_without_a_terminal_there_is_no_bar(capsys):
    with reporting.evaluation_bar() as bar:
        bar("merged on fruit-real", 0.5)
    assert capsys.readouterr().err == ""
