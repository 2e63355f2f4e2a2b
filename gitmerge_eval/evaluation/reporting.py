"""Evaluation notes as text for people, as JSON for programs, and as a progress bar."""

from __future__ import annotations

import math
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from gitmerge_eval.costs import Cost
from gitmerge_eval.errors import EvaluationError
from gitmerge_eval.evaluation import members
from gitmerge_eval.evaluation.note import EvaluationNote, TaskScore
from gitmerge_eval.records import canonical_json

SCHEMA = 1
KIND = "evaluation/"
"""A record's kind is this and the split."""
COLUMNS = 78
MODELS = ("merged", "pretrained", "individual", "multitask")
STATUSES = ("held-in", "generalization")
_NAME_WIDTH = 32
_SCORE_WIDTHS = {"merged": 9, "pretrained": 12, "individual": 12, "multitask": 11}
_DECIMALS = 4
"""Scores are stored to 1e-4 of a percent: a hundredth of one example in a hundred thousand."""
_SECONDS_DECIMALS = 3


def note_table(note: EvaluationNote) -> str:
    """The table that ``git log --notes=gitmerge-eval`` shows, at most 78 columns wide."""
    lines = _wrapped(f"{note.benchmark}, {note.split} split, {note.metric}: {_origin(note)}")
    lines += ["", " " * _NAME_WIDTH + "".join(f"{m:>{_SCORE_WIDTHS[m]}}" for m in MODELS)]
    for status in STATUSES:
        scores = [score for score in note.scores if score.status == status]
        if not scores:
            continue
        lines.append(status)
        lines += [
            _row(score.task, {model: getattr(score, model) for model in MODELS}) for score in scores
        ]
        lines.append(_row("average", {model: note.average(status, model) for model in MODELS}))
        ratio = note.normalised(status)
        if ratio is not None:
            reference = "individual" if status == "held-in" else "pretrained"
            name = f"  normalised by {reference}"
            lines.append(f"{name:<{_NAME_WIDTH}}{ratio:>{_SCORE_WIDTHS['merged']}.3f}")
    if note.figures:
        lines.append("of all tasks together")
        lines += [
            _row(name, {model: values.get(model) for model in MODELS})
            for name, values in note.figures.items()
        ]
    if note.sheet:
        lines += _wrapped(f"pictures: {note.sheet} in the git directory")
    if note.cost:
        lines += _wrapped(f"merging: {cost_text(note.cost)}")
    for remark in note.remarks:
        lines += _wrapped(f"note: {remark}")
    return "\n".join(lines) + "\n"


def _origin(note: EvaluationNote) -> str:
    if note.method is None:
        return note.path
    options = options_text(note.options)
    of = f" of {', '.join(note.constituents)}" if note.constituents else ""
    return f"{note.method}{f' ({options})' if options else ''}{of}"


def options_text(options: Mapping[str, Any]) -> str:
    """A method's options in one line, in the order of their names.

    >>> options_text({"scale": 0.30000000000000004, "density": 0.2})
    'density=0.2, scale=0.3'
    """
    return ", ".join(f"{name}={_plain(value)}" for name, value in sorted(options.items()))


def cost_text(cost: Cost) -> str:
    """What a merge took, in one line; what is not known or not needed is left out.

    >>> cost_text(Cost(1.234, 1, 56_700_000, flops=123_000, statistics_flops=4_560_000_000))
    '1.23 s and 56.7 MB on cpu, 1.23e+05 FLOPs, statistics 4.56e+09 FLOPs'
    """
    memory = f" and {cost.peak_memory_bytes / 1e6:.1f} MB" if cost.peak_memory_bytes else ""
    parts = [f"{cost.seconds:.2f} s{memory} on {cost.device}"]
    if cost.reused_groups:
        parts.append(f"{cost.reused_groups} groups known from an earlier merge")
    parts.append(f"{cost.flops:.3g} FLOPs")
    if cost.statistics_flops:
        parts.append(f"statistics {cost.statistics_flops:.3g} FLOPs")
    return ", ".join(parts)


