"""What a repository's results are: gathered from notes and runs, and grouped to be compared."""

from __future__ import annotations

from dataclasses import replace

import pytest
from reported_repositories import HEADS, SAMPLES, made_up, reported, results, run

from gitmerge_eval import methods, reporting
from gitmerge_eval.evaluation import gathering
from gitmerge_eval.evaluation.gathering import Comparison, Gathered
from gitmerge_eval.git import notes
from gitmerge_eval.records import canonical_json


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        yield reported(tmp_path_factory.mktemp("reported") / "models", patch)


def test_notes_and_runs_are_gathered_and_grouped_by_what_can_be_compared(made):
    gathered = gathering.gather(made.repository)
    assert gathered.remarks == ()
    assert {r.source for r in gathered.results} == {"merge", "sweep", "scale"}
    assert len(gathered.results) == len(made_up()) + 2
    main, *others = gathered.comparisons()
    assert main.methods == tuple(methods.load())
    assert main.constituents == tuple(sorted(HEADS))
    assert {len(c.constituents) for c in others} == {2}
    # The whole of the scaling is in each of its samples.
    again = (SAMPLES - 1) * len(methods.load())
    assert sum(len(c.results) for c in [main, *others]) == len(gathered.results) - again


def test_results_on_other_data_or_by_another_evaluator_are_no_comparison():
    one = run("ties")
    other_data = replace(
        run("mats"),
        scores={"test": tuple(replace(s, fingerprint="other") for s in one.scores["test"])},
    )
    newer = replace(run("slerp"), evaluator_version="2")
    again = run("fisher", constituents=tuple((head, "trained anew") for head in HEADS))
    gathered = Gathered(tuple(results([one, run("dare"), other_data, newer, again])), (), ())
    assert [c.methods for c in gathered.comparisons()] == [
        ("dare", "ties"), ("mats",), ("slerp",), ("fisher",)
    ]  # fmt: skip


def test_a_merge_is_of_the_checkpoints_that_its_trailers_name(made):
    blobs = [made.repository.blob_id(head, "model.safetensors") for head in HEADS[:2]]
    merges = [r for r in gathering.gather(made.repository).results if r.source == "merge"]
    assert [r.models for r in merges] == [tuple(sorted(blobs))] * 2


def test_of_a_method_the_sweeps_choice_stands_then_the_defaults_then_the_latest():
    odd = run("ties", shift=30.0, option="scale", value=0.9, recorded="2027")
    assert Comparison(tuple(results([odd]))).shown()["ties"].options["scale"] == 0.9
    plain = run("ties")
    assert Comparison(tuple(results([plain, odd]))).shown()["ties"].options["scale"] == 1.0
    chosen = run("ties", option="scale", value=0.1, chosen=True)
    shown = Comparison(tuple(results([chosen, plain, odd]))).shown()
    assert shown["ties"].options["scale"] == 0.1


def test_an_unreadable_note_is_a_remark(tmp_path, monkeypatch):
    made = reported(tmp_path / "models", monkeypatch)
    head = made.repository.commit("HEAD")
    record = {"schema": 99, "kind": "evaluation/test"}
    notes.write(made.repository, head, "a table", record)
    gathered = gathering.gather(made.repository)
    assert len(gathered.remarks) == 1
    assert (
        f"the note of {head[:10]} is left out: an evaluation note has schema 99"
        in (gathered.remarks[0])
    )
    assert reporting.report(made.repository).remarks == gathered.remarks


def test_a_merge_that_was_reset_away_counts_no_more_and_is_named(tmp_path, monkeypatch):
    made = reported(tmp_path / "models", monkeypatch)
    before = gathering.gather(made.repository)
    gone = made.repository.commit("HEAD")
    made.repository.run("reset", "-q", "--hard", "HEAD^1")
    after = gathering.gather(made.repository)
    assert [r.where for r in before.results if r not in after.results] == [gone]
    assert after.remarks == (
        "no branch or tag has these commits any more, so that their notes do not count: "
        f"{gone[:10]}",
    )
    made.repository.run("tag", "kept", gone)
    assert len(gathering.gather(made.repository).results) == len(before.results)


def test_fetched_notes_count_before_they_are_united(made, tmp_path):
    other = made.copy(tmp_path / "other")
    other.repository.run("update-ref", "refs/notes/origin/gitmerge-eval", notes.REF)
    other.repository.run("update-ref", "-d", notes.REF)
    found = gathering.gather(other.repository)
    assert found.results == gathering.gather(made.repository).results


def test_two_results_of_one_merge_that_differ_are_a_remark(tmp_path, monkeypatch):
    made = reported(tmp_path / "models", monkeypatch)
    before = gathering.gather(made.repository)
    head = made.repository.commit("HEAD")
    text = notes.read(made.repository, head)
    record = notes.records(text)[0]
    record["tasks"][0]["merged"] += 1
    notes.put(made.repository, notes.REF, head, f"{text}\n{canonical_json(record)}\n")
    found = gathering.gather(made.repository)
    assert found.results == before.results
    (remark,) = found.remarks
    assert remark.startswith(f"the note of {head[:10]} has another result of the same merge")
