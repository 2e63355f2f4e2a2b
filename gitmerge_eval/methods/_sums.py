"""Sums of tensors in a fixed order of IEEE operations: the same bytes on every device.

Only separate multiplications and additions are used. A fused ``add(alpha=)`` or ``lerp``, a
division by a number, and a library's own reduction round differently on CPU and GPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from gitmerge_eval.differences import Differences
from gitmerge_eval.methods import _arrays as arrays

if TYPE_CHECKING:
    from gitmerge_eval.records import Array

_BLOCK = 1 << 18


def combination(
    tensors: Sequence[Array], coefficients: Sequence[float], *, total: float | None = None
) -> Array:
    """Σ c_i x_i as :func:`as_differences`; of two tensors with one coefficient (x_1 + x_2)·c, which
    does not depend on their order.

    May return one of ``tensors`` itself.
    """
    form = as_differences(coefficients, total=total)
    if form is None:
        result = tensors[0] + tensors[1]
        result *= coefficients[0]
        return result
    assert form.reference is not None
    return evaluated(form, tensors[form.reference], tensors)


def as_differences(
    coefficients: Sequence[float], *, total: float | None = None
) -> Differences | None:
    """Σ c_i x_i as s·x_r + Σ c_i (x_i - x_r) with s = Σ c_i and c_r the largest; where all c_i are
    c, as s·x_r + c Σ (x_i - x_r). None for two tensors with one coefficient.

    Fine-tuned models are near one another, so that the differences are almost exact and the sum is
    good to about one rounding. Equal tensors with s = 1 give themselves. ``total`` is s where it is
    known better than by adding up.
    """
    if len(coefficients) == 2 and coefficients[0] == coefficients[1]:
        return None
    largest = max(range(len(coefficients)), key=lambda i: coefficients[i])
    whole = sum(coefficients) if total is None else total
    others = tuple((i, c) for i, c in enumerate(coefficients) if i != largest and c != 0)
    if len(set(coefficients)) > 1:
        return Differences(largest, others, whole=whole)
    return Differences(largest, tuple((i, 1.0) for i, _ in others), coefficients[0], whole)


def evaluated(form: Differences, reference: Array, constituents: Sequence[Array]) -> Array:
    """What ``form`` says, with its reference and terms; the reference itself where s is 1 and there
    are no terms. A multiplication by 1, which changes nothing, is left out."""
    result = reference if form.whole == 1 else reference * form.whole
    total = None
    for i, coefficient in form.terms:
        part = constituents[i] - reference
        if coefficient != 1:
            part *= coefficient
        total = part if total is None else _add(total, part)
    if total is None:
        return result
    if form.factor != 1:
        total *= form.factor
    return _add(total, result)


def added_at(base: Array, vector: Array | None, factors: Iterable[float]) -> Iterator[Array]:
    """θ_p + λ v for each factor λ, by the operations of :func:`evaluated`; the base without v."""
    for factor in factors:
        yield base if vector is None else _add(vector * factor, base)


def summed(vectors: Iterable[Array]) -> Array | None:
    """Σ v_i, with vectors that may be overwritten; None where there are none."""
    total = None
    for vector in vectors:
        total = vector if total is None else _add(total, vector)
    return total


def plain_sum(tensors: Sequence[Array]) -> Array:
    """Σ x_i from the first to the last; of one tensor that tensor itself."""
    total = tensors[0]
    for number, tensor in enumerate(tensors[1:]):
        total = _add(total, tensor) if number else total + tensor
    return total


def inner_product(first: Array, second: Array) -> Array | float:
    """⟨x, y⟩ in float64 as a 0-d array on the device, in one order on every device.

    Blocks of a fixed size are added up by halving, and the blocks' sums from first to last.
    """
    left, right = first.reshape(-1), second.reshape(-1)
    total: Array | float = 0.0
    for start in range(0, len(left), _BLOCK):
        block = slice(start, start + _BLOCK)
        total = total + _halved(arrays.as_float64(left[block]) * arrays.as_float64(right[block]))
    return total


def _add(total: Array, part: Array) -> Array:
    """The sum, in the memory of ``total``."""
    total += part
    return total


def _halved(values: Array) -> Array:
    """The sum of a 1-d array by adding its second half to its first until one value is left.

    The halves are those of the next power of two; what lies beyond the array's end is left out.
    """
    left = len(values)
    half = 1 << (left - 1).bit_length() >> 1
    while half:
        if left > half:
            values[: left - half] += values[half:left]
            left = half
        half >>= 1
    return values[0]
