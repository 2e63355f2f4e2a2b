"""Notes that go with pushes and come with pulls, through the real Git and the installed hooks."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from noted_clones import clones, commit, evaluated, git, measured, remote_notes, template
from test_reporting import NOTE

from gitmerge_eval.evaluation import evaluating, reporting
from gitmerge_eval.git import note_union, notes

__all__ = ["clones", "template"]  # fixtures


def test_push_and_pull_carry_the_notes(clones):
    one, two, bare = clones
    commit(one)
    evaluated(one)
    status, said = git(one, "push", "-q")
    assert (status, said.strip()) == (0, "gitmerge-eval: notes: 1 sent to origin")
    assert remote_notes(bare) == note_union.tip(one, notes.REF)
    status, said = git(two, "pull", "-q")
    assert (status, said.strip()) == (0, "gitmerge-eval: notes: 1 received")
    assert measured(two) == measured(one) != []
    assert "81.25" in two.text("log", "-1")
    # Nothing is new: neither says a word.
    commit(two)
    assert git(two, "push", "-q") == (0, "")
    assert git(one, "pull", "-q") == (0, "")


def test_without_the_hook_a_push_leaves_the_notes_behind(clones):
    one, _, bare = clones
    commit(one)
    evaluated(one)
    assert git(one, "push", "-q", "--no-verify")[0] == 0
    assert remote_notes(bare) is None


def test_notes_that_come_after_the_commit_go_with_the_next_push(clones):
    one, _, bare = clones
    evaluated(one)
    status, said = git(one, "push")
    assert status == 0
    assert "Everything up-to-date" in said
    assert "1 sent to origin" in said
    assert remote_notes(bare) == note_union.tip(one, notes.REF)


def test_a_push_brings_the_notes_of_others_and_unites_them(clones):
    one, two, bare = clones
    evaluated(one)
    git(one, "push", "-q")
    evaluated(two, replace(NOTE, split="validation"))
    commit(two)
    status, said = git(two, "push", "-q")
    assert status == 0
    assert "1 received, 1 of them united with yours, 1 sent to origin" in said
    assert remote_notes(bare) == note_union.tip(two, notes.REF)
    shown = evaluating.show(two, "HEAD~")
    assert {note.split for note in shown} == {"test", "validation"}


@pytest.mark.parametrize(
    ("arguments", "settings"),
    [
        (("--dry-run", "origin", "main"), {}),
        (("-qn", "origin", "main"), {}),
        (("origin", "main"), {"merge-eval.push-notes": "false"}),
        (("origin", "main"), {"merge-eval.push-notes": "perhaps"}),
        (("{bare}", "main"), {}),
    ],
)
def test_a_push_that_shall_not_take_the_notes_along(clones, arguments, settings):
    one, _, bare = clones
    commit(one)
    evaluated(one)
    for key, value in settings.items():
        one.run("config", key, value)
    status, said = git(one, "push", *(a.format(bare=bare.directory) for a in arguments))
    assert status == 0
    assert remote_notes(bare) is None
    assert ("no truth value; use true or false" in said) == ("perhaps" in settings.values())


def test_notes_that_are_pushed_or_deleted_by_name_are_the_users_affair(clones):
    one, _, bare = clones
    evaluated(one)
    status, said = git(one, "push", "-q", "origin", notes.REF)
    assert (status, said) == (0, "")
    evaluated(one, replace(NOTE, split="validation"))
    assert git(one, "push", "-q", "origin", f":{notes.REF}") == (0, "")
    assert remote_notes(bare) is None


def test_a_remote_that_refuses_notes_still_gets_the_commits(clones):
    one, _, bare = clones
    bare.run("config", "receive.hideRefs", "refs/notes")
    head = commit(one)
    evaluated(one)
    before = measured(one)
    status, said = git(one, "push", "-q")
    assert status == 0
    assert "the notes were not pushed, only your commits are: 'origin' does not take" in said
    assert "deny updating a hidden ref" in said
    assert "git config merge-eval.push-notes false" in said
    assert bare.text("rev-parse", "main") == head
    assert measured(one) == before


def test_a_push_that_is_refused_loses_no_note(clones):
    one, two, bare = clones
    commit(two)
    git(two, "push", "-q")
    commit(one, "in the way")
    evaluated(one)
    status, said = git(one, "push", "-q")
    assert status == 1
    assert "fetch first" in said
    assert remote_notes(bare) == note_union.tip(one, notes.REF)


def hostile(**changes):
    record = {**reporting.note_record(NOTE), **changes}
    return json.dumps({key: value for key, value in record.items() if value != "gone"})


HOSTILE = [
    hostile(tasks=5),
    hostile(tasks=[{"task": 5, "status": "held-in", "data": "x", "merged": 1}]),
    hostile(constituents=[1, 2]),
    hostile(figures=5),
    hostile(figures={"FID": {"merged": "low"}}),
    hostile(remarks="no"),
    hostile(metric=None),
    hostile(seconds="long"),
    hostile(method=["ties"]),
    hostile(cost={"seconds": -1}),
    hostile(benchmark="gone"),
    hostile(benchmark="\ud800"),
    hostile(options=[]),
]


@pytest.mark.parametrize("line", HOSTILE)
def test_a_note_of_anybodys_making_stops_neither_push_nor_union(clones, line):
    one, two, bare = clones
    notes.put(one, notes.REF, "HEAD", f"a table\n\n{line}\n")
    git(one, "push", "-q", "--no-verify", "origin", notes.REF)
    evaluated(two)
    commit(two)
    status, said = git(two, "push", "-q")
    assert status == 0
    assert "1 received, 1 of them united with yours, 1 sent to origin" in said
    assert line in notes.read(two, "HEAD~").splitlines()
    assert "81.25" in notes.read(two, "HEAD~")
    assert remote_notes(bare) == note_union.tip(two, notes.REF)


def test_a_git_directory_that_cannot_be_written_fails_no_push(clones):
    one, _, bare = clones
    evaluated(one)
    (one.common_directory / "gitmerge-eval" / "notes.lock").unlink()
    (one.common_directory / "gitmerge-eval" / "notes.lock").mkdir()
    git(one, "push", "-q", "--no-verify", "origin", f"{notes.REF}")
    evaluated_by_hand = ("notes", "--ref=gitmerge-eval", "add", "-f", "-m", "x", "HEAD")
    one.run(*evaluated_by_hand)
    bare.run("update-ref", notes.REF, bare.text("commit-tree", "main^{tree}", "-m", "other"))
    head = commit(one)
    status, said = git(one, "push", "-q")
    assert status == 0
    assert "the notes were not pushed, only your commits are" in said
    assert bare.text("rev-parse", "main") == head
