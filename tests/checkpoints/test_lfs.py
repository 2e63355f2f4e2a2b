"""The object store, beside the real git-lfs."""

import errno
import hashlib
import os
import stat
import subprocess

import pytest

from gitmerge_eval.checkpoints.lfs import ObjectStore
from gitmerge_eval.checkpoints.metadata import GroupRecord
from gitmerge_eval.errors import CheckpointError, CorruptObject, GitError, MissingObject
from gitmerge_eval.git.repository import Repository

DATA = [f"object {number}\n".encode() * 50 for number in range(5)]


@pytest.fixture
def store(repository):
    return ObjectStore(repository)


def name_of(data):
    return hashlib.sha256(data).hexdigest()


def record_of(data):
    return GroupRecord("w", (), "float32", (), name_of(data), len(data))


def git(folder, *arguments, **options):
    return subprocess.run(
        ["git", *arguments], cwd=folder, check=True, capture_output=True, **options
    ).stdout


def files_under(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_git_lfs_finds_what_we_write_and_we_what_it_wrote(store, repository):
    name, size = store.write(DATA[0])
    assert (name, size) == (name_of(DATA[0]), len(DATA[0]))
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{name}\nsize {size}\n"
    assert git(repository.directory, "lfs", "smudge", input=pointer.encode()) == DATA[0]
    git(repository.directory, "lfs", "clean", input=DATA[1])
    assert store.read(name_of(DATA[1]), len(DATA[1])) == DATA[1]


def test_writing_twice_leaves_the_first(store):
    name, _ = store.write(DATA[0])
    before = store.path(name).stat().st_mtime_ns, store.path(name).stat().st_ino
    assert store.write(DATA[0]) == (name, len(DATA[0]))
    assert (store.path(name).stat().st_mtime_ns, store.path(name).stat().st_ino) == before
    assert files_under(store.folder) == [f"objects/{name[:2]}/{name[2:4]}/{name}"]


def test_an_object_cut_short_by_a_crash_is_written_again(store):
    name, size = store.write(DATA[0])
    store.path(name).write_bytes(DATA[0][:10])
    store.write(DATA[0])
    assert store.read(name, size) == DATA[0]


def test_objects_have_the_permissions_of_new_files(store, repository):
    name, _ = store.write(DATA[0])
    (repository.directory / "plain").write_bytes(b"")
    expected = stat.S_IMODE((repository.directory / "plain").stat().st_mode)
    assert stat.S_IMODE(store.path(name).stat().st_mode) == expected


def test_a_store_that_does_not_keep_only_hashes(repository):
    store = ObjectStore(repository, keep=False)
    assert store.write(DATA[0]) == (name_of(DATA[0]), len(DATA[0]))
    assert not store.has(name_of(DATA[0]))
    assert not store.folder.exists()


@pytest.mark.parametrize("relative", [True, False])
def test_lfs_storage(repository, tmp_path, relative):
    storage = "elsewhere" if relative else str(tmp_path / "elsewhere")
    repository.run("config", "lfs.storage", storage)
    told = dict(
        line.split("=", 1)
        for line in git(repository.directory, "lfs", "env").decode().splitlines()
        if "=" in line
    )
    store = ObjectStore(repository)
    assert str(store.folder / "objects") == told["LocalMediaDir"]
    git(repository.directory, "lfs", "clean", input=DATA[1])
    assert store.has(name_of(DATA[1]))


def test_linked_work_trees_share_the_store(store, repository, commit, tmp_path):
    commit({"a": "1"})
    repository.run("worktree", "add", "--quiet", str(tmp_path / "linked"), "-b", "other")
    name, size = store.write(DATA[0])
    linked = ObjectStore(Repository(tmp_path / "linked"))
    assert linked.path(name) == store.path(name)
    assert linked.read(name, size) == DATA[0]


def test_borrowed_objects_are_read_from_their_repository(store, repository, commit, tmp_path):
    commit({"a": "1"})
    name, size = store.write(DATA[0])
    git(tmp_path, "clone", "--quiet", "--shared", str(repository.directory), "borrower")
    borrower = ObjectStore(Repository(tmp_path / "borrower"))
    assert borrower.read(name, size) == DATA[0]
    borrower.write(DATA[0])
    assert files_under(borrower.folder) == []


def test_corrupted_objects_are_named(store):
    name, size = store.write(DATA[0])
    data = bytearray(DATA[0])
    data[7] ^= 1
    store.path(name).write_bytes(data)
    with pytest.raises(CorruptObject, match=name[:12]):
        store.read(name, size)
    store.path(name).write_bytes(DATA[0])
    with pytest.raises(CorruptObject):
        store.read(name, size + 1)


def test_missing_without_a_remote(store):
    with pytest.raises(MissingObject, match="has no remote; add a remote"):
        store.read(name_of(DATA[0]), len(DATA[0]))


def test_missing_lists_each_once(store):
    name, _ = store.write(DATA[0])
    assert store.missing(["b" * 64, name, "a" * 64, "b" * 64]) == ["b" * 64, "a" * 64]


@pytest.fixture
def remote(repository, commit, tmp_path):
    commit({"a": "1"})
    git(tmp_path, "init", "--quiet", "--bare", "remote.git")
    repository.run("remote", "add", "origin", str(tmp_path / "remote.git"))
    repository.run("push", "--quiet", "origin", "main")
    return tmp_path / "remote.git"


def clone(remote, tmp_path):
    git(tmp_path, "clone", "--quiet", str(remote), "clone")
    return ObjectStore(Repository(tmp_path / "clone"))


def test_push_and_fetch_through_a_bare_remote(store, remote, tmp_path, monkeypatch):
    names = [store.write(data)[0] for data in DATA]
    store.push("origin", [*names, names[0]])
    other = clone(remote, tmp_path)
    git(other.repository.directory, "config", "lfs.fetchexclude", "*")
    before = files_under(other.repository.common_directory / "objects")
    calls = []
    run = Repository.run

    def counted(self, *arguments, **options):
        calls.append(arguments[0])
        return run(self, *arguments, **options)

    monkeypatch.setattr(Repository, "run", counted)
    other.fetch([record_of(data) for data in (*DATA, DATA[0])])
    assert calls.count("lfs") == 1
    assert [other.read(name_of(data), len(data)) for data in DATA] == DATA
    # The pointers were committed in a temporary store: the repository has no object more.
    assert files_under(other.repository.common_directory / "objects") == before
    calls.clear()
    other.fetch([record_of(data) for data in DATA])
    assert calls == []


def test_reading_fetches_a_missing_object(store, remote, tmp_path):
    name, size = store.write(DATA[0])
    store.push("origin", [name])
    assert clone(remote, tmp_path).read(name, size) == DATA[0]


def test_fetch_names_what_the_remote_does_not_have(store, remote, tmp_path):
    name, _ = store.write(DATA[0])
    store.push("origin", [name])
    other = clone(remote, tmp_path)
    with pytest.raises(MissingObject, match=f"{name_of(DATA[1])[:12]} is not in .*'origin'"):
        other.fetch([record_of(DATA[0]), record_of(DATA[1])])
    assert other.has(name)


def test_push_of_what_is_not_here(store, remote):
    with pytest.raises(GitError, match="git lfs push"):
        store.push("origin", [name_of(DATA[0])])


def test_git_lfs_not_installed(store, remote, tmp_path, monkeypatch):
    other = clone(remote, tmp_path)
    folder = tmp_path / "bin"
    folder.mkdir()
    for program in ("git", "sh"):
        found = subprocess.run(["which", program], capture_output=True, text=True, check=True)
        (folder / program).symlink_to(found.stdout.strip())
    monkeypatch.setenv("PATH", str(folder))
    assert other.repository.setting("remote.origin.url")
    if other.repository.succeeds("lfs", "version"):
        pytest.skip("git-lfs lies in Git's own folder of programs")
    with pytest.raises(MissingObject, match="git-lfs is not installed"):
        other.fetch([record_of(DATA[0])])


def test_a_full_disk_is_one_clear_line_and_no_object(store, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match="No space left on device; free space") as caught:
        store.write(DATA[0])
    assert "\n" not in str(caught.value)
    assert files_under(store.folder) == []


def test_a_store_that_cannot_be_written(store):
    store.folder.mkdir(parents=True)
    (store.folder / "objects").write_bytes(b"a file where a folder should be")
    with pytest.raises(CheckpointError, match="cannot write"):
        store.write(DATA[0])
