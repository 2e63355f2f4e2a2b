"""The cache of merged groups: what a killed merge, a retry and ``verify`` need not compute again.

A SQLite file in the common git directory, shared by every process and work tree. An entry maps a
digest of everything that determines a group's bytes to the records of the objects that hold them.
The objects themselves are those of the LFS store: an entry counts only while its objects are there.

The cache may always be lost: where it cannot be opened, read or written, the merge goes on without
it, and :attr:`GroupCache.notices` says so.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gitmerge_eval.checkpoints.cache_file import aside_of, connect_or_replace, set_aside
from gitmerge_eval.checkpoints.lfs import ObjectStore
from gitmerge_eval.checkpoints.metadata import GroupRecord, Metadata
from gitmerge_eval.errors import CheckpointError
from gitmerge_eval.git.repository import Repository

SCHEMA_VERSION = 1
FILE = "gitmerge-eval/groups.sqlite"
"""In the common git directory."""
_LOOKED_AT = 8
"""Groups of which it is asked, when another comes, whether their objects are there by now."""
_FRESH_SECONDS = 3600
"""An entry that was used within the last hour need not be marked as used again."""
_MALFORMED = (ValueError, TypeError, OverflowError, RecursionError)
_TABLES = ("groups", "scalars")
_CREATE = [
    f"CREATE TABLE IF NOT EXISTS {table} "
    "(key TEXT PRIMARY KEY, entry TEXT NOT NULL, used INTEGER NOT NULL) WITHOUT ROWID"
    for table in _TABLES
]


@dataclass(frozen=True)
class CachedGroup:
    """What one merged group became: its records, and the kernel's remarks and figures."""

    records: tuple[GroupRecord, ...]
    remarks: tuple[str, ...] = ()
    figures: Mapping[str, float] = field(default_factory=dict)

    def serialize(self) -> str:
        """JSON, from which :meth:`parse` makes an equal one."""
        metadata = Metadata({record.name: record for record in self.records})
        document = [metadata.serialize().decode(), list(self.remarks), dict(self.figures)]
        return json.dumps(document, ensure_ascii=False)

    @classmethod
    def parse(cls, text: object) -> CachedGroup | None:
        """The group in ``text``, or None where that is not one: the file may be anybody's."""
        try:
            metadata, remarks, figures = json.loads(str(text))
            return cls(
                tuple(Metadata.parse(str(metadata).encode()).groups.values()),
                tuple(str(remark) for remark in remarks),
                {str(name): float(value) for name, value in dict(figures).items()},
            )
        except (*_MALFORMED, CheckpointError):
            return None


def cache_path(repository: Repository) -> Path:
    """Where the cache of a repository and all its work trees is."""
    return repository.common_directory / FILE


