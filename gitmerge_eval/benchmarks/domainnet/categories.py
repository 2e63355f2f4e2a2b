"""The categories with their classes, and the cells of the grid that they span."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gitmerge_eval.benchmarks.domainnet import DOMAINS
from gitmerge_eval.errors import EvaluationError, UnknownName
from gitmerge_eval.records import Task

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_PUBLISHED = Path(__file__).with_name("categories.toml")


@dataclass(frozen=True)
class Category:
    """A skill: some of DomainNet's classes."""

    name: str
    held_in: str
    """The domain in which a model is fine-tuned on it."""
    classes: tuple[str, ...]
    """Folder names, such as ``wine_glass``."""


def categories(source: Path | Mapping[str, Any] | None = None) -> tuple[Category, ...]:
    """The categories in the order of their file.

    ``source`` is another file of the same form as ``categories.toml``, or the table that such a
    file holds; by default the paper's. Raises EvaluationError where it has another form and
    UnknownName for a domain that DomainNet does not have.
    """
    if isinstance(source, Mapping):
        return _parsed(source, "the setting 'categories'")
    file = source or _PUBLISHED
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EvaluationError(f"the categories in '{file}' cannot be read: {error}") from error
    return _parsed(values, f"'{file}'")


def _parsed(values: Mapping[str, Any], where: str) -> tuple[Category, ...]:
    found = []
    for name, entry in values.items():
        classes = entry.get("classes") if isinstance(entry, Mapping) else None
        if not isinstance(classes, list) or not classes or not all(_name(c) for c in classes):
            raise EvaluationError(
                f"{where}: category '{name}' has no list 'classes' of folder names"
            )
        held_in = entry.get("held_in")
        if held_in not in DOMAINS:
            raise UnknownName.among(f"domain 'held_in' of category '{name}'", str(held_in), DOMAINS)
        found.append(Category(name, held_in, tuple(classes)))
    if not found:
        raise EvaluationError(f"{where} has no category; write '[bird]', held_in and classes")
    return tuple(found)


def _name(value: object) -> bool:
    # It becomes part of a path.
    return isinstance(value, str) and value not in ("", ".", "..") and "/" not in value


def classes_of(several: tuple[Category, ...]) -> tuple[str, ...]:
    """The distinct classes, in order: a class of two categories is one, and right as either."""
    return tuple(dict.fromkeys(name for category in several for name in category.classes))


def tasks_of(several: tuple[Category, ...]) -> tuple[Task, ...]:
    """All cells (category, domain): a category's own domain is held-in, the others generalization.

    >>> from collections import Counter
    >>> sorted(Counter(task.status for task in tasks_of(categories())).items())
    [('generalization', 120), ('held-in', 24)]
    """
    return tuple(
        Task(
            f"{category.name}-{domain}",
            {"category": category.name, "domain": domain},
            "held-in" if category.held_in == domain else "generalization",
        )
        for category in several
        for domain in DOMAINS
    )
