"""The cache of scores: one SQLite file in the git directory, shared by every process and work tree.

A score belongs to what determines it: the checkpoint's object, the benchmark with its settings, the
task and split, the evaluator's version, and the digest of the data. It belongs to no commit, so a
merge that is amended, rebased or made again costs nothing to evaluate.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path

from gitmerge_eval.errors import EvaluationError

SCHEMA_VERSION = 1
BUSY_SECONDS = 30.0
_CREATE = """
CREATE TABLE IF NOT EXISTS scores (
    checkpoint TEXT NOT NULL, benchmark TEXT NOT NULL, settings TEXT NOT NULL,
    task TEXT NOT NULL, split TEXT NOT NULL, evaluator_version TEXT NOT NULL,
    fingerprint TEXT NOT NULL, value REAL NOT NULL, seconds REAL NOT NULL, device TEXT NOT NULL,
    recorded TEXT NOT NULL,
    PRIMARY KEY (checkpoint, benchmark, settings, task, split, evaluator_version, fingerprint)
) WITHOUT ROWID
"""
_FIND = """
SELECT value, seconds, device FROM scores WHERE checkpoint = ? AND benchmark = ? AND settings = ?
AND task = ? AND split = ? AND evaluator_version = ? AND fingerprint = ?
"""
_STORE = "INSERT OR REPLACE INTO scores VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, datetime('now'))"


@dataclass(frozen=True)
class ScoreKey:
    """Everything that determines one score; two equal keys have the same score."""

    checkpoint: str
    """Git object id of the checkpoint's metadata blob."""
    benchmark: str
    settings: str
    """The benchmark's settings as canonical JSON."""
    task: str
    split: str
    evaluator_version: str
    fingerprint: str
    """The digest of the task's data."""


@dataclass(frozen=True)
class Score:
    """A computed score, and what it took."""

    value: float
    seconds: float
    device: str


class Results:
    """An open cache; made by :func:`open_results`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def find(self, keys: Sequence[ScoreKey]) -> dict[ScoreKey, Score]:
        """The known ones among ``keys`` with their scores."""
        known = {}
        for key in keys:
            row = self._connection.execute(_FIND, astuple(key)).fetchone()
            if row is not None:
                known[key] = Score(*row)
        return known

    def store(self, scores: Mapping[ScoreKey, Score]) -> None:
        """Remember ``scores``, all or none of them."""
        with self._connection:
            self._connection.executemany(
                _STORE, [(*astuple(key), *astuple(score)) for key, score in scores.items()]
            )


@contextmanager
def open_results(path: Path) -> Iterator[Results]:
    """The cache at ``path``, made where it is missing.

    A file that SQLite cannot read is set aside as ``<name>.unreadable``: it is a cache, and its
    scores can be computed again. Raises EvaluationError where the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = _connect(path)
    except (OSError, sqlite3.OperationalError) as error:
        raise EvaluationError(
            f"the results cache '{path}' cannot be opened ({error}); make its folder writable, or "
            "remove the file if another program made it"
        ) from error
    with closing(connection):
        yield Results(connection)


def _connect(path: Path) -> sqlite3.Connection:
    try:
        return _prepared(path)
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError:
        os.replace(path, path.with_name(path.name + ".unreadable"))
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        return _prepared(path)


def _prepared(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS)
    try:
        _enter_wal_mode(connection)
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version not in (0, SCHEMA_VERSION):
            raise sqlite3.DatabaseError(f"schema {version}")
        if version == 0:
            with connection:
                connection.execute(_CREATE)
                connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    except BaseException:
        connection.close()
        raise
    return connection


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
