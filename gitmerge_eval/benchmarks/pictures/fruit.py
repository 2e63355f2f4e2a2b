"""Fruit: apple, banana, grapes, strawberry."""

import math

import numpy as np

from gitmerge_eval.benchmarks.pictures.geometry import (
    Part,
    Variation,
    bend,
    ellipse,
    polygon,
    stroke,
)

BARK = (90, 60, 35)


def apple(vary: Variation) -> list[Part]:
    """Two lobes, a stalk, a leaf."""
    skin = vary.colour((205, 45, 45), (130, 185, 60), (225, 190, 70))
    wide = vary.between(0.38, 0.44)
    angles = np.radians(np.linspace(0, 345, 24))
    dent = 1 - 0.3 * np.exp(-((np.minimum(angles, 2 * np.pi - angles) / 0.5) ** 2))
    x = 0.5 + wide * np.sin(angles) * (0.9 + 0.1 * np.cos(angles))
    return [
        Part(np.stack([x, 0.58 - 0.36 * np.cos(angles) * dent], axis=1), skin),
        bend(BARK, 0.04, (0.5, 0.3), (0.5, 0.18), (vary.between(0.5, 0.6), 0.08)),
        ellipse(vary.colour((90, 160, 60)), 0.64, 0.16, 0.12, 0.05, turn=vary.between(-40, -10)),
    ]


def banana(vary: Variation) -> list[Part]:
    """A crescent with dark ends."""
    peel = vary.colour((245, 215, 70), (190, 205, 80))
    depth = vary.between(0.2, 0.32)
    angles = np.radians(np.linspace(20, 160, 12))
    outer = np.stack([0.5 + 0.46 * np.cos(angles), 0.3 + 0.55 * np.sin(angles)], axis=1)
    inner = np.stack([0.5 + 0.4 * np.cos(angles), 0.3 + depth * np.sin(angles)], axis=1)[::-1]
    left, right = outer[-1], outer[0]
    return [
        Part(np.concatenate([outer, inner]), peel),
        stroke(BARK, 0.05, (right[0] - 0.03, right[1]), (right[0] + 0.03, right[1] - 0.12)),
        ellipse(BARK, float(left[0]) + 0.02, float(left[1]) - 0.02, 0.03),
        bend((150, 120, 40), 0.018, (0.16, 0.52), (0.5, 0.88), (0.84, 0.52)),
    ]


def grapes(vary: Variation) -> list[Part]:
    """A bunch that narrows downwards."""
    skin = vary.colour((120, 60, 140), (150, 190, 90), (90, 50, 90))
    rows = vary.count(3, 4)
    size = 0.44 / (rows + 1)
    parts = [stroke(BARK, 0.04, (0.5, 0.24), (vary.between(0.44, 0.56), 0.04))]
    for row in range(rows):
        many = rows - row
        for i in range(many):
            x = 0.5 + (i - (many - 1) / 2) * size * 1.8
            berry = vary.colour(skin, spread=14)
            parts.append(ellipse(berry, x, 0.3 + row * size * 1.65, size))
    leaf = vary.colour((90, 150, 60))
    parts.append(polygon(leaf, (0.52, 0.2), (0.7, 0.04), (0.86, 0.14), (0.74, 0.26)))
    return parts


def strawberry(vary: Variation) -> list[Part]:
    """A heart with seeds under a green crown."""
    skin = vary.colour((220, 40, 55), (235, 85, 85))
    wide = vary.between(0.32, 0.38)
    angles = np.radians(np.linspace(0, 345, 24))
    x = 0.5 + wide * np.sin(angles) * (1 - 0.22 * (1 - np.cos(angles)))
    y = 0.58 - 0.38 * np.cos(angles)
    parts = [Part(np.stack([x, y], axis=1), skin)]
    for row, many in ((0.42, 3), (0.56, 4), (0.7, 3), (0.82, 2)):
        for i in range(many):
            seed_x = 0.5 + (i - (many - 1) / 2) * 0.14
            parts.append(ellipse((250, 225, 130), seed_x, row, 0.018, 0.028))
    crown = vary.colour((80, 155, 60))
    tips = []
    for i in range(9):
        radius = 0.26 if i % 2 == 0 else 0.1
        angle = math.radians(180 + i * 22.5)
        tips.append((0.5 + radius * math.cos(angle), 0.24 + radius * 0.75 * math.sin(angle) + 0.03))
    return [*parts, polygon(crown, *tips, (0.5, 0.32))]


CLASSES = {"apple": apple, "banana": banana, "grapes": grapes, "strawberry": strawberry}
