"""Task vectors τ_i = θ_i - θ_p: whole, or thinned out by DARE."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from gitmerge_eval.differences import Differences
from gitmerge_eval.errors import MissingBase
from gitmerge_eval.methods._random import kept
from gitmerge_eval.methods._sums import added_at, evaluated, summed
from gitmerge_eval.records import ParameterGroup

if TYPE_CHECKING:
    from gitmerge_eval.records import Array


def base_of(group: ParameterGroup) -> Array:
    """θ_p; MissingBase where the group has none."""
    if group.base is None:
        raise MissingBase(
            f"the base has no parameter group '{group.name}'; name a base that has it with "
            "'-X base=<revision>'"
        )
    return group.base


def changed(group: ParameterGroup) -> tuple[int, ...]:
    """The positions of the constituents whose task vector is not zero."""
    return tuple(i for i, is_changed in enumerate(group.changed) if is_changed)


def task_vector(group: ParameterGroup, index: int) -> Array:
    """τ_i = θ_i - θ_p of one constituent."""
    return group.constituents[index] - base_of(group)


def sum_of_task_vectors(changed: Sequence[bool], scale: float) -> Differences:
    """θ_p + λ Σ τ_i over the constituents that changed; with λ = 1 and one of them, that one."""
    moved = tuple(i for i, is_changed in enumerate(changed) if is_changed)
    if scale == 1 and len(moved) == 1:
        return Differences(moved[0], ())
    return Differences(None, tuple((i, 1.0) for i in moved), scale)


def add_task_vectors(group: ParameterGroup, scale: float) -> Array:
    """What :func:`sum_of_task_vectors` says of the group."""
    form = sum_of_task_vectors(group.changed, scale)
    if form.reference is not None:
        return group.constituents[form.reference]
    return evaluated(form, base_of(group), group.constituents)


def add_task_vectors_at(group: ParameterGroup, scales: Sequence[float]) -> Iterator[Array]:
    """:func:`add_task_vectors` for each λ, bit for bit, with Σ τ_i computed once."""
    base, moved = base_of(group), changed(group)
    total = summed(task_vector(group, i) for i in moved)
    for scale in scales:
        if scale == 1 and len(moved) == 1:
            yield group.constituents[moved[0]]
        else:
            yield from added_at(base, total, (scale,))


def thinned_sum(group: ParameterGroup, *, drop_rate: float, seed: int) -> Array | None:
    """Σ (1 - m_i) ⊙ τ_i; None where no constituent has changed the group."""
    moved = changed(group)
    return summed(thinned_task_vector(group, i, drop_rate=drop_rate, seed=seed) for i in moved)


def thinned_task_vector(group: ParameterGroup, index: int, *, drop_rate: float, seed: int) -> Array:
    """(1 - m) ⊙ τ_i, m ~ Bernoulli(p): DARE's mask, not rescaled.

    m is a function of the seed, the group's name, the constituent's identity and the position.
    """
    vector = task_vector(group, index)
    if drop_rate == 0:
        return vector
    identity = (seed, group.name, group.identities[index])
    vector *= kept(vector, drop_rate, identity, group.positions)
    return vector
