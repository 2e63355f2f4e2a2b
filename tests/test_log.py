"""``gitmerge-eval log``: the merges of a branch, what they can do, and what became of it."""

from __future__ import annotations

import json
import sys

import pytest
from evaluated_repositories import PLAIN, Evaluated

from gitmerge_eval import cli
from gitmerge_eval.errors import GitError
from gitmerge_eval.evaluation import evaluating
from gitmerge_eval.git import notes
from gitmerge_eval.inspecting import history


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return Evaluated.make(tmp_path_factory.mktemp("evaluated") / "models")


@pytest.fixture
def made(template, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(PLAIN))
    monkeypatch.setenv("PLAIN_BENCHMARK_LOG", str(tmp_path / "evaluations.log"))
    found = template.copy(tmp_path / "models")
    monkeypatch.chdir(found.repository.directory)
    return found


@pytest.fixture
def run(capsys, monkeypatch):
    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["gitmerge-eval", *arguments])
        return cli.main(), *capsys.readouterr()

    return command


def evaluated(made, **changes):
    commit = made.merge(**changes)
    evaluating.evaluate(made.repository, commit)
    return commit


def test_merges_are_listed_with_scores_and_change(made, run):
    first = evaluated(made, method="average")
    better = (72, 74, 30, 66, 68, 33)
    second = evaluated(made, values=better, method="mats")
    third = made.merge(method="ties", options={"density": 0.3})
    status, out, _ = run("log")
    assert status == 0
    blocks = [block.splitlines() for block in out.strip().split("\n\n")]
    assert [block[0].split()[0] for block in blocks] == [c[:10] for c in (third, second, first)]
    assert blocks[0][1:] == [
        "  ties (density=0.3) of fruit-quickdraw, bird-real",
        f"  not evaluated; run: gitmerge-eval evaluate {third[:10]}",
    ]
    # Every skill of the second is two points up, and so is every mean of two skills.
    assert blocks[1][1] == "  mats (iterations=20) of fruit-quickdraw, bird-real"
    assert blocks[1][2].startswith("  held-in 70.00 (")
    assert "generalization" in blocks[1][2]
    assert blocks[1][3] == f"  +2.00 against {first[:10]} on the 4 tasks of both"
    assert len(blocks[2]) == 3  # nothing before it


def test_json_has_averages_constituents_and_change(made, run):
    first = evaluated(made)
    second = evaluated(made, values=(60, 62, 20, 54, 56, 23))
    status, out, _ = run("log", "--json", "-n", "1")
    assert status == 0
    (record,) = json.loads(out)
    (note,) = evaluating.show(made.repository, second)
    assert record["commit"] == second
    assert record["averages"] == {s: note.average(s) for s in ("held-in", "generalization")}
    assert [c["name"] for c in record["constituents"]] == ["fruit-quickdraw", "bird-real"]
    assert record["change"] == {"against": first, "tasks": 4, "difference": -10.0}


def test_a_squashed_merge_counts_and_copied_trailers_do_not(made, run):
    merged = made.merge()
    repository = made.repository
    message = repository.text("log", "-1", "--format=%B", merged)
    squashed = repository.run(
        "commit-tree", f"{merged}^{{tree}}", "-p", f"{merged}^1", stdin=message
    ).text
    repository.run("reset", "-q", "--hard", squashed)
    assert [m.commit for m in history.merges(repository)] == [squashed]
    # The same words on a commit with another model tell nothing about that model.
    repository.run("checkout", "-q", "multitask", "--", "model.safetensors")
    repository.run("commit", "-q", "--file=-", stdin=message)
    assert repository.run("log", "--oneline", "--grep=^Merge-Method").text.count("\n") == 1
    assert [m.commit for m in history.merges(repository)] == [squashed]


def test_a_merge_in_a_merge_is_nested_and_compared_on_its_own_branch(made, run):
    repository = made.repository
    repository.run("switch", "-q", "-c", "joint", "main")
    inner = evaluated(made)
    inner_later = evaluated(made, values=(71, 73, 30, 65, 67, 33))
    repository.run("switch", "-q", "main")
    outer = evaluated(made, heads=("joint", "tool-sketch"))
    found = {merge.commit: merge for merge in history.merges(repository)}
    assert {commit: merge.is_nested for commit, merge in found.items()} == {
        outer: False, inner_later: True, inner: True,
    }  # fmt: skip
    assert found[outer].change is None
    assert found[inner_later].change == history.Change(inner, 4, 1.0)
    status, out, _ = run("log")
    assert status == 0
    assert f"\n    {inner[:10]} " in out
    assert out.startswith(outer[:10])
    status, out, _ = run("log", "joint~1..joint")
    assert [line.split()[0] for line in out.splitlines() if line[0:1].isalnum()] == [
        inner_later[:10]
    ]
    assert f"+1.00 against {inner[:10]}" in out


def test_tasks_count_only_on_the_same_data(made):
    first = evaluated(made)
    second = evaluated(made)
    (note,) = evaluating.show(made.repository, first)
    assert history.compared(note, note, second) == history.Change(second, 4, 0.0)
    from dataclasses import replace

    newer = replace(note, evaluator_version="another")
    assert history.compared(newer, note, second) == history.Change(second, 0, None)


def test_a_note_that_cannot_be_read_is_said(made, run):
    commit = evaluated(made)
    text = notes.read(made.repository, commit).replace('"schema":1', '"schema":99')
    made.repository.run("notes", f"--ref={notes.NAME}", "add", "-f", "--file=-", commit, stdin=text)
    status, out, _ = run("log")
    assert status == 0
    assert "its note cannot be read: an evaluation note has schema 99" in out


def test_nothing_to_list_and_a_wrong_name(made, run):
    status, out, err = run("log", "multitask")
    assert (status, out) == (0, "")
    assert "'multitask' has no merge of models" in err
    for wrong in ("no-such-branch", "main..no-such-branch", "--output=x"):
        with pytest.raises(GitError, match="neither a commit nor a range"):
            history.merges(made.repository, wrong)
    status, _, err = run("log", "no-such-branch")
    assert status == 2
    assert "'no-such-branch' is neither a commit nor a range" in err
