"""SQLite files that are caches: shared by processes, and set aside where they are unreadable."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path

BUSY_SECONDS = 30.0
"""How long a process waits for another that writes."""


def connect(path: Path, version: int, create: Sequence[str]) -> sqlite3.Connection:
    """The cache at ``path``; where there is none, made by the statements ``create``.

    Threads may share the connection if they take turns. Raises sqlite3.OperationalError or OSError
    where the file cannot be opened or written, and sqlite3.DatabaseError where it is no database
    of this schema ``version``: then :func:`set_aside` helps.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, check_same_thread=False)
    try:
        _enter_wal_mode(connection)
        # In WAL mode a killed process loses nothing; a power cut may lose the last entries.
        connection.execute("PRAGMA synchronous = NORMAL")
        (found,) = connection.execute("PRAGMA user_version").fetchone()
        if found not in (0, version):
            raise sqlite3.DatabaseError(f"schema {found}")
        if found == 0:
            with connection:
                for statement in create:
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {version}")
    except BaseException:
        connection.close()
        raise
    return connection


def connect_or_replace(
    path: Path,
    version: int,
    create: Sequence[str],
    told: Callable[[sqlite3.DatabaseError], object] = lambda error: None,
) -> sqlite3.Connection:
    """:func:`connect`, with a new file in the place of one that is unreadable, of which ``told``
    hears after it was set aside.

    Raises sqlite3.OperationalError or OSError where the file cannot be opened or written.
    """
    try:
        return connect(path, version, create)
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError as error:
        set_aside(path)
        told(error)
        return connect(path, version, create)


def aside_of(path: Path) -> Path:
    """Where an unreadable cache is put: ``<name>.unreadable``."""
    return path.with_name(path.name + ".unreadable")


def set_aside(path: Path) -> None:
    """Rename an unreadable cache to :func:`aside_of` its path."""
    os.replace(path, aside_of(path))
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _enter_wal_mode(connection: sqlite3.Connection) -> None:
    # SQLite's busy handler is not asked while the journal mode changes, so two processes that
    # make the file at once meet 'database is locked' without any waiting.
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
