"""Files below the user's data folder, named by templates of a declaration; never others."""

from __future__ import annotations

import string
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath

from gitmerge_eval.benchmarks.declared.table import Table
from gitmerge_eval.errors import EvaluationError

WANTED = (
    "name the folder that has this repository's data with "
    "'git config merge-eval.data <folder>' or by GITMERGE_EVAL_DATA"
)
_SPECIAL = frozenset("*?[]:\\~\0\n\r")
"""What readers of files take for patterns, for addresses or for another folder."""


def check_name(name: str, table: Table, what: str) -> None:
    """Raises EvaluationError for a text that is not one plain part of a path."""
    if not name.strip() or name in (".", "..") or _SPECIAL & set(name) or set("/{}") & set(name):
        raise table.error(
            f"{what} is '{name}'; names become parts of paths: use letters, digits, '-', '_', '.' "
            "and blanks"
        )


def check_template(text: str, table: Table, key: str, known: Collection[str] | None = None) -> None:
    """Raises EvaluationError for a template with more than plain '{name}'s, or with unknown ones.

    ``known`` None takes any name, as of a column. Attributes, indices, conversions and formats,
    which Python's templates could have, are refused: they would read what is not meant to be read.
    """
    for name in fields(text, table, key):
        if known is not None and name not in known:
            raise table.unknown(f"name in '{key}'", name, known)


def fields(text: str, table: Table, key: str) -> tuple[str, ...]:
    """The names in a template, each once."""
    try:
        parts = list(string.Formatter().parse(text))
    except ValueError as error:
        raise table.error(f"'{key}' is '{text}': {error}; write names as '{{name}}'") from error
    found: dict[str, None] = {}
    for _, name, form, conversion in parts:
        if name is None:
            continue
        if not name or form or conversion or set(".[]") & set(name):
            raise table.error(
                f"'{key}' is '{text}'; between braces may be a name alone, as in '{{name}}'"
            )
        found[name] = None
    return tuple(found)


def check_path(text: str, table: Table, key: str, known: Collection[str]) -> None:
    """Raises EvaluationError for a template of a path that may leave the data folder."""
    check_template(text, table, key, known)
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts or _SPECIAL & set(text):
        raise table.error(
            f"'{key}' is '{text}'; give a path below the data folder, without '..', ':' or patterns"
        )


def located(folder: Path | None, path: str) -> Path:
    """The file or folder at ``path`` below the user's data folder.

    Raises EvaluationError where no folder is configured, where nothing is there, and where a
    symbolic link leads out of the folder.
    """
    if folder is None:
        raise EvaluationError(f"it is not known where '{path}' is; {WANTED}")
    if not folder.is_absolute():
        raise EvaluationError(
            f"the data folder is '{folder}', and relative to what is not known; {WANTED}, as an "
            "absolute path"
        )
    if not folder.is_dir():
        raise EvaluationError(f"the data folder '{folder}' is not there; {WANTED}")
    found = folder / path
    if not found.exists():
        raise EvaluationError(
            f"the data folder '{folder}' has no '{path}'; put the data there, or {WANTED}"
        )
    check_inside(folder, found)
    return found


def check_inside(folder: Path, file: Path) -> None:
    """Raises EvaluationError for a file that symbolic links lead out of ``folder``."""
    if not file.resolve().is_relative_to(folder.resolve()):
        raise EvaluationError(
            f"'{file}' is a link to '{file.resolve()}', outside of the data folder '{folder}'; "
            "copy the data into the folder"
        )


def filled(template: str, values: Mapping[str, object]) -> str:
    """A template that was checked, with its names replaced."""
    return template.format_map(values)
