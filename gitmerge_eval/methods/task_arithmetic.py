"""Task arithmetic: the scaled sum of task vectors on top of the base."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from gitmerge_eval.methods._options import scale as scale_option
from gitmerge_eval.methods._task_vectors import (
    add_task_vectors,
    add_task_vectors_at,
    sum_of_task_vectors,
)
from gitmerge_eval.records import MergeMethod, ParameterGroup

if TYPE_CHECKING:
    from gitmerge_eval.records import Array

# What Yadav et al. (arXiv 2306.01708) give task arithmetic where nothing can be tuned.
DEFAULT_SCALE = 0.4


def task_arithmetic(group: ParameterGroup, *, scale: float = DEFAULT_SCALE) -> Array:
    """θ = θ_p + λ Σ τ_i, τ_i = θ_i - θ_p (Ilharco et al. 2023).

    Where one constituent alone changed the group and λ = 1, that constituent itself.

    >>> import torch
    >>> two = (torch.tensor([2.0]), torch.tensor([0.0]))
    >>> group = ParameterGroup("w", two, ("a", "b"), (True, True), base=torch.tensor([0.5]))
    >>> task_arithmetic(group, scale=0.5)
    tensor([1.])
    """
    return add_task_vectors(group, scale)


def over_scales(group: ParameterGroup, values: Sequence[float]) -> Iterator[Array]:
    """:func:`task_arithmetic` for each λ: Σ τ_i is computed once."""
    return add_task_vectors_at(group, values)


METHOD = MergeMethod(
    name="task-arithmetic",
    title="Task arithmetic",
    kernel=task_arithmetic,
    arrays="any",
    reference="Ilharco et al. 2023, arXiv 2212.04089",
    hyperparameters=(scale_option(DEFAULT_SCALE, "the factor of the summed task vectors"),),
    sweeps={"scale": over_scales},
    differences=lambda changed, options: sum_of_task_vectors(changed, options["scale"]),
    needs_base=lambda options: True,
    merging_flops=lambda shape, options: (2 * shape.models + 1) * shape.inputs * shape.outputs,
    flops_formula="(2M+1)·dk",
)
