"""The cache of merged groups: what is found again, what is not, and what never stops a merge."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from dataclasses import replace

import pytest

from gitmerge_eval.checkpoints.group_cache import CachedGroup, cache_path, open_cache
from gitmerge_eval.checkpoints.lfs import ObjectStore
from gitmerge_eval.checkpoints.metadata import GroupRecord


@pytest.fixture
def store(repository):
    return ObjectStore(repository)


def stored(store, name="layer.weight", data=b"some tensor"):
    object_id, size = store.write(data)
    return GroupRecord(name, (2, 3), "float32", (1, -2), object_id, size)


def test_a_group_is_found_by_another_connection_as_it_was(repository, store):
    group = CachedGroup(
        (stored(store, "a"), stored(store, "b/c", b"other")),
        ("no Gram matrix: averaged", "β"),
        {"residual": 1 / 3, "ridge": 5e-324},
    )
    with open_cache(repository) as cache:
        assert cache.get("key") is None
        cache.put("key", group)
        cache.put_scalars("norms", (1 / 3, float("inf"), -0.0))
    with open_cache(repository) as cache:
        assert cache.get("key") == group
        assert cache.get("other") is None
        assert [value.hex() for value in cache.scalars("norms")] == [
            value.hex() for value in (1 / 3, float("inf"), -0.0)
        ]
        assert cache.scalars("key") is None
        assert cache.notices == []


def test_an_entry_counts_only_while_its_object_is_whole(repository, store):
    first, second = stored(store, "a", b"one"), stored(store, "b", b"two")
    with open_cache(repository) as cache:
        cache.put("key", CachedGroup((first, second)))
        store.path(second.object_id).write_bytes(b"tw")
        assert cache.get("key") is None
        store.path(second.object_id).write_bytes(b"two")
        assert cache.get("key") is not None
        store.path(first.object_id).unlink()
        assert cache.get("key") is None


def test_what_is_not_in_the_store_yet_is_not_remembered(repository, store):
    record = replace(stored(store), object_id="0" * 64)
    with open_cache(repository) as cache:
        cache.put("key", CachedGroup((record,)))
        store.path(record.object_id).parent.mkdir(parents=True)
        store.path(record.object_id).write_bytes(b"some tensor")
        assert cache.get("key") is None


def test_an_object_that_is_found_is_young_again(repository, store):
    record = stored(store)
    with open_cache(repository) as cache:
        cache.put("key", CachedGroup((record,)))
        os.utime(store.path(record.object_id), (1e9, 1e9))
        assert cache.get("key") is not None
    assert store.path(record.object_id).stat().st_mtime > 1e9 + 1


def test_without_reading_nothing_is_found_and_all_is_kept(repository, store):
    with open_cache(repository) as cache:
        cache.put("old", CachedGroup((stored(store),)))
        cache.put_scalars("old", (1.0,))
    with open_cache(repository, reading=False) as cache:
        assert (cache.get("old"), cache.scalars("old")) == (None, None)
        cache.put("new", CachedGroup((stored(store),)))
    with open_cache(repository) as cache:
        assert cache.get("new") is not None


def test_what_was_kept_survives_a_kill(repository, store):
    record = stored(store)
    code = (
        "import os, signal, sys\n"
        "from gitmerge_eval.checkpoints.group_cache import *\n"
        "record = GroupRecord('layer.weight', (2, 3), 'float32', (1, -2), sys.argv[2], 11)\n"
        "with open_cache(Repository(sys.argv[1])) as cache:\n"
        "    for number in range(50):\n"
        "        cache.put(str(number), CachedGroup((record,)))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    arguments = [sys.executable, "-c", code, repository.directory, record.object_id]
    assert subprocess.run(arguments).returncode == -signal.SIGKILL
    with open_cache(repository) as cache:
        assert all(cache.get(str(number)) == CachedGroup((record,)) for number in range(50))
        assert cache.notices == []


def test_processes_and_threads_that_write_at_once_lose_nothing(repository, store):
    record = stored(store)
    code = (
        "import sys\n"
        "from gitmerge_eval.checkpoints.group_cache import *\n"
        "record = GroupRecord('layer.weight', (2, 3), 'float32', (1, -2), sys.argv[2], 11)\n"
        "for number in range(20):\n"
        "    with open_cache(Repository(sys.argv[1])) as cache:\n"
        "        cache.put(f'{sys.argv[3]}-{number}', CachedGroup((record,)))\n"
        "        assert not cache.notices, cache.notices\n"
    )
    arguments = [sys.executable, "-c", code, repository.directory, record.object_id]
    running = [subprocess.Popen([*arguments, str(number)]) for number in range(3)]
    with open_cache(repository) as cache:

        def write(name):
            for number in range(20):
                cache.put(f"{name}-{number}", CachedGroup((record,)))

        threads = [threading.Thread(target=write, args=(name,)) for name in "ab"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [process.wait(60) for process in running] == [0] * 3
        for name in ("0", "1", "2", "a", "b"):
            assert all(cache.get(f"{name}-{number}") for number in range(20))
        assert cache.notices == []


def spoil_all(path):
    path.write_bytes(b"this is no database, and longer than its header would be" * 100)


def spoil_the_tables(path):
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xee" * (len(data) - 4096)
    path.write_bytes(data)


def spoil_the_schema(path):
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()


@pytest.mark.parametrize("spoil", [spoil_all, spoil_the_tables, spoil_the_schema])
def test_an_unreadable_cache_is_set_aside(repository, store, spoil):
    with open_cache(repository) as cache:
        cache.put("key", CachedGroup((stored(store),)))
    spoil(cache_path(repository))
    spoiled = cache_path(repository).read_bytes()
    with open_cache(repository) as cache:
        assert cache.get("key") is None
        cache.put("key", CachedGroup((stored(store),)))
        assert "was unreadable" in cache.notices[0]
        assert len(cache.notices) == 1
    aside = cache_path(repository).with_name("groups.sqlite.unreadable")
    assert aside.read_bytes() == spoiled
    with open_cache(repository) as cache:
        cache.put("key", CachedGroup((stored(store),)))
        assert cache.get("key") is not None
        assert cache.notices == []


HOSTILE = [
    "",
    "null",
    "[]",
    '["{", [], {}]',
    '[{"a": 1}, [], {}]',
    '["{\\"a\\": {\\"lfs_metadata\\": {\\"oid\\": \\"../../../../etc/passwd\\"}}}", [], {}]',
    '["{}", 7, {}]',
    '["{}", [], {"residual": "x"}]',
    "[" * 100_000,
]


def test_hostile_entries_are_not_found(repository, store):
    with open_cache(repository) as cache:
        cache.put("fine", CachedGroup((stored(store),)))
    connection = sqlite3.connect(cache_path(repository))
    with connection:
        for number, text in enumerate(HOSTILE):
            for table in ("groups", "scalars"):
                connection.execute(f"INSERT INTO {table} VALUES (?, ?, 0)", (str(number), text))
        connection.execute("INSERT INTO groups VALUES ('blob', x'00ff', 0)")
    connection.close()
    with open_cache(repository) as cache:
        for number in range(len(HOSTILE)):
            assert cache.get(str(number)) is None
        for number in range(len(HOSTILE)):
            assert cache.scalars(str(number)) in (None, ())
        assert cache.get("blob") is None
        assert cache.object_ids() == {stored(store).object_id}
        assert cache.notices == []
        stale = cache.stale(1.0, lambda object_id, size: True)
        assert set(stale) >= {*map(str, range(len(HOSTILE))), "blob"}
        assert "fine" not in stale


def test_where_it_cannot_be_written_the_cache_is_empty(repository, store):
    folder = cache_path(repository).parent
    shutil.rmtree(folder, ignore_errors=True)
    folder.write_text("a file in the folder's place")
    with open_cache(repository) as cache:
        cache.put("key", CachedGroup((stored(store),)))
        assert cache.get("key") is None
        assert cache.object_ids() == set()
        assert len(cache.notices) == 1
        assert "no cache of merged groups" in cache.notices[0]


def test_another_process_that_keeps_it_locked_does_not_stop_us(repository, store, monkeypatch):
    from gitmerge_eval.checkpoints import cache_file

    with open_cache(repository) as cache:
        cache.put("key", CachedGroup((stored(store),)))
    monkeypatch.setattr(cache_file, "BUSY_SECONDS", 0.1)
    other = sqlite3.connect(cache_path(repository), isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with open_cache(repository) as cache:
        assert cache.get("key") is not None
        cache.put("second", CachedGroup((stored(store),)))
        assert "locked" in cache.notices[0]
    other.close()


def test_stale_entries_are_told_and_forgotten(repository, store):
    gone = stored(store, "gone", b"gone")
    with open_cache(repository) as cache:
        for key in ("old", "used", "new"):
            cache.put(key, CachedGroup((stored(store),)))
        cache.put("gone", CachedGroup((gone,)))
        for key in ("old-scalar", "used-scalar"):
            cache.put_scalars(key, (1.0,))
    connection = sqlite3.connect(cache_path(repository))
    with connection:
        for table in ("groups", "scalars"):
            connection.execute(f"UPDATE {table} SET used = 1000 WHERE key GLOB '[ou]*'")
    connection.close()
    with open_cache(repository) as cache:
        cache.get("used")
        cache.scalars("used-scalar")
    with open_cache(repository) as cache:
        keys = cache.stale(2000.0, lambda object_id, size: object_id != gone.object_id)
        assert sorted(keys) == ["gone", "old", "old-scalar"]
        assert cache.object_ids() == {gone.object_id, stored(store).object_id}
        cache.forget(keys)
        assert cache.notices == []
        assert cache.get("used")
        assert cache.get("new")
        assert cache.scalars("used-scalar") == (1.0,)
        assert cache.scalars("old-scalar") is None
        assert cache.object_ids() == {stored(store).object_id}
