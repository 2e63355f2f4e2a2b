"""TIES: trim, elect signs, merge those that agree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gitmerge_eval.methods._costs import trimming_flops
from gitmerge_eval.methods._options import SCOPE_HELP
from gitmerge_eval.methods._options import density as density_option
from gitmerge_eval.methods._options import scale as scale_option
from gitmerge_eval.methods._options import scope as scope_option
from gitmerge_eval.methods._sign_election import elected_mean, majority_sign
from gitmerge_eval.methods._task_vectors import task_vector
from gitmerge_eval.methods._trimming import TRIM_THRESHOLD, trim_thresholds, trimmed
from gitmerge_eval.records import Groups, MergeMethod, ParameterGroup, Scalar

if TYPE_CHECKING:
    from gitmerge_eval.records import Array


def ties(
    group: ParameterGroup, *, scale: float = 1.0, density: float = 0.2, scope: str = "group"
) -> Array:
    """θ = θ_p + λ · τ, τ the mean of the trimmed τ̂_i that have the elected sign.

    τ̂_i keeps the elements with |τ_i| at or above the scalar ``trim_threshold`` (the ``density``
    part of all elements of the groups that constituent i changed); the statistic ``trimmed`` takes
    its place where the group has it, and must then have been made at the same density. Elected is
    sgn(Σ τ̂_i); where that is 0, the majority sign of the group or of the model (``scope``).
    """
    return next(elected_mean(group, _vectors(group), (scale,)))


def over_scales(
    group: ParameterGroup, values: Sequence[float], *, density: float, scope: str
) -> Iterator[Array]:
    """:func:`ties` for each λ: trimming, election and mean are computed once."""
    return elected_mean(group, _vectors(group), values)


def _vectors(group: ParameterGroup) -> tuple[Array, ...]:
    """The trimmed task vectors: precomputed ones where they are there."""
    precomputed = group.statistics.get("trimmed")
    return tuple(precomputed) if precomputed else trimmed(group, task_vector)


def _scalars(options: Mapping[str, Any], models: int) -> tuple[Scalar, ...]:
    """The thresholds unless everything is kept, and the model's majority sign where it counts."""

    def thresholds(groups: Groups, options: Mapping[str, Any]) -> tuple[float, ...]:
        first = next(groups(lambda group: "trimmed" in group.statistics), False)
        if first:
            return ()  # the statistic spares the passes over the model
        return trim_thresholds(groups, models, options["density"], task_vector)

    return (
        *([Scalar(TRIM_THRESHOLD, thresholds)] if options["density"] < 1 else []),
        majority_sign(_vectors, options["scope"]),
    )


METHOD = MergeMethod(
    name="ties",
    title="TIES",
    kernel=ties,
    arrays="any",
    reference="Yadav et al. 2023, arXiv 2306.01708",
    hyperparameters=(
        scale_option(1.0, "the factor of the merged task vector"),
        density_option(0.2, "the part of each task vector's elements that is kept"),
        scope_option(f"whether the majority sign that settles ties is taken {SCOPE_HELP}"),
    ),
    sweeps={"scale": over_scales},
    needs_base=lambda options: True,
    optional_statistics=lambda options: {"trimmed": {"density": options["density"]}},
    scalars=_scalars,
    merging_flops=lambda shape, options: (4 * shape.models + 1) * shape.inputs * shape.outputs,
    statistics_flops=lambda shape, tokens, options: trimming_flops(
        shape.inputs * shape.outputs, shape.models, options["density"]
    ),
    flops_formula="(4M+1)·dk",
    statistics_formula="M·K·dk + M·dk·ln K, K in percent",
)
