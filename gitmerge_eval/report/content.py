"""What a report says: sections with figures and tables, each number with its trace."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gitmerge_eval.evaluation.correlation import three_digits
from gitmerge_eval.evaluation.gathering import Result
from gitmerge_eval.evaluation.note import TaskScore
from gitmerge_eval.report.figures import Grid, Panel

UNKNOWN = "–"


@dataclass(frozen=True)
class Trace:
    """Where a row's numbers are from: enough to compute the merge and the scores again."""

    spec: str
    """The digest of the MergeSpec."""
    data: str
    """The digest of tasks and data."""
    source: str
    where: str

    @classmethod
    def of(cls, result: Result) -> Trace:
        """Of one result."""
        return cls(result.note.spec or "", result.data, result.source, result.where)


@dataclass(frozen=True)
class Column:
    """A column's title, and the kind of what stands in it."""

    title: str
    kind: str = "text"
    """text, score, ratio, count, number, seconds, bytes or flops."""

    @property
    def numeric(self) -> bool:
        """Whether it is set flush right."""
        return self.kind != "text"


@dataclass(frozen=True)
class Row:
    """The cells of one row, and what they can be traced to."""

    cells: tuple[object, ...]
    traces: tuple[Trace, ...] = ()


@dataclass(frozen=True)
class Table:
    """Numbers beside a figure."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    traces: tuple[Trace, ...] = ()
    """What all of its rows can be traced to, where each row is of the same merges."""

    def shown(self) -> Iterator[tuple[Row, list[str]]]:
        """Each row with its cells as text."""
        for row in self.rows:
            yield (
                row,
                [
                    shown(cell, column.kind)
                    for cell, column in zip(row.cells, self.columns, strict=True)
                ],
            )

    def records(self) -> list[dict[str, Any]]:
        """For JSON: a mapping for each row."""
        titles = [column.title for column in self.columns]
        return [
            {
                **dict(zip(titles, row.cells, strict=True)),
                "traces": [asdict(trace) for trace in row.traces],
            }
            for row in self.rows
        ]


@dataclass(frozen=True)
class Section:
    """A part of the page: a figure, its numbers, and what they say; or what is missing."""

    name: str
    """Its anchor, and the name of its figure's files."""
    title: str
    text: tuple[str, ...] = ()
    panels: tuple[Panel | Grid, ...] = ()
    tables: tuple[Table, ...] = ()
    missing: str = ""
    """Where there is nothing to show: why, and the command that changes it."""
    command: str = ""


@dataclass(frozen=True)
class Source:
    """An entry of the appendix: everything behind a spec and a data digest."""

    trace: Trace
    method: str
    options: str
    constituents: tuple[str, ...]
    checkpoint: str
    evaluator: str
    settings: str
    scores: tuple[TaskScore, ...]


@dataclass(frozen=True)
class Report:
    """The whole page."""

    title: str
    branch: str
    commit: str
    made: str
    """When, in UTC."""
    tool: str
    summary: tuple[tuple[str, str], ...]
    """(what, value): benchmark, split, constituents, …"""
    sections: tuple[Section, ...]
    sources: tuple[Source, ...]
    remarks: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "title": self.title,
            "branch": self.branch,
            "commit": self.commit,
            "made": self.made,
            "tool": self.tool,
            "summary": dict(self.summary),
            "sections": [
                {
                    "name": section.name,
                    "title": section.title,
                    "text": list(section.text),
                    "missing": section.missing,
                    "command": section.command,
                    "tables": [
                        {
                            "caption": table.caption,
                            "rows": table.records(),
                            "traces": [asdict(trace) for trace in table.traces],
                        }
                        for table in section.tables
                    ],
                }
                for section in self.sections
            ],
            "sources": [asdict(source) for source in self.sources],
            "remarks": list(self.remarks),
        }


def shown(value: object, kind: str = "text") -> str:
    """A cell as text.

    >>> shown(81.254, "score"), shown(0.8701, "ratio"), shown(None, "score")
    ('81.25', '0.870', '–')
    >>> shown(1.5e9, "flops"), shown(0.01234, "seconds"), shown(2_500_000, "bytes")
    ('1.50 G', '0.0123 s', '2.50 MB')
    """
    if value is None or value == "":
        return UNKNOWN
    if not isinstance(value, (int, float)) or kind == "text":
        return str(value)
    if kind == "score":
        return f"{value:.2f}"
    if kind == "ratio":
        return f"{value:.3f}"
    if kind == "seconds":
        return f"{_trimmed(value)} s"
    if kind == "flops":
        return scaled(value)
    if kind == "bytes":
        return f"{scaled(value, 'kMGT')}B"
    return f"{value:,}" if kind == "count" else f"{value:g}"


def scaled(value: float, prefixes: str = "kMGTPE") -> str:
    """``value`` with three digits and a prefix of a thousand's power.

    >>> scaled(1234567), scaled(12)
    ('1.23 M', '12 ')
    """
    prefix = ""
    for letter in prefixes:
        if abs(value) < 999.5:
            break
        value, prefix = value / 1000, letter
    return f"{_trimmed(value) if prefix else f'{value:g}'} {prefix}"


def _trimmed(value: float) -> str:
    return three_digits(value).rstrip(".")


def listed(names: Sequence[str], most: int = 6) -> str:
    """``a, b and 3 more``.

    >>> listed(["a", "b", "c", "d"], 2)
    'a, b and 2 more'
    """
    rest = len(names) - most
    return ", ".join(names) if rest <= 0 else f"{', '.join(names[:most])} and {rest} more"
