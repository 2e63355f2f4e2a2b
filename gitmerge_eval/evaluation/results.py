"""The cache of scores: one SQLite file in the git directory, shared by every process and work tree.

A score belongs to what determines it: the checkpoint's object, the benchmark with its settings, the
task and split, the evaluator's version, and the digest of the data. It belongs to no commit, so a
merge that is amended, rebased or made again costs nothing to evaluate.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path

from gitmerge_eval.checkpoints.cache_file import connect, connect_or_replace
from gitmerge_eval.errors import EvaluationError
from gitmerge_eval.records import canonical_json

SCHEMA_VERSION = 1
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
_EVERY = """
SELECT checkpoint, benchmark, settings, task, split, evaluator_version, fingerprint, value, seconds,
device FROM scores
"""
_STORE = "INSERT OR REPLACE INTO scores VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, datetime('now'))"


@dataclass(frozen=True)
class ScoreKey:
    """Everything that determines one score; two equal keys have the same score."""

    checkpoint: str
    """Git object id of the checkpoint's metadata blob, then ``+`` and the digest of its companions
    where it has any."""
    benchmark: str
    settings: str
    """The benchmark's settings as canonical JSON."""
    task: str
    split: str
    evaluator_version: str
    fingerprint: str
    """The digest of the task's data."""

    @property
    def digest(self) -> str:
        """SHA-256 over all of it."""
        return hashlib.sha256(canonical_json(astuple(self)).encode()).hexdigest()


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

    def every(self) -> dict[ScoreKey, Score]:
        """All that is known, in the order of the keys."""
        rows = self._connection.execute(_EVERY)
        return {ScoreKey(*row[:7]): Score(*row[7:]) for row in rows}

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
        connection = connect_or_replace(path, SCHEMA_VERSION, [_CREATE])
    except (OSError, sqlite3.OperationalError) as error:
        raise EvaluationError(
            f"the results cache '{path}' cannot be opened ({error}); make its folder writable, or "
            "remove the file if another program made it"
        ) from error
    with closing(connection):
        yield Results(connection)


@contextmanager
def open_beside(path: Path, create: str) -> Iterator[sqlite3.Connection]:
    """A connection to the cache at ``path``, with a further table that ``create`` makes there.

    Raises what :func:`open_results` does.
    """
    with open_results(path):  # makes the file, or sets an unreadable one aside
        pass
    with closing(connect(path, SCHEMA_VERSION, [])) as connection:
        with connection:
            connection.execute(create)
        yield connection
