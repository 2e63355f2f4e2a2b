import stat

import pytest

from gitmerge_eval.errors import GitError


def test_a_git_that_is_killed_has_not_said_no(repository, tmp_path, monkeypatch):
    assert repository.blob_id("HEAD", "absent") is None
    killed = tmp_path / "git"
    killed.write_text("#!/bin/sh\nkill -KILL $$\n")
    killed.chmod(killed.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(GitError, match=r"'git rev-parse .*' was killed \(SIGKILL\); repeat"):
        repository.blob_id("HEAD", "absent")


def test_an_unknown_revision_suggests_branches_and_tags_of_remotes_too(repository, commit):
    head = commit({"a": "1"})
    repository.run("branch", "fruit-quickdraw")
    repository.run("update-ref", "refs/remotes/origin/team/bird-real", head)
    repository.run("tag", "v1.0")
    for wrong, near in (
        ("fruit-quikdraw", "fruit-quickdraw"),
        ("team/bird-real", "origin/team/bird-real"),
        ("team/brid-real", "origin/team/bird-real"),
        ("v1.1", "v1.0"),
    ):
        with pytest.raises(GitError, match=rf"^'{wrong}' is not a .*; did you mean '{near}'\?$"):
            repository.commit(wrong)
    with pytest.raises(GitError, match=r"^'something' is not a commit in this repository$"):
        repository.commit("something")
