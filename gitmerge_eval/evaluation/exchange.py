"""Results as JSON lines, so that those of two machines unite: scores, runs, published numbers.

A line is one object: ``kind`` (score, run or published), ``schema``, and the members of what it is.
Taking the same lines twice changes nothing. Where a line has another value than this machine for
the same key, the two machines disagree about a fact; nothing is overwritten unless that is asked.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from gitmerge_eval.errors import EvaluationError
from gitmerge_eval.evaluation import members
from gitmerge_eval.evaluation.published import Published, open_published
from gitmerge_eval.evaluation.results import Score, ScoreKey, open_results
from gitmerge_eval.evaluation.runs import Run, open_runs
from gitmerge_eval.records import canonical_json

SCHEMA = 1
KINDS = ("score", "run", "published")


@dataclass(frozen=True)
class Conflict:
    """One key with two values."""

    kind: str
    what: str
    """The key, in words."""
    ours: str
    theirs: str

    def __str__(self) -> str:
        """``score of fruit-real (test) by aaaaaaaaaa: 81.25 here, 80.5 in the file``."""
        return f"{self.kind} of {self.what}: {self.ours} here, {self.theirs} in the file"


@dataclass(frozen=True)
class Taken:
    """What an import did."""

    added: int = 0
    known: int = 0
    """Lines that say nothing new."""
    conflicts: tuple[Conflict, ...] = ()
    replaced: bool = False
    """Whether the file's values now stand where they conflicted."""


@dataclass(frozen=True)
class _Entry:
    """One result: its key, and the facts that two machines must agree on.

    How long it took, and on which device, is true of each machine by itself.
    """

    kind: str
    key: tuple[object, ...]
    what: str
    facts: Mapping[str, object]
    value: Any
    record: Mapping[str, Any]


def export(path: Path) -> Iterator[str]:
    """Every result of the cache at ``path`` as a line of canonical JSON, in a fixed order."""
    for entry in _known(path):
        yield canonical_json({"schema": SCHEMA, "kind": entry.kind, **entry.record})


def unreadable(path: Path) -> list[str]:
    """What the cache at ``path`` has that this version cannot read, and :func:`export` leaves
    out."""
    with open_runs(path) as runs:
        runs.find()
        return runs.remarks


def take(path: Path, lines: Iterable[str], *, replacing: bool = False) -> Taken:
    """Add the results of ``lines`` to the cache at ``path``.

    ``replacing`` lets their values count where they differ from ours. All lines are read before
    anything is written. Raises EvaluationError for a line that is no result of this schema.
    """
    entries = [_parsed(text, number) for number, text in enumerate(lines, 1) if text.strip()]
    return _settle(path, entries, replacing)


def take_published(path: Path, rows: Iterable[Published], *, replacing: bool = False) -> Taken:
    """:func:`take` for the rows of a published table."""
    return _settle(path, [_published_entry(row) for row in rows], replacing)


def _settle(path: Path, entries: Iterable[_Entry], replacing: bool) -> Taken:
    ours = {(entry.kind, entry.key): entry for entry in _known(path)}
    wanted: dict[tuple[object, ...], _Entry] = {}
    conflicts: list[Conflict] = []
    added = known = 0
    for entry in entries:
        place = (entry.kind, entry.key)
        mine = wanted.get(place) or ours.get(place)
        differing = _differing(mine, entry) if mine else []
        if differing:
            conflicts.append(Conflict(entry.kind, entry.what, *differing))
        new = mine is None or not (differing or entry.facts.keys() <= mine.facts.keys())
        added += new
        known += not (new or differing)
        if new or (differing and replacing):
            wanted[place] = entry
    _store(path, wanted.values())
    return Taken(added, known, tuple(conflicts), replaced=replacing and bool(conflicts))


