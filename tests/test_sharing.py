"""Results between clones by ``notes sync``, through the real Git: united, and never lost."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest
from noted_clones import clones, commit, evaluated, git, measured, template
from test_reporting import NOTE

from gitmerge_eval import cli, sharing
from gitmerge_eval.costs import Cost
from gitmerge_eval.errors import GitError, UnknownName, UsageError
from gitmerge_eval.evaluation import evaluating, note_records
from gitmerge_eval.git import note_exchange, notes
from gitmerge_eval.git.note_exchange import Remote
from gitmerge_eval.git.repository import Repository

__all__ = ["clones", "template"]  # fixtures


def test_two_clones_that_evaluate_the_same_merge_lose_nothing(clones):
    one, two, _ = clones
    slow = replace(NOTE, seconds=9.5, device="cuda")
    evaluated(one)
    evaluated(two, slow)
    assert sharing.sync(one) == sharing.Synced("origin", sent=1)
    # Git alone: the second to push is refused, and a forced push would throw the first away.
    assert git(two, "push", "-q", "--no-verify", "origin", notes.REF)[0] == 1
    assert sharing.sync(two) == sharing.Synced("origin", received=1, united=1, sent=1)
    assert sharing.sync(one) == sharing.Synced("origin", received=1)
    assert notes.read(one, "HEAD") == notes.read(two, "HEAD")
    assert measured(one) == [(3.217, 81.25), (9.5, 81.25)]
    assert sharing.sync(one) == sharing.Synced("origin")
    # They say the same: one table for people, one result for programs.
    assert notes.read(one, "HEAD").count("fruit-quickdraw   ") == 1
    assert len(evaluating.show(one, "HEAD")) == 1
    assert one.text("log", "-1").count("normalised by individual") == 1


def test_results_that_differ_are_both_shown(clones):
    one, two, _ = clones
    evaluated(one)
    evaluated(two, replace(NOTE, scores=(replace(NOTE.scores[0], merged=80.0), *NOTE.scores[1:])))
    sharing.sync(one)
    sharing.sync(two)
    text = notes.read(two, "HEAD")
    first, _, second = text.partition("another clone measured the same differently")
    assert "80.00" in first
    assert "81.25" in second.partition("\n{")[0]
    shown = evaluating.show(two, "HEAD")
    assert [note.scores[0].merged for note in shown] == [80.0, 81.25]
    assert note_records.differing(shown) == [shown[1]]


def test_what_the_merging_clone_measured_is_kept(clones):
    one, two, _ = clones
    evaluated(one, replace(NOTE, cost=Cost(1.5, flops=7)))
    evaluated(two)
    sharing.sync(one)
    sharing.sync(two)
    (note,) = evaluating.show(two, "HEAD")
    assert note.cost == Cost(1.5, flops=7)
    assert "merging: 1.50 s" in notes.read(two, "HEAD")


def test_another_baseline_is_no_other_result(clones):
    one, two, _ = clones
    bare = tuple(replace(score, multitask=None) for score in NOTE.scores)
    evaluated(one, replace(NOTE, scores=bare, cost=Cost(1.5)))
    evaluated(two)
    sharing.sync(one)
    sharing.sync(two)
    (note,) = evaluating.show(two, "HEAD")
    assert note == replace(NOTE, cost=Cost(1.5))
    assert len(measured(two)) == 2


def test_many_who_sync_at_once_lose_nothing(clones, tmp_path):
    one, _, bare = clones
    commits = [commit(one, f"merge {number}") for number in range(4)]
    git(one, "push", "-q")
    many = []
    for number in range(4):
        folder = tmp_path / str(number)
        subprocess.run(["git", "clone", "-q", bare.directory, folder], check=True)
        clone = Repository(folder)
        for other in commits:
            evaluated(clone, replace(NOTE, seconds=float(number)), other)
        many.append(clone)
    command = [sys.executable, "-m", "gitmerge_eval", "notes", "sync"]
    running = [subprocess.Popen(command, cwd=clone.directory) for clone in many]
    assert [process.wait() for process in running] == [0] * 4
    for one_commit in commits:
        assert [seconds for seconds, _ in measured(bare, one_commit)] == [0.0, 1.0, 2.0, 3.0]


def test_dry_run_says_it_and_changes_no_ref(clones, monkeypatch, capsys):
    one, two, _ = clones
    evaluated(one)
    evaluated(two, replace(NOTE, split="validation"))
    sharing.sync(one)
    before = two.text("for-each-ref")
    foreseen = sharing.sync(two, dry_run=True)
    assert two.text("for-each-ref") == before
    monkeypatch.chdir(two.directory)
    monkeypatch.setattr(sys, "argv", ["gitmerge-eval", "notes", "sync", "--dry-run"])
    assert cli.main() == 0
    assert capsys.readouterr().out == (
        "would be: 1 received, 1 of them united with yours, 1 sent to origin\n"
    )
    assert sharing.sync(two) == replace(foreseen, dry_run=False)


def test_on_the_command_line(clones, monkeypatch, capsys):
    one, _, _ = clones
    evaluated(one)
    monkeypatch.chdir(one.directory)
    monkeypatch.setattr(sys, "argv", ["gitmerge-eval", "notes", "sync", "origin", "--json"])
    assert cli.main() == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {
        "remote": "origin", "received": 0, "united": 0, "sent": 1, "dry_run": False, "notices": []
    }  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["gitmerge-eval", "notes", "sync"])
    assert cli.main() == 0
    assert capsys.readouterr().out == "nothing new, here or at origin\n"
    monkeypatch.setattr(sys, "argv", ["gitmerge-eval", "notes", "sync", "orign"])
    assert cli.main() == 2
    assert "unknown remote 'orign'; did you mean 'origin'?" in capsys.readouterr().err


def test_a_refspec_that_overwrites_notes_is_not_followed_and_is_said(clones):
    one, two, _ = clones
    evaluated(one)
    sharing.sync(one)
    evaluated(two, replace(NOTE, seconds=9.5))
    two.run("config", "--add", "remote.origin.fetch", "+refs/notes/*:refs/notes/*")
    done = sharing.sync(two)
    assert measured(two) == [(3.217, 81.25), (9.5, 81.25)]
    assert "throw away what is only in this clone" in done.notices[0]
    # What it is about: Git itself puts the remote's notes over these.
    evaluated(two, replace(NOTE, split="validation"))
    git(two, "fetch", "-q")
    assert len(measured(two)) == 2


def test_no_remote_a_wrong_one_and_one_that_is_away(clones, commit_in, tmp_path):
    one, _, bare = clones
    evaluated(one)
    before = measured(one)
    with pytest.raises(UnknownName, match="unknown remote 'nowhere'"):
        sharing.sync(one, "nowhere")
    bare.directory.rename(tmp_path / "moved")
    for dry in (False, True):
        with pytest.raises(
            GitError, match=r"cannot exchange notes with 'origin': fatal: '.*' does"
        ):
            sharing.sync(one, dry_run=dry)
    assert measured(one) == before
    with pytest.raises(UsageError, match="this repository has no remote; add one"):
        sharing.sync(commit_in)
    for name in ("a", "b"):
        commit_in.run("remote", "add", name, "x")
    with pytest.raises(UsageError, match="name one of the remotes a, b"):
        sharing.sync(commit_in)
    commit_in.run("config", "remote.pushDefault", "b")
    assert note_exchange.remote_of(commit_in) == "b"


@pytest.fixture
def commit_in(repository, commit):
    commit({"a": "1"})
    return repository


def test_somebody_who_pushes_all_the_time(clones, monkeypatch):
    one, two, _ = clones
    evaluated(one)
    number = iter(range(100))
    really = Remote.push

    def beaten(remote, commit):
        evaluated(two, replace(NOTE, split=f"split {next(number)}"))
        git(two, "push", "-q", "--no-verify", "origin", notes.REF)
        return really(remote, commit)

    git(two, "push", "-q", "--no-verify", "origin", notes.REF)
    monkeypatch.setattr(Remote, "push", beaten)
    monkeypatch.setattr(sharing, "_PAUSE_SECONDS", 0)
    with pytest.raises(GitError, match="has got other notes 6 times"):
        sharing.sync(one)
    monkeypatch.undo()
    sharing.sync(one)
    assert len(measured(one)) == 7


def test_notes_are_synced_in_a_work_tree_and_on_no_branch(clones, tmp_path):
    one, _, bare = clones
    evaluated(one)
    one.run("worktree", "add", "-q", "--detach", str(tmp_path / "linked"))
    assert sharing.sync(Repository(tmp_path / "linked")).sent == 1
    assert measured(bare, "main") == measured(one)
