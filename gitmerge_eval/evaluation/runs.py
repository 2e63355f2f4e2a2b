"""What sweeps and scalings measured: one table beside the scores, a row for each merge computed.

The scores themselves are in the cache that a run's ``checkpoint`` is a key of (:mod:`results`); a
run says what was merged how, what it cost, and how it scored with its baselines.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from gitmerge_eval.costs import Cost
from gitmerge_eval.errors import EvaluationError
from gitmerge_eval.evaluation import members
from gitmerge_eval.evaluation.note import TaskScore
from gitmerge_eval.evaluation.results import open_beside
from gitmerge_eval.records import canonical_json

SOURCES = ("sweep", "scale", "merge")
_CREATE = """
CREATE TABLE IF NOT EXISTS runs (
    source TEXT NOT NULL, study TEXT NOT NULL, sample INTEGER NOT NULL, spec TEXT NOT NULL,
    method TEXT NOT NULL, recorded TEXT NOT NULL, run TEXT NOT NULL,
    PRIMARY KEY (source, study, sample, spec)
) WITHOUT ROWID
"""
_STORE = "INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?, ?, ?, ?)"
_FIND = """
SELECT source, study, sample, spec, run FROM runs
ORDER BY recorded, source, study, sample, method, spec
"""
_NAMELESS = "merge:"


@dataclass(frozen=True)
class Run:
    """One merge that was computed and evaluated without being committed."""

    spec: str
    """The digest of its MergeSpec."""
    path: str
    method: str
    options: Mapping[str, Any]
    """All of them, by their names on the command line."""
    constituents: tuple[tuple[str, str], ...]
    """(name, checkpoint identity), in the order of the heads."""
    base: str | None
    checkpoint: str
    """What its scores belong to in the cache: ``merge:<spec>``, or the object id of the metadata
    blob where that is known."""
    benchmark: str
    settings: Mapping[str, Any]
    evaluator_version: str
    metric: str
    scores: Mapping[str, tuple[TaskScore, ...]]
    """split -> the score on each task, with the baselines that are known and the data's digest."""
    cost: Cost = field(default_factory=Cost)
    evaluation_seconds: float = 0.0
    source: str = "sweep"
    study: str = ""
    """The digest of the sweep or scaling that it is a part of."""
    sample: int = 0
    """Of a scaling: which of the nested samples, from 0; a sweep has one."""
    chosen: bool = False
    """Whether it is the best of its method in this sweep."""
    recorded: str = ""
    """When, in UTC."""

    @property
    def models(self) -> int:
        """M, the number of constituents."""
        return len(self.constituents)

    def average(self, status: str, split: str = "test", model: str = "merged") -> float | None:
        """The mean over the tasks of ``status``: of the merge, or of a baseline; None where one
        score is unknown."""
        scores = self.scores.get(split, ())
        known = [getattr(score, model) for score in scores if score.status == status]
        return None if not known or None in known else sum(known) / len(known)

    def normalised(self, status: str, split: str = "test") -> float | None:
        """Held-in: merged average / individual average; generalization: merged / pretrained."""
        merged = self.average(status, split)
        reference = "individual" if status == "held-in" else "pretrained"
        by = self.average(status, split, reference)
        return None if merged is None or not by else merged / by

    def as_dict(self) -> dict[str, Any]:
        """For JSON; :meth:`from_dict` makes an equal run of it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Run:
        """The run that :meth:`as_dict` spelled; EvaluationError, in words, where it is none."""
        given = members.mapping(values, "a run")
        for name, read in _PARTS.items():
            if name in given:
                given[name] = read(given[name])
        return members.built(cls, given, "a run")


def _constituents(value: Any) -> tuple[tuple[str, str], ...]:
    pairs = members.sequence(value, "'constituents' of a run")
    for pair in pairs:
        if not isinstance(pair, (list, tuple)) or [type(part) for part in pair] != [str, str]:
            raise EvaluationError(
                f"a constituent of a run is {members.shown(pair)} and should be [name, checkpoint]"
            )
    return tuple((name, blob) for name, blob in pairs)


def _scores(value: Any) -> dict[str, tuple[TaskScore, ...]]:
    return {
        split: tuple(
            members.built(TaskScore, score, f"a score of a run ({split})")
            for score in members.sequence(scores, f"'scores' of a run ({split})")
        )
        for split, scores in members.mapping(value, "'scores' of a run").items()
    }


_PARTS: Mapping[str, Callable[[Any], Any]] = {
    "constituents": _constituents,
    "scores": _scores,
    "cost": lambda value: members.built(Cost, value, "the cost of a run"),
    "options": lambda value: members.mapping(value, "'options' of a run"),
    "settings": lambda value: members.mapping(value, "'settings' of a run"),
}


class Runs:
    """The open table; made by :func:`open_runs`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.remarks: list[str] = []
        """Which rows :meth:`find` could not read, and why."""

    def store(self, runs: Sequence[Run]) -> None:
        """Remember ``runs``, all or none of them; one of the same study, sample and spec is
        replaced."""
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        dated = [run if run.recorded else replace(run, recorded=now) for run in runs]
        rows = [
            (r.source, r.study, r.sample, r.spec, r.method, r.recorded, canonical_json(r.as_dict()))
            for r in dated
        ]
        with self._connection:
            self._connection.executemany(_STORE, rows)

    def find(self, *, source: str | None = None, study: str | None = None) -> list[Run]:
        """The runs known, oldest first: all, or those of one source or study.

        A row that this version cannot read is passed over, and becomes one of the
        :attr:`remarks`.
        """
        found = []
        self.remarks = []
        for of, digest, sample, spec, text in self._connection.execute(_FIND):
            try:
                found.append(Run.from_dict(json.loads(text)))
            except (ValueError, TypeError, EvaluationError) as error:
                self.remarks.append(
                    f"a stored run is left out ({of} {digest[:10]}, sample {sample}, spec "
                    f"{spec[:10]}): {error}; the command that made it computes it again"
                )
        return [run for run in found if source in (None, run.source) and study in (None, run.study)]


@contextmanager
def open_runs(path: Path) -> Iterator[Runs]:
    """The table in the cache of scores at ``path``, made where it is missing.

    Raises EvaluationError where the file cannot be opened.
    """
    with open_beside(path, _CREATE) as connection:
        yield Runs(connection)


def identity_of(spec: str) -> str:
    """What the scores of a merge that was never written as a blob belong to.

    >>> identity_of("ab12")
    'merge:ab12'
    """
    return f"{_NAMELESS}{spec}"


def is_nameless(checkpoint: str) -> bool:
    """Whether an identity is that of a merge whose blob nobody knows."""
    return checkpoint.startswith(_NAMELESS)
