"""A declaration's tables, read with a message for everything that is not as it should be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gitmerge_eval.errors import EvaluationError, UnknownName


@dataclass(frozen=True)
class Table:
    """One table of a declaration; ``where`` begins every message about it."""

    values: Mapping[str, Any]
    where: str

    def error(self, what: str) -> EvaluationError:
        """An error about this table: what is wrong, and the remedy."""
        return EvaluationError(f"{self.where}: {what}")

    def unknown(self, kind: str, name: object, known: Iterable[str]) -> EvaluationError:
        """An error about a name that is not ``known``, which suggests a near one."""
        return self.error(str(UnknownName.among(kind, str(name), known)))

    def check_keys(self, known: Iterable[str]) -> None:
        """Raises EvaluationError for a key that is not ``known``."""
        choices = tuple(known)
        for key in self.values:
            if key not in choices:
                raise self.unknown("key", key, choices)

    def table(self, key: str, *, needed: bool = False) -> Table:
        """The table below ``key``; empty where there is none, unless it is ``needed``."""
        found = self.values.get(key)
        if found is None and not needed:
            found = {}
        if not isinstance(found, dict):
            raise self.error(f"'{key}' is not a table; add '[{key}]' with its keys below")
        return Table(found, f"{self.where}, [{key}]")

    def text(self, key: str, default: str | None = None) -> str:
        """The text of ``key``, which is not empty."""
        found = self.values.get(key, default)
        if not isinstance(found, str) or not found:
            raise self.error(f"'{key}' is {_shown(found)}; write '{key} = \"…\"'")
        return found

    def texts(self, key: str) -> tuple[str, ...]:
        """The texts of ``key``: at least one, all different."""
        found = self.values.get(key)
        if isinstance(found, str):
            found = [found]
        good = isinstance(found, list) and found and all(isinstance(t, str) and t for t in found)
        if not good or len(set(found or ())) < len(found or ()):
            raise self.error(
                f"'{key}' is {_shown(found)}; write a list of different texts, "
                f'\'{key} = ["…", "…"]\''
            )
        return tuple(found or ())

    def number(
        self, key: str, default: float | None, kind: type, least: float, most: float | None = None
    ) -> Any:
        """The number of ``key``, from ``least`` to ``most``; a whole one where ``kind`` is int."""
        found = self.values.get(key, default)
        right = isinstance(found, (int, float) if kind is float else int)
        if not right or isinstance(found, bool) or found < least or (most and found > most):
            what = "a whole number" if kind is int else "a number"
            upwards = f"from {least} to {most}" if most else f"from {least} on"
            raise self.error(f"'{key}' is {_shown(found)}; give {what} {upwards}")
        return kind(found)


def _shown(value: object) -> str:
    return "not there" if value is None else repr(value)[:80]
