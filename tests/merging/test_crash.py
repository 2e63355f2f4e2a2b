"""A merge that is killed anywhere leaves what was there, or what the next merge puts right."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from models import ModelRepository
from small_repositories import left_over

from gitmerge_eval import diagnosing
from gitmerge_eval.git.journal import journal_path
from gitmerge_eval.git.repository import Repository

LINES = "".join(f"line {number}\n" for number in range(9))
HEADS = ("fruit", "bird")
POINTS = ("computed", "journal", "read-tree", "model", "before-swap", "after-swap", "landed")
CASES = [
    *itertools.product(POINTS, ["KILL:self", "KILL:merge+wrapper+self"]),
    # Git that dies alone leaves the strategy running; after 'landed' it has nothing to do with us.
    *itertools.product(POINTS[:-1], ["KILL:merge", "TERM:self"]),
    *itertools.product(("computed", "model", "after-swap"), ["INT:merge+self", "TERM:merge"]),
]


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """Each branch adds a parameter group (no torch is needed), a file, and edits one text."""
    folder = tmp_path_factory.mktemp("template") / "model"
    base = {"frozen": torch.zeros(3)}
    made = ModelRepository(folder, base, text=LINES)
    for number, name in enumerate(HEADS):
        text = LINES.replace(f"line {number * 7}\n", f"by {name}\n")
        made.branch(
            name,
            {**base, f"{name}.weight": torch.ones(2)},
            files={name: "new\n", "notes.txt": text},
        )
    made.branch("clash", files={"notes.txt": LINES.replace("line 0", "clash")})
    return folder


@pytest.fixture(scope="module")
def reference(template, tmp_path_factory):
    repository = copied(template, tmp_path_factory.mktemp("reference") / "model")
    repository.merge(*HEADS)
    return repository.git.text("rev-parse", "HEAD^{tree}")


def copied(template: Path, target: Path) -> ModelRepository:
    shutil.copytree(template, target, symlinks=True)
    repository = ModelRepository.__new__(ModelRepository)
    repository.folder, repository.git = target, Repository(target)
    repository.git.run("update-index", "--refresh")
    return repository


@pytest.fixture
def repository(template, tmp_path):
    return copied(template, tmp_path / "model")


@pytest.fixture
def crash(repository, tmp_path):
    """Runs ``git merge`` with the strategy that crashes; returns when nothing of it runs."""
    programs = tmp_path / "programs"
    programs.mkdir()
    script = Path(__file__).with_name("crashing_strategy.py")
    program = programs / "git-merge-theta"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}" "$@"\n')
    program.chmod(0o755)
    pid_file = tmp_path / "pid"

    def run(point, what, *heads):
        environment = {
            **os.environ,
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            **{"CRASH_AT": point, "CRASH_DO": what, "CRASH_PID": str(pid_file)},
        }
        # To a file: an orphan that holds a pipe open would keep us waiting.
        with (tmp_path / "output").open("w") as output:
            done = subprocess.run(
                ["git", "merge", *heads], cwd=repository.folder, env=environment,
                stdout=output, stderr=subprocess.STDOUT, timeout=100,
            )  # fmt: skip
        deadline = time.monotonic() + 60
        while running(int(pid_file.read_text())) and time.monotonic() < deadline:
            time.sleep(0.05)
        return done.returncode, (tmp_path / "output").read_text()

    return run


def running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def leftovers(repository):
    return left_over(repository.git.path("gitmerge-eval"))


@pytest.mark.parametrize(("point", "what"), CASES, ids=lambda value: value.replace(":", "-"))
def test_everything_is_as_before_or_put_right_by_the_next_merge(
    repository, crash, reference, point, what
):
    # An edit of the user's own, nowhere near the merge, from before.
    (repository.folder / "untracked").write_text("mine")
    before = repository.state()
    status, output = crash(point, what, *HEADS)
    assert status != 0, output
    git_is_alive = "merge" not in what
    in_the_middle = point not in ("computed", "landed")
    assert repository.state()[0] == before[0]
    assert not repository.git.path("MERGE_HEAD").exists()
    if not what.startswith("KILL") or not in_the_middle:
        if not (point == "landed" and not git_is_alive):
            assert repository.state() == before, output
    elif git_is_alive:
        assert repository.git.succeeds("diff-index", "--cached", "--quiet", "HEAD", "--")
    if point == "landed" and not git_is_alive:
        # Too late to undo: the index holds the whole merge, for the user to give up.
        repository.run("reset", "--quiet", "--hard")
    elif journal_path(repository.git).exists():
        found = {f.name: f for f in diagnosing.diagnose(repository.git)}
        assert found["interrupted merge"].status == diagnosing.PROBLEM
    done = repository.merge(*HEADS)
    assert repository.git.text("rev-parse", "HEAD^{tree}") == reference, done.stderr
    assert repository.run("status", "--porcelain").stdout == "?? untracked\n"
    assert leftovers(repository) == set()


def test_what_the_user_did_meanwhile_survives_a_merge_that_fails(repository, crash):
    edited = repository.folder / "notes.txt"
    edited.write_text(LINES + "before\n")
    # One file is edited, another staged.
    status, output = crash(
        "computed",
        "sh:echo meanwhile >> .gitattributes; echo x > new; git add new",
        "fruit",
        "bird",
    )
    assert status != 0
    assert edited.read_text() == LINES + "before\n"
    assert repository.git.text("diff", "--cached", "--name-only") == "new"
    assert (repository.folder / ".gitattributes").read_text().endswith("meanwhile\n")
    assert "left as they are" in output


def test_a_second_edit_of_a_dirty_file_survives_a_merge_that_fails(repository, crash):
    (repository.folder / "other").write_text("old\n")
    repository.commit("other")
    (repository.folder / "other").write_text("first\n")
    status, output = crash("computed", "sh:echo second >> other; exit 3", *HEADS)
    assert status != 0
    assert (repository.folder / "other").read_text() == "first\nsecond\n", output


def test_only_foreign_edits_are_rescued(repository, crash, reference):
    crash("model", "KILL:merge+wrapper+self", *HEADS)
    assert (repository.folder / "fruit").exists()
    (repository.folder / "fruit").write_text("edited after the crash")
    (repository.folder / "mine").write_text("mine")
    done = repository.merge(*HEADS)
    assert "kept a copy of 'fruit'" in done.stderr
    assert "undid an interrupted merge" in done.stderr
    rescue = repository.git.path("gitmerge-eval/rescue")
    assert [file.name for file in rescue.iterdir()] == ["fruit"]
    assert (rescue / "fruit").read_text() == "edited after the crash"
    assert (repository.folder / "mine").read_text() == "mine"
    assert repository.git.text("rev-parse", "HEAD^{tree}") == reference


def test_what_was_staged_after_the_crash_is_the_users(repository, crash):
    crash("model", "KILL:merge+wrapper+self", *HEADS)
    repository.run("add", "fruit")
    done = repository.merge(*HEADS, status=2)
    assert "staged changes" in done.stderr
    assert repository.git.text("diff", "--cached", "--name-only") == "fruit"
    assert (repository.folder / "fruit").read_text() == "new\n"
    assert not (repository.folder / "bird").exists()


def test_a_conflict_whose_git_was_killed_is_undone(repository, crash):
    repository.run("switch", "--quiet", "clash")
    before = repository.state()
    crash("after-swap", "KILL:merge+wrapper+self", "-Xmethod=average", "fruit")
    assert repository.git.text("diff", "--name-only", "--diff-filter=U") == "notes.txt"
    # Git refuses to start a merge now, so that another of our programs has to put it right.
    assert "unmerged" in repository.merge("-Xmethod=average", "fruit", status=128).stderr
    repository.run("reset", "--quiet", "--merge")
    done = repository.merge("-Xmethod=average", "fruit", status=1)
    assert "CONFLICT" in done.stdout
    repository.run("merge", "--abort")
    assert repository.state() == before
    assert leftovers(repository) <= {"state"}
