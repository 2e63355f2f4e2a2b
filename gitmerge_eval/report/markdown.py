"""A report as Markdown that fits into one comment on a pull request."""

from __future__ import annotations

from collections.abc import Iterable

from gitmerge_eval.report.content import Report, Section, Table

LONGEST = 60_000
"""Characters; GitHub takes 65,536."""
_ORDER = ("scores", "cost", "models", "history", "tasks", "hyperparameters", "prerequisites")
"""What goes first where not everything has room."""
_OPEN = ("merge", "scores", "history", "verification")
"""The sections that are not folded."""


def markdown(report: Report) -> str:
    """The sections with their tables, without figures; those that have no room are named."""
    sections = {section.name: section for section in report.sections}
    return document(
        f"Merged models: {report.title}",
        (
            f"{escaped(report.branch)} at `{report.commit[:10]}`, {report.made}, {report.tool}",
            "",
            *(f"- {escaped(name)}: {escaped(value)}" for name, value in report.summary),
        ),
        [sections[name] for name in _ORDER],
    )


def document(title: str, lines: Iterable[str], sections: Iterable[Section]) -> str:
    """A heading, ``lines`` of Markdown, and as many of the sections, in order, as have room."""
    text = "\n".join([f"## {escaped(title)}", "", *lines, ""])
    left_out = []
    for section in sections:
        part = _section(section)
        if len(text) + len(part) > LONGEST:
            left_out.append(section.title)
        else:
            text += part
    if left_out:
        text += f"\nNo room for: {', '.join(left_out)}.\n"
    return text


def _section(section: Section) -> str:
    lines = [escaped(line) for line in section.text]
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
        f"**{escaped(table.caption)}**",
        "",
        table_row(titles),
        table_row(marks + (["---"] if traced else [])),
    ]
    for row, cells in table.shown():
        traces = [f"`{t.spec[:8] or '–'}·{t.data[:8]}`" for t in row.traces]
        more = [traces[0] if len(traces) == 1 else f"{len(traces)} merges"] if traces else [""]
        lines.append(table_row([*map(escaped, cells), *(more if traced else [])]))
    return "\n".join(lines)


def table_row(cells: Iterable[str]) -> str:
    """A row of a table; the cells are Markdown.

    >>> table_row(["a", "b"])
    '| a | b |'
    """
    return f"| {' | '.join(cells)} |"


def escaped(text: str) -> str:
    r"""Text that cannot be taken for Markdown, HTML, or a mention of somebody.

    >>> escaped("a|b <img>")
    'a\\|b &lt;img&gt;'
    """
    for character in "\\`*_[]|~":
        text = text.replace(character, f"\\{character}")
    plain = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return " ".join(plain.replace("@", "@\u200b").split())
