"""SLERP for two constituents, MLERP for more."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations_with_replacement
from typing import Any

from gitmerge_eval.errors import InvalidOption
from gitmerge_eval.methods._costs import logarithm_flops
from gitmerge_eval.methods._options import SCOPE_HELP, scope
from gitmerge_eval.methods._sums import combination, inner_product
from gitmerge_eval.records import (
    Groups,
    Hyperparameter,
    LayerShape,
    MergeMethod,
    Outcome,
    ParameterGroup,
    WholeModelScalar,
)

# Under this sine the spherical coefficients differ from the linear ones by less than its square.
_PARALLEL = 1e-6


def slerp(group: ParameterGroup, *, t: float = 0.5, scope: str = "group") -> Outcome:
    """The constituents interpolated on the sphere, each tensor taken as one flat vector.

    Two constituents, Ω the angle between them (SLERP, Shoemake 1985)::

        θ = sin((1-t)Ω)/sin Ω · θ_1 + sin(tΩ)/sin Ω · θ_2

    linear where they are parallel, opposite or zero. More than two (MLERP, Kim et al. 2024)::

        θ = max_i ‖θ_i‖ · θ̄/‖θ̄‖,  θ̄ = Σ θ_i / M

    θ̄ itself where it vanishes. ``scope`` 'model' takes angles and norms over the whole model
    (the scalar ``inner_products``: ⟨θ_i, θ_j⟩ for i ≤ j). Opposite directions are remarked upon.

    Raises InvalidOption for a ``t`` other than 0.5 with more than two constituents.
    """
    models = len(group.constituents)
    if models > 2 and t != 0.5:
        raise InvalidOption(
            f"option 't' is a position between two constituents and there are {models}; "
            "leave it out"
        )
    if models == 1:
        return Outcome(group.constituents[0])
    products = group.scalars["inner_products"] if scope == "model" else _inner_products(group)
    coefficients, remark = (
        _spherical(products, t) if models == 2 else _mean_direction(products, models)
    )
    value = combination(group.constituents, coefficients)
    return Outcome(value, remarks=(remark,) if remark else ())


def _pairs(models: int) -> list[tuple[int, int]]:
    """The index pairs i ≤ j in the order in which inner products are kept."""
    return list(combinations_with_replacement(range(models), 2))


def _inner_products(group: ParameterGroup) -> tuple[float, ...]:
    """⟨θ_i, θ_j⟩ for all i ≤ j, brought to the host in one transfer."""
    import torch

    tensors = group.constituents
    products = [inner_product(tensors[i], tensors[j]) for i, j in _pairs(len(tensors))]
    return tuple(torch.stack(products).tolist())


def _whole_model(groups: Groups, options: Mapping[str, Any]) -> tuple[float, ...]:
    """The sums of ``_inner_products`` over all groups."""
    parts = zip(*(_inner_products(group) for group in groups()), strict=True)
    return tuple(math.fsum(part) for part in parts)


def _spherical(products: Sequence[float], t: float) -> tuple[tuple[float, ...], str]:
    """SLERP's coefficients of two vectors with ⟨a,a⟩, ⟨a,b⟩, ⟨b,b⟩; and what to remark.

    >>> [round(coefficient, 6) for coefficient in _spherical((1.0, 0.0, 4.0), 1 / 3)[0]]
    [0.866025, 0.5]
    >>> _spherical((1.0, -2.0, 4.0), 0.5)
    ((0.5, 0.5), 'the two constituents point in opposite directions: interpolated linearly')
    """
    linear = (1 - t, t)
    length = math.sqrt(products[0]) * math.sqrt(products[2])
    if length == 0:
        return linear, ""
    cosine = max(-1.0, min(1.0, products[1] / length))
    angle = math.acos(cosine)
    if math.sin(angle) < _PARALLEL:
        opposite = "the two constituents point in opposite directions: interpolated linearly"
        return linear, opposite if cosine < 0 else ""
    return (math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)), ""


def _mean_direction(products: Sequence[float], models: int) -> tuple[tuple[float, ...], str]:
    """MLERP's coefficients of M vectors from their inner products; and what to remark.

    >>> _mean_direction((1.0, 0.0, 0.0, 1.0, 0.0, 4.0), 3)[0][0] == 2 / 6**0.5
    True
    """
    pairs = _pairs(models)
    norms = [math.sqrt(p) for p, (i, j) in zip(products, pairs, strict=True) if i == j]
    squares = math.fsum(p if i == j else 2 * p for p, (i, j) in zip(products, pairs, strict=True))
    length = math.sqrt(max(squares, 0.0))
    if length <= _PARALLEL * sum(norms):
        return (1 / models,) * models, "the constituents cancel: averaged" if any(norms) else ""
    return (max(norms) / length,) * models, ""


def _merging_flops(shape: LayerShape, options: Mapping[str, Any]) -> int:
    """(5M-2)dk + (M+1)·ln(dk) up to two models, (2M+3)dk + (M+1)·ln(dk) + ln M for more."""
    models, size = shape.models, shape.inputs * shape.outputs
    norms = logarithm_flops(models + 1, size)
    if models <= 2:
        return (5 * models - 2) * size + norms
    return (2 * models + 3) * size + norms + logarithm_flops(1, models)


METHOD = MergeMethod(
    name="slerp",
    title="SLERP (MLERP for more than two)",
    kernel=slerp,
    reference="Shoemake 1985; Kim et al. 2024, arXiv 2312.01026",
    hyperparameters=(
        Hyperparameter(
            name="t",
            type=float,
            default=0.5,
            help="position between the first and the second of two constituents",
            minimum=0.0,
            maximum=1.0,
            positional=True,
        ),
        scope(f"whether norms and angles are taken {SCOPE_HELP}"),
    ),
    scalars=lambda options, models: (
        (WholeModelScalar("inner_products", _whole_model),)
        if options["scope"] == "model" and models > 1
        else ()
    ),
    merging_flops=_merging_flops,
    flops_formula="(5M-2)·dk + (M+1)·ln(dk); M > 2: (2M+3)·dk + (M+1)·ln(dk) + ln M",
)
