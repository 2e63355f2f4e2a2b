"""Merge methods: pure kernels for torch tensors and, where a method takes any arrays, NumPy's.

A file here exports METHOD, and adding the file adds the method. Other distributions add theirs by
an entry point of the group ``gitmerge_eval.methods`` that names a MergeMethod. Loading the
declarations imports neither library: kernels do, when they run.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from importlib.metadata import entry_points

from gitmerge_eval.errors import UnknownName, UsageError
from gitmerge_eval.records import MergeMethod

__all__ = ["ENTRY_POINTS", "get", "load"]

ENTRY_POINTS = "gitmerge_eval.methods"
_ORDER = (
    "average",
    "slerp",
    "task-arithmetic",
    "dare",
    "ties",
    "dare-ties",
    "fisher",
    "regmean",
    "mats",
)


@cache
def load() -> dict[str, MergeMethod]:
    """All merge methods by name: ours in the paper's order, then those of entry points.

    Raises UsageError where an entry point cannot be loaded, gives something else than a
    MergeMethod, or takes a name that is already there.

    >>> list(load())[:3]
    ['average', 'slerp', 'task-arithmetic']
    """
    own = [
        importlib.import_module(f"{__name__}.{module.name}").METHOD
        for module in pkgutil.iter_modules(__path__)
        if not module.name.startswith("_")
    ]
    own.sort(key=lambda m: (_ORDER.index(m.name) if m.name in _ORDER else len(_ORDER), m.name))
    methods = {method.name: method for method in own}
    for method in _third_party():
        if method.name in methods:
            raise UsageError(
                f"an installed package adds a merge method '{method.name}', which there is "
                "already; uninstall one of the two"
            )
        methods[method.name] = method
    return methods


def get(name: str) -> MergeMethod:
    """The merge method called ``name``; UnknownName suggests near ones.

    >>> get("ties").title
    'TIES'
    """
    methods = load()
    if name not in methods:
        raise UnknownName.among("merge method", name, methods)
    return methods[name]


def _third_party() -> list[MergeMethod]:
    """The methods of entry points, by name."""
    found = []
    for entry in sorted(entry_points(group=ENTRY_POINTS), key=lambda entry: entry.name):
        try:
            method = entry.load()
        except Exception as error:  # whatever a foreign module raises when it is imported
            raise UsageError(
                f"the merge method '{entry.name}' of '{entry.value}' cannot be loaded ({error}); "
                "repair or uninstall the package that adds it"
            ) from error
        if not isinstance(method, MergeMethod):
            raise UsageError(
                f"the entry point '{entry.name}' of '{entry.value}' is a "
                f"{type(method).__name__}, not a MergeMethod; uninstall the package that adds it"
            )
        found.append(method)
    return found
