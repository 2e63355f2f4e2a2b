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


def test_writing_twice_leaves_the_first_and_makes_it_young(store):
    name, _ = store.write(DATA[0])
    before = store.path(name).stat().st_ino
    os.utime(store.path(name), (1e9, 1e9))
    assert store.write(DATA[0]) == (name, len(DATA[0]))
    assert store.path(name).stat().st_ino == before
    assert store.path(name).stat().st_mtime > 1e9 + 1
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


def test_an_object_in_pieces_is_the_object(store):
    pieces = [DATA[0], b"", memoryview(DATA[1]), bytearray(DATA[2])]
    whole = b"".join(DATA[:3])
    assert store.write_pieces(iter(pieces)) == (name_of(whole), len(whole))
    assert store.read(name_of(whole), len(whole)) == whole
    assert files_under(store.folder) == [str(store.path(name_of(whole)).relative_to(store.folder))]
    before = store.path(name_of(whole)).stat().st_ino
    store.write_pieces(pieces)
    assert store.path(name_of(whole)).stat().st_ino == before


def test_a_doubted_object_is_replaced(store):
    name, size = store.write(DATA[0])
    store.path(name).write_bytes(b"\0" * size)
    store.write_pieces([DATA[0]])
    assert store.path(name).read_bytes() != DATA[0]
    store.write_pieces([DATA[0]], doubted={name})
    assert store.path(name).read_bytes() == DATA[0]


def test_only_hashing_leaves_no_trace_in_pieces(repository):
    store = ObjectStore(repository, keep=False)
    with store.settling():
        assert store.write_pieces([DATA[0][:9], DATA[0][9:]]) == (name_of(DATA[0]), len(DATA[0]))
    assert not store.folder.exists()


def test_pieces_that_fail_leave_nothing(store):
    def broken():
        yield DATA[0]
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        store.write_pieces(broken())
    assert files_under(store.folder) == []


def flushed(monkeypatch):
    """The paths whose bytes or names are brought to disk, as it happens."""
    paths, fsync = [], os.fsync

    def traced(file):
        paths.append(os.readlink(f"/proc/self/fd/{file}"))
        fsync(file)

    monkeypatch.setattr(os, "fsync", traced)
    return paths


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="names of open files")
@pytest.mark.parametrize("settling", [True, False])
def test_what_is_written_is_on_disk_with_its_name(store, monkeypatch, settling):
    paths = flushed(monkeypatch)
    if settling:
        with store.settling():
            names = [store.write(data)[0] for data in DATA]
    else:
        names = [store.write(data)[0] for data in DATA]
    assert sum(os.path.basename(path).startswith("gitmerge-eval-") for path in paths) == len(DATA)
    for name in names:
        assert {str(folder) for folder in store.path(name).parents[:4]} <= set(paths)
        assert store.has(name)


def test_settling_ends_when_all_is_in_place(store):
    with store.settling():
        with store.settling():
            names = [store.write(data)[0] for data in DATA[:3]]
        assert all(store.has(name) for name in names)
        names += [store.write(data)[0] for data in DATA[3:]]
    for name, data in zip(names, DATA, strict=True):
        assert store.path(name).read_bytes() == data
    assert not list((store.folder / "tmp").iterdir())


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_a_full_disk_in_the_background_is_one_clear_line(store, monkeypatch, number):
    def full(file):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError) as raised, store.settling():
        store.write_pieces(DATA[:2])
    assert os.strerror(number) in str(raised.value)
    assert str(store.folder) in str(raised.value)
    assert ";" in str(raised.value)
    assert files_under(store.folder) == []


def test_a_failure_beside_the_background_leaves_no_temporary_file(store):

    def fail_after_five():
        with store.settling():
            for data in DATA:
                store.write(data)
            raise KeyError

    with pytest.raises(KeyError):
        fail_after_five()
    assert not list((store.folder / "tmp").iterdir())
    assert all(not store.has(name_of(d)) or store.read(name_of(d), len(d)) == d for d in DATA)


@pytest.mark.parametrize("damage", [b"", b"x", b"y" * 1000])
def test_reading_into_memory_checks_length_and_hash(store, damage):
    name, size = store.write(DATA[0])
    buffer = bytearray(size)
    store.read_into(name, memoryview(buffer))
    assert buffer == DATA[0]
    store.path(name).write_bytes(damage)
    with pytest.raises(CorruptObject, match=name[:12]):
        store.read_into(name, memoryview(buffer))


def test_an_object_that_cannot_be_read_is_named(store, monkeypatch):
    name, size = store.write(DATA[0])
    store.path(name).unlink()
    store.path(name).mkdir()
    monkeypatch.setattr(store, "_find", lambda oid: store.path(oid))
    with pytest.raises(CheckpointError, match=rf"cannot read .*{name}"):
        store.read(name, size)
    assert store.mapped(name) is None
