"""The real miniature from an empty folder to the reviewed merge: what the README promises."""

from __future__ import annotations

import json
import subprocess

import pytest

from gitmerge_eval.evaluation import evaluating
from gitmerge_eval.git import trailers
from gitmerge_eval.git.repository import Repository

HEADS = (
    "bird-real",
    "building-infograph",
    "food-painting",
    "fruit-quickdraw",
    "furniture-clipart",
    "insect-sketch",
)


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    """The folder and the output of ``gitmerge-eval quickstart``."""
    folder = tmp_path_factory.mktemp("quickstart") / "model"
    done = subprocess.run(
        ["gitmerge-eval", "quickstart", str(folder)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder, done.stdout + done.stderr


def test_quickstart_shows_a_verified_merge_with_its_note(quickstart):
    folder, output = quickstart
    assert "$ git merge --strategy-option=method=mats fruit-quickdraw bird-real" in output
    assert "nothing to commit, working tree clean" in output
    repository = Repository(folder)
    record = trailers.read(repository, "HEAD")
    assert record.method == "mats"
    assert [name for _, name in record.constituents] == ["fruit-quickdraw", "bird-real"]
    shown = subprocess.run(
        ["gitmerge-eval", "show", "HEAD", "--json"], cwd=folder, capture_output=True, text=True
    )
    (note,) = json.loads(shown.stdout)
    scores = {task["task"]: task for task in note["tasks"]}
    assert {t for t in scores if scores[t]["status"] == "held-in"} == {
        "fruit-quickdraw",
        "bird-real",
    }
    assert {t for t in scores if scores[t]["status"] == "generalization"} == {
        "fruit-real",
        "bird-quickdraw",
    }
    for score in scores.values():
        assert all(0 <= score[model] <= 100 for model in ("merged", "pretrained", "multitask"))
    averages = note["averages"]
    assert averages["held-in"]["merged"] > averages["held-in"]["pretrained"] + 20
    verified = subprocess.run(["gitmerge-eval", "verify"], cwd=folder, capture_output=True)
    assert verified.returncode == 0, verified.stdout


def test_merges_of_all_constituents_show_the_papers_finding(quickstart):
    repository = Repository(quickstart[0])
    repository.run("switch", "--quiet", "--detach", "main~1")
    repository.run("config", "merge-eval.evaluate", "off")
    notes = {}
    for method in ("mats", "regmean", "average"):
        base = repository.commit("HEAD")
        repository.run("merge", "--quiet", f"--strategy-option=method={method}", *HEADS)
        notes[method] = evaluating.evaluate(repository, "HEAD")
        repository.run("reset", "--quiet", "--hard", base)
    pretrained = notes["mats"].average("held-in", "pretrained")
    for method in ("mats", "regmean"):
        assert notes[method].average("held-in") > pretrained + 10, method
    # Merges generalize better to new combinations than the multitask model does.
    multitask = notes["average"].average("generalization", "multitask")
    assert max(n.average("generalization") for n in notes.values()) > multitask + 5


def test_statistics_computed_by_hand_are_those_of_the_build(quickstart):
    repository = Repository(quickstart[0])
    repository.run("switch", "--quiet", "food-painting")
    done = subprocess.run(
        ["gitmerge-eval", "stats", "gram", "trimmed", "--option", "examples=600", "--json"],
        cwd=quickstart[0],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "statistics/gram.safetensors" in json.loads(done.stdout)["files"]
    assert repository.text("status", "--porcelain") == ""
    repository.run("switch", "--quiet", "main")
