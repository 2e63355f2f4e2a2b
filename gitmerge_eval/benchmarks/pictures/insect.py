"""Insects: ant, bee, butterfly, mosquito."""

from gitmerge_eval.benchmarks.pictures.geometry import (
    Part,
    Variation,
    bend,
    ellipse,
    polygon,
    stroke,
)

INK = (30, 25, 25)


def ant(vary: Variation) -> list[Part]:
    """Three beads in a row on six legs."""
    body = vary.colour((60, 35, 30), (150, 60, 40), (35, 35, 40))
    parts = []
    for x in (0.38, 0.5, 0.6):
        reach = (x - 0.48) * 1.1 + vary.between(-0.04, 0.04)
        for side in (-1, 1):
            knee = (x + reach, 0.5 + side * 0.2)
            parts.append(stroke(body, 0.025, (x, 0.5), knee, (x + 1.7 * reach, 0.5 + side * 0.36)))
    parts.append(bend(body, 0.02, (0.82, 0.46), (0.9, 0.36), (0.97, vary.between(0.24, 0.34))))
    parts.append(bend(body, 0.02, (0.82, 0.54), (0.9, 0.64), (0.97, vary.between(0.66, 0.76))))
    parts.append(ellipse(body, 0.22, 0.5, vary.between(0.15, 0.19), 0.12))
    parts.append(ellipse(body, 0.5, 0.5, 0.12, 0.08))
    parts.append(ellipse(body, 0.74, 0.5, 0.12, vary.between(0.09, 0.12)))
    return parts


def bee(vary: Variation) -> list[Part]:
    """Plump and striped, two wings up."""
    coat = vary.colour((245, 195, 50))
    wing = vary.colour((215, 230, 245), spread=10)
    plump = vary.between(0.19, 0.23)
    parts = [
        ellipse(wing, 0.42, 0.28, 0.11, 0.22, turn=-25 + vary.between(-10, 10)),
        ellipse(wing, 0.6, 0.28, 0.11, 0.22, turn=20 + vary.between(-10, 10)),
        polygon(INK, (0.14, 0.56), (0.03, 0.6), (0.14, 0.66)),
        ellipse(coat, 0.46, 0.6, 0.34, plump),
    ]
    for x, half in ((0.28, 0.78), (0.44, 0.97), (0.6, 0.88)):
        parts.append(stroke(INK, 0.07, (x, 0.6 - plump * half), (x, 0.6 + plump * half)))
    parts.append(ellipse(INK, 0.82, 0.58, 0.12))
    parts.append(bend(INK, 0.02, (0.86, 0.48), (0.9, 0.36), (0.98, 0.36)))
    return parts


def butterfly(vary: Variation) -> list[Part]:
    """Four broad wings around a thin body."""
    wing = vary.colour((240, 140, 40), (90, 130, 220), (200, 90, 180), (250, 220, 90))
    spot = vary.colour((250, 240, 200), (50, 40, 60))
    upper, lower = vary.between(0.2, 0.25), vary.between(0.13, 0.18)
    parts = []
    for side in (-1, 1):
        parts.append(ellipse(wing, 0.5 + side * 0.25, 0.7, lower, 0.19, turn=side * -25))
        parts.append(ellipse(wing, 0.5 + side * 0.26, 0.34, upper, 0.26, turn=side * 40))
        parts.append(ellipse(spot, 0.5 + side * 0.3, 0.32, 0.07))
        parts.append(ellipse(spot, 0.5 + side * 0.26, 0.7, 0.05))
        parts.append(
            bend(INK, 0.02, (0.5, 0.24), (0.5 + side * 0.04, 0.1), (0.5 + side * 0.14, 0.06))
        )
    return [*parts, ellipse(INK, 0.5, 0.52, 0.045, 0.3)]


def mosquito(vary: Variation) -> list[Part]:
    """Thin, with long bent legs and a needle."""
    body = vary.colour((70, 65, 60), (110, 90, 70))
    parts = []
    for i, x in enumerate((0.4, 0.5, 0.58)):
        knee = (x + (i - 1) * 0.22 + vary.between(-0.03, 0.03), 0.42)
        foot = (knee[0] + (i - 1) * 0.16 + vary.between(-0.04, 0.04), 0.95)
        parts.append(stroke(body, 0.02, (x, 0.52), knee, foot))
    wing = vary.colour((215, 220, 225), spread=10)
    lift = vary.between(-35, -15)
    parts += [
        ellipse(wing, 0.34, 0.34, 0.25, 0.06, turn=-lift),
        ellipse(wing, 0.44, 0.26, 0.24, 0.06, turn=-lift + 25),
        ellipse(body, 0.28, 0.58, 0.24, 0.045, turn=-14),
        ellipse(body, 0.54, 0.48, 0.1, 0.075),
        ellipse(INK, 0.68, 0.5, 0.055),
        stroke(INK, 0.02, (0.71, 0.53), (vary.between(0.84, 0.94), vary.between(0.72, 0.84))),
    ]
    return parts


CLASSES = {"ant": ant, "bee": bee, "butterfly": butterfly, "mosquito": mosquito}
