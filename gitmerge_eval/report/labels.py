"""Where the names of points stand, so that they cover neither one another nor a point."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

NEAR = 7.0
"""Pixels between a point and the name beside it."""
_RADII = (NEAR, 13.0, 21.0, 31.0, 43.0, 57.0)
_TURNS = (0, 4, 2, 6, 1, 7, 3, 5)
"""Eighths of a turn, in the order in which they are tried: right, left, above, below, corners."""


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels."""

    left: float
    bottom: float
    right: float
    top: float

    def overlap(self, other: Box) -> float:
        """The area that both cover."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.top, other.top) - max(self.bottom, other.bottom)
        return max(width, 0.0) * max(height, 0.0)

    def outside(self, other: Box) -> float:
        """The area of this one that ``other`` does not cover."""
        return (self.right - self.left) * (self.top - self.bottom) - self.overlap(other)


@dataclass(frozen=True)
class Placed:
    """A name's box, and whether a line should lead from the point to it."""

    box: Box
    led: bool


def place(
    points: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    frame: Box,
    obstacles: Sequence[Box] = (),
    marker: float = 5.0,
) -> list[Placed]:
    """A place for a name of each size beside its point, as near as possible, inside ``frame``.

    Greedy, from left to right; the first place that covers nothing is taken, else the one that
    covers least. ``obstacles`` are not to be covered either; ``marker`` is the half width of a
    point.

    >>> here, there = place([(50, 50), (52, 50)], [(30, 10)] * 2, Box(0, 0, 100, 100))
    >>> here.box.overlap(there.box)
    0.0
    """
    taken = [*obstacles]
    taken += [Box(x - marker, y - marker, x + marker, y + marker) for x, y in points]
    found: dict[int, Placed] = {}
    for index in sorted(range(len(points)), key=lambda i: points[i]):
        best, least = None, math.inf
        for radius in _RADII:
            for turn in _TURNS:
                box = _beside(points[index], sizes[index], radius, turn)
                cost = sum(box.overlap(other) for other in taken) + 4 * box.outside(frame)
                if cost < least - 1e-9:
                    best, least = Placed(box, radius > NEAR), cost
            if least == 0:
                break
        assert best is not None
        found[index] = best
        taken.append(best.box)
    return [found[index] for index in range(len(points))]


def _beside(point: tuple[float, float], size: tuple[float, float], radius: float, turn: int) -> Box:
    """The box of ``size`` whose nearest edge or corner is ``radius`` away in a direction."""
    angle = turn * math.pi / 4
    x, y = point[0] + radius * math.cos(angle), point[1] + radius * math.sin(angle)
    across, up = round(math.cos(angle)), round(math.sin(angle))
    width, height = size
    left = x - width * (1 - across) / 2
    bottom = y - height * (1 - up) / 2
    return Box(left, bottom, left + width, bottom + height)


def spread(heights: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """``heights`` moved as little as needed so that any two are ``gap`` apart, within bounds.

    >>> spread([10.0, 11.0, 30.0], 5.0, 0.0, 100.0)
    [8.0, 13.0, 30.0]
    """
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    blocks: list[tuple[list[int], float]] = []
    for index in order:
        members, centre = [index], heights[index]
        # Two blocks that would meet become one around the mean of where their members belong.
        while blocks:
            before, middle = blocks[-1]
            if centre - middle >= gap * (len(members) + len(before)) / 2:
                break
            blocks.pop()
            members = before + members
            centre = sum(heights[i] for i in members) / len(members)
        half = gap * (len(members) - 1) / 2
        blocks.append((members, min(max(centre, low + half), high - half)))
    found = [0.0] * len(heights)
    for members, centre in blocks:
        start = centre - gap * (len(members) - 1) / 2
        for number, index in enumerate(members):
            found[index] = start + number * gap
    return found
