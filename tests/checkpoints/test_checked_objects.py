import hashlib
import os
import sqlite3
import time

import pytest

from gitmerge_eval.checkpoints import checked_objects, lfs
from gitmerge_eval.checkpoints.checked_objects import CheckedObjects, is_settled, stamp
from gitmerge_eval.checkpoints.lfs import ObjectStore
from gitmerge_eval.errors import CorruptObject

DATA = b"a tensor" * 1000
NAME = hashlib.sha256(DATA).hexdigest()
TICK_SECONDS = 0.03


@pytest.fixture
def store(repository):
    found = ObjectStore(repository)
    with found.settling():
        found.write(DATA)
    return found


@pytest.fixture
def hashed(monkeypatch):
    """How many bytes the store has hashed."""
    count = [0]

    class Counting:
        def __init__(self, data=b""):
            self._digest = hashlib.sha256(data)
            count[0] += len(data)

        def update(self, data):
            count[0] += len(data)
            self._digest.update(data)

        def hexdigest(self):
            return self._digest.hexdigest()

    class Library:
        sha256 = Counting

    monkeypatch.setattr(lfs, "hashlib", Library)
    return count


def file_of(repository):
    return repository.common_directory / checked_objects.FILE


def aged(store):
    """The object, its file older than the file system's clock is coarse."""
    time.sleep(TICK_SECONDS)
    return store.path(NAME)


def test_what_was_written_need_not_be_hashed_by_the_next_command(store, repository, hashed):
    other = ObjectStore(repository)
    assert other.read(NAME, len(DATA)) == DATA
    assert other.verified(NAME, len(DATA)) == store.path(NAME)
    assert hashed == [0]


def test_what_came_from_elsewhere_is_hashed_once(store, repository, hashed):
    aged(store)
    file_of(repository).unlink()
    first = ObjectStore(repository)
    first.read(NAME, len(DATA))
    first.verified(NAME, len(DATA))
    assert hashed == [len(DATA)]
    first.keep_checked()
    ObjectStore(repository).read(NAME, len(DATA))
    assert hashed == [len(DATA)]


def test_a_check_in_the_moment_of_the_writing_proves_nothing(store, repository, hashed):
    file_of(repository).unlink()
    os.utime(store.path(NAME))
    found = ObjectStore(repository)
    found.read(NAME, len(DATA))
    found.read(NAME, len(DATA))
    assert hashed == [2 * len(DATA)]


def spoil_in_place(path):
    with path.open("r+b") as file:
        file.write(b"A")


def spoil_by_another_file(path):
    spoiled = path.with_name("spoiled")
    spoiled.write_bytes(b"A" + DATA[1:])
    spoiled.replace(path)


def spoil_through_a_mapping(path):
    import mmap

    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[0] = ord("A")


@pytest.mark.parametrize("spoil", [spoil_in_place, spoil_by_another_file, spoil_through_a_mapping])
@pytest.mark.parametrize("reader", ["read", "verified"])
def test_a_changed_file_is_hashed_again_whatever_its_time_says(store, repository, spoil, reader):
    path = aged(store)
    before = path.stat()
    spoil(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    for found in (store, ObjectStore(repository)):
        with pytest.raises(CorruptObject, match=NAME[:12]):
            getattr(found, reader)(NAME, len(DATA))


def test_a_damaged_object_is_not_remembered(store, repository):
    path = aged(store)
    spoil_in_place(path)
    aged(store)
    found = ObjectStore(repository)
    for _ in range(2):
        with pytest.raises(CorruptObject):
            found.verified(NAME, len(DATA))
        found.keep_checked()


def test_naming_an_object_again_does_not_undo_its_check(store, repository, hashed):
    aged(store)
    assert store.freshen(NAME, len(DATA))
    store.keep_checked()
    ObjectStore(repository).read(NAME, len(DATA))
    assert hashed == [0]


def test_naming_a_changed_object_again_does_not_make_it_checked(store, repository):
    path = aged(store)
    spoil_in_place(path)
    assert store.freshen(NAME, len(DATA))
    store.keep_checked()
    with pytest.raises(CorruptObject):
        ObjectStore(repository).read(NAME, len(DATA))


def test_rechecking_rests_on_no_earlier_check(store, repository, hashed):
    aged(store)
    found = ObjectStore(repository, recheck=True)
    found.read(NAME, len(DATA))
    found.verified(NAME, len(DATA))
    assert hashed == [2 * len(DATA)]


@pytest.mark.parametrize("content", [b"no database", b"SQLite format 3\0" + b"x" * 5000])
def test_an_unreadable_file_costs_a_check_and_no_more(store, repository, hashed, content):
    aged(store)
    for suffix in ("-wal", "-shm"):
        file_of(repository).with_name(f"objects.sqlite{suffix}").unlink(missing_ok=True)
    file_of(repository).write_bytes(content)
    found = ObjectStore(repository)
    assert found.read(NAME, len(DATA)) == DATA
    found.keep_checked()
    assert hashed == [len(DATA)]
    assert ObjectStore(repository).read(NAME, len(DATA)) == DATA
    assert hashed == [len(DATA)]


def test_where_no_file_can_be_made_every_read_is_checked(store, repository, hashed, tmp_path):
    aged(store)
    found = ObjectStore(repository)
    found._checked = CheckedObjects(tmp_path / "file" / "objects.sqlite")
    (tmp_path / "file").write_bytes(b"")
    assert found.read(NAME, len(DATA)) == DATA
    found.keep_checked()
    found.forget([NAME])
    assert hashed == [len(DATA)]


def test_asking_makes_no_file(repository):
    checked = CheckedObjects(file_of(repository))
    assert not checked.knows(NAME, (1, 2, 3, 4))
    checked.keep()
    checked.forget([NAME])
    assert not file_of(repository).exists()


def test_an_object_that_is_gone_is_forgotten(store, repository):
    store.forget([NAME])
    with sqlite3.connect(file_of(repository)) as connection:
        assert connection.execute("SELECT count(*) FROM checked").fetchone() == (0,)


@pytest.mark.parametrize("changed", [1_700_000_000_123_000_000, 1_700_000_000_000_000_000])
def test_a_stamp_is_settled_when_the_clock_of_the_files_has_moved_on(changed):
    found = (1, 2, 3, changed)
    coarse = changed % 10**9 == 0
    assert not is_settled(found, changed)
    assert is_settled(found, changed + 50_000_000) is not coarse
    assert is_settled(found, changed + 2_500_000_000)


def test_inodes_of_64_bits_fit(tmp_path, repository):
    class Status:
        st_ino, st_size, st_mtime_ns, st_ctime_ns = 2**64 - 1, 5, 6, 7

    checked = CheckedObjects(file_of(repository))
    checked.add(NAME, stamp(Status))
    checked.keep()
    assert CheckedObjects(file_of(repository)).knows(NAME, stamp(Status))
