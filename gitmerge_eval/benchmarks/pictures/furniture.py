"""Furniture: bed, chair, floor lamp, table."""

from gitmerge_eval.benchmarks.pictures.geometry import (
    Part,
    Variation,
    box,
    ellipse,
    polygon,
    stroke,
)


def _wood(vary: Variation) -> tuple[int, int, int]:
    return vary.colour((150, 95, 55), (195, 150, 100), (95, 65, 50))


def bed(vary: Variation) -> list[Part]:
    """A mattress between a high head and a low foot."""
    wood = _wood(vary)
    head = vary.between(0.2, 0.32)
    cloth = vary.colour((90, 130, 200), (200, 90, 110), (120, 180, 140))
    pillow = vary.between(0.3, 0.36)
    return [
        box(wood, 0.04, head, 0.12, 0.9),
        box(wood, 0.88, vary.between(0.46, 0.54), 0.96, 0.9),
        box((245, 240, 230), 0.12, 0.56, 0.88, 0.7),
        box(cloth, pillow + 0.06, 0.53, 0.88, 0.72),
        ellipse((250, 250, 250), 0.23, 0.51, 0.11, 0.06),
        box(wood, 0.12, 0.7, 0.88, 0.78),
    ]


def chair(vary: Variation) -> list[Part]:
    """A seat on legs with a back to one side."""
    wood = _wood(vary)
    seat = vary.between(0.52, 0.58)
    back = vary.between(0.06, 0.14)
    cloth = vary.colour((190, 70, 60), (80, 120, 150), (225, 195, 120))
    return [
        stroke(wood, 0.05, (0.28, seat), (0.25, 0.95)),
        stroke(wood, 0.05, (0.74, seat), (0.77, 0.95)),
        stroke(wood, 0.05, (0.4, seat), (0.4, 0.86)),
        stroke(wood, 0.05, (0.64, seat), (0.64, 0.86)),
        box(wood, 0.22, back, 0.29, seat),
        polygon(cloth, (0.29, back + 0.04), (0.38, back + 0.07), (0.38, seat - 0.1), (0.29, seat)),
        box(cloth, 0.22, seat, 0.8, seat + 0.09),
    ]


def floor_lamp(vary: Variation) -> list[Part]:
    """A shade on a pole on a foot."""
    metal = vary.colour((70, 70, 75), (170, 140, 70))
    shade = vary.colour((245, 220, 150), (220, 110, 90), (130, 170, 190))
    low = vary.between(0.3, 0.38)
    wide = vary.between(0.2, 0.28)
    return [
        stroke(metal, 0.04, (0.5, low), (0.5, 0.93)),
        ellipse(metal, 0.5, 0.93, vary.between(0.14, 0.2), 0.04),
        polygon(shade, (0.4, 0.06), (0.6, 0.06), (0.5 + wide, low), (0.5 - wide, low)),
        stroke(metal, 0.018, (0.58, low), (0.58, low + 0.12)),
    ]


def table(vary: Variation) -> list[Part]:
    """A wide top on four legs, sometimes with a bowl."""
    wood = _wood(vary)
    top = vary.between(0.38, 0.46)
    inset = vary.between(0.1, 0.2)
    parts = [
        stroke(wood, 0.05, (0.26 + inset, top), (0.26 + inset, 0.78)),
        stroke(wood, 0.05, (0.74 - inset, top), (0.74 - inset, 0.78)),
        stroke(wood, 0.06, (0.12, top), (0.1, 0.92)),
        stroke(wood, 0.06, (0.88, top), (0.9, 0.92)),
        polygon(wood, (0.16, top - 0.1), (0.84, top - 0.1), (0.97, top + 0.06), (0.03, top + 0.06)),
    ]
    if vary.between(0, 1) < 0.4:
        parts.append(
            ellipse(vary.colour((200, 80, 70), (90, 150, 190)), 0.5, top - 0.1, 0.13, 0.07)
        )
    return parts


CLASSES = {"bed": bed, "chair": chair, "floor_lamp": floor_lamp, "table": table}
