"""Progress on stderr: a bar on a terminal, nothing elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def bar() -> Iterator[Callable[[str, int, int], None]]:
    """A callback ``show(what, done, total)`` that draws a bar for as long as the block runs."""
    if not sys.stderr.isatty():
        yield lambda what, done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        rows: dict[str, int] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in rows:
                rows[what] = progress.add_task(what, total=total)
            progress.update(rows[what], completed=done, total=total)  # type: ignore[arg-type]

        yield show
