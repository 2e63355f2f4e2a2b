"""Ordinary files stay as HEAD has them where the other heads touched none, as Git would decide."""

from __future__ import annotations

import pytest

from gitmerge_eval.git import textmerge
from gitmerge_eval.git.heads import resolve
from gitmerge_eval.git.textmerge import merge_text
from gitmerge_eval.git.trees import entries

OURS = frozenset({"m/model", "m/statistics", "m/old", "shared"})
BASE = {"m/model": "tensors", "m/old": "more tensors", "text": "1\n2\n3\n4\n5\n", "m/readme": "r\n"}


class Branches:
    """Branches from one base, each a list of commits: {path: text, or None to remove}."""

    def __init__(self, repository, commit):
        self.repository, self._commit = repository, commit
        self.base = commit(BASE)

    def make(self, name, *commits, start=None):
        self.repository.run("checkout", "--quiet", "-B", name, start or self.base)
        for number, files in enumerate(commits):
            gone = [path for path, text in files.items() if text is None]
            if gone:
                self.repository.run("rm", "--quiet", "--", *gone)
            there = {path: text for path, text in files.items() if text is not None}
            self._commit(there, f"{name} {number}")

    def merged(self, *names):
        self.repository.run("checkout", "--quiet", "main")
        heads = resolve(self.repository, names)
        return merge_text(self.repository, heads, OURS)


@pytest.fixture
def branches(repository, commit):
    return Branches(repository, commit)


@pytest.fixture
def rounds(monkeypatch):
    """Who was merged by Git's own merge."""
    done, merge_round = [], textmerge._merge_round

    def counted(repository, heads, current, remote, *rest):
        done.append(heads.name(remote))
        return merge_round(repository, heads, current, remote, *rest)

    monkeypatch.setattr(textmerge, "_merge_round", counted)
    return done


def text_of(branches, merged):
    """The ordinary files of a merged tree."""
    files = entries(branches.repository, merged.tree)
    return {path: entry for path, entry in files.items() if path not in OURS}


def as_git_does(branches, monkeypatch, *names):
    with monkeypatch.context() as patch:
        patch.setattr(textmerge, "_is_head_alone", lambda *arguments: False)
        return branches.merged(*names)


ALONE = {
    "tensors changed": [[{"m/model": "a"}], [{"m/model": "b"}]],
    "statistics added": [[{"m/model": "a", "m/statistics": "s"}], [{"shared": "x"}]],
    "several commits": [[{"m/model": "a"}, {"m/model": "aa"}], [{"m/old": "b"}]],
    "nothing at all": [[{}], [{"m/model": "b"}]],
}
NOT_ALONE = {
    "text changed": [[{"m/model": "a", "text": "1\n2\n3\n4\nfive\n"}], [{"m/model": "b"}]],
    "text added": [[{"m/model": "a"}], [{"m/model": "b", "constituents/b": "b"}]],
    "text removed": [[{"m/model": "a", "m/readme": None}], [{"m/model": "b"}]],
    "changed and taken back": [[{"text": "x\n"}, {"text": BASE["text"], "m/model": "a"}], [{}]],
    "tensors removed": [[{"m/model": "a", "m/old": None}], [{"m/model": "b"}]],
    "a folder's name taken": [[{"shared": "x"}], [{"m/model": "b"}]],
}


@pytest.mark.parametrize("history", [ALONE[name] for name in ALONE], ids=list(ALONE))
@pytest.mark.parametrize("head", [{}, {"text": "one\n2\n3\n4\n5\n", "m/notes": "n\n"}], ids=str)
def test_heads_that_changed_only_tensors_leave_the_text_of_head(
    branches, rounds, monkeypatch, history, head
):
    branches.make("main", head)
    for name, commits in zip(("a", "b"), history, strict=True):
        branches.make(name, *commits)
    found = branches.merged("a", "b")
    assert rounds == []
    expected = as_git_does(branches, monkeypatch, "a", "b")
    assert text_of(branches, found) == text_of(branches, expected)
    assert (found.conflicts, found.messages) == (expected.conflicts, expected.messages)


@pytest.mark.parametrize("history", [NOT_ALONE[name] for name in NOT_ALONE], ids=list(NOT_ALONE))
def test_whatever_else_changed_is_merged_by_git(branches, rounds, history):
    branches.make("main", {"text": "one\n2\n3\n4\n5\n", "shared/inside": "a folder here"})
    for name, commits in zip(("a", "b"), history, strict=True):
        branches.make(name, *commits)
    branches.merged("a", "b")
    assert rounds == ["a", "b"]


def test_a_renamed_folder_takes_new_files_along(branches, rounds):
    """What a head renamed are tensors only, and HEAD has put an ordinary file beside them."""
    branches.make("main", {"m/notes": "n\n"})
    moved = {"m/model": None, "m/old": None, "m/readme": None}
    ours = {"shared": "x"}
    branches.make("a", {**moved, **ours, "n/model": "tensors", "n/old": "more tensors"})
    branches.merged("a")
    assert rounds == ["a"]


def test_what_was_taken_back_on_a_side_branch_counts(branches, rounds, monkeypatch):
    """HEAD has the change from before it was taken back: Git takes it back in HEAD too."""
    branches.make("side", {"text": "x\n"})
    branches.make("main", {"m/old": "h"}, start="side")
    branches.make("a", {"text": BASE["text"]}, {"m/model": "a"}, start="side")
    branches.make("b", {"m/model": "b"})
    merged = branches.merged("a", "b")
    assert rounds == ["a", "b"]
    blob = text_of(branches, merged)["text"].object_id
    assert branches.repository.blob(blob) == BASE["text"].encode()


def test_strategy_options_of_git_are_gits_to_carry_out(branches, rounds):
    branches.make("main", {})
    branches.make("a", {"m/model": "a"})
    branches.make("b", {"m/model": "b"})
    branches.repository.run("checkout", "--quiet", "main")
    heads = resolve(branches.repository, ["a", "b"])
    if branches.repository.version >= textmerge.OPTIONS_SINCE:
        merge_text(branches.repository, heads, OURS, ("ours",))
        assert rounds == ["a", "b"]
    assert textmerge._is_head_alone(branches.repository, heads, OURS)


def test_unrelated_histories_are_gits_to_merge(branches, rounds, commit):
    branches.make("main", {})
    branches.repository.run("checkout", "--quiet", "--orphan", "a")
    branches.repository.run("rm", "-rf", "--quiet", ".")
    commit({"m/model": "a"})
    branches.repository.run("checkout", "--quiet", "main")
    heads = resolve(branches.repository, ["a"])
    assert not textmerge._is_head_alone(branches.repository, heads, OURS)