def _plain(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return ",".join(_plain(part) for part in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, COLUMNS, subsequent_indent="  ", break_on_hyphens=False)


def _row(name: str, scores: Mapping[str, float | None]) -> str:
    room = _NAME_WIDTH - 3
    if len(name) > room:
        # Both ends of a name such as 'road_transportation-quickdraw' carry its meaning.
        half = (room - 1) // 2
        name = f"{name[:half]}…{name[len(name) - half :]}"
    cells = (
        f"{'-' if value is None else format(value, '.2f'):>{_SCORE_WIDTHS[model]}}"
        for model, value in scores.items()
    )
    return f"  {name:<{_NAME_WIDTH - 2}}" + "".join(cells)


def note_record(note: EvaluationNote) -> dict[str, Any]:
    """``note`` as a JSON object; what is unknown is left out."""
    record = {
        "schema": SCHEMA,
        # Part of a record's key in its note: one split's result never replaces another's.
        "kind": KIND + note.split,
        "benchmark": note.benchmark,
        "settings": dict(note.settings),
        "metric": note.metric,
        "split": note.split,
        "evaluator_version": note.evaluator_version,
        "path": note.path,
        "checkpoint": note.checkpoint,
        "method": note.method,
        "options": dict(note.options),
        "spec": note.spec,
        "constituents": list(note.constituents),
        "tasks": [_score_record(score) for score in note.scores],
        "averages": {status: _averages(note, status) for status in STATUSES},
        "seconds": round(note.seconds, _SECONDS_DECIMALS),
        "device": note.device,
        "figures": {name: _figures(values) for name, values in note.figures.items()} or None,
        "sheet": note.sheet,
        "cost": _cost_record(note.cost) if note.cost else None,
        "remarks": list(note.remarks),
    }
    return {key: value for key, value in record.items() if value is not None}


def _cost_record(cost: Cost) -> dict[str, Any]:
    return {**asdict(cost), "seconds": round(cost.seconds, _SECONDS_DECIMALS)}


def _figures(values: Mapping[str, float]) -> dict[str, float]:
    return {model: round(value, _DECIMALS) for model, value in values.items()}


def _score_record(score: TaskScore) -> dict[str, Any]:
    values = {model: _rounded(getattr(score, model)) for model in MODELS}
    record = {"task": score.task, "status": score.status, "data": score.fingerprint, **values}
    return {key: value for key, value in record.items() if value is not None}


def _averages(note: EvaluationNote, status: str) -> dict[str, float]:
    values = {model: _rounded(note.average(status, model)) for model in MODELS}
    values["normalised"] = _rounded(note.normalised(status))
    return {key: value for key, value in values.items() if value is not None}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, _DECIMALS)


def note_line(note: EvaluationNote) -> str:
    """:func:`note_record` as one line of canonical JSON."""
    return canonical_json(note_record(note))


def note_from_record(record: Mapping[str, Any]) -> EvaluationNote:
    """The note that :func:`note_record` made ``record`` from, its scores rounded to 1e-4.

    Raises EvaluationError where the record is of another schema or is not a note of ours.
    """
    if record.get("schema") != SCHEMA:
        raise EvaluationError(
            f"an evaluation note has schema {record.get('schema')!r} and this version reads "
            f"{SCHEMA}; upgrade gitmerge-eval, or run 'gitmerge-eval evaluate' to write it again"
        )
    try:
        return members.built(EvaluationNote, _members_of(record), "it")
    except (KeyError, TypeError, ValueError, AttributeError, EvaluationError) as error:
        why = f"lacks {error}" if isinstance(error, KeyError) else error
        raise EvaluationError(
            f"an evaluation note is malformed ({why}); run 'gitmerge-eval evaluate' to write it "
            "again"
        ) from error


_TOLD = (
    "benchmark", "metric", "split", "evaluator_version", "path", "checkpoint", "seconds", "device"
)  # fmt: skip


def _members_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """The members of the note that ``record`` spells: it may be anybody's, so each is looked at."""
    figures = members.mapping(record.get("figures", {}), "'figures'")
    return {
        **{name: record[name] for name in _TOLD},
        **{name: record[name] for name in ("method", "spec", "sheet") if name in record},
        "scores": tuple(_score(task) for task in members.sequence(record["tasks"], "'tasks'")),
        "settings": members.mapping(record["settings"], "'settings'"),
        "options": members.mapping(record["options"], "'options'"),
        "constituents": _texts(record["constituents"], "'constituents'"),
        "remarks": _texts(record["remarks"], "'remarks'"),
        "figures": {
            name: {model: _number(value) for model, value in members.mapping(of, name).items()}
            for name, of in figures.items()
        },
        "cost": Cost.from_dict(record["cost"]) if "cost" in record else None,
    }


def _score(task: Any) -> TaskScore:
    given = members.mapping(task, "a task")
    known = {m: _number(given[m]) for m in MODELS if m == "merged" or given.get(m) is not None}
    told = {"task": given["task"], "status": given["status"], "fingerprint": given["data"]}
    return members.built(TaskScore, {**told, **known}, "a task")


def _texts(value: Any, what: str) -> tuple[str, ...]:
    found = members.sequence(value, what)
    if not all(isinstance(one, str) for one in found):
        raise EvaluationError(f"{what} is {members.shown(value)} and should be a list of texts")
    return tuple(found)


def _number(value: object) -> float:
    """A score; TypeError for what is none: a note may be anybody's."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise TypeError(f"{value!r} is no score")
    return value


def summary(note: EvaluationNote) -> str:
    """One line: ``held-in 81.25 (0.870 of individual), generalization 52.08 (1.131 of …)``."""
    parts = []
    for status, reference in zip(STATUSES, ("individual", "pretrained"), strict=True):
        average, ratio = note.average(status), note.normalised(status)
        if average is not None:
            of = "" if ratio is None else f" ({ratio:.3f} of {reference})"
            parts.append(f"{status} {average:.2f}{of}")
    return ", ".join(parts)


@contextmanager
def evaluation_bar() -> Iterator[Callable[[str, float], None]]:
    """A progress bar on standard error; call it with a label and the completed part, 0 to 1.

    Shows nothing where standard error is not a terminal.
    """
    if not sys.stderr.isatty():
        yield lambda label, completed: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("evaluating"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        cells = bar.add_task("starting", total=1.0)
        yield lambda label, completed: bar.update(cells, description=label, completed=completed)
