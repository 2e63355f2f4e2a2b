"""What the work tree's files will be in Git, before they are added."""

from __future__ import annotations

import pytest

from gitmerge_eval.errors import GitError
from gitmerge_eval.git.trees import identities_of_files


def test_files_and_folders_have_the_ids_that_a_commit_gives_them(repository, commit):
    commit({"beside/a": "1", "beside/deep/b": "2", "file": "3", "gone": "4", ".gitignore": "junk"})
    folder = repository.directory
    (folder / "beside/deep/b").write_text("changed, and not staged")
    (folder / "beside/new").write_text("untracked")
    (folder / "beside/junk").write_text("ignored")
    (folder / "gone").unlink()
    staged = repository.text("ls-files", "--stage")
    status = repository.text("status", "--porcelain")
    found = identities_of_files(repository, ["beside", "file", "gone", "never"])
    assert repository.text("ls-files", "--stage") == staged
    assert repository.text("status", "--porcelain") == status
    repository.run("add", "--all")
    repository.run("commit", "--quiet", "--message=all")
    assert found == {
        "beside": repository.blob_id("HEAD", "beside"),
        "file": repository.blob_id("HEAD", "file"),
        "gone": "",
        "never": "",
    }
    assert repository.text("cat-file", "-t", found["beside"]) == "tree"


def test_before_the_first_commit_and_of_nothing(repository):
    assert identities_of_files(repository, []) == {}
    (repository.directory / "a").write_text("1")
    (found,) = identities_of_files(repository, ["a"]).values()
    assert repository.blob(found) == b"1"


def test_what_git_ignores_is_named(repository, commit):
    commit({".gitignore": "frozen"})
    (repository.directory / "frozen").write_text("1")
    with pytest.raises(GitError, match=r"ignored.*\n?.*frozen"):
        identities_of_files(repository, ["frozen"])
