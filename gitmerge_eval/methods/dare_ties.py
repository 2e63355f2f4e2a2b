"""DARE-TIES: DARE's task vectors through TIES' sign election."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gitmerge_eval.methods import _task_vectors as vectors
from gitmerge_eval.methods._costs import trimming_flops
from gitmerge_eval.methods._options import SCOPE_HELP, SEED
from gitmerge_eval.methods._options import density as density_option
from gitmerge_eval.methods._options import drop_rate as drop_rate_option
from gitmerge_eval.methods._options import scale as scale_option
from gitmerge_eval.methods._options import scope as scope_option
from gitmerge_eval.methods._sign_election import elected_mean, majority_sign
from gitmerge_eval.methods._sums import added_at
from gitmerge_eval.methods._trimming import TRIM_THRESHOLD, TaskVector, trim_thresholds, trimmed
from gitmerge_eval.records import (
    Groups,
    LayerShape,
    MergeMethod,
    ParameterGroup,
    Scalar,
)

if TYPE_CHECKING:
    from gitmerge_eval.records import Array


def dare_ties(
    group: ParameterGroup,
    *,
    scale: float = 1.0,
    drop_rate: float = 0.5,
    density: float = 1.0,
    seed: int = 0,
    scope: str = "group",
) -> Array:
    """θ = θ_p + λ · τ, τ the mean of the τ'_i that have the elected sign, with DARE's
    τ'_i = (1-m_i) ⊙ τ_i / (1-p).

    A ``density`` under 1 trims the τ'_i as TIES does (dropped elements count as zeros). By default
    nothing is trimmed, as in Yadav et al. 2024: dropping at random takes trimming's place.
    p = 0 is TIES, p = 1 is θ_p.
    """
    if drop_rate == 1:
        return vectors.base_of(group)
    thinned = trimmed(group, _thinned(drop_rate, seed))
    return next(elected_mean(group, thinned, (scale / (1 - drop_rate),)))


def over_scales(
    group: ParameterGroup,
    values: Sequence[float],
    *,
    drop_rate: float,
    density: float,
    seed: int,
    scope: str,
) -> Iterator[Array]:
    """:func:`dare_ties` for each λ: masks, election and mean are computed once."""
    if drop_rate == 1:
        return added_at(vectors.base_of(group), None, values)
    thinned = trimmed(group, _thinned(drop_rate, seed))
    return elected_mean(group, thinned, (scale / (1 - drop_rate) for scale in values))


def _thinned(drop_rate: float, seed: int) -> TaskVector:
    """(1-m) ⊙ τ_i. The factor 1/(1-p) is left to the scale: it is common to all elements, so that
    neither the k-th largest nor a sign depends on it."""

    def vector(group: ParameterGroup, index: int) -> Array:
        return vectors.thinned_task_vector(group, index, drop_rate=drop_rate, seed=seed)

    return vector


def _scalars(options: Mapping[str, Any], models: int) -> tuple[Scalar, ...]:
    """As TIES', of DARE's task vectors."""
    thinned = _thinned(options["drop_rate"], options["seed"])

    def thresholds(groups: Groups, options: Mapping[str, Any]) -> tuple[float, ...]:
        return trim_thresholds(groups, models, options["density"], thinned)

    return (
        *([Scalar(TRIM_THRESHOLD, thresholds)] if options["density"] < 1 else []),
        majority_sign(lambda group: trimmed(group, thinned), options["scope"]),
    )


def _statistics_flops(shape: LayerShape, tokens: int, options: Mapping[str, Any]) -> int:
    """TIES' trimming where there is any."""
    if options["density"] == 1:
        return 0
    return trimming_flops(shape.inputs * shape.outputs, shape.models, options["density"])


METHOD = MergeMethod(
    name="dare-ties",
    title="DARE-TIES",
    kernel=dare_ties,
    arrays="any",
    reference="Yadav et al. 2024, arXiv 2410.03617",
    hyperparameters=(
        scale_option(1.0, "the factor of the merged task vector"),
        drop_rate_option(0.5),
        density_option(1.0, "the part of each thinned task vector's elements that is kept"),
        SEED,
        scope_option(f"whether the majority sign that settles ties is taken {SCOPE_HELP}"),
    ),
    sweeps={"scale": over_scales},
    needs_base=lambda options: True,
    scalars=_scalars,
    merging_flops=lambda shape, options: (8 * shape.models + 1) * shape.inputs * shape.outputs,
    statistics_flops=_statistics_flops,
    flops_formula="(8M+1)·dk",
    statistics_formula="0; density < 1: M·K·dk + M·dk·ln K, K in percent",
)
