"""Published numbers: a table of methods with their averages, to be laid beside one's own.

They are somebody else's measurements on somebody else's data. They carry the name of their source
wherever they are shown, and never count as results of this repository.
"""

from __future__ import annotations

import csv
import io
import math
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path

from gitmerge_eval.errors import UnknownName, UsageError
from gitmerge_eval.evaluation.results import open_beside

COLUMNS = {
    "method": "method",
    "held-in": "held_in",
    "heldin": "held_in",
    "generalization": "generalization",
    "generalisation": "generalization",
    "benchmark": "benchmark",
    "options": "options",
    "metric": "metric",
}
"""A header's words -> the member; case, spaces and underscores do not matter."""
NEEDED = ("method", "held_in", "generalization")
_CREATE = """
CREATE TABLE IF NOT EXISTS published (
    source TEXT NOT NULL, method TEXT NOT NULL, held_in REAL, generalization REAL,
    benchmark TEXT NOT NULL, options TEXT NOT NULL, metric TEXT NOT NULL,
    PRIMARY KEY (source, benchmark, method, options)
)
"""
_STORE = "INSERT OR REPLACE INTO published VALUES (?, ?, ?, ?, ?, ?, ?)"
_FIND = "SELECT * FROM published ORDER BY rowid"
_REMOVE = "DELETE FROM published WHERE source = ?"


@dataclass(frozen=True)
class Published:
    """One row of a published table."""

    source: str
    """Whose numbers these are, such as 'Tam et al. 2024, Table 4'."""
    method: str
    held_in: float | None
    generalization: float | None
    benchmark: str = ""
    options: str = ""
    metric: str = ""

    @property
    def as_ours(self) -> str:
        """The method's name as ours are spelt: 'Task Arithmetic' is 'task-arithmetic'."""
        return "-".join(self.method.lower().replace("_", " ").split())

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What it is a number of: rows with one key say the same thing."""
        return self.source, self.benchmark, self.method, self.options


def read_csv(text: str, source: str, benchmark: str = "") -> list[Published]:
    """The rows of a CSV table with the columns method, held-in and generalization.

    Columns benchmark, options and metric may be there too; others are passed over. An empty
    number is unknown. Raises UsageError for a missing column, a method without a name, a row that
    stands twice, and what is no number.
    """
    try:
        lines = list(csv.reader(io.StringIO(text), strict=True))
    except csv.Error as error:
        raise UsageError(f"the table is no CSV ({error}); save it again as one") from error
    header = [_member(word) for word in lines[0]] if lines else []
    missing = [name for name in NEEDED if name not in header]
    if missing:
        wanted = ", ".join(name.replace("_", "-") for name in missing)
        raise UsageError(
            f"the table lacks the column {wanted}; its first line must name method, held-in and "
            "generalization, separated by commas"
        )
    found: dict[tuple[str, str, str, str], Published] = {}
    for line, cells in enumerate(lines[1:], 2):
        if not any(cell.strip() for cell in cells):
            continue
        values = {name: cell.strip() for name, cell in zip(header, cells, strict=False) if name}
        row = _row(values, source, benchmark, line)
        if row.key in found:
            raise UsageError(f"line {line} has '{row.method}' a second time; keep one of them")
        found[row.key] = row
    return list(found.values())


def _member(word: str) -> str | None:
    return COLUMNS.get(word.strip().lower().replace("_", "-").replace(" ", "-"))


def _row(values: Mapping[str, str], source: str, benchmark: str, line: int) -> Published:
    if not values.get("method"):
        raise UsageError(f"line {line} names no method; fill its first column")
    return Published(
        source=source,
        method=values["method"],
        held_in=_number(values.get("held_in", ""), line),
        generalization=_number(values.get("generalization", ""), line),
        benchmark=values.get("benchmark") or benchmark,
        options=values.get("options", ""),
        metric=values.get("metric", ""),
    )


def _number(text: str, line: int) -> float | None:
    if text in ("", "-", "–"):
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UsageError(f"line {line} has '{text}', which is no number; leave it empty if unknown")
    return value


class PublishedTable:
    """The open table of published numbers; made by :func:`open_published`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def store(self, rows: Sequence[Published]) -> None:
        """Remember ``rows``, all or none of them; one with the same key is replaced."""
        with self._connection:
            self._connection.executemany(_STORE, [astuple(row) for row in rows])

    def find(self) -> list[Published]:
        """All rows, in the order in which they were imported."""
        return [Published(*row) for row in self._connection.execute(_FIND)]

    def sources(self) -> dict[str, int]:
        """source -> the number of its rows, in the order in which they were imported."""
        return dict(Counter(row.source for row in self.find()))

    def remove(self, source: str) -> int:
        """Forget the rows of a source; their number. Raises UnknownName where it has none."""
        with self._connection:
            removed = self._connection.execute(_REMOVE, (source,)).rowcount
        if not removed:
            raise UnknownName.among("published table", source, self.sources())
        return removed


@contextmanager
def open_published(path: Path) -> Iterator[PublishedTable]:
    """The table in the cache of scores at ``path``, made where it is missing.

    Raises EvaluationError where the file cannot be opened.
    """
    with open_beside(path, _CREATE) as connection:
        yield PublishedTable(connection)
