"""Figures drawn by matplotlib; the only room that imports it, and only when it draws."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from gitmerge_eval.report import labels
from gitmerge_eval.report.figures import Grid, Guide, Line, Panel
from gitmerge_eval.report.palette import Inks, Style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

FONT = 10.0
"""Points; a panel is as wide as a phone, so that text is never scaled below what is readable."""
PANEL = (5.2, 3.9)
"""Inches."""
_SMALL = 9.0
_CELL = 0.38
_MARKER = 52.0
_MIDDLE = 0.18
"""The luminance on which black and white text have the same contrast."""


def size(panel: Panel | Grid) -> tuple[float, float]:
    """Width and height in inches."""
    if isinstance(panel, Grid):
        return max(PANEL[0], 1.5 + 0.7 * len(panel.columns)), 1.3 + _CELL * len(panel.rows)
    return PANEL


@contextmanager
def settings() -> Iterator[None]:
    """How matplotlib draws within the context, whatever the user has configured.

    Names may be anybody's: a dollar sign begins no formula, and a letter that the font lacks is
    left to the reader's fonts.
    """
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(
            {
                "font.size": FONT, "font.family": "DejaVu Sans", "text.parse_math": False,
                # Text stays text: it can be searched, copied and read out.
                "svg.fonttype": "none",
                # Fixed ids: equal figures have equal files.
                "svg.hashsalt": "gitmerge-eval",
            }
        )  # fmt: skip
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def canvas(width: float, height: float) -> Canvas:
    """An empty drawing without a ground of its own."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08)
    figure = Canvas(figsize=(width, height), layout=layout, dpi=100)
    FigureCanvasAgg(figure)
    figure.patch.set_alpha(0)
    return figure


def draw(axes: Axes, panel: Panel | Grid, styles: Mapping[str, Style], inks: Inks) -> None:
    """Draw ``panel`` into ``axes``; names are placed by :func:`finish`, once all is laid out."""
    _dress(axes, inks)
    if panel.title:
        axes.set_title(
            panel.title, fontsize=FONT + 1, color=inks.ink, loc="left", fontweight="bold"
        )
    if isinstance(panel, Grid):
        _grid(axes, panel, inks)
        return
    axes.set_xlabel(panel.x_label, color=inks.ink, fontsize=FONT)
    axes.set_ylabel(panel.y_label, color=inks.ink, fontsize=FONT)
    axes.grid(True, color=inks.lines, linewidth=0.6)
    axes.set_axisbelow(True)
    for value in panel.marked:
        axes.axvline(value, color=inks.muted, linewidth=0.9, linestyle=(0, (1, 2)), zorder=1)
    for line, aside in zip(panel.lines, _aside(panel.lines), strict=True):
        _line(axes, line, styles[line.series], inks, aside)
    for point in panel.points:
        axes.scatter(
            [point.x], [point.y], s=_MARKER, marker=styles[point.series].marker, zorder=3,
            color=inks[point.series], edgecolors=inks.ground, linewidths=0.7,
        )  # fmt: skip
    axes.margins(x=0.12 if panel.points else 0.04, y=0.12)
    for guide in panel.guides:
        across = axes.axvline if guide.axis == "x" else axes.axhline
        across(guide.value, color=inks.muted, linewidth=1.0, linestyle=(0, (4, 3)), zorder=1)
    _tick(axes, panel)


def finish(figure: Canvas, axes: Axes, panel: Panel | Grid, inks: Inks) -> None:
    """Name points, lines and guides; the layout must not change any more."""
    if isinstance(panel, Grid):
        return
    renderer: Any = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    for guide in panel.guides:
        _name_guide(axes, guide, inks)
    if panel.points:
        _name_points(axes, panel, renderer, inks)
    if panel.lines:
        _name_lines(figure, axes, panel.lines, renderer, inks)


def _dress(axes: Axes, inks: Inks) -> None:
    axes.patch.set_alpha(0)
    axes.tick_params(colors=inks.muted, labelcolor=inks.ink, labelsize=_SMALL, length=3, width=0.6)
    axes.tick_params(which="minor", length=0)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(inks.muted)
        spine.set_linewidth(0.8)


