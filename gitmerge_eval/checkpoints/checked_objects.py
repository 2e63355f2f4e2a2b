"""Which objects have had their hash checked since their files last changed.

As Git's index remembers files: one with the inode, size and times that it had when its bytes were
compared with its name has these bytes still, for whoever writes to it changes its ctime, which
nobody can set. A SQLite file in the common git directory, shared by every process and work tree;
where it cannot be used, objects are hashed again.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from gitmerge_eval.checkpoints.cache_file import connect_or_replace

SCHEMA_VERSION = 1
FILE = "gitmerge-eval/objects.sqlite"
"""In the common git directory."""
_CREATE = (
    "CREATE TABLE IF NOT EXISTS checked (object_id TEXT PRIMARY KEY, inode INTEGER NOT NULL, "
    "size INTEGER NOT NULL, modified INTEGER NOT NULL, changed INTEGER NOT NULL) WITHOUT ROWID"
)
_FIND = "SELECT inode, size, modified, changed FROM checked WHERE object_id = ?"
_TICK_NS, _COARSE_TICK_NS = 20_000_000, 2_000_000_000
"""How far the times of files may lag behind the clock; where they are whole seconds, the latter."""

Stamp = tuple[int, int, int, int]


def stamp(status: os.stat_result) -> Stamp:
    """What cannot stay the same when a file's bytes change: inode, size, mtime, ctime (ns)."""
    # SQLite's integers have 63 bits and a sign; some file systems' inodes have 64.
    inode = status.st_ino & 0x7FFF_FFFF_FFFF_FFFF
    return inode, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def is_settled(found: Stamp, now_ns: int) -> bool:
    """Whether any change from ``now_ns`` on will give the file another ctime than this one."""
    changed = found[3]
    return changed + (_TICK_NS if changed % 10**9 else _COARSE_TICK_NS) <= now_ns


class CheckedObjects:
    """The checked objects of one repository. Threads may share it; no failure is an error."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._is_usable = True
        self._new: dict[str, Stamp] = {}

    def knows(self, object_id: str, found: Stamp) -> bool:
        """Whether the bytes of the file with this stamp were compared with the object's name."""
        with self._lock:
            if object_id in self._new:
                return self._new[object_id] == found
            # A repository that has none yet need not get a file by being asked.
            if self._connection is None and not self._path.exists():
                return False
            with suppress(sqlite3.Error, OSError):
                if connection := self._opened():
                    return bool(connection.execute(_FIND, (object_id,)).fetchone() == found)
        return False

    def add(self, object_id: str, found: Stamp) -> None:
        """The file with this stamp has the bytes that the object's name promises."""
        with self._lock:
            self._new[object_id] = found

    def keep(self) -> None:
        """Have other processes know what was added."""
        with self._lock, suppress(sqlite3.Error, OSError):
            if self._new and (connection := self._opened()):
                rows = [(object_id, *found) for object_id, found in self._new.items()]
                with connection:
                    connection.executemany(
                        "INSERT OR REPLACE INTO checked VALUES (?, ?, ?, ?, ?)", rows
                    )
                self._new.clear()

    def forget(self, object_ids: Iterable[str]) -> None:
        """The files of these objects are gone."""
        rows = [(object_id,) for object_id in object_ids]
        with self._lock, suppress(sqlite3.Error, OSError):
            if rows and self._path.exists() and (connection := self._opened()):
                with connection:
                    connection.executemany("DELETE FROM checked WHERE object_id = ?", rows)

    def _opened(self) -> sqlite3.Connection | None:
        if self._connection is None and self._is_usable:
            self._is_usable = False  # until it is open
            self._connection = connect_or_replace(self._path, SCHEMA_VERSION, [_CREATE])
            self._is_usable = True
        return self._connection
