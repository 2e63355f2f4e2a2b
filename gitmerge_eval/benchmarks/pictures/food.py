"""Food: donut, hamburger, ice cream, pizza."""

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


def donut(vary: Variation) -> list[Part]:
    """A ring with a glaze and sprinkles."""
    dough = vary.colour((205, 150, 90))
    glaze = vary.colour((240, 140, 180), (110, 65, 45), (250, 240, 225))
    flat = vary.between(0.32, 0.4)
    parts = [
        ellipse(dough, 0.5, 0.5, 0.4, flat),
        ellipse(glaze, 0.5, 0.48, 0.35, flat - 0.05),
        ellipse((245, 240, 235), 0.5, 0.5, vary.between(0.11, 0.15), vary.between(0.1, 0.13)),
    ]
    start = vary.between(0, 60)
    for i in range(vary.count(6, 9)):
        angle = math.radians(start + 43 * i)
        x, y = 0.5 + 0.25 * math.cos(angle), 0.49 + 0.23 * math.sin(angle)
        tint = vary.colour((250, 230, 80), (90, 180, 240), (250, 250, 250))
        parts.append(stroke(tint, 0.03, (x - 0.02, y - 0.025), (x + 0.02, y + 0.025)))
    return parts


def hamburger(vary: Variation) -> list[Part]:
    """Two halves of a bun with layers between."""
    bun = vary.colour((215, 155, 80))
    dome = vary.between(0.26, 0.36)
    lettuce = vary.colour((110, 180, 70))
    teeth = [(0.08 + 0.07 * i, 0.53 if i % 2 else 0.6) for i in range(13)]
    parts = [
        sector(bun, 0.5, 0.74, 0.38, 0.16, 0, 180),
        box(vary.colour((100, 60, 40)), 0.1, 0.6, 0.9, 0.72),
        polygon(vary.colour((250, 205, 70)), (0.14, 0.58), (0.86, 0.58), (0.6, 0.68)),
        polygon(lettuce, (0.08, 0.48), (0.92, 0.48), *reversed(teeth)),
        sector(bun, 0.5, 0.48, 0.41, dome, 180, 360),
    ]
    for x, y in ((0.36, 0.34), (0.5, 0.27), (0.63, 0.35), (0.48, 0.4)):
        parts.append(ellipse((250, 235, 200), x, y, 0.025, 0.015, turn=vary.between(-40, 40)))
    return parts


def ice_cream(vary: Variation) -> list[Part]:
    """One to three scoops on a cone."""
    cone = vary.colour((220, 170, 100))
    scoops = vary.count(1, 3)
    rim = 0.36 + 0.07 * scoops
    parts: list[Part] = []
    for i in range(scoops):
        scoop = vary.colour((250, 225, 190), (245, 150, 175), (120, 75, 55), (170, 220, 170))
        parts.insert(0, ellipse(scoop, 0.5, rim - 0.04 - 0.18 * i, 0.2 - 0.015 * i, 0.16))
    edge = vary.between(0.18, 0.23)
    parts.append(polygon(cone, (0.5 - edge, rim), (0.5 + edge, rim), (0.5, 0.98)))
    mesh = (150, 105, 55)
    parts.append(stroke(mesh, 0.018, (0.5 - edge * 0.5, rim), (0.56, 0.82)))
    parts.append(stroke(mesh, 0.018, (0.5 + edge * 0.5, rim), (0.44, 0.82)))
    return parts


def pizza(vary: Variation) -> list[Part]:
    """A slice with a crust and toppings."""
    half = vary.between(0.34, 0.42)
    parts = [
        polygon(vary.colour((250, 205, 95)), (0.5 - half, 0.22), (0.5 + half, 0.22), (0.5, 0.97)),
        sector(vary.colour((195, 130, 65)), 0.5, 0.24, half + 0.04, 0.14, 170, 370),
    ]
    topping = vary.colour((190, 50, 40))
    for x, y in ((0.36, 0.36), (0.62, 0.38), (0.49, 0.53), (0.53, 0.74)):
        wobble = vary.between(-0.03, 0.03)
        parts.append(ellipse(topping, x + wobble, y + wobble, vary.between(0.05, 0.075)))
    olive = vary.colour((60, 80, 45))
    parts.append(ellipse(olive, 0.48 + vary.between(-0.03, 0.03), 0.36, 0.03))
    return parts


CLASSES = {"donut": donut, "hamburger": hamburger, "ice_cream": ice_cream, "pizza": pizza}
