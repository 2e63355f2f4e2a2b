"""Averaging: the mean of the constituents."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gitmerge_eval.methods._options import WEIGHTS, normalised
from gitmerge_eval.methods._sums import as_differences, combination
from gitmerge_eval.records import MergeMethod, ParameterGroup

if TYPE_CHECKING:
    from gitmerge_eval.records import Array


def average(group: ParameterGroup, *, weights: tuple[float, ...] | None = None) -> Array:
    """θ = Σ w_i θ_i with Σ w_i = 1; w_i = 1/M where no weights are given, and n_i/Σ n_j where
    constituents stand for n_i models.

    Raises InvalidOption where the weights are not M numbers with a positive sum.

    >>> import torch
    >>> two = (torch.tensor([1.0, 2.0]), torch.tensor([3.0, 2.0]))
    >>> average(ParameterGroup("weight", two, ("a", "b"), (True, True)), weights=(3, 1))
    tensor([1.5000, 2.0000])
    """
    coefficients = normalised(weights or group.models, len(group.constituents))
    return combination(group.constituents, coefficients, total=1.0)


METHOD = MergeMethod(
    name="average",
    title="Simple averaging",
    kernel=average,
    arrays="any",
    combined=True,
    reference="Choshen et al. 2022, arXiv 2204.03044; Wortsman et al. 2022, arXiv 2203.05482",
    hyperparameters=(WEIGHTS,),
    differences=lambda changed, options: as_differences(
        normalised(options["weights"], len(changed)), total=1.0
    ),
    merging_flops=lambda shape, options: shape.models * shape.inputs * shape.outputs,
    flops_formula="M·dk",
)
