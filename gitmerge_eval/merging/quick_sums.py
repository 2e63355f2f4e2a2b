"""Tiles merged by one compiled loop from stored numbers to stored numbers, where there is one.

It gives the bytes of the method's kernel without its temporaries. Where a result is not finite it
gives nothing, and the kernel, which names whoever is at fault, has its turn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

from numpy.typing import NDArray

from gitmerge_eval.differences import Differences
from gitmerge_eval.merging.inputs import Inputs, Slots
from gitmerge_eval.merging.merged_group import Family
from gitmerge_eval.merging.planning import CheckpointPlan, GroupPlan
from gitmerge_eval.merging.tiles import Tile

Array = NDArray[Any]
QuickSum = Callable[[Tile, Array], bool]
"""``quick(tile, out)``: fills ``out``, (values, rows, run) as it is stored; False if it cannot."""

_SMALL = 1 << 16
"""Elements of a tile up to which NumPy is quicker than importing and starting the compiler."""


def quick_sum(
    inputs: Inputs, group: GroupPlan, slots: Slots, family: Family | None
) -> QuickSum | None:
    """The loop for a planned group, of all the family's values; None where there is none."""
    assert group.record is not None
    plan, dtype = inputs.plan, group.record.dtype
    form, factors = _form(plan, family, inputs.changed(group, slots))
    if form is None or not form.terms or plan.spec.accumulate != "float64":
        return None
    reference = slots.base if form.reference is None else slots.constituents[form.reference]
    used = [reference, *(slots.constituents[i] for i, _ in form.terms)]
    keys = [slot.key for slot in used if slot and slot.record.dtype == dtype]
    if len(keys) < len(used):
        return None
    coefficients = [coefficient for _, coefficient in form.terms]

    def summed(tile: Tile, out: Array) -> bool:
        loop = _loop(dtype, tile.arrays[keys[0]].size)
        if loop is None:
            return False
        rows = out.shape[1]
        first, *others = [a if a.ndim == 2 else a.reshape(rows, -1)
                          for a in (tile.arrays[key] for key in keys)]  # fmt: skip
        return loop(first, others, coefficients, form.whole, factors, out)

    return summed


def _form(
    plan: CheckpointPlan, family: Family | None, changed: tuple[bool, ...]
) -> tuple[Differences | None, list[float]]:
    """What is added up, and the factor of each value; None where values need different sums."""
    if plan.models:
        return None, []  # one that stands for several counts as often
    options = [plan.options]
    if family:
        options = [{**plan.options, family.parameter: value} for value in family.values]
    forms = [plan.method.differences(changed, one) for one in options]
    known = [form for form in forms if form]
    alike = {replace(form, factor=1.0) for form in known}
    if len(known) < len(forms) or len(alike) > 1:
        return None, []
    return alike.pop(), [form.factor for form in known]


def _loop(dtype: str, size: int) -> Callable[..., bool] | None:
    """The loop for a tile of that many elements; None where NumPy has to do it, or is quicker."""
    if size <= _SMALL and not _compiled.cache_info().currsize:
        return None
    return _compiled(dtype)


@cache
def _compiled(dtype: str) -> Callable[..., bool] | None:
    """The loop in machine code; None for some dtypes, and without llvmlite."""
    try:
        from gitmerge_eval.compiled.differences import add_differences, has_loop
    except ImportError:
        return None
    return add_differences if has_loop(dtype) else None