def _differing(mine: _Entry, other: _Entry) -> list[str]:
    """The first fact on which two entries disagree, as both have it; empty where they agree."""
    for name, value in mine.facts.items():
        if name in other.facts and other.facts[name] != value:
            word = f"{name} " if len(mine.facts) > 1 else ""
            return [f"{word}{value}", f"{word}{other.facts[name]}"]
    return []


def _known(path: Path) -> Iterator[_Entry]:
    with open_results(path) as results:
        yield from (_score_entry(key, score) for key, score in results.every().items())
    with open_runs(path) as runs:
        yield from (_run_entry(run) for run in runs.find())
    with open_published(path) as published:
        yield from (_published_entry(row) for row in published.find())


def _store(path: Path, entries: Iterable[_Entry]) -> None:
    kinds: dict[str, list[_Entry]] = {kind: [] for kind in KINDS}
    for entry in entries:
        kinds[entry.kind].append(entry)
    with open_results(path) as results:
        results.store(dict(entry.value for entry in kinds["score"]))
    with open_runs(path) as runs:
        runs.store([entry.value for entry in kinds["run"]])
    with open_published(path) as published:
        published.store([entry.value for entry in kinds["published"]])


def _score_entry(key: ScoreKey, score: Score) -> _Entry:
    return _Entry(
        "score",
        tuple(asdict(key).values()),
        f"{key.task} ({key.split}) by {key.checkpoint[:16]}",
        {"value": score.value},
        (key, score),
        {**asdict(key), **asdict(score)},
    )


def _run_entry(run: Run) -> _Entry:
    facts: dict[str, object] = {"method": run.method, "options": canonical_json(dict(run.options))}
    for split, scores in run.scores.items():
        for score in scores:
            for model in ("merged", "pretrained", "individual", "multitask"):
                if (value := getattr(score, model)) is not None:
                    facts[f"{model} on {score.task} ({split})"] = value
    if run.chosen:
        facts["chosen"] = True
    return _Entry(
        "run",
        (run.source, run.study, run.sample, run.spec),
        f"{run.method} {run.spec[:10]}",
        facts,
        run,
        run.as_dict(),
    )


def _published_entry(row: Published) -> _Entry:
    facts = {
        name: value
        for name in ("held_in", "generalization")
        if (value := getattr(row, name)) is not None
    }
    what = f"{row.method} by {row.source}"
    return _Entry("published", row.key, what, facts, row, asdict(row))


def _parsed(text: str, number: int) -> _Entry:
    try:
        record = _record(text)
        entry = _entry(record.pop("kind"), record)
    except EvaluationError as error:
        raise EvaluationError(
            f"line {number} is no result that this version reads: {error}. Give a file that "
            "'gitmerge-eval results export' wrote, or a table that ends in .csv"
        ) from error
    return entry


def _record(text: str) -> dict[str, Any]:
    """A line's object without its schema, which is ours."""
    try:
        record = members.mapping(json.loads(text), "it")
    except json.JSONDecodeError as error:
        raise EvaluationError(f"it is no JSON from column {error.colno} on") from error
    except (ValueError, RecursionError) as error:
        raise EvaluationError("it is no JSON that can be read") from error
    for name in ("schema", "kind"):
        if name not in record:
            raise EvaluationError(f"it lacks '{name}'")
    schema = record.pop("schema")
    if schema != SCHEMA:
        raise EvaluationError(f"its schema is {members.shown(schema)}, and {SCHEMA} is known here")
    if record["kind"] not in KINDS:
        raise EvaluationError(
            f"its kind is {members.shown(record['kind'])}; known are {', '.join(KINDS)}"
        )
    return record


def _entry(kind: str, record: dict[str, Any]) -> _Entry:
    if kind == "run":
        return _run_entry(Run.from_dict(record))
    if kind == "published":
        return _published_entry(members.built(Published, record, "a published number"))
    names = [member.name for member in fields(ScoreKey)]
    key = {name: record.pop(name) for name in names if name in record}
    return _score_entry(
        members.built(ScoreKey, key, "a score"), members.built(Score, record, "a score")
    )
