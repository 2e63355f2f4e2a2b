"""Parts of a drawing in the unit square (x to the right, y downwards) and how to place them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float64]
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Part:
    """One filled outline, or one stroke where ``width`` is positive."""

    points: Points
    """Shape (n, 2)."""
    colour: Colour
    width: float = 0.0
    """A stroke's width as a fraction of the square's side; 0 for a filled outline."""

    @property
    def filled(self) -> bool:
        """Whether the outline is closed and filled."""
        return self.width == 0.0


class Variation:
    """What is different from one picture of a class to the next, drawn from one generator."""

    def __init__(self, generator: np.random.Generator) -> None:
        self._generator = generator

    def between(self, low: float, high: float) -> float:
        """A number, uniform in [low, high)."""
        return float(self._generator.uniform(low, high))

    def count(self, low: int, high: int) -> int:
        """A whole number in [low, high]."""
        return int(self._generator.integers(low, high + 1))

    def colour(self, *choices: Colour, spread: int = 28) -> Colour:
        """One of the colours, each channel moved by at most ``spread``."""
        chosen = choices[int(self._generator.integers(len(choices)))]
        moved = self._generator.integers(-spread, spread + 1, 3)
        red, green, blue = (
            min(255, max(0, c + int(m))) for c, m in zip(chosen, moved, strict=True)
        )
        return red, green, blue


def polygon(colour: Colour, *corners: tuple[float, float]) -> Part:
    """A filled polygon."""
    return Part(np.array(corners, dtype=np.float64), colour)


def box(colour: Colour, left: float, top: float, right: float, bottom: float) -> Part:
    """A filled rectangle with sides along the axes."""
    return polygon(colour, (left, top), (right, top), (right, bottom), (left, bottom))


def stroke(colour: Colour, width: float, *corners: tuple[float, float]) -> Part:
    """A polyline."""
    return Part(np.array(corners, dtype=np.float64), colour, width)


def _arc(
    centre: tuple[float, float], radii: tuple[float, float], start: float, end: float, turn: float
) -> Points:
    steps = max(6, int(abs(end - start) / 20))
    angles = np.radians(np.linspace(start, end, steps + 1))
    local = np.stack([radii[0] * np.cos(angles), radii[1] * np.sin(angles)], axis=1)
    cosine, sine = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    rotation = np.array([[cosine, sine], [-sine, cosine]])
    return np.asarray(local @ rotation + np.array(centre))


def ellipse(
    colour: Colour, x: float, y: float, rx: float, ry: float | None = None, *, turn: float = 0.0
) -> Part:
    """A filled ellipse, turned by ``turn`` degrees; a circle where ``ry`` is left out."""
    return Part(_arc((x, y), (rx, rx if ry is None else ry), 0, 340, turn), colour)


def sector(
    colour: Colour, x: float, y: float, rx: float, ry: float, start: float, end: float
) -> Part:
    """The piece of an ellipse between two angles (degrees, clockwise), closed by its chord."""
    return Part(_arc((x, y), (rx, ry), start, end, 0.0), colour)


def curve(
    colour: Colour,
    width: float,
    centre: tuple[float, float],
    radii: tuple[float, float],
    start: float,
    end: float,
) -> Part:
    """A stroke along an ellipse between two angles."""
    return Part(_arc(centre, radii, start, end, 0.0), colour, width)


def bend(colour: Colour, width: float, *controls: tuple[float, float]) -> Part:
    """A smooth stroke: the Bézier curve of three or four control points."""
    points = np.array(controls, dtype=np.float64)
    t = np.linspace(0, 1, 13)[:, None]
    while len(points) > 1 and points.ndim == 2:
        points = points[:, None, :]
    while len(points) > 1:
        points = (1 - t) * points[:-1] + t * points[1:]
    return Part(points[0], colour, width)


def jitter(parts: Sequence[Part], amount: float, vary: Variation) -> list[Part]:
    """The parts under one random affine map around the centre of the square.

    ``amount`` is a fraction of the full range: 45 degrees of rotation, a third of scale, 0.4 of
    shear, 0.25 of the side of shift; mirrored half of the time.
    """
    angle = math.radians(vary.between(-45, 45)) * amount
    scale = 0.92 * (1 + vary.between(-0.33, 0.33) * amount)
    aspect = 1 + vary.between(-0.3, 0.3) * amount
    shear = vary.between(-0.4, 0.4) * amount
    shift = np.array([vary.between(-0.25, 0.25), vary.between(-0.25, 0.25)]) * amount
    mirror = -1.0 if vary.between(0, 1) < 0.5 else 1.0
    cosine, sine = math.cos(angle), math.sin(angle)
    turn = np.array([[cosine, -sine], [sine, cosine]])
    stretch = np.array([[mirror * scale * aspect, shear * scale], [0.0, scale / aspect]])
    matrix = (turn @ stretch).T
    return [replace(part, points=(part.points - 0.5) @ matrix + 0.5 + shift) for part in parts]


def place(parts: Sequence[Part], left: float, top: float, side: float) -> list[Part]:
    """The parts shrunk into the square with that corner and side."""
    corner = np.array([left, top])
    return [
        replace(part, points=part.points * side + corner, width=part.width * side) for part in parts
    ]
