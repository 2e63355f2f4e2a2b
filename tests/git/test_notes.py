"""Evaluation notes through the real Git: nothing lost, nothing doubled, two clones united."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from gitmerge_eval.errors import GitError
from gitmerge_eval.git import notes
from gitmerge_eval.git.repository import Repository

TABLE = "mats              held-in  generalization\nfruit-quickdraw      91.2            60.1"


def record(accuracy, kind="evaluation", spec="s1"):
    return {"kind": kind, "spec": spec, "accuracy": accuracy}


def test_table_first_then_canonical_lines(repository, commit):
    head = commit({"a": "1"})
    assert notes.read(repository, head) is None
    notes.write(repository, "HEAD", TABLE, {"spec": "s1", "kind": "evaluation", "a": 0.5})
    shown = repository.text("notes", "--ref=gitmerge-eval", "show", head)
    assert shown == TABLE + '\n\n{"a":0.5,"kind":"evaluation","spec":"s1"}'
    assert notes.read(repository, "HEAD") == shown


def test_same_key_replaces_other_keys_stay(repository, commit):
    commit({"a": "1"})
    notes.write(repository, "HEAD", "old table", record(1))
    notes.write(repository, "HEAD", "table", record(2, spec="s2"))
    notes.write(repository, "HEAD", "table", record(3, kind="cost"))
    notes.write(repository, "HEAD", TABLE, record(4))
    text = notes.read(repository, "HEAD")
    assert text.startswith(TABLE)
    assert "old table" not in text
    found = {(one["kind"], one["spec"]): one["accuracy"] for one in notes.records(text)}
    assert found == {("evaluation", "s1"): 4, ("evaluation", "s2"): 2, ("cost", "s1"): 3}
    assert len(notes.records(text)) == 3


def test_records_of_a_shuffled_note():
    lines = [
        "a table",
        json.dumps(record(1)),
        "{not json",
        "",
        "  {",
        '["{"]',
        json.dumps(record(2)),
    ]
    assert [one["accuracy"] for one in notes.records("\n".join(lines))] == [1, 2]
    assert notes.records("") == []


def test_an_unknown_commit_is_an_error(repository, commit):
    commit({"a": "1"})
    with pytest.raises(GitError, match="'nowhere' is not a commit"):
        notes.write(repository, "nowhere", TABLE, record(1))


def test_eight_parallel_writers_lose_nothing(repository, commit):
    commits = [commit({"a": str(number)}) for number in range(8)]
    code = (
        "import sys; from gitmerge_eval.git import notes; "
        "from gitmerge_eval.git.repository import Repository; "
        "_, folder, commit = sys.argv; "
        "notes.write(Repository(folder), commit, 'table', {'kind': 'k', 'of': commit})"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", code, str(repository.directory), one])
        for one in commits
    ]
    assert [writer.wait() for writer in writers] == [0] * 8
    for one in commits:
        assert [r["of"] for r in notes.records(notes.read(repository, one))] == [one]


def test_written_from_a_hook_of_a_linked_work_tree(repository, commit, tmp_path):
    """With the environment that Git gives a hook, an index file that is locked included."""
    head = commit({"a": "1"})
    repository.run("worktree", "add", "--quiet", str(tmp_path / "other"))
    other = Repository(tmp_path / "other")
    hook = other.path("hooks") / "pre-commit"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(
        f"#!/bin/sh\nexec '{sys.executable}' -c \"from gitmerge_eval.git import notes; "
        "from gitmerge_eval.git.repository import Repository; "
        f"notes.write(Repository.here(), '{head}', 'table', {{'kind': 'k'}})\"\n"
    )
    hook.chmod(0o755)
    (tmp_path / "other" / "b").write_text("2")
    other.run("add", "b")
    other.run("commit", "--quiet", "-m", "with a hook")
    assert other.text("ls-tree", "--name-only", "HEAD").split() == ["a", "b"]
    assert notes.records(notes.read(repository, head)) == [{"kind": "k"}]
    assert other.run("status", "--porcelain").text == ""


def test_two_clones_unite(repository, commit, tmp_path):
    commit({"a": "1"})
    subprocess.run(["git", "clone", "-q", repository.directory, tmp_path / "clone"], check=True)
    clone = Repository(tmp_path / "clone")
    notes.write(repository, "HEAD", "table one", record(1, spec="here"))
    notes.write(clone, "HEAD", "table two", record(2, spec="there"))
    clone.run("fetch", "-q", "origin", "refs/notes/gitmerge-eval:refs/notes/origin/gitmerge-eval")
    config = {"notes.gitmerge-eval.mergeStrategy": "cat_sort_uniq"}
    clone.run("notes", "--ref=gitmerge-eval", "merge", "-q", "origin/gitmerge-eval", config=config)
    united = notes.records(notes.read(clone, "HEAD"))
    assert {one["spec"] for one in united} == {"here", "there"}
