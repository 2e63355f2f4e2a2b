"""The linear systems A X = B of RegMean and MaTS: X is a weight as a d×k matrix, inputs first.

Solved in float64 whatever the group's dtype: Gram matrices of activations have condition numbers
at which float32 keeps no digit of the directions with little data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from gitmerge_eval.errors import SingularGram, StaleStatistic
from gitmerge_eval.records import ParameterGroup

if TYPE_CHECKING:
    from torch import Tensor

RIDGES = (0.0, *(10.0**exponent for exponent in range(-15, 0)))
"""Relative to the mean of the diagonal, from float64's resolution upwards."""

# A weighted average has no business to be much longer than all that it averages: a solution that
# is has only amplified the rounding of nearly empty directions.
_LONGEST = 10.0

# Statistics are stored in float32. When conjugate gradient has left no more of the residual than
# their rounding, all that it could still fit is noise, in which a singular system diverges.
_ROUNDING = 1e-7


def as_matrix(tensor: Tensor, input_axis: int) -> Tensor:
    """A weight as a float64 d×k matrix: (out, in, …) is transposed, (in, out) is taken as it is."""
    matrix = tensor.reshape(tensor.shape[0], -1).double()
    return matrix.T if input_axis == 1 else matrix


def as_weight(matrix: Tensor, like: Tensor, input_axis: int) -> Tensor:
    """The inverse of :func:`as_matrix`, in the shape and dtype of ``like``."""
    weight = matrix.T if input_axis == 1 else matrix
    return weight.reshape(like.shape).to(like.dtype)


def checked_grams(group: ParameterGroup) -> tuple[Tensor, ...] | None:
    """The group's Gram matrices, or None; StaleStatistic where they are not d×d."""
    grams = group.statistics.get("gram")
    if grams is None:
        return None
    shape = group.constituents[0].shape
    inputs = math.prod(shape[:1] if group.input_axis == 0 else shape[1:])
    for gram in grams:
        if tuple(gram.shape) != (inputs, inputs):
            raise StaleStatistic(
                f"a Gram matrix of '{group.name}' is {'×'.join(map(str, gram.shape))} and the "
                f"layer has {inputs} inputs; recompute it with 'gitmerge-eval stats gram'"
            )
    return grams


def solve(matrix: Tensor, right: Tensor, longest: float, name: str) -> tuple[Tensor, float]:
    """X of A X = B by Cholesky, and the ridge that A needed, relative to its mean diagonal.

    ``matrix`` (d×d, symmetric, positive semidefinite) and ``right`` (d×k) are float64. The ridge is
    the smallest of :data:`RIDGES` with which the factorisation succeeds and X is finite and not
    longer than ten times ``longest``. Raises SingularGram where none does.
    """
    import torch

    diagonal = matrix.diagonal()
    mean = float(diagonal.mean())
    for ridge in RIDGES:
        damped = (
            matrix if ridge == 0 else matrix + torch.diag(torch.full_like(diagonal, ridge * mean))
        )
        factor, failed = torch.linalg.cholesky_ex(damped)
        if int(failed):
            continue
        solution = torch.cholesky_solve(right, factor)
        if float(torch.linalg.vector_norm(solution)) <= _LONGEST * longest:
            return solution, ridge
    raise SingularGram(
        f"the Gram matrices of '{name}' add up to a matrix that is singular even with a ridge of "
        f"{RIDGES[-1]:g} times its mean diagonal; recompute them with 'gitmerge-eval stats gram' "
        "on more examples, or merge with 'average'"
    )


def conjugate_gradient(
    apply: Callable[[Tensor], Tensor], residual: Tensor, iterations: int
) -> tuple[Tensor, Tensor]:
    """N steps of conjugate gradient for A X = R from X = 0: X, and the residual R - A X.

    ``apply(P)`` is A P; A is symmetric and positive semidefinite. One step length serves the whole
    matrix: α = ⟨R,R⟩/⟨P,AP⟩ with the inner products over all entries. Nothing is brought to the
    host: once ‖R‖ is 1e-7 of what it was, the further steps have length 0.
    """
    import torch

    solution = torch.zeros_like(residual)
    direction = residual
    squared = (residual * residual).sum()
    floor = squared * _ROUNDING**2
    for _ in range(iterations):
        image = apply(direction)
        curvature = (direction * image).sum()
        going = (squared > floor) & (curvature > 0)
        step = torch.where(going, squared / curvature, 0.0)
        solution = solution.addcmul_(direction, step)
        residual = torch.addcmul(residual, image, -step)
        following = (residual * residual).sum()
        direction = torch.addcmul(residual, direction, torch.where(going, following / squared, 0.0))
        squared = following
    return solution, residual


def differences(group: ParameterGroup, start: Tensor) -> Sequence[Tensor]:
    """W_i - X_0 for each constituent, as float64 d×k matrices; ``start`` is X_0 as such."""
    return [as_matrix(tensor, group.input_axis) - start for tensor in group.constituents]
