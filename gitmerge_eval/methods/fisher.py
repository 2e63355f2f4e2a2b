"""Fisher merging: the average weighted by each constituent's diagonal Fisher information."""

from __future__ import annotations

from gitmerge_eval.methods import _arrays as arrays
from gitmerge_eval.methods._options import WEIGHTS, normalised
from gitmerge_eval.methods._sums import combination
from gitmerge_eval.records import MergeMethod, Outcome, ParameterGroup


def fisher(group: ParameterGroup, *, weights: tuple[float, ...] | None = None) -> Outcome:
    """θ = Σ w_i F_i ⊙ θ_i / Σ w_i F_i; the (weighted) average where Σ w_i F_i is 0.

    Computed as θ̄ + Σ w_i r_i ⊙ (θ_i - θ̄) / Σ w_i r_i with θ̄ the average and r_i = F_i / max_j F_j
    element by element, so that Fishers near the smallest float neither vanish nor divide by zero.
    Figure: ``zero_fisher``, the number of elements that were averaged. A group without Fishers is
    averaged, with a remark.

    Raises InvalidOption where the weights are not M numbers with a positive sum.
    """
    coefficients = normalised(weights, len(group.constituents))
    # A summed Fisher counts its models by itself; where there is none, they are counted here.
    shares = normalised(weights or group.models, len(group.constituents))
    mean = combination(group.constituents, shares, total=1.0)
    if "fisher" not in group.statistics:
        return Outcome(mean, remarks=("no Fisher: averaged",))
    fishers = tuple(group.statistics["fisher"])
    largest = fishers[0]
    for information in fishers[1:]:
        largest = arrays.maximum(largest, information)
    largest = arrays.where(largest > 0, largest, 1)
    correction, weight = arrays.zeros_like(mean), arrays.zeros_like(mean)
    for tensor, information, coefficient in zip(
        group.constituents, fishers, coefficients, strict=True
    ):
        relative = information / largest
        relative *= coefficient
        weight += relative
        difference = tensor - mean
        difference *= relative
        correction += difference
    empty = weight == 0
    weight += empty  # 1 where there is none
    correction /= weight
    correction += mean
    return Outcome(correction, figures={"zero_fisher": float(arrays.count(empty))})


METHOD = MergeMethod(
    name="fisher",
    title="Fisher merging",
    kernel=fisher,
    arrays="any",
    combined=True,
    reference="Matena and Raffel 2022, arXiv 2111.09832",
    hyperparameters=(WEIGHTS,),
    statistics=lambda options: ("fisher",),
    merging_flops=lambda shape, options: (3 * shape.models - 1) * shape.inputs * shape.outputs,
    statistics_flops=lambda shape, tokens, options: (
        4 * shape.models * tokens * shape.inputs**2 * shape.outputs
    ),
    flops_formula="(3M-1)·dk",
    statistics_formula="4M·T·d²k",
)
