"""The records of a commit's note, where several clones may have written some: each result once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gitmerge_eval.errors import EvaluationError
from gitmerge_eval.evaluation import reporting
from gitmerge_eval.evaluation.note import EvaluationNote
from gitmerge_eval.git import notes
from gitmerge_eval.records import canonical_json


def evaluations(records: Iterable[Mapping[str, Any]]) -> tuple[EvaluationNote, ...]:
    """The evaluations among ``records``; one that two clones have measured alike counts once.

    Of those the one is taken that knows most baselines, with what the merge cost where any knows
    it. Where they differ in a score of the model itself, both are there. Raises EvaluationError for
    a record of another schema.
    """
    return tuple(reporting.note_from_record(record) for record in _distinct(records))


def differing(found: Sequence[EvaluationNote]) -> list[EvaluationNote]:
    """Those that are of the same merge, split and data as an earlier one, with other scores."""
    seen = set()
    again = []
    for note in found:
        data = tuple((score.task, score.fingerprint) for score in note.scores)
        place = (note.split, note.spec, note.checkpoint, note.evaluator_version, data)
        if place in seen:
            again.append(note)
        seen.add(place)
    return again


def contradicts(record: Mapping[str, Any], note: EvaluationNote) -> bool:
    """Whether a record is of the merge and data that ``note`` is of, with other scores."""
    if notes.key(record) != notes.key(reporting.note_record(note)):
        return False
    try:
        other = reporting.note_from_record(record)
    except EvaluationError:
        return False
    return _measured(other) != _measured(note) and bool(differing([other, note]))


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """What people read of a note with several records: a table for each result.

    A record that this version cannot read is named in a line.
    """
    parts = []
    known: list[EvaluationNote] = []
    for record in _distinct(records):
        try:
            known.append(reporting.note_from_record(record))
        except EvaluationError as error:
            parts.append(f"note: a record of {record.get('kind')!r} is not shown: {error}\n")
    again = differing(known)
    for note in known:
        said = "note: another clone measured the same differently:\n" if note in again else ""
        parts.append(said + reporting.note_table(note))
    # JSON may spell characters that are none, and Git would be given no UTF-8.
    return "\n".join(parts).encode("utf-8", "replace").decode()


def _measured(note: EvaluationNote) -> list[float]:
    return [score.merged for score in note.scores]


def _distinct(records: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    alike: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        if str(record.get("kind", "")).startswith(reporting.KIND):
            alike.setdefault(canonical_json(_claim(record)), []).append(record)
    return [_best(same) for same in alike.values()]


def _claim(record: Mapping[str, Any]) -> list[Any]:
    """What a record says of the model itself; baselines, times and remarks are what was at hand."""
    what = ("schema", "benchmark", "settings", "evaluator_version", "path", "checkpoint")
    tasks = record.get("tasks")
    scores = [
        [task.get(name) for name in ("task", "status", "data", "merged")]
        for task in (tasks if isinstance(tasks, list) else [])
        if isinstance(task, dict)
    ]
    return [notes.key(record), [record.get(name) for name in what], scores]


def _best(same: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    best = max(same, key=lambda record: canonical_json(record.get("tasks")).count(":"))
    cost = next((record["cost"] for record in same if "cost" in record), None)
    return best if cost is None else {**best, "cost": cost}
