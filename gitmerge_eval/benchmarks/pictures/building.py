"""Buildings: castle, house, lighthouse, windmill."""

import math

from gitmerge_eval.benchmarks.pictures.geometry import (
    Part,
    Variation,
    box,
    ellipse,
    polygon,
    sector,
    stroke,
)

DARK = (60, 45, 40)


def castle(vary: Variation) -> list[Part]:
    """A wall with battlements between two towers, and a gate."""
    stone = vary.colour((160, 155, 150), (185, 165, 135))
    roof = vary.colour((170, 60, 55), (70, 90, 150))
    top = vary.between(0.28, 0.36)
    wall = vary.between(0.5, 0.58)
    parts = [box(stone, 0.3, wall, 0.7, 0.92)]
    parts += [box(stone, x, wall - 0.08, x + 0.08, wall) for x in (0.32, 0.46, 0.6)]
    for left in (0.08, 0.68):
        parts.append(box(stone, left, top, left + 0.24, 0.92))
        parts.append(
            polygon(roof, (left - 0.03, top), (left + 0.12, top - 0.24), (left + 0.27, top))
        )
        parts.append(box(DARK, left + 0.09, top + 0.12, left + 0.15, top + 0.24))
    parts.append(sector(DARK, 0.5, 0.92, 0.1, vary.between(0.18, 0.26), 180, 360))
    return parts


def house(vary: Variation) -> list[Part]:
    """Four walls, a gable, a chimney."""
    wall = vary.colour((225, 190, 140), (200, 120, 100), (235, 235, 225))
    roof = vary.colour((160, 60, 50), (90, 80, 90))
    eaves = vary.between(0.44, 0.52)
    ridge = vary.between(0.1, 0.18)
    chimney = vary.between(0.66, 0.74)
    return [
        box(DARK, chimney, ridge + 0.02, chimney + 0.1, eaves),
        box(wall, 0.16, eaves, 0.84, 0.92),
        polygon(roof, (0.06, eaves), (0.5, ridge), (0.94, eaves)),
        box(DARK, 0.26, 0.64, 0.42, 0.92),
        box(vary.colour((170, 210, 240)), 0.56, 0.6, 0.76, 0.78),
        stroke(DARK, 0.02, (0.66, 0.6), (0.66, 0.78)),
    ]


def lighthouse(vary: Variation) -> list[Part]:
    """A tapering striped tower with a lamp that shines."""
    stripe = vary.colour((205, 50, 45), (45, 80, 160))
    white = (245, 245, 240)
    lamp = vary.colour((250, 220, 90))
    foot = vary.between(0.17, 0.22)
    beam = vary.between(0.05, 0.12)

    def band(top: float, bottom: float) -> list[tuple[float, float]]:
        upper, lower = (0.1 + (foot - 0.1) * (y - 0.3) / 0.62 for y in (top, bottom))
        return [
            (0.5 - upper, top),
            (0.5 + upper, top),
            (0.5 + lower, bottom),
            (0.5 - lower, bottom),
        ]

    return [
        polygon(lamp, (0.55, 0.22), (0.98, 0.22 - beam), (0.98, 0.22 + beam)),
        polygon(lamp, (0.45, 0.22), (0.02, 0.22 - beam), (0.02, 0.22 + beam)),
        polygon(white, *band(0.3, 0.92)),
        *(polygon(stripe, *band(y, y + 0.13)) for y in (0.36, 0.6, 0.79)),
        box(lamp, 0.42, 0.15, 0.58, 0.28),
        box(DARK, 0.36, 0.27, 0.64, 0.31),
        polygon(stripe, (0.38, 0.16), (0.5, 0.05), (0.62, 0.16)),
    ]


def windmill(vary: Variation) -> list[Part]:
    """A tower with four sails, turned as the wind has it."""
    tower = vary.colour((190, 150, 110), (215, 210, 200))
    sail = vary.colour((240, 235, 215), (150, 110, 80))
    phase = vary.between(0, 90)
    length = vary.between(0.34, 0.42)
    parts = [
        polygon(tower, (0.4, 0.36), (0.6, 0.36), (0.7, 0.94), (0.3, 0.94)),
        sector(DARK, 0.5, 0.36, 0.12, 0.12, 180, 360),
        box(DARK, 0.45, 0.78, 0.55, 0.94),
    ]
    for quarter in range(4):
        angle = math.radians(phase + 90 * quarter)
        along = (math.cos(angle) * length, math.sin(angle) * length)
        across = (-math.sin(angle) * 0.11, math.cos(angle) * 0.11)
        tip = (0.5 + along[0], 0.36 + along[1])
        near = (0.5 + along[0] * 0.25, 0.36 + along[1] * 0.25)
        parts.append(
            polygon(
                sail,
                near,
                tip,
                (tip[0] + across[0], tip[1] + across[1]),
                (near[0] + across[0], near[1] + across[1]),
            )
        )
        parts.append(stroke(DARK, 0.025, (0.5, 0.36), tip))
    return [*parts, ellipse(DARK, 0.5, 0.36, 0.035)]


CLASSES = {"castle": castle, "house": house, "lighthouse": lighthouse, "windmill": windmill}
