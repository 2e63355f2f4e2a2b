"""The algebra of task vectors: ours + λ · (theirs - base), to one rounding, integers included.

A merge driver's default. ``git cherry-pick`` adds a task vector by it and ``git revert`` takes it
away again, so that what it does has to be undone exactly: the sum of three is formed without any
rounding but the one to the stored dtype, integers are added as integers, and a group that only
one side changed, or both alike, is that side's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gitmerge_eval.checkpoints.checkpoint import Checkpoint, store_array
from gitmerge_eval.checkpoints.lfs import ObjectStore
from gitmerge_eval.checkpoints.metadata import GroupRecord, Metadata
from gitmerge_eval.errors import NumericalError
from gitmerge_eval.hyperparameters import Hyperparameter
from gitmerge_eval.merging.sources import value_of
from gitmerge_eval.records import MergeMethod, ParameterGroup

if TYPE_CHECKING:
    from gitmerge_eval.merging.planning import CheckpointPlan, GroupPlan
    from gitmerge_eval.records import Array


def add_task_vector(group: ParameterGroup, *, scale: float) -> Array:
    """Ours + λ · (theirs - θ_p), element by element: λ = 1 adds all of their task vector.

    What either sum loses to rounding is found by Knuth's two-sum and added at the end. Otherwise
    a weight of 10⁻²⁰ beside one of 1 would not come back: 1 + (10⁻²⁰ - 1) is 0 in float64.
    """
    ours, theirs = group.constituents
    assert group.base is not None
    vector, lost = _two_sum(theirs, -group.base)
    total, rest = _two_sum(ours, scale * vector)
    return total + (rest + scale * lost)


def _two_sum(first: Array, second: Array) -> tuple[Array, Array]:
    """a + b as rounded, and exactly what the rounding lost (Knuth, TAOCP vol. 2, 4.2.2)."""
    total = first + second
    part = total - first
    return total, (first - (total - part)) + (second - part)


TASK_VECTOR = MergeMethod(
    name="task-vector",
    title="addition of the other side's task vector",
    kernel=add_task_vector,
    arrays="any",
    reference="Ilharco et al. 2023, arXiv 2212.04089",
    hyperparameters=(Hyperparameter("scale", float, 1.0, "the factor of their task vector", "λ"),),
    needs_base=lambda options: True,
    ordered=True,
)
"""What the driver does unless another method is configured; its sides are not alike."""


_OPEN = ("merged", "tied", "not-averaged", "conflict")
"""The states of groups of which more than one version is there."""


def settled(plan: CheckpointPlan, store: ObjectStore) -> CheckpointPlan:
    """The plan with every group decided that needs no sum, and integers added.

    A group that only we changed stays ours, also in shape or dtype; one that only they changed
    becomes theirs where λ is 1; the same change on both sides counts once. Integers whose sum does
    not fit their dtype are a conflict.
    """
    if plan.outline or plan.base is None:  # an adapter's products are made anew in any case
        return plan
    whole = plan.options["scale"] == 1.0
    return replace(plan, groups=tuple(_settled(plan, group, whole, store) for group in plan.groups))


def _settled(plan: CheckpointPlan, group: GroupPlan, whole: bool, store: ObjectStore) -> GroupPlan:
    sides = [s.metadata.groups.get(group.name) for s in (plan.base, *plan.constituents) if s]
    base, ours, theirs = sides
    if group.state not in _OPEN or not (base and ours and theirs):
        return group
    taken = replace(group, state="taken", remark="", tied_to="")
    if value_of(theirs) in (value_of(base), value_of(ours)):
        return replace(taken, record=ours)
    integers = group.state == "not-averaged"
    if value_of(ours) == value_of(base) and (whole or integers):
        return replace(taken, record=theirs)
    if not integers:
        return group
    what = f"'{group.name}' was changed on both sides: {ours.dtype}"
    if not (whole and _is_whole(ours.dtype)):
        return replace(taken, record=ours, remark=f"{what} stays ours")
    try:
        added = _added(group.name, (base, ours, theirs), store, plan.spec.path)
    except NumericalError as error:
        return replace(taken, state="conflict", record=base, remark=str(error))
    return replace(taken, record=added, remark=f"{what} added as integers")


def _is_whole(dtype: str) -> bool:
    return dtype == "bool" or dtype.startswith(("int", "uint"))


def _added(name: str, sides: Sequence[GroupRecord], store: ObjectStore, path: str) -> GroupRecord:
    values = [Checkpoint(Metadata({name: side}), store, path).read(name) for side in sides]
    base, ours, theirs = values
    return store_array(name, add_whole_numbers(base, ours, theirs), store, sides)


def add_whole_numbers(base: NDArray[Any], ours: NDArray[Any], theirs: NDArray[Any]) -> NDArray[Any]:
    """Ours + (theirs - base) for integers; a boolean is whoever's changed it: two cannot disagree.

    An element that one side changed becomes that side's, and counters add up. Raises
    NumericalError where a sum does not fit the dtype.

    >>> add_whole_numbers(*(np.array(x) for x in ([5, 5], [9, 5], [6, 4])))
    array([10,  4])
    """
    if ours.dtype == np.bool_:
        return np.where(ours == base, theirs, ours)
    # Python's integers hold any sum of three numbers of 64 bits.
    wide = np.int64 if ours.dtype.itemsize < 8 else object
    total = ours.astype(wide) + (theirs.astype(wide) - base.astype(wide))
    limits = np.iinfo(ours.dtype)
    if total.size and not (limits.min <= total.min() and total.max() <= limits.max):
        raise NumericalError(f"ours + (theirs - base) does not fit {ours.dtype.name}")
    return np.asarray(total.astype(ours.dtype))
