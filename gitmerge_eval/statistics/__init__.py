"""Statistics of a constituent that methods need; torch only but for TIES' thresholds, no input or
output.

A file here exports STATISTIC, and adding the file adds the statistic. Third parties add theirs
through the entry-point group ``gitmerge_eval.statistics``.
"""

from __future__ import annotations

import importlib
import pkgutil
from importlib.metadata import entry_points

from gitmerge_eval.errors import UnknownName
from gitmerge_eval.records import Statistic

__all__ = ["get", "load", "names"]

GROUP = "gitmerge_eval.statistics"


def names() -> tuple[str, ...]:
    """The names of all statistics, sorted; imports none of them."""
    own = [m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")]
    return tuple(sorted({*own, *(entry.name for entry in entry_points(group=GROUP))}))


def load() -> dict[str, Statistic]:
    """Every statistic by name."""
    return {name: get(name) for name in names()}


def get(name: str) -> Statistic:
    """The statistic called ``name``; UnknownName suggests near ones."""
    if name not in names():
        raise UnknownName.among("statistic", name, names())
    for entry in entry_points(group=GROUP):
        if entry.name == name:
            value = entry.load()
            statistic: Statistic = getattr(value, "STATISTIC", value)
            return statistic
    found: Statistic = importlib.import_module(f"{__name__}.{name}").STATISTIC
    return found
