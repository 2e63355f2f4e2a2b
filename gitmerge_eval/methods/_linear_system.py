"""The linear systems A X = B of RegMean and MaTS: X is a weight as a d×k matrix, inputs first.

Solved in float64 by default, whatever the group's dtype: Gram matrices of activations have
condition numbers at which float32 keeps no digit of the directions with little data. A GPU whose
float64 is slow may be told to take float32, or TF32 in its matrix products.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING

from gitmerge_eval.errors import SingularGram, StaleStatistic
from gitmerge_eval.hyperparameters import Hyperparameter
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


PRECISION = Hyperparameter(
    name="precision",
    type=str,
    default="float64",
    help="of the linear systems: tf32 is float32 with a GPU's TensorFloat-32 products",
    choices=("float64", "float32", "tf32"),
)

_tf32_lock = Lock()
_tf32_users = 0
_precision_before = ""


@contextmanager
def products(precision: str) -> Iterator[None]:
    """Lets CUDA round the factors of float32 products to TF32 inside, with precision 'tf32'.

    torch has one setting for the process: the last group to leave puts it back.
    """
    if precision != "tf32":
        yield
        return
    import torch

    global _tf32_users, _precision_before
    with _tf32_lock:
        if _tf32_users == 0:
            _precision_before = torch.get_float32_matmul_precision()
            torch.set_float32_matmul_precision("high")
        _tf32_users += 1
    try:
        yield
    finally:
        with _tf32_lock:
            _tf32_users -= 1
            if _tf32_users == 0:
                torch.set_float32_matmul_precision(_precision_before)


def solved_in(tensor: Tensor, precision: str) -> Tensor:
    """The tensor in the precision of the linear system."""
    return tensor.double() if precision == "float64" else tensor.float()


def as_matrix(tensor: Tensor, input_axis: int, precision: str) -> Tensor:
    """A weight as a d×k matrix: (out, in, …) is transposed, (in, out) is taken as it is."""
    matrix = solved_in(tensor.reshape(tensor.shape[0], -1), precision)
    return matrix.T if input_axis == 1 else matrix


def as_weight(matrix: Tensor, like: Tensor, input_axis: int) -> Tensor:
    """The inverse of :func:`as_matrix`, in the shape and dtype of ``like``."""
    weight = matrix.T if input_axis == 1 else matrix
    return weight.reshape(like.shape).to(like.dtype)


def systems(
    group: ParameterGroup, start: Tensor, precision: str
) -> Iterator[tuple[Tensor, Tensor]]:
    """G_i (d×d) and W_i - X_0 (d×k) for each constituent; ``start`` is X_0 as d×k.

    One constituent is in memory at a time. StaleStatistic where a Gram matrix is not d×d.
    """
    inputs = start.shape[0]
    for tensor, gram in zip(group.constituents, group.statistics["gram"], strict=True):
        if tuple(gram.shape) != (inputs, inputs):
            raise StaleStatistic(
                f"a Gram matrix of '{group.name}' is {'×'.join(map(str, gram.shape))} and the "
                f"layer has {inputs} inputs; recompute it with 'gitmerge-eval stats gram'"
            )
        matrix = solved_in(gram, precision)
        yield matrix, as_matrix(tensor, group.input_axis, precision) - start


def solve(matrix: Tensor, right: Tensor, longest: float, name: str) -> tuple[Tensor, float]:
    """X of A X = B by Cholesky, and the ridge that A needed, relative to its mean diagonal.

    ``matrix`` is d×d, symmetric and positive semidefinite, ``right`` d×k. The ridge is the smallest
    of :data:`RIDGES` with which the factorisation succeeds and X is finite and not
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
    apply: Callable[[Tensor], Tensor], residual: Tensor, iterations: Sequence[int]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Conjugate gradient for A X = R from X = 0: X and the residual R - A X after N steps, for each
    N of ``iterations``, which ascend. One run to the last hands out the others on the way.

    ``apply(P)`` is A P; A is symmetric and positive semidefinite. One step length serves the whole
    matrix: α = ⟨R,R⟩/⟨P,AP⟩ with the inner products over all entries. Nothing is brought to the
    host: once ‖R‖ is 1e-7 of what it was, the further steps have length 0.
    """
    import torch

    solution = torch.zeros_like(residual)
    direction = residual
    squared = (residual * residual).sum()
    floor = squared * _ROUNDING**2
    yield from ((solution, residual) for wanted in iterations if wanted == 0)
    for number in range(1, max(iterations, default=0) + 1):
        image = apply(direction)
        curvature = (direction * image).sum()
        going = (squared > floor) & (curvature > 0)
        step = torch.where(going, squared / curvature, 0.0)
        solution = solution.addcmul_(direction, step)
        residual = torch.addcmul(residual, image, -step)
        following = (residual * residual).sum()
        direction = torch.addcmul(residual, direction, torch.where(going, following / squared, 0.0))
        squared = following
        yield from ((solution, residual) for wanted in iterations if wanted == number)
