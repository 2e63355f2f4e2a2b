"""The report of a repository's results: as one page, as figures, as Markdown, as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gitmerge_eval.git.repository import Repository
from gitmerge_eval.report import pictures
from gitmerge_eval.report.compiling import compile_report
from gitmerge_eval.report.content import Report
from gitmerge_eval.report.markdown import markdown
from gitmerge_eval.report.page import html
from gitmerge_eval.whole_file import write_whole

__all__ = ["Report", "markdown", "report", "write_figures", "write_page"]


def report(repository: Repository, *, split: str = "test") -> Report:
    """What ``repository`` knows of merged models, compared on ``split``.

    Raises GitError in a repository without a commit.
    """
    return compile_report(repository, split=split)


def write_page(found: Report, path: Path) -> None:
    """Write the HTML page, whole or not at all.

    Raises UsageError where the packages of the extra 'report' are missing, or the folder is.
    """
    write_whole(path, html(found))


def write_figures(found: Report, folder: Path) -> Sequence[Path]:
    """Write each figure into ``folder``: ``<name>.png``, ``<name>-dark.png``, ``<name>.svg``.

    Raises UsageError where the packages of the extra 'report' are missing.
    """
    pictures.require()
    return [path for section in found.sections for path in pictures.write(section, folder)]
