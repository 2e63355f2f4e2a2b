"""A report as Markdown that fits into one comment on a pull request."""

from __future__ import annotations

from collections.abc import Iterable

from gitmerge_eval.report.content import Report, Section, Table

LONGEST = 60_000
"""Characters; GitHub takes 65,536."""
_ORDER = ("scores", "cost", "models", "history", "tasks", "hyperparameters", "prerequisites")
"""What goes first where not everything has room."""
_OPEN = ("scores", "history")
"""The sections that are not folded."""


def markdown(report: Report) -> str:
    """The sections with their tables, without figures; those that have no room are named."""
    lines = [
        f"## Merged models: {_escaped(report.title)}",
        "",
        f"{_escaped(report.branch)} at `{report.commit[:10]}`, {report.made}, {report.tool}",
        "",
        *(f"- {_escaped(name)}: {_escaped(value)}" for name, value in report.summary),
        "",
    ]
    text = "\n".join(lines)
    sections = {section.name: section for section in report.sections}
    left_out = []
    for name in _ORDER:
        part = _section(sections[name])
        if len(text) + len(part) > LONGEST:
            left_out.append(sections[name].title)
        else:
            text += part
    if left_out:
        text += f"\nNo room for: {', '.join(left_out)}.\n"
    return text


def _section(section: Section) -> str:
    lines = [_escaped(line) for line in section.text]
    if section.missing:
        lines.append(f"{section.missing} `{section.command}`")
    body = "\n\n".join([*lines, *(_table(table) for table in section.tables)])
    if section.name in _OPEN:
        return f"\n### {section.title}\n\n{body}\n"
    return f"\n<details><summary>{section.title}</summary>\n\n{body}\n\n</details>\n"


def _table(table: Table) -> str:
    traced = any(row.traces for row in table.rows)
    titles = [column.title for column in table.columns] + (["spec · data"] if traced else [])
    marks = ["--:" if column.numeric else "---" for column in table.columns]
    lines = [
        f"**{_escaped(table.caption)}**",
        "",
        _line(titles),
        _line(marks + (["---"] if traced else [])),
    ]
    for row, cells in table.shown():
        traces = [f"`{t.spec[:8] or '–'}·{t.data[:8]}`" for t in row.traces]
        more = [traces[0] if len(traces) == 1 else f"{len(traces)} merges"] if traces else [""]
        lines.append(_line([*map(_escaped, cells), *(more if traced else [])]))
    return "\n".join(lines)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escaped(text: str) -> str:
    r"""Text that cannot be taken for Markdown, HTML, or a mention of somebody.

    >>> _escaped("a|b <img>")
    'a\\|b &lt;img&gt;'
    """
    for character in "\\`*_[]|~":
        text = text.replace(character, f"\\{character}")
    plain = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return " ".join(plain.replace("@", "@\u200b").split())
