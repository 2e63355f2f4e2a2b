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
