"""Panels as pictures: SVG for the page, whose colours are the page's, and PNG and SVG as files."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gitmerge_eval.errors import UsageError
from gitmerge_eval.report import drawing, palette
from gitmerge_eval.report.content import Section
from gitmerge_eval.report.figures import Grid, Panel, series_of
from gitmerge_eval.report.palette import Inks, Style

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

PNG_DOTS = 200
"""To the inch."""
_FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
_ID = re.compile(r"""(\bid="|xlink:href="#|url\(#)""")


def require() -> None:
    """UsageError where the packages that draw and write the page are not installed."""
    for name in ("matplotlib", "jinja2"):
        try:
            __import__(name)
        except ImportError as error:
            raise UsageError(
                f"the report needs {name}, which is not installed; run "
                "'pip install \"gitmerge-eval[report]\"'"
            ) from error


def inline(section: Section) -> list[str]:
    """Each panel of ``section`` as an ``<svg>`` element that takes its colours from CSS."""
    known = palette.styles(series_of(section.panels))
    with drawing.settings():
        return [
            _svg([panel], known, f"{section.name}-{number}")
            for number, panel in enumerate(section.panels)
        ]


def write(section: Section, folder: Path) -> list[Path]:
    """The figure of ``section`` as files: PNG on light and on dark ground, SVG for both.

    The panels stand two in a row. The SVG follows the reader's colour scheme.
    """
    if not section.panels:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    known = palette.styles(series_of(section.panels))
    with drawing.settings():
        paths = [
            _png(section, known, inks, folder / f"{section.name}{suffix}.png")
            for suffix, inks in (("", palette.light(known)), ("-dark", palette.dark(known)))
        ]
        text = _svg(section.panels, known, section.name)
    path = folder / f"{section.name}.svg"
    sheet = palette.style_sheet(known, root="svg") + "svg { background: var(--ground); }\n"
    path.write_text(text.replace(">", f">\n<style>\n{sheet}</style>", 1), encoding="utf-8")
    return [*paths, path]


def _png(section: Section, known: dict[str, Style], inks: Inks, path: Path) -> Path:
    figure = _figure(section.panels, known, inks)
    figure.patch.set(facecolor=inks.ground, alpha=1)
    figure.savefig(path, dpi=PNG_DOTS)
    return path


def _figure(panels: Sequence[Panel | Grid], known: dict[str, Style], inks: Inks) -> Canvas:
    across = min(2, len(panels))
    down = -(-len(panels) // across)
    sizes = [drawing.size(panel) for panel in panels]
    figure = drawing.canvas(across * max(w for w, _ in sizes), down * max(h for _, h in sizes))
    every = figure.subplots(down, across, squeeze=False).flatten()
    for axes in every[len(panels) :]:
        axes.set_axis_off()
    for axes, panel in zip(every, panels, strict=False):
        drawing.draw(axes, panel, known, inks)
    figure.draw_without_rendering()  # lays out; what is named afterwards must not move it
    figure.set_layout_engine("none")
    for axes, panel in zip(every, panels, strict=False):
        drawing.finish(figure, axes, panel, inks)
    return figure


def _svg(panels: Sequence[Panel | Grid], known: dict[str, Style], name: str) -> str:
    figure = _figure(panels, known, palette.stand_ins(known))
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return _scoped(text[text.index("<svg") :], known, name)


def _scoped(svg: str, known: dict[str, Style], name: str) -> str:
    """The drawing with CSS variables for colours, ids of its own, and the reader's font."""
    for colour, variable in palette.variables(known).items():
        svg = svg.replace(colour, f"var({variable})")
    svg = _ID.sub(rf"\g<1>{name}-", svg)
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"'DejaVu Sans'(, [^;\"]*)?", _FONTS, svg)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    return re.sub(r'(<svg [^>]*?)width="[^"]*" height="[^"]*"', r"\1", svg, count=1)