def _tick(axes: Axes, panel: Panel) -> None:
    """Whole numbers where all are whole; powers of ten with their prefixes."""
    from matplotlib.ticker import (
        EngFormatter,
        FuncFormatter,
        LogLocator,
        MaxNLocator,
        NullFormatter,
    )

    places = [point.x for point in panel.points] + [x for line in panel.lines for x in line.x]
    if panel.logarithmic:
        axes.set_xscale("log")
        narrow = max(places) < 100 * min(places)
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if narrow else (1.0,)))
        axes.xaxis.set_major_formatter(
            FuncFormatter(lambda x, at: EngFormatter(sep=" ")(x) if x >= 1 else f"{x:g}")
        )
        axes.xaxis.set_minor_formatter(NullFormatter())
    elif panel.lines and all(float(x).is_integer() for x in places):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _aside(lines: Sequence[Line]) -> list[float]:
    """How far each line with a spread is moved aside, so that spreads do not cover one another."""
    spreading = [line for line in lines if line.low and line.high]
    places = sorted({float(x) for line in spreading for x in line.x})
    gap = min((b - a for a, b in itertools.pairwise(places)), default=0.0)
    step = 0.3 * gap / max(len(spreading) - 1, 1)
    order = {id(line): number for number, line in enumerate(spreading)}
    middle = (len(spreading) - 1) / 2
    return [step * (order[id(line)] - middle) if id(line) in order else 0.0 for line in lines]


def _line(axes: Axes, line: Line, style: Style, inks: Inks, aside: float) -> None:
    colour = inks[line.series]
    places = [x + aside for x in line.x]
    if line.low and line.high:
        axes.vlines(places, line.low, line.high, color=colour, alpha=0.45, linewidth=1.1, zorder=2)
    axes.plot(
        places, line.y, color=colour, marker=style.marker, markersize=4.5, linewidth=1.5, zorder=3,
        markeredgewidth=0,
    )  # fmt: skip


def _name_guide(axes: Axes, guide: Guide, inks: Inks) -> None:
    word: dict[str, Any] = {"fontsize": _SMALL, "color": inks.muted}
    if guide.axis == "x":
        axes.annotate(
            guide.label, (guide.value, 1.0), xycoords=("data", "axes fraction"), xytext=(-3, -3),
            textcoords="offset points", ha="right", va="top", rotation=90, **word,
        )  # fmt: skip
    else:
        axes.annotate(
            guide.label, (0.0, guide.value), xycoords=("axes fraction", "data"), xytext=(4, 2),
            textcoords="offset points", ha="left", va="bottom", **word,
        )  # fmt: skip


def _name_points(axes: Axes, panel: Panel, renderer: Any, inks: Inks) -> None:
    points = panel.points
    names = [point.label or point.series for point in points]
    sizes = [_extent(axes, name, renderer) for name in names]
    places = axes.transData.transform([(point.x, point.y) for point in points])
    frame = axes.get_window_extent(renderer)
    inside = labels.Box(frame.x0, frame.y0, frame.x1, frame.y1)
    guides = [_guide_box(axes, guide, inside) for guide in panel.guides]
    found = labels.place([(float(x), float(y)) for x, y in places], sizes, inside, guides)
    back = axes.transData.inverted()
    for point, name, placed in zip(points, names, found, strict=True):
        box = placed.box
        middle = ((box.left + box.right) / 2, (box.bottom + box.top) / 2)
        if placed.led:
            x, y = back.transform(_edge(box, axes.transData.transform((point.x, point.y))))
            axes.plot(
                [point.x, x], [point.y, y], color=inks.muted, linewidth=0.6, zorder=2,
                scalex=False, scaley=False,
            )  # fmt: skip
        x, y = back.transform(middle)
        axes.text(
            x, y, name, fontsize=_SMALL, color=inks.ink, ha="center",
            va="center", zorder=4,
            bbox={"facecolor": inks.ground, "edgecolor": "none", "pad": 0.3, "alpha": 0.85},
        )  # fmt: skip


