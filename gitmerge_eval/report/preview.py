"""A previewed merge as a comment on a pull request."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from gitmerge_eval.auditing.findings import Audit
from gitmerge_eval.evaluation.note import EvaluationNote
from gitmerge_eval.evaluation.reporting import STATUSES, cost_text, note_record, options_text
from gitmerge_eval.previewing import CONFLICT, MERGED, NOTHING, REFUSED, Preview
from gitmerge_eval.report.content import Column, Row, Section, Table, listed
from gitmerge_eval.report.markdown import document, escaped

MARKER = "<!-- gitmerge-eval preview -->"
"""The comment's first line, by which it is found again and replaced instead of written twice."""
_OUTCOMES = {
    MERGED: "The merge goes through.",
    CONFLICT: "The merge has conflicts.",
    REFUSED: "The merge is refused.",
    NOTHING: "There is nothing to merge: the branches are merged already.",
}
_MODELS = ("pretrained", "individual", "multitask")


def comment(found: Preview) -> str:
    """The preview as Markdown, its first line the marker."""
    heads = listed([head.name for head in found.heads])
    sections = [_merge(found), *_scores(found), *_tasks(found)]
    if found.audit is not None:
        sections.append(_verification(found.audit))
    text = document(
        f"Merging {heads} into {found.into.name}",
        (_OUTCOMES[found.made.outcome], "", *_effects(found)),
        sections,
    )
    return f"{MARKER}\n{text}"


def as_dict(found: Preview) -> dict[str, Any]:
    """The preview for JSON."""
    record = found.made.record
    return {
        "outcome": found.made.outcome,
        "into": asdict(found.into),
        "heads": [asdict(head) for head in found.heads],
        "method": record.method if record else None,
        "options": dict(record.options) if record else {},
        "conflicts": list(found.made.conflicts),
        "messages": list(found.made.messages),
        "evaluation": note_record(found.note) if found.note else None,
        "before": note_record(found.before) if found.before else None,
        "remarks": list(found.remarks),
        "verification": found.audit.as_dict() if found.audit else None,
    }


def _effects(found: Preview) -> Iterator[str]:
    """``held-in 89.32 accuracy, 1.20 above what is there now``, a line for each average."""
    for status in STATUSES:
        value = found.note.average(status) if found.note else None
        if found.note is None or value is None:
            continue
        line = f"- {status} {value:.2f} {escaped(found.note.metric)}"
        before = _average(found, status)
        if before is not None:
            word = "above" if value >= before else "below"
            line += f", {abs(value - before):.2f} {word} {escaped(found.into.name)} as it is now"
        yield line


def _average(found: Preview, status: str) -> float | None:
    """What is there now, averaged over the tasks that have that status for the merge."""
    if found.note is None or found.before is None:
        return None
    now = {score.task: score.merged for score in found.before.scores}
    known = [now.get(score.task) for score in found.note.scores if score.status == status]
    values = [value for value in known if value is not None]
    return sum(values) / len(values) if values and len(values) == len(known) else None


def _merge(found: Preview) -> Section:
    record = found.made.record
    rows = [("into", f"{found.into.name} at {found.into.commit[:10]}")]
    rows += [("branch", f"{head.name} at {head.commit[:10]}") for head in found.heads]
    if record is not None:
        rows += [("method", record.method), ("options", options_text(record.options))]
        rows += [("model", path) for _, path in record.models]
        rows += [("base", base[:10]) for base in record.bases]
        rows += [("constituent", f"{name} at {c[:10]}") for c, name in record.constituents]
    elif found.possible:
        rows.append(("method", "none: no model was changed on both sides"))
    rows += [("conflict", path) for path in found.made.conflicts]
    if found.note and found.note.cost:
        rows.append(("cost", cost_text(found.note.cost)))
    table = Table("The merge", (Column("what"), Column("value")), tuple(map(Row, rows)))
    return Section("merge", "The merge", found.made.messages, tables=(table,))


def _scores(found: Preview) -> Iterator[Section]:
    if found.note is None:
        if found.remarks:
            yield Section("scores", "Evaluation", found.remarks)
        return
    note = found.note
    now = tuple(_average(found, status) for status in STATUSES)
    lines = {
        "the merge": tuple(note.average(status) for status in STATUSES),
        f"{found.into.name} as it is now": now,
        **{model: tuple(note.average(s, model) for s in STATUSES) for model in _MODELS},
    }
    by = (note.average("held-in", "individual"), note.average("generalization", "pretrained"))
    rows = [
        Row((name, held_in, _ratio(held_in, by[0]), general, _ratio(general, by[1])))
        for name, (held_in, general) in lines.items()
        if held_in is not None or general is not None
    ]
    columns = (
        Column("model"), Column("held-in", "score"), Column("of individual", "ratio"),
        Column("generalization", "score"), Column("of pretrained", "ratio"),
    )  # fmt: skip
    table = Table(f"{note.benchmark}, {note.split} split, {note.metric}", columns, tuple(rows))
    yield Section("scores", "Evaluation", found.remarks, tables=(table,))


def _ratio(value: float | None, by: float | None) -> float | None:
    return value / by if value is not None and by else None


def _tasks(found: Preview) -> Iterator[Section]:
    if found.note is None:
        return
    before: EvaluationNote | None = found.before
    now = {score.task: score.merged for score in before.scores} if before else {}
    columns = (
        Column("task"), Column("status"), Column("the merge", "score"), Column("now", "score"),
        *(Column(model, "score") for model in _MODELS),
    )  # fmt: skip
    rows = tuple(
        Row((s.task, s.status, s.merged, now.get(s.task), s.pretrained, s.individual, s.multitask))
        for s in found.note.scores
    )
    yield Section("tasks", "Task by task", tables=(Table("All tasks", columns, rows),))


def _verification(audit: Audit) -> Section:
    commits = "1 commit" if audit.commits == 1 else f"{audit.commits} commits"
    text = (
        f"{commits} that the merge would bring: "
        + ("nothing is wrong." if audit.sound else "see below."),
        "Merges were not computed again; 'gitmerge-eval verify --recompute' does that.",
    )
    columns = (Column("commit"), Column("verdict"), Column("kind"), Column("file"), Column("what"))
    rows = tuple(
        Row((f"{f.commit[:10]} {f.subject[:60]}", f.verdict, f.kind, f.path, f.problem))
        for f in audit.findings
    )
    tables = (Table("Findings", columns, rows),) if rows else ()
    return Section("verification", "Verification", text, tables=tables)
