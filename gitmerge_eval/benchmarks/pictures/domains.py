"""The six domains of DomainNet as renderers: the same parts, drawn six ways.

Each renderer takes parts in the unit square, a side in pixels and a generator, and returns an RGB
image of that side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from gitmerge_eval.benchmarks.pictures.geometry import Colour, Part, Points, place

Render = Callable[[Sequence[Part], int, np.random.Generator], Image.Image]
BLACK = (15, 15, 20)
WHITE = (255, 255, 255)


def _pixels(points: Points, side: int) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in points * side]


def _closed(part: Part) -> Points:
    return np.concatenate([part.points, part.points[:1]]) if part.filled else part.points


def _shade(colour: Colour, factor: float) -> Colour:
    red, green, blue = (min(255, max(0, int(c * factor))) for c in colour)
    return red, green, blue


def _paint(draw: ImageDraw.ImageDraw, part: Part, side: int, colour: Colour | int) -> None:
    if part.filled:
        draw.polygon(_pixels(part.points, side), fill=colour)
    else:
        width = max(1, round(part.width * side))
        draw.line(_pixels(part.points, side), fill=colour, width=width, joint="curve")


def _silhouette(parts: Sequence[Part], side: int) -> Image.Image:
    mask = Image.new("L", (side, side), 0)
    draw = ImageDraw.Draw(mask)
    for part in parts:
        _paint(draw, part, side, 255)
    return mask


def _tint(generator: np.random.Generator, low: int, high: int) -> Colour:
    red, green, blue = (int(c) for c in generator.integers(low, high + 1, 3))
    return red, green, blue


def _noise(side: int, cells: int, generator: np.random.Generator) -> Image.Image:
    """Smooth grey noise: ``cells`` × ``cells`` random values, enlarged."""
    values = generator.integers(0, 256, (cells, cells), dtype=np.uint8)
    return Image.fromarray(values).resize((side, side), Image.Resampling.BICUBIC)


def _gradient(first: Colour, second: Colour, side: int) -> Image.Image:
    ramp = np.linspace(0, 1, side)[:, None, None]
    rows = np.array(first) * (1 - ramp) + np.array(second) * ramp
    return Image.fromarray(np.broadcast_to(rows, (side, side, 3)).astype(np.uint8))


def quickdraw(parts: Sequence[Part], side: int, generator: np.random.Generator) -> Image.Image:
    """Twenty seconds with a mouse: wavering black outlines on white, some details forgotten."""
    image = Image.new("RGB", (side, side), WHITE)
    draw = ImageDraw.Draw(image)
    for index, part in enumerate(parts):
        if index > 3 and generator.uniform() < 0.15:
            continue
        points = _closed(part)
        wobble = generator.normal(0, 0.012, points.shape)
        drift = generator.normal(0, 0.012, 2)
        draw.line(_pixels(points + wobble + drift, side), fill=BLACK, width=max(1, side // 32))
    return image


def sketch(parts: Sequence[Part], side: int, generator: np.random.Generator) -> Image.Image:
    """Pencil on paper: doubled grey outlines, hatching in the direction of the hand."""
    paper = int(generator.integers(225, 251))
    image = Image.new("L", (side, side), paper)
    draw = ImageDraw.Draw(image)
    slope = generator.uniform(0.4, 1.4) * generator.choice([-1, 1])
    hatching = Image.new("L", (side, side), paper)
    lines = ImageDraw.Draw(hatching)
    gap = int(generator.integers(4, 7))
    for start in range(-2 * side, 3 * side, gap):
        lines.line([(start, 0), (start + slope * side, side)], fill=paper - 90, width=1)
    for part in parts:
        darkness = 1 - (0.3 * part.colour[0] + 0.59 * part.colour[1] + 0.11 * part.colour[2]) / 255
        if part.filled:
            mask = Image.new("L", (side, side), 0)
            _paint(ImageDraw.Draw(mask), part, side, 255)
            image.paste(hatching if darkness > 0.3 else paper, mask=mask)
        for _ in range(2):
            moved = _closed(part) + generator.normal(0, 0.008, 2)
            tone = int(paper - 120 - 60 * darkness)
            draw.line(_pixels(moved, side), fill=tone, width=max(1, side // 48))
    return image.filter(ImageFilter.GaussianBlur(0.4)).convert("RGB")


def clipart(parts: Sequence[Part], side: int, generator: np.random.Generator) -> Image.Image:
    """Flat saturated colours with a firm outline on a plain ground."""
    ground = WHITE if generator.uniform() < 0.6 else _tint(generator, 200, 255)
    image = Image.new("RGB", (side, side), ground)
    draw = ImageDraw.Draw(image)
    outline = max(1, side // 28)
    for part in parts:
        grey = sum(part.colour) / 3
        red, green, blue = (
            min(255, max(0, int(grey + 1.5 * (channel - grey)))) for channel in part.colour
        )
        if not part.filled:
            border = Part(part.points, part.colour, part.width + 1.5 * outline / side)
            _paint(draw, border, side, BLACK)
        _paint(draw, part, side, (red, green, blue))
        if part.filled:
            draw.line(_pixels(_closed(part), side), fill=BLACK, width=outline, joint="curve")
    return image


def real(parts: Sequence[Part], side: int, generator: np.random.Generator) -> Image.Image:
    """A photograph: a textured scene, light from one side, a soft shadow, some grain."""
    scene = _gradient(_tint(generator, 110, 220), _tint(generator, 60, 170), side)
    texture = _noise(side, int(generator.integers(5, 12)), generator)
    image = Image.blend(scene, texture.convert("RGB"), 0.22)
    silhouette = _silhouette(parts, side)
    offset = side // 16
    shadow = ImageChops.offset(silhouette, offset, offset).filter(
        ImageFilter.GaussianBlur(side / 24)
    )
    image.paste((20, 20, 25), mask=shadow.point([v * 55 // 100 for v in range(256)]))
    flat = Image.new("RGB", (side, side))
    draw = ImageDraw.Draw(flat)
    for part in parts:
        _paint(draw, part, side, _shade(part.colour, float(generator.uniform(0.8, 1.05))))
    angle = generator.uniform(0, 2 * np.pi)
    grid = np.linspace(-1, 1, side)
    light = 0.95 + 0.4 * (np.cos(angle) * grid[None, :] - np.abs(np.sin(angle)) * grid[:, None])
    relief = np.asarray(silhouette.filter(ImageFilter.GaussianBlur(side / 16))) / 255.0
    lit = np.asarray(flat) * (light * (0.45 + 0.55 * relief))[:, :, None]
    image.paste(Image.fromarray(np.clip(lit, 0, 255).astype(np.uint8)), mask=silhouette)
    image = image.filter(ImageFilter.GaussianBlur(0.7))
    grain = np.asarray(image) + generator.normal(0, 6, (side, side, 1))
    return Image.fromarray(np.clip(grain, 0, 255).astype(np.uint8))


def painting(parts: Sequence[Part], side: int, generator: np.random.Generator) -> Image.Image:
    """Oil: an uneven ground, colours that mix, brush strokes over everything."""
    image = _gradient(_tint(generator, 90, 210), _tint(generator, 70, 190), side)
    draw = ImageDraw.Draw(image)
    cast = generator.uniform(0.85, 1.1, 3)
    for part in parts:
        red, green, blue = (min(255, int(c * f)) for c, f in zip(part.colour, cast, strict=True))
        _paint(draw, part, side, (red, green, blue))
    under = np.asarray(image.filter(ImageFilter.GaussianBlur(side / 48))).astype(np.int64)
    strokes = 170
    spots = generator.integers(0, side, (strokes, 2))
    angles = generator.normal(generator.uniform(0, np.pi), 0.5, strokes)
    lengths = generator.uniform(side / 20, side / 8, strokes)
    mixes = generator.integers(-26, 27, (strokes, 3))
    for (x, y), angle, length, mix in zip(spots, angles, lengths, mixes, strict=True):
        red, green, blue = (min(255, max(0, int(c))) for c in under[y, x] + mix)
        dx, dy = np.cos(angle) * length / 2, np.sin(angle) * length / 2
        ends = [(x - dx, y - dy), (x + dx, y + dy)]
        draw.line(ends, fill=(red, green, blue), width=max(1, side // 24))
    return image.filter(ImageFilter.GaussianBlur(0.8))


def infograph(parts: Sequence[Part], side: int, generator: np.random.Generator) -> Image.Image:
    """A poster: the icon somewhere, a headline, lines of text, a chart."""
    ground = _tint(generator, 205, 250)
    accent = _tint(generator, 30, 190)
    image = Image.new("RGB", (side, side), ground)
    draw = ImageDraw.Draw(image)
    draw.rectangle([0, 0, side, side // 9], fill=accent)
    share = generator.uniform(0.58, 0.7)
    left = generator.uniform(0, 1 - share)
    top = generator.uniform(0.12, 1.0 - share) if share < 0.86 else 0.12
    ink = _shade(accent, 0.6)
    for row in np.arange(0.18, 0.98, 0.075):
        length = generator.uniform(0.5, 0.98)
        draw.line([(0.03 * side, row * side), (length * side, row * side)], fill=(150, 150, 155))
    corner = (left * side - 1, top * side - 1)
    far = ((left + share) * side, (top + share) * side)
    draw.rectangle([*corner, *far], fill=ground)
    chart = 0.0 if left > 0.5 * (1 - share) else left + share
    width = (1 - share - left) if chart else left
    bars = max(2, int(width * 14))
    for i in range(bars):
        height = generator.uniform(0.08, 0.4)
        x = (chart + (i + 0.2) * width / bars) * side
        draw.rectangle(
            [x, (0.98 - height) * side, x + 0.6 * width / bars * side, 0.98 * side], fill=accent
        )
    for part in place(parts, left, top, share):
        _paint(draw, part, side, part.colour)
        if part.filled:
            draw.line(_pixels(_closed(part), side), fill=ink, width=1)
    return image


DOMAINS: dict[str, Render] = {
    "clipart": clipart,
    "infograph": infograph,
    "painting": painting,
    "quickdraw": quickdraw,
    "real": real,
    "sketch": sketch,
}
