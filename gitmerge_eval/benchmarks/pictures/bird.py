"""Birds: duck, flamingo, owl, penguin."""

from gitmerge_eval.benchmarks.pictures.geometry import (
    Part,
    Variation,
    bend,
    box,
    curve,
    ellipse,
    polygon,
    stroke,
)

INK = (25, 25, 30)


def duck(vary: Variation) -> list[Part]:
    """Afloat: a boat of a body, a round head, a flat bill."""
    body = vary.colour((240, 205, 70), (150, 110, 70), (245, 240, 225))
    bill = vary.colour((240, 140, 30))
    head_y = vary.between(0.28, 0.36)
    return [
        polygon(body, (0.08, 0.46), (0.3, 0.52), (0.22, 0.7)),
        ellipse(body, 0.45, 0.66, vary.between(0.3, 0.36), vary.between(0.17, 0.22)),
        polygon(body, (0.55, 0.6), (0.6, head_y), (0.78, head_y), (0.76, 0.66)),
        polygon(bill, (0.8, head_y - 0.02), (0.98, head_y + 0.05), (0.8, head_y + 0.09)),
        ellipse(body, 0.7, head_y, 0.14),
        ellipse(vary.colour((200, 160, 50), (110, 80, 50)), 0.42, 0.64, 0.17, 0.09, turn=10),
        ellipse(INK, 0.74, head_y - 0.03, 0.025),
    ]


def flamingo(vary: Variation) -> list[Part]:
    """Long legs and a long neck in the shape of an S."""
    pink = vary.colour((240, 130, 150), (245, 160, 150))
    knee = vary.between(0.66, 0.8)
    reach = vary.between(0.68, 0.78)
    return [
        stroke(pink, 0.035, (0.44, 0.55), (0.44, 0.98)),
        stroke(pink, 0.035, (0.52, 0.55), (vary.between(0.6, 0.72), knee), (0.5, knee + 0.1)),
        ellipse(pink, 0.44, 0.5, vary.between(0.22, 0.27), vary.between(0.12, 0.15), turn=-12),
        bend(pink, 0.065, (0.6, 0.46), (0.98, 0.4), (0.4, 0.25), (reach, 0.12)),
        ellipse(pink, reach + 0.02, 0.12, 0.075),
        polygon(INK, (reach + 0.07, 0.08), (reach + 0.2, 0.2), (reach + 0.05, 0.17)),
    ]


def owl(vary: Variation) -> list[Part]:
    """Upright, two huge eyes, two tufts."""
    body = vary.colour((140, 100, 65), (170, 140, 105), (120, 115, 110))
    belly = vary.colour((220, 195, 150))
    eye = vary.between(0.095, 0.125)
    tuft = vary.between(0.02, 0.1)
    return [
        polygon(body, (0.26, 0.32), (0.24, tuft), (0.46, 0.18)),
        polygon(body, (0.74, 0.32), (0.76, tuft), (0.54, 0.18)),
        ellipse(body, 0.5, 0.54, vary.between(0.27, 0.33), 0.4),
        ellipse(belly, 0.5, 0.7, 0.17, 0.2),
        ellipse((250, 245, 215), 0.38, 0.35, eye),
        ellipse((250, 245, 215), 0.62, 0.35, eye),
        ellipse(INK, 0.38, 0.35, 0.05),
        ellipse(INK, 0.62, 0.35, 0.05),
        polygon(vary.colour((235, 160, 50)), (0.45, 0.43), (0.55, 0.43), (0.5, 0.54)),
        box(vary.colour((110, 75, 45)), 0.1, 0.92, 0.9, 0.97),
    ]


def penguin(vary: Variation) -> list[Part]:
    """A dark coat, a white front, flippers, orange feet."""
    coat = vary.colour((40, 45, 60), (60, 70, 95))
    orange = vary.colour((245, 150, 40))
    spread = vary.between(0.06, 0.18)
    return [
        ellipse(orange, 0.4, 0.95, 0.09, 0.04),
        ellipse(orange, 0.6, 0.95, 0.09, 0.04),
        polygon(coat, (0.34, 0.38), (0.24 - spread, 0.72), (0.36, 0.6)),
        polygon(coat, (0.66, 0.38), (0.76 + spread, 0.72), (0.64, 0.6)),
        ellipse(coat, 0.5, 0.6, vary.between(0.2, 0.25), 0.34),
        ellipse(coat, 0.5, 0.2, 0.15, 0.16),
        ellipse((245, 245, 240), 0.5, 0.66, 0.14, 0.25),
        curve((245, 245, 240), 0.04, (0.5, 0.22), (0.09, 0.08), 20, 160),
        polygon(orange, (0.45, 0.2), (0.55, 0.2), (0.5, 0.3)),
        ellipse((245, 245, 240), 0.44, 0.15, 0.025),
        ellipse((245, 245, 240), 0.56, 0.15, 0.025),
    ]


CLASSES = {"duck": duck, "flamingo": flamingo, "owl": owl, "penguin": penguin}
