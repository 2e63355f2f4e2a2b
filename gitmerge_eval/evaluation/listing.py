"""All results as a flat list: one record for each merged model and split, and published numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from gitmerge_eval.evaluation.gathering import Gathered, Result, gather
from gitmerge_eval.evaluation.published import Published
from gitmerge_eval.evaluation.reporting import STATUSES, options_text
from gitmerge_eval.git.repository import Repository

COLUMNS = (
    "source", "where", "benchmark", "split", "metric", "method", "options", "constituents",
    "held_in", "held_in_normalised", "generalization", "generalization_normalised",
    "pretrained_held_in", "pretrained_generalization", "individual_held_in", "multitask_held_in",
    "multitask_generalization", "flops", "statistics_flops", "seconds", "peak_memory_bytes",
    "reused_groups", "chosen", "spec", "data", "recorded",
)  # fmt: skip
"""What a record has, and the columns of the CSV."""
_NUMBER = re.compile(r"(\d+(?:\.\d+)?)")
SHOWN = ("source", "method", "options", "of", "split", "held-in", "generalization", "spec", "data")


@dataclass(frozen=True)
class Listing:
    """The records, and what could not be read."""

    records: list[dict[str, Any]]
    correlation: str
    """Of held-in and generalization, where most methods were measured; '' where it is not known."""
    remarks: tuple[str, ...]


def listed(repository: Repository, split: str = "") -> Listing:
    """Every result that ``repository`` knows, sorted by benchmark, method and options, published
    numbers last; only those of one split where it is named."""
    found: Gathered = gather(repository)
    records = [_record(r) for r in found.results if split in ("", r.note.split)]
    records = sorted(records, key=_place)
    records += sorted((_published(row) for row in found.published), key=_place)
    main = next(iter(found.comparisons(split or "test")), None)
    correlation = str(main.correlation) if main and main.correlation else ""
    return Listing(records, correlation, found.remarks)


def _place(record: Mapping[str, Any]) -> tuple[object, ...]:
    """By benchmark, method and options, numbers in them by their size."""
    options = [
        (0, float(part), "") if _NUMBER.fullmatch(part) else (1, 0.0, part)
        for part in _NUMBER.split(record["options"])
    ]
    rest = (record["constituents"], record["split"], record["source"], record["where"])
    return (record["benchmark"], record["method"], options, rest, record["recorded"] or "")


def row(record: Mapping[str, Any]) -> tuple[str, ...]:
    """The cells of :data:`SHOWN`."""
    return (
        record["source"] if record["source"] != "published" else f"published: {record['where']}",
        record["method"],
        record["options"],
        ", ".join(record["constituents"].split(" ")),
        record["split"] or "–",
        _score(record["held_in"], record["held_in_normalised"]),
        _score(record["generalization"], record["generalization_normalised"]),
        record["spec"][:10] or "–",
        record["data"][:10] or "–",
    )


def _score(value: float | None, ratio: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.2f}" if ratio is None else f"{value:.2f} ({ratio:.3f})"


def _record(result: Result) -> dict[str, Any]:
    note, cost = result.note, asdict(result.cost) if result.cost else {}
    record = dict.fromkeys(COLUMNS)
    record |= {
        "source": result.source,
        "where": result.where,
        "benchmark": note.benchmark,
        "split": note.split,
        "metric": note.metric,
        "method": result.method,
        "options": options_text(result.options),
        "constituents": " ".join(note.constituents),
        "chosen": result.chosen,
        "spec": note.spec or "",
        "data": result.data,
        "recorded": result.recorded,
        **{name: cost.get(name) for name in COLUMNS if name in cost},
    }
    for status, member in zip(STATUSES, ("held_in", "generalization"), strict=True):
        record[member] = note.average(status)
        record[f"{member}_normalised"] = note.normalised(status)
        for model in ("pretrained", "individual", "multitask"):
            if f"{model}_{member}" in record:
                record[f"{model}_{member}"] = note.average(status, model)
    return record


def _published(row: Published) -> dict[str, Any]:
    return {
        **dict.fromkeys(COLUMNS),
        "source": "published",
        "where": row.source,
        "benchmark": row.benchmark,
        "split": "",
        "metric": row.metric,
        "method": row.method,
        "options": row.options,
        "constituents": "",
        "held_in": row.held_in,
        "generalization": row.generalization,
        "spec": "",
        "data": "",
    }