def _guide_box(axes: Axes, guide: Guide, inside: labels.Box) -> labels.Box:
    """The strip that a guide and its name take."""
    x, y = axes.transData.transform((guide.value, guide.value))
    if guide.axis == "x":
        return labels.Box(float(x) - 2, inside.bottom, float(x) + 2, inside.top)
    return labels.Box(inside.left, float(y) - 2, inside.right, float(y) + 2)


def _edge(box: labels.Box, point: Any) -> tuple[float, float]:
    """The place on the box that is nearest to the point."""
    return (
        min(max(float(point[0]), box.left), box.right),
        min(max(float(point[1]), box.bottom), box.top),
    )


def _extent(axes: Axes, name: str, renderer: Any) -> tuple[float, float]:
    text = axes.text(0, 0, name, fontsize=_SMALL, transform=None)
    found = text.get_window_extent(renderer)
    text.remove()
    return float(found.width) + 2, float(found.height)


def _name_lines(
    figure: Canvas, axes: Axes, lines: Sequence[Line], renderer: Any, inks: Inks
) -> None:
    """Names at the lines' right ends, one under the other where ends lie close."""
    names = [line.label or line.series for line in lines]
    extents = [_extent(axes, name, renderer) for name in names]
    room = (max(width for width, _ in extents) + 14) / figure.bbox.width
    box = axes.get_position()
    axes.set_position((box.x0, box.y0, max(box.width - room, 0.1), box.height))
    frame = axes.get_window_extent(renderer)
    last = [
        (line.x[-1] + aside, line.y[-1]) for line, aside in zip(lines, _aside(lines), strict=True)
    ]
    ends = [axes.transData.transform(place) for place in last]
    gap = 1.02 * max(height for _, height in extents)
    heights = labels.spread([float(end[1]) for end in ends], gap, frame.y0, frame.y1)
    for line, name, place, end, height in zip(lines, names, last, ends, heights, strict=True):
        # Fractions of the axes: pixels of one format are not those of another.
        target = (1.0 + 10 / frame.width, (height - frame.y0) / frame.height)
        led = abs(height - float(end[1])) > 2 or float(end[0]) < frame.x1 - 0.05 * frame.width
        axes.annotate(
            name, place, xytext=target, textcoords="axes fraction",
            va="center", ha="left", fontsize=_SMALL, color=inks.ink, annotation_clip=False,
            arrowprops={
                "arrowstyle": "-", "relpos": (0.0, 0.5), "color": inks[line.series],
                "linewidth": 0.7, "shrinkA": 0, "shrinkB": 3,
            } if led else None,
        )  # fmt: skip


def _luminance(colour: Sequence[float]) -> float:
    """WCAG's relative luminance of an sRGB colour."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _grid(axes: Axes, grid: Grid, inks: Inks) -> None:
    from matplotlib import colormaps
    from matplotlib.colors import Normalize
    from matplotlib.patches import Rectangle

    known = list(grid.values.values())
    scale = Normalize(min(known, default=0.0), max(known, default=1.0))
    for (row, column), value in grid.values.items():
        x, y = grid.columns.index(column), grid.rows.index(row)
        colour = colormaps["cividis"](scale(value))
        axes.add_patch(Rectangle((x - 0.45, y - 0.42), 0.9, 0.84, color=colour, linewidth=0))
        if (row, column) in grid.outlined:
            axes.add_patch(
                Rectangle(
                    (x - 0.47, y - 0.45), 0.94, 0.9, fill=False, edgecolor=inks.ink, linewidth=2.0
                )
            )
        axes.text(
            x, y, f"{value:.1f}", ha="center", va="center", fontsize=_SMALL,
            color="#ffffff" if _luminance(colour) < _MIDDLE else "#111111",
        )  # fmt: skip
    axes.set_xlim(-0.5, len(grid.columns) - 0.5)
    axes.set_ylim(len(grid.rows) - 0.5, -0.5)
    axes.set_xticks(range(len(grid.columns)), grid.columns, fontsize=_SMALL)
    axes.set_yticks(range(len(grid.rows)), grid.rows, fontsize=_SMALL)
    axes.tick_params(length=0)
    axes.xaxis.tick_top()
    for spine in axes.spines.values():
        spine.set_visible(False)
