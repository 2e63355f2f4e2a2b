"""DARE: task arithmetic with task vectors that were thinned out at random and rescaled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from gitmerge_eval.methods import _task_vectors as vectors
from gitmerge_eval.methods._options import SEED
from gitmerge_eval.methods._options import drop_rate as drop_rate_option
from gitmerge_eval.methods._options import scale as scale_option
from gitmerge_eval.methods._sums import added_at
from gitmerge_eval.methods.task_arithmetic import DEFAULT_SCALE
from gitmerge_eval.records import MergeMethod, ParameterGroup

if TYPE_CHECKING:
    from gitmerge_eval.records import Array


def dare(
    group: ParameterGroup, *, scale: float = DEFAULT_SCALE, drop_rate: float = 0.5, seed: int = 0
) -> Array:
    """θ = θ_p + λ Σ (1-m_i) ⊙ τ_i / (1-p), m_i ~ Bernoulli(p) (Yu et al. 2024).

    p = 0 is task arithmetic, p = 1 is θ_p. The mask depends on the seed, the group's name, the
    constituent's identity and the position alone.
    """
    if drop_rate == 0:
        return vectors.add_task_vectors(group, scale)
    base = vectors.base_of(group)
    if drop_rate == 1:
        return base
    total = vectors.thinned_sum(group, drop_rate=drop_rate, seed=seed)
    return next(added_at(base, total, (scale / (1 - drop_rate),)))


def over_scales(
    group: ParameterGroup, values: Sequence[float], *, drop_rate: float, seed: int
) -> Iterator[Array]:
    """:func:`dare` for each λ: masks and Σ (1-m_i) ⊙ τ_i are computed once."""
    if drop_rate == 0:
        yield from vectors.add_task_vectors_at(group, values)
        return
    base = vectors.base_of(group)
    if drop_rate == 1:
        yield from added_at(base, None, values)
        return
    total = vectors.thinned_sum(group, drop_rate=drop_rate, seed=seed)
    yield from added_at(base, total, (scale / (1 - drop_rate) for scale in values))


def over_drop_rates(
    group: ParameterGroup, values: Sequence[float], *, scale: float, seed: int
) -> Iterator[Array]:
    """:func:`dare` for each p, from constituents that are read once; every p has its own masks."""
    for drop_rate in values:
        yield dare(group, scale=scale, drop_rate=drop_rate, seed=seed)


METHOD = MergeMethod(
    name="dare",
    title="DARE",
    kernel=dare,
    arrays="any",
    reference="Yu et al. 2024, arXiv 2311.03099",
    hyperparameters=(
        scale_option(
            DEFAULT_SCALE, "the factor of the summed task vectors", tuned_by="task-arithmetic"
        ),
        drop_rate_option(0.5),
        SEED,
    ),
    sweeps={"drop_rate": over_drop_rates, "scale": over_scales},
    needs_base=lambda options: True,
    merging_flops=lambda shape, options: (6 * shape.models + 1) * shape.inputs * shape.outputs,
    flops_formula="(6M+1)·dk",
)
