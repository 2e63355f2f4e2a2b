"""Records that come from files: what is missing in them, and what they have that nobody knows."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar

from gitmerge_eval.errors import EvaluationError

Record = TypeVar("Record")
_KINDS: Mapping[str, tuple[tuple[type, ...], str]] = {
    "str": ((str,), "a text"),
    "bool": ((bool,), "true or false"),
    "int": ((int, float), "a number"),
    "float": ((int, float), "a number"),
}
"""A member's annotation -> what its value may be. JSON does not tell 1.0 from 1."""


def built(kind: type[Record], values: Any, what: str) -> Record:
    """A dataclass ``kind`` with its members from ``values``; ``what`` names it in messages.

    Raises EvaluationError, in words, where a member is missing, unknown, or of another kind than
    text, number or truth value as the class says; numbers must be finite.
    """
    given = mapping(values, what)
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    needed = [
        name
        for name, field in known.items()
        if field.default is MISSING and field.default_factory is MISSING
    ]
    lacking = [name for name in needed if name not in given]
    if lacking:
        raise EvaluationError(f"{what} lacks {_listed(lacking)}")
    strange = [name for name in given if name not in known]
    if strange:
        raise EvaluationError(f"{what} has {_listed(strange)}, which this version does not know")
    for name, value in given.items():
        _check(name, value, str(known[name].type), what)
    return kind(**given)


def mapping(value: Any, what: str) -> dict[str, Any]:
    """``value`` where it is a JSON object; EvaluationError for anything else."""
    if not isinstance(value, Mapping):
        raise EvaluationError(f"{what} is {shown(value)} and should be an object {{…}}")
    return dict(value)


def sequence(value: Any, what: str) -> list[Any]:
    """``value`` where it is a list; EvaluationError for anything else."""
    if not isinstance(value, (list, tuple)):
        raise EvaluationError(f"{what} is {shown(value)} and should be a list […]")
    return list(value)


def shown(value: Any) -> str:
    """A value as the file spells it, cut where it is long.

    >>> shown({"a": None})
    '{"a": null}'
    """
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 40 else f"{text[:39]}…"


def _check(name: str, value: Any, annotation: str, what: str) -> None:
    plain = annotation.removesuffix(" | None")
    if plain not in _KINDS or (value is None and plain != annotation):
        return
    kinds, words = _KINDS[plain]
    if isinstance(value, kinds) and isinstance(value, bool) == (plain == "bool"):
        if not isinstance(value, float) or math.isfinite(value):
            return
        words = "finite"
    raise EvaluationError(f"'{name}' of {what} is {shown(value)} and should be {words}")


def _listed(names: list[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