class GroupCache:
    """The open cache of one repository; made by :func:`open_cache`. Threads may share it.

    With ``reading=False`` nothing is found, and what is computed is kept nevertheless.
    """

    def __init__(self, store: ObjectStore, path: Path, *, reading: bool = True) -> None:
        self._store = store
        self._path = path
        self._reading = reading
        self._lock = threading.Lock()
        self._used: list[tuple[str, str]] = []
        self._waiting: deque[tuple[str, CachedGroup]] = deque()
        self.notices: list[str] = []
        """What the user should know: a cache that was set aside, or cannot be used."""
        self._connection: sqlite3.Connection | None = None
        self._is_usable = True

    def get(self, key: str) -> CachedGroup | None:
        """What is known for ``key``, if all of its objects are in the store whole."""
        group = CachedGroup.parse(self._find("groups", key))
        if group is None or not all(
            self._store.freshen(record.object_id, record.size) for record in group.records
        ):
            return None
        self._used.append(("groups", key))
        return group

    def put(self, key: str, group: CachedGroup) -> None:
        """Remember ``group`` as soon as its objects are in the store; then it survives a kill.

        Objects that are on their way to the disk are looked for when the next group comes, and
        once more at the end; a group whose objects are not there then is not remembered.
        """
        self._waiting.append((key, group))
        self._keep_waiting(_LOOKED_AT)

    def _keep_waiting(self, count: int) -> None:
        for _ in range(min(count, len(self._waiting))):
            try:
                key, group = self._waiting.popleft()
            except IndexError:  # another thread was faster
                return
            if all(self._store.freshen(r.object_id, r.size) for r in group.records):
                self._keep("groups", key, group.serialize())
            else:
                self._waiting.append((key, group))

    def scalars(self, key: str) -> tuple[float, ...] | None:
        """The whole-model scalar known for ``key``, bit for bit."""
        text = self._find("scalars", key)
        if text is None:
            return None
        try:
            found = tuple(map(float.fromhex, json.loads(text)))
        except _MALFORMED:
            return None
        self._used.append(("scalars", key))
        return found

    def put_scalars(self, key: str, values: Sequence[float]) -> None:
        """Remember a whole-model scalar."""
        self._keep("scalars", key, json.dumps([float(value).hex() for value in values]))

    def object_ids(self, *, without: Container[str] = ()) -> set[str]:
        """The objects that the cache's groups name, but for the groups of some keys."""
        found = set()
        for key, text in self._execute("SELECT key, entry FROM groups"):
            group = None if key in without else CachedGroup.parse(text)
            found |= {record.object_id for record in group.records} if group else set()
        return found

    def stale(self, before: float, present: Callable[[str, int], bool]) -> list[str]:
        """Keys of the groups last used before a time (seconds), or not all of whose objects are
        ``present(object_id, size)``; and of the scalars last used before it."""
        found = [
            key
            for key, text, used in self._execute("SELECT key, entry, used FROM groups")
            if used < before or not _is_whole(CachedGroup.parse(text), present)
        ]
        old = self._execute("SELECT key FROM scalars WHERE used < ?", (int(before),))
        return found + [key for (key,) in old]

    def forget(self, keys: Iterable[str]) -> None:
        """Remove entries, and give the space back to the disk."""
        rows = [(key,) for key in keys]
        if rows:
            for table in _TABLES:
                self._execute_many(f"DELETE FROM {table} WHERE key = ?", rows)
            self._execute("VACUUM")

    def close(self) -> None:
        """Remember what still waits, note which entries were used, and close the file."""
        self._keep_waiting(len(self._waiting))
        now = int(time.time())
        for table in _TABLES:
            rows = [(now, key, now - _FRESH_SECONDS) for where, key in self._used if where == table]
            update = f"UPDATE {table} SET used = ? WHERE key = ? AND used < ?"
            self._execute_many(update, rows)
        with self._lock:
            self._drop()

    def _find(self, table: str, key: str) -> str | None:
        if not self._reading:
            return None
        rows = self._execute(f"SELECT entry FROM {table} WHERE key = ?", (key,))
        return rows[0][0] if rows and isinstance(rows[0][0], str) else None

    def _keep(self, table: str, key: str, entry: str) -> None:
        row = (key, entry, int(time.time()))
        self._execute(f"INSERT OR REPLACE INTO {table} VALUES (?, ?, ?)", row)

    def _execute(self, statement: str, row: tuple[object, ...] = ()) -> list[Any]:
        with self._lock, self._tolerant():
            if connection := self._opened():
                with connection:
                    return connection.execute(statement, row).fetchall()
        return []

    def _execute_many(self, statement: str, rows: Sequence[tuple[object, ...]]) -> None:
        with self._lock, self._tolerant():
            if rows and (connection := self._opened()):
                with connection:
                    connection.executemany(statement, rows)

    def _opened(self) -> sqlite3.Connection | None:
        """The connection, made when it is needed first; None if the cache cannot be used."""
        if self._connection is None and self._is_usable:
            self._connection = connect_or_replace(
                self._path, SCHEMA_VERSION, _CREATE, self._say_replaced
            )
        return self._connection

    def _say_replaced(self, error: sqlite3.DatabaseError) -> None:
        self.notices.append(
            f"the cache of merged groups was unreadable ({error}); it is now "
            f"'{aside_of(self._path)}'"
        )

    @contextmanager
    def _tolerant(self) -> Iterator[None]:
        """A failure ends the use of the cache, not the merge."""
        try:
            yield
        except (sqlite3.OperationalError, OSError) as error:
            self.notices.append(f"no cache of merged groups: '{self._path}': {error}")
            self._drop()
        except sqlite3.DatabaseError as error:
            self._drop()
            with suppress(OSError):
                set_aside(self._path)
                self._say_replaced(error)

    def _drop(self) -> None:
        self._is_usable = False
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
        self._connection = None


@contextmanager
def open_cache(repository: Repository, *, reading: bool = True) -> Iterator[GroupCache]:
    """The cache of ``repository``, made where it is missing; never an error.

    A file that SQLite cannot read is set aside as ``groups.sqlite.unreadable``. Where the folder
    cannot be written the cache is empty and keeps nothing.
    """
    path = cache_path(repository)
    cache = GroupCache(ObjectStore(repository), path, reading=reading)
    try:
        yield cache
    finally:
        cache.close()


def _is_whole(group: CachedGroup | None, present: Callable[[str, int], bool]) -> bool:
    return group is not None and all(present(r.object_id, r.size) for r in group.records)
