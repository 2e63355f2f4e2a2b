"""The training numbers of a declaration, as the families' recipes have them."""

from __future__ import annotations

from typing import Any

from gitmerge_eval.benchmarks.declared.table import Table

DECAYS = ("cosine", "linear", "constant")
OPTIMISERS = ("adamw", "adam")
_WHOLE = {"steps": 1, "batch": 1, "warm_up": 0, "accumulate": 1}
_REAL = {"rate": 0.0, "weight_decay": 0.0, "epsilon": 0.0, "clip": 0.0}
_CHOICES = {"decay": DECAYS, "optimiser": OPTIMISERS}
NEEDED = ("steps", "batch", "rate")


def schedule(table: Table) -> dict[str, Any]:
    """A table of :class:`~gitmerge_eval.benchmarks.learning.schedule.Schedule`'s numbers."""
    table.check_keys([*_WHOLE, *_REAL, *_CHOICES])
    found: dict[str, Any] = {}
    for key in (*NEEDED, *(key for key in table.values if key not in NEEDED)):
        if key in _CHOICES:
            found[key] = table.text(key)
            if found[key] not in _CHOICES[key]:
                raise table.unknown(f"'{key}'", found[key], _CHOICES[key])
        elif key in _WHOLE:
            found[key] = table.number(key, None, int, _WHOLE[key])
        else:
            found[key] = table.number(key, None, float, _REAL[key])
    return found


def stopping(table: Table) -> dict[str, int]:
    """``every`` and ``patience``; empty where the table is."""
    table.check_keys(("every", "patience"))
    if not table.values:
        return {}
    return {key: table.number(key, None, int, 1) for key in ("every", "patience")}


def statistics(table: Table) -> dict[str, dict[str, int]]:
    """How many training examples each statistic takes."""
    table.check_keys(("fisher", "gram"))
    found = {}
    for kind in ("fisher", "gram"):
        own = table.table(kind)
        own.check_keys(("examples",))
        found[kind] = {key: own.number(key, None, int, 1) for key in own.values}
    return found
