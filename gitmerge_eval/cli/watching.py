"""A live table of a sweep or a scaling on stderr: how far, how good so far, how long yet."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gitmerge_eval.studies.trials import Step


EVERY_SECONDS = 30.0
AT_LEAST_SECONDS = 1.0


@dataclass
class _Row:
    """What is known of one method."""

    done: int = 0
    heldin: float | None = None
    generalization: float | None = None
    seconds: float = 0.0


class Board:
    """The state behind the table; :meth:`table` draws it."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.rows: dict[str, _Row] = {}
        self.doing = ""
        self.step: Step | None = None

    def see(self, step: Step) -> None:
        """Take in what has happened."""
        self.step, self.doing = step, step.doing
        if step.run is None:
            return
        row = self.rows.setdefault(step.method, _Row())
        row.done += 1
        row.seconds += step.run.cost.seconds + step.run.evaluation_seconds
        for split in step.run.scores:
            row.heldin = _best(row.heldin, step.run.average("held-in", split))
            found = step.run.average("generalization", split)
            row.generalization = _best(row.generalization, found)

    def table(self) -> Any:
        """A rich table of all methods so far, with a line below."""
        from rich import box
        from rich.table import Table

        table = Table(box=box.SIMPLE_HEAD, caption=self.status, caption_justify="left")
        for column in ("method", "done", "best held-in", "best generalization", "seconds"):
            table.add_column(column, justify="left" if column == "method" else "right")
        for method, row in self.rows.items():
            scores = (_shown(row.heldin), _shown(row.generalization))
            table.add_row(method, str(row.done), *scores, f"{row.seconds:.1f}")
        return table

    @property
    def status(self) -> str:
        """``sweep: 12 of 53, about 1 min 20 s left; scoring mats iterations=10 on bird-real``."""
        if self.step is None:
            return f"{self.title}: looking at the heads"
        line = f"{self.title}: {self.step.done} of {self.step.total}"
        if self.step.remaining_seconds is not None:
            line += f", about {duration(self.step.remaining_seconds)} left"
        return f"{line}; {self.doing}" if self.doing else line


@dataclass
class Lines:
    """The board's status as plain lines on stderr, for a log: at each tenth, and every half
    minute. What takes no longer than a second needs none."""

    board: Board
    clock: Callable[[], float] = time.monotonic
    _said: float | None = None
    _tenth: int = 0

    def see(self, step: Step) -> None:
        """Take in what has happened, and say it where it is time."""
        self.board.see(step)
        now = self.clock()
        if self._said is None:
            self._said = now
        tenth = 10 * step.done // step.total if step.total else 0
        quiet = now - self._said
        if quiet >= EVERY_SECONDS or (tenth > self._tenth and quiet >= AT_LEAST_SECONDS):
            self._said, self._tenth = now, tenth
            print(f"gitmerge-eval: {self.board.status}", file=sys.stderr, flush=True)


@contextmanager
def watched(title: str) -> Iterator[Callable[[Step], None]]:
    """A callback that keeps a live table on stderr; lines where that is no terminal."""
    try:
        with _shown_on_terminal(title) as watch:
            yield watch
    except KeyboardInterrupt:
        said = "what was finished is kept, and the same command goes on from there"
        print(f"gitmerge-eval: {title} was stopped; {said}", file=sys.stderr)
        raise


@contextmanager
def _shown_on_terminal(title: str) -> Iterator[Callable[[Step], None]]:
    board = Board(title)
    if not sys.stderr.isatty():
        yield Lines(board).see
        return
    from rich.console import Console
    from rich.live import Live

    with Live(
        console=Console(stderr=True),
        get_renderable=board.table,
        refresh_per_second=4,
        transient=True,
    ):
        yield board.see


def duration(seconds: float) -> str:
    """Seconds for people.

    >>> duration(7.2), duration(80), duration(7300)
    ('7 s', '1 min 20 s', '2 h 1 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _best(known: float | None, found: float | None) -> float | None:
    return found if known is None else known if found is None else max(known, found)


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
