"""What a figure shows, before anybody draws it: panels of points and lines, or a grid of cells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Point:
    """One labelled point."""

    series: str
    """A method or a baseline: gives colour and marker."""
    x: float
    y: float
    label: str = ""
    """What stands beside it; the series' name where it is empty."""


@dataclass(frozen=True)
class Line:
    """A line through points, with a bar at each where there is a spread."""

    series: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    label: str = ""


@dataclass(frozen=True)
class Guide:
    """A dashed line across a panel at one value, named at its end."""

    value: float
    label: str
    axis: str = "x"
    """The axis that the value is on."""


@dataclass(frozen=True)
class Panel:
    """One pair of axes."""

    x_label: str
    y_label: str
    title: str = ""
    points: Sequence[Point] = ()
    lines: Sequence[Line] = ()
    guides: Sequence[Guide] = ()
    logarithmic: bool = False
    """Whether the horizontal axis is."""
    marked: Sequence[float] = ()
    """Values on the horizontal axis that are marked: what was chosen."""


@dataclass(frozen=True)
class Grid:
    """A heat map; a cell that has no value is left empty."""

    rows: Sequence[str]
    columns: Sequence[str]
    values: Mapping[tuple[str, str], float]
    outlined: frozenset[tuple[str, str]]
    title: str = ""


def series_of(panels: Iterable[Panel | Grid]) -> list[str]:
    """The names of all series in ``panels``, each once."""
    names: dict[str, None] = {}
    for panel in panels:
        if isinstance(panel, Panel):
            names |= dict.fromkeys(point.series for point in panel.points)
            names |= dict.fromkeys(line.series for line in panel.lines)
    return list(names)
