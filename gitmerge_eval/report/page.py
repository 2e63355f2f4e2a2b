"""A report as one HTML page that needs nothing else: no script, no font, no request."""

from __future__ import annotations

from importlib.resources import files

from gitmerge_eval.report import palette, pictures
from gitmerge_eval.report.content import Report, Trace, listed, shown
from gitmerge_eval.report.figures import series_of

TEMPLATE = "page.html.jinja"
SHEET = "page.css"


def html(report: Report) -> str:
    """The page. All that comes from the repository is escaped: names and notes may be anybody's.

    Raises UsageError where Jinja2 or matplotlib is not installed.
    """
    pictures.require()
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    known = palette.styles(_series(report))

    def swatch(name: str) -> Markup:
        """A dot in the colour that the name has in the figures."""
        if name not in known:
            return Markup("")
        dot = Markup('<span class="swatch" style="background: var({})"></span>')
        return dot.format(palette.variable(name))

    environment = Environment(autoescape=True, undefined=StrictUndefined)
    package = files(__package__)
    template = environment.from_string((package / TEMPLATE).read_text(encoding="utf-8"))
    return template.render(
        report=report,
        pictures={section.name: pictures.inline(section) for section in report.sections},
        colours=Markup(palette.style_sheet(known)),
        sheet=Markup((package / SHEET).read_text(encoding="utf-8")),
        swatch=swatch,
        anchor=_anchor,
        listed=listed,
        shown=shown,
    )


def _series(report: Report) -> list[str]:
    """Every series that has a colour somewhere on the page."""
    panels = [panel for section in report.sections for panel in section.panels]
    return [*palette.METHODS, *palette.BASELINES, *palette.STATUSES, *series_of(panels)]


def _anchor(trace: Trace) -> str:
    return f"source-{trace.spec[:16]}-{trace.data[:16]}"
