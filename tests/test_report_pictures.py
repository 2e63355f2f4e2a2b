"""Where names stand in figures, and which colours series have."""

import itertools
import random
from xml.etree import ElementTree

import matplotlib
import pytest

from gitmerge_eval import methods
from gitmerge_eval.report import palette, pictures
from gitmerge_eval.report.content import Section
from gitmerge_eval.report.figures import Line, Panel, Point
from gitmerge_eval.report.labels import Box, place, spread

FRAME = Box(0, 0, 500, 380)


def test_names_cover_neither_one_another_nor_a_point_nor_leave_the_frame():
    draw = random.Random(0)
    for _ in range(20):
        points = [(draw.uniform(40, 460), draw.uniform(40, 340)) for _ in range(12)]
        found = place(points, [(70, 12)] * 12, FRAME, [Box(250, 0, 254, 380)])
        boxes = [placed.box for placed in found]
        covered = sum(a.overlap(b) for a, b in itertools.combinations(boxes, 2))
        covered += sum(
            box.overlap(Box(x - 5, y - 5, x + 5, y + 5)) for box in boxes for x, y in points
        )
        assert covered == 0
        assert all(box.outside(FRAME) == 0 for box in boxes)


def test_a_lone_point_has_its_name_at_its_right_without_a_line():
    (found,) = place([(100, 100)], [(40, 10)], FRAME)
    assert not found.led
    assert found.box == Box(107, 95, 147, 105)


@pytest.mark.parametrize("seed", range(5))
def test_spread_keeps_the_order_and_the_gap(seed):
    draw = random.Random(seed)
    heights = [draw.uniform(0, 100) for _ in range(9)]
    found = spread(heights, 10.0, 0.0, 100.0)
    assert sorted(range(9), key=lambda i: heights[i]) == sorted(range(9), key=lambda i: found[i])
    ordered = sorted(found)
    assert all(b - a >= 10.0 - 1e-9 for a, b in itertools.pairwise(ordered))
    assert ordered[0] >= -1e-9
    assert ordered[-1] <= 100.0 + 1e-9


def test_names_are_no_formulas_and_no_markup(tmp_path):
    names = ["$\\frac{", "</svg><script>", "日本", "a_b^c", "#010201"]
    points = [Point(name, number, number) for number, name in enumerate(names)]
    lines = [Line(name, [0, 1], [0, number]) for number, name in enumerate(names)]
    panels = (Panel("$x$", "y", "$\\broken{", points), Panel("x", "y", "", lines=lines))
    section = Section("names", "Names", panels=panels)
    matplotlib.rcParams["svg.fonttype"] = "path"  # the user's own setting does not count
    try:
        drawn = pictures.inline(section)
    finally:
        matplotlib.rcParams["svg.fonttype"] = "none"
    for svg in drawn:
        assert "<script" not in svg
        texts = [element.text for element in ElementTree.fromstring(svg).iter() if element.text]
        assert {"$\\frac{", "</svg><script>", "日本", "a_b^c"} <= {text.strip() for text in texts}
    assert "$\\broken{" in drawn[0]
    assert [path.suffix for path in pictures.write(section, tmp_path)] == [".png", ".png", ".svg"]


def test_equal_figures_are_equal_files():
    section = Section("one", "One", panels=(Panel("x", "y", points=[Point("ties", 1.0, 2.0)]),))
    assert pictures.inline(section) == pictures.inline(section)


def _contrast(one: str, other: str) -> float:
    """WCAG's ratio of relative luminances."""

    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_every_method_has_a_colour_and_a_marker_of_its_own_that_can_be_seen():
    assert set(palette.METHODS) == set(methods.load())
    known = palette.METHODS.values()
    assert len({style.light for style in known}) == len({style.marker for style in known}) == 9
    inks = palette.light({}), palette.dark({})
    for style in [*known, *palette.BASELINES.values(), *palette.STATUSES.values()]:
        assert _contrast(style.light, inks[0].ground) >= 3.0
        assert _contrast(style.dark, inks[1].ground) >= 3.0
    for ink in inks:
        assert _contrast(ink.ink, ink.ground) >= 7.0
        assert _contrast(ink.muted, ink.ground) >= 4.5
