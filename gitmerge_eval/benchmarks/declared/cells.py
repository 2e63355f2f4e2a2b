"""The grid of a declaration: axes, and which of their combinations is what.

::

    [axes]
    shape = ["round", "angular"]
    paper = ["dark", "light"]

    [tasks]
    held_in = [{ shape = "round", paper = "dark" }, { shape = "angular", paper = "light" }]
    generalization = "others"       # all combinations of the axes but these; the default
    unavailable = []

A cell may stand for several: ``"*"`` or a list in the place of a value. A status is a list of
cells, or 'others', which one of them may be.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

from gitmerge_eval.benchmarks.declared import places
from gitmerge_eval.benchmarks.declared.table import Table
from gitmerge_eval.records import Task

STATUSES = ("held-in", "generalization", "unavailable")
RESERVED = ("class", "split")
"""Names that templates have beside the axes."""
Cell = tuple[str, ...]


def axes_of(table: Table) -> dict[str, tuple[str, ...]]:
    """axis -> its values. Raises EvaluationError where there are none, or a name is no name."""
    if not table.values:
        raise table.error('there is no axis; add lines such as \'language = ["en", "de"]\'')
    found = {}
    for axis in table.values:
        if axis in RESERVED or not axis.isidentifier():
            raise table.error(
                f"an axis is called '{axis}'; use letters, digits and '_', and not "
                + " or ".join(f"'{name}'" for name in RESERVED)
            )
        found[axis] = table.texts(axis)
        for value in found[axis]:
            places.check_name(value, table, f"a value of '{axis}'")
    return found


def tasks_of(
    table: Table, axes: Mapping[str, tuple[str, ...]], metric: Callable[[Mapping[str, str]], str]
) -> tuple[Task, ...]:
    """Every combination of the axes, as the table says what it is; in the order of the axes.

    A task's name is its values, joined by '-'. Raises EvaluationError for unknown axes and values,
    a cell that is declared twice, cells whose names are equal, and no held-in task.
    """
    keys = {status: status.replace("-", "_") for status in STATUSES}
    table.check_keys(keys.values())
    declared: dict[Cell, str] = {}
    others = []
    for status, key in keys.items():
        given = table.values.get(key)
        if given == "others":
            others.append(status)
            continue
        for cell in _cells(table, key, given, axes):
            if declared.setdefault(cell, status) != status:
                raise table.error(
                    f"{'-'.join(cell)} is both {declared[cell]} and {status}; leave one out"
                )
    if len(others) > 1:
        raise table.error(f"{' and '.join(others)} are both 'others'; list the cells of one")
    rest = others[0] if others else _rest(table)
    tasks = []
    for cell in itertools.product(*axes.values()):
        skills = dict(zip(axes, cell, strict=True))
        status = declared.get(cell, rest)
        tasks.append(Task("-".join(cell), skills, status, metric(skills)))
    _check(table, tasks)
    return tuple(tasks)


def _rest(table: Table) -> str:
    return "unavailable" if "generalization" in table.values else "generalization"


def _check(table: Table, tasks: list[Task]) -> None:
    names = [task.name for task in tasks]
    for name in names:
        if names.count(name) > 1:
            raise table.error(f"two cells are called '{name}'; give the axes other values")
    if not any(task.status == "held-in" for task in tasks):
        raise table.error(
            "no task is held-in; list the cells that constituents are trained on under 'held_in'"
        )


def _cells(
    table: Table, key: str, given: Any, axes: Mapping[str, tuple[str, ...]]
) -> tuple[Cell, ...]:
    if given is None:
        return ()
    if not isinstance(given, list) or not all(isinstance(cell, dict) for cell in given):
        example = ", ".join(f'{axis} = "{values[0]}"' for axis, values in axes.items())
        raise table.error(f"'{key}' is neither \"others\" nor a list of cells as {{ {example} }}")
    found: dict[Cell, None] = {}
    for cell in given:
        for axis in cell:
            if axis not in axes:
                raise table.unknown(f"axis in '{key}'", axis, axes)
        choices = [_values(table, key, cell, axis, values) for axis, values in axes.items()]
        found.update(dict.fromkeys(itertools.product(*choices)))
    return tuple(found)


def _values(
    table: Table, key: str, cell: Mapping[str, Any], axis: str, known: tuple[str, ...]
) -> tuple[str, ...]:
    given = cell.get(axis)
    if given == "*":
        return known
    if given is None:
        raise table.error(f"a cell of '{key}' has no '{axis}'; add '{axis} = \"{known[0]}\"'")
    values = given if isinstance(given, list) else [given]
    for value in values:
        if value not in known:
            raise table.unknown(f"value of '{axis}' in '{key}'", value, known)
    return tuple(values)
