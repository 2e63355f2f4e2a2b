"""Files of trees, what differs between them, and what the work tree's will be in Git."""

from __future__ import annotations

import pytest

from gitmerge_eval.errors import GitError
from gitmerge_eval.git.repository import EMPTY_TREE
from gitmerge_eval.git.trees import (
    Difference,
    changed_tensor_paths,
    differences,
    differing,
    entries,
    identities_of_files,
    list_together,
    renames,
)


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


LONG = "".join(f"line {number}\n" for number in range(40))


@pytest.fixture
def branches(repository, commit):
    """A base, and commits that each change it in another way."""
    base = commit({"a": LONG, "deep/b": "1", "c": "2", ".gitattributes": "*.bin filter=theta\n"})
    found = {"base": base}

    def branch(name, change):
        repository.run("checkout", "--quiet", "--detach", base)
        change()
        repository.run("add", "--all")
        repository.run("commit", "--quiet", "--allow-empty", "-m", name)
        found[name] = repository.text("rev-parse", "HEAD")

    folder = repository.directory
    branch("same", lambda: None)
    branch("renamed", lambda: (folder / "a").rename(folder / "two\nlines"))
    branch("changed", lambda: (folder / "deep/b").write_text("3"))
    branch("removed", lambda: (folder / "c").unlink())
    branch("executable", lambda: (folder / "c").chmod(0o755))
    branch("same again", lambda: None)
    branch("added", lambda: (folder / "m.bin").write_text("4"))
    branch("linked", lambda: (folder / "l.bin").symlink_to("c"))
    return found


def test_differences_of_many_are_those_of_each(repository, branches):
    found = differences(repository, branches["base"], branches.values())
    assert list(found) == list(branches.values())
    for commit, changes in found.items():
        assert set(changes) == differing(repository, branches["base"], commit)
        old, new = entries(repository, branches["base"]), entries(repository, commit)
        for path, one in changes.items():
            assert one == Difference(old.get(path), new.get(path))
    everything = differences(repository, EMPTY_TREE, [branches["base"]])[branches["base"]]
    assert {path: one.new for path, one in everything.items()} == entries(
        repository, branches["base"]
    )
    assert differences(repository, branches["base"], []) == {}


def test_renames_of_many_are_those_of_each(repository, branches):
    found = renames(repository, branches["base"], branches.values())
    expected = {name: {} for name in branches} | {"renamed": {"a": "two\nlines"}}
    assert found == {branches[name]: moved for name, moved in expected.items()}


def test_listing_together_gives_what_listing_each_gives(repository, branches):
    alone = {}
    for commit in branches.values():
        alone[commit] = dict(entries(repository, commit))
        repository.listings.clear()
    list_together(repository, branches.values())
    assert set(branches.values()) <= set(repository.listings)
    for commit in branches.values():
        assert entries(repository, commit) == alone[commit]


def test_a_branch_is_never_remembered(repository, commit):
    commit({"a": "1"})
    assert set(entries(repository, "HEAD")) == {"a"}
    commit({"b": "1"})
    assert set(entries(repository, "HEAD")) == {"a", "b"}


def test_only_so_many_listings_are_kept(repository, commit, monkeypatch):
    monkeypatch.setattr("gitmerge_eval.git.trees._LISTINGS", 3)
    commits = [commit({"a": str(number)}, str(number)) for number in range(5)]
    for one in commits:
        entries(repository, one)
    assert list(repository.listings) == commits[2:]


def test_tensors_of_any_head_count_and_links_do_not(repository, branches):
    heads = [branches[name] for name in ("changed", "added", "linked")]
    assert changed_tensor_paths(repository, branches["base"], heads) == {"m.bin"}
    assert changed_tensor_paths(repository, branches["base"], heads[:1]) == set()
    assert changed_tensor_paths(repository, None, [branches["added"]]) == {"m.bin"}
