"""What a benchmark found, and its three forms: a table for the terminal, Markdown, JSON."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

from gitmerge_eval.bench.processes import Summary
from gitmerge_eval.errors import UsageError

Row = Mapping[str, Any]


def _number(value: float) -> str:
    """Three significant digits, and no fewer than the whole number.

    >>> [_number(value) for value in (0.01234, 1.234, 12.34, 1234.5)]
    ['0.0123', '1.23', '12.3', '1234']
    """
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{digits}f}"


UNITS: Mapping[str, Callable[[Any], str]] = {
    "": str,
    "s": _number,
    "ms": lambda seconds: _number(seconds * 1e3),
    "MB": lambda size: f"{size / 1e6:.0f}",
    "GB": lambda size: _number(size / 1e9),
    "GB/s": lambda rate: _number(rate / 1e9),
    "TFLOP/s": lambda rate: _number(rate / 1e12),
    "GFLOP": lambda flops: _number(flops / 1e9),
    "ratio": _number,
    "count": str,
    "small": lambda value: f"{value:.1e}",
}
"""How a value is shown, by the unit of its column; values are kept in seconds and bytes."""


@dataclass(frozen=True)
class Column:
    """One column: the rows' key, what stands above it, and its unit."""

    key: str
    heading: str
    unit: str = ""

    def shown(self, row: Row) -> str:
        """The row's value as text; '-' where it has none."""
        value = row.get(self.key)
        return "-" if value is None else UNITS[self.unit](value)


@dataclass(frozen=True)
class Table:
    """Rows under a title."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Row]


@dataclass(frozen=True)
class Report:
    """All that one run of a benchmark has to say."""

    benchmark: str
    machine: Mapping[str, str]
    settings: Mapping[str, Any]
    tables: Sequence[Table]
    remarks: Sequence[str] = field(default=())

    def as_json(self) -> str:
        """Everything, with unrounded values in seconds and bytes."""
        return json.dumps(
            {
                "benchmark": self.benchmark,
                "machine": self.machine,
                "settings": self.settings,
                "tables": {table.title: list(table.rows) for table in self.tables},
                "remarks": list(self.remarks),
            },
            indent=2,
        )

    def as_markdown(self) -> str:
        """The tables as they stand in docs/benchmarks.md."""
        parts = [_listed(self.machine), _listed(self.settings)]
        parts += [f"**{table.title}**\n\n{_pipes(table)}" for table in self.tables]
        if self.remarks:
            parts.append("\n".join(f"- {remark}" for remark in self.remarks))
        return "\n\n".join(parts)

    def write(self, form: str = "table", output: TextIO | None = None) -> None:
        """Write it as 'table' (Markdown where rich is not installed), 'markdown' or 'json'."""
        target = output or sys.stdout
        if form == "json":
            print(self.as_json(), file=target)
        elif form == "markdown" or not self._draw(target):
            print(self.as_markdown(), file=target)

    def put_into(self, path: Path) -> None:
        """Write the Markdown between the benchmark's two markers in a document.

        UsageError where it has no ``<!-- bench <name>: begin -->`` and ``end``.
        """
        begin, end = (f"<!-- bench {self.benchmark}: {word} -->" for word in ("begin", "end"))
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        if text.count(begin) != 1 or text.count(end) != 1:
            raise UsageError(f"'{path}' has no place for these tables: {begin} and {end}")
        before, after = text.partition(begin)[0], text.partition(end)[2]
        path.write_text(f"{before}{begin}\n{self.as_markdown()}\n{end}{after}", encoding="utf-8")

    def _draw(self, output: TextIO) -> bool:
        """By rich, where it is installed; whether it was."""
        try:
            from rich import box
            from rich.console import Console
            from rich.table import Table as Drawn
        except ImportError:
            return False
        terminal = output.isatty()
        console = Console(file=output, width=None if terminal else 160, highlight=False)
        console.print(_listed(self.machine), markup=False)
        console.print(_listed(self.settings), markup=False)
        for table in self.tables:
            drawn = Drawn(title=table.title, title_justify="left", box=box.SIMPLE)
            for column in table.columns:
                drawn.add_column(column.heading, justify="right" if column.unit else "left")
            for row in table.rows:
                drawn.add_row(*(column.shown(row) for column in table.columns))
            console.print(drawn)
        for remark in self.remarks:
            console.print(remark, markup=False)
        return True


def columns_of(prefix: str, summary: Summary) -> dict[str, Any]:
    """A summary's numbers by the keys of a row: ``<prefix>_seconds`` and so on."""
    return {f"{prefix}_{name}": value for name, value in asdict(summary).items()}


def measured(prefix: str, heading: str) -> list[Column]:
    """The columns that show :func:`columns_of`."""
    return [
        Column(f"{prefix}_seconds", f"{heading} s", "s"),
        Column(f"{prefix}_cpu_seconds", "CPU s", "s"),
        Column(f"{prefix}_peak_bytes", "peak MB", "MB"),
        Column(f"{prefix}_anonymous_bytes", "of it anonymous", "MB"),
    ]


def ratio(ours: float | None, theirs: float | None) -> float | None:
    """ours / theirs; None where either is missing.

    >>> ratio(1.0, 4.0), ratio(1.0, None)
    (0.25, None)
    """
    return None if ours is None or not theirs else ours / theirs


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in values.items())


def _pipes(table: Table) -> str:
    lines = [
        " | ".join(column.heading for column in table.columns),
        "|".join("---:" if column.unit else "---" for column in table.columns),
        *(" | ".join(column.shown(row) for column in table.columns) for row in table.rows),
    ]
    return "\n".join(
        f"| {line} |" if number != 1 else f"|{line}|" for number, line in enumerate(lines)
    )
