"""The records of a commit's note, where several clones may have written some: each result once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gitmerge_eval.errors import EvaluationError
from gitmerge_eval.evaluation import reporting
from gitmerge_eval.evaluation.note import EvaluationNote
from gitmerge_eval.git import notes
from gitmerge_eval.records import canonical_json

OF_THE_MACHINE = ("seconds", "device", "cost", "sheet", "remarks")
"""The members that two clones may have differently of one result: how it was measured, and what was
at hand there."""


def evaluations(records: Iterable[Mapping[str, Any]]) -> tuple[EvaluationNote, ...]:
    """The evaluations among ``records``; one that two clones have measured alike counts once.

    Of those the one is taken that knows what the merge cost. Where they differ in a score, both
    are there. Raises EvaluationError for a record of another schema.
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
    return "\n".join(parts)


def _distinct(records: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {}
    for record in records:
        if not str(record.get("kind", "")).startswith(reporting.KIND):
            continue
        facts = {name: value for name, value in record.items() if name not in OF_THE_MACHINE}
        place = canonical_json([notes.key(record), facts])
        if place not in found or ("cost" in record and "cost" not in found[place]):
            found[place] = record
    return list(found.values())
