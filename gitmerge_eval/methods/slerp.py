"""SLERP for two constituents, MLERP for more."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gitmerge_eval.errors import InvalidOption
from gitmerge_eval.hyperparameters import Hyperparameter
from gitmerge_eval.methods import _arrays as arrays
from gitmerge_eval.methods._costs import logarithm_flops
from gitmerge_eval.methods._options import SCOPE_HELP, scope
from gitmerge_eval.methods._sums import combination, inner_product
from gitmerge_eval.records import Groups, LayerShape, MergeMethod, Outcome, ParameterGroup, Scalar

if TYPE_CHECKING:
    from gitmerge_eval.records import Array

# Under this sine the spherical coefficients differ from the linear ones by less than its square.
_PARALLEL = 1e-6
INNER_PRODUCTS = "inner_products"


def slerp(group: ParameterGroup, *, t: float = 0.5, scope: str = "group") -> Outcome:
    """The constituents interpolated on the sphere, each tensor taken as one flat vector.

    Two constituents, Ω the angle between them (SLERP, Shoemake 1985)::

        θ = sin((1-t)Ω)/sin Ω · θ_1 + sin(tΩ)/sin Ω · θ_2

    linear where they are parallel, opposite or zero. More than two (MLERP, Kim et al. 2024)::

        θ = max_i ‖θ_i‖ · θ̄/‖θ̄‖,  θ̄ = Σ θ_i / M

    θ̄ itself where it vanishes. Angles and norms are the scalar ``inner_products``, of the group or,
    with ``scope`` 'model', of the whole model: for two constituents ⟨a,a⟩, ⟨a,b⟩, ⟨b,b⟩, for more
    ‖θ_1‖², …, ‖θ_M‖², ‖θ̄‖². Opposite directions are remarked upon.

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
    products = group.scalars.get(INNER_PRODUCTS) or _inner_products(group)
    if models == 2:
        coefficients, remark = _spherical(products, t)
        value = combination(group.constituents, coefficients)
    else:
        factor, remark = _restored_norm(products)
        value = _mean(group) if factor == 1 else _mean(group) * factor
    return Outcome(value, remarks=(remark,) if remark else ())


def _inner_products(group: ParameterGroup) -> tuple[float, ...]:
    """The scalar for these elements alone, brought to the host in one transfer."""
    if len(group.constituents) == 2:
        first, second = group.constituents
        pairs = ((first, first), (first, second), (second, second))
        return arrays.numbers([inner_product(*pair) for pair in pairs])
    vectors = (*group.constituents, _mean(group))
    return arrays.numbers([inner_product(vector, vector) for vector in vectors])


def _mean(group: ParameterGroup) -> Array:
    """θ̄."""
    models = len(group.constituents)
    return combination(group.constituents, (1 / models,) * models, total=1.0)


def _summed(groups: Groups, options: Mapping[str, Any]) -> tuple[float, ...]:
    """The sums of ``_inner_products`` over groups or tiles."""
    parts = zip(*groups(_inner_products), strict=True)
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


def _restored_norm(products: Sequence[float]) -> tuple[float, str]:
    """MLERP's factor of θ̄ from ‖θ_i‖² and, last, ‖θ̄‖²; and what to remark.

    >>> _restored_norm((1.0, 1.0, 4.0, 0.25))
    (4.0, '')
    """
    *norms, length = [math.sqrt(product) for product in products]
    if length <= _PARALLEL * sum(norms) / len(norms):
        return 1.0, "the constituents cancel: averaged" if any(norms) else ""
    return max(norms) / length, ""


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
    arrays="any",
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
        (Scalar(INNER_PRODUCTS, _summed, per_group=options["scope"] == "group"),)
        if models > 1
        else ()
    ),
    merging_flops=_merging_flops,
    flops_formula="(5M-2)·dk + (M+1)·ln(dk); M > 2: (2M+3)·dk + (M+1)·ln(dk) + ln M",
)
