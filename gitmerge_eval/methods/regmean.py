"""RegMean: the weights whose outputs are nearest to all constituents' on their own inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from gitmerge_eval.hyperparameters import Hyperparameter
from gitmerge_eval.methods import _linear_system as system
from gitmerge_eval.methods._options import TENTHS, normalised
from gitmerge_eval.methods._sums import combination
from gitmerge_eval.records import LayerShape, MergeMethod, Outcome, ParameterGroup

if TYPE_CHECKING:
    from torch import Tensor


def regmean(
    group: ParameterGroup, *, off_diagonal: float = 0.9, precision: str = "float64"
) -> Outcome:
    """W = (Σ G̃_i)^-1 Σ G̃_i W_i with G̃_i = λ G_i + (1-λ) diag(G_i) (Jin et al. 2023).

    W_i is d×k, inputs first; G_i (d×d) is the statistic ``gram``, the mean outer product of the
    layer's inputs. Solved by Cholesky for the difference from the average, so that directions
    without data keep the average. A singular sum gets the smallest ridge that works, with a remark
    and the figure ``ridge``. A group without Gram matrices is averaged, with a remark.
    ``precision`` float64, float32 or tf32 is that of the system.

    Raises StaleStatistic for Gram matrices of another size and SingularGram where no ridge works.
    """
    import torch

    mean = _mean(group)
    if averaged := _averaged(group, mean):
        return averaged
    start = system.as_matrix(mean, group.input_axis, precision)
    matrix = start.new_zeros(len(start), len(start))
    right = torch.zeros_like(start)
    longest = torch.zeros((), dtype=torch.float64, device=start.device)
    with system.products(precision):
        for gram, difference in system.systems(group, start, precision):
            damped = gram * off_diagonal
            damped.diagonal().copy_(gram.diagonal())
            matrix += damped
            right += damped @ difference
            longest = longest + torch.linalg.vector_norm(difference)
        return _solved(group, mean, start, matrix, right, float(longest))


def over_off_diagonals(
    group: ParameterGroup, values: Sequence[float], *, precision: str
) -> Iterator[Outcome]:
    """:func:`regmean` for each λ, within rounding and for λ = 1 bit for bit.

    With G = Σ G_i and D = diag(G) the system is (λ G + (1-λ) D) X = λ Σ G_i Δ_i + (1-λ) Σ D_i Δ_i:
    the M products are computed once, and each λ costs one factorisation and one solution. Why not
    one eigendecomposition: docs/decisions/regmean-sweeps-by-cholesky.md.
    """
    import torch

    mean = _mean(group)
    if averaged := _averaged(group, mean):
        yield from (averaged for _ in values)
        return
    start = system.as_matrix(mean, group.input_axis, precision)
    total = start.new_zeros(len(start), len(start))
    full, diagonal = torch.zeros_like(start), torch.zeros_like(start)
    longest = torch.zeros((), dtype=torch.float64, device=start.device)
    with system.products(precision):
        for gram, difference in system.systems(group, start, precision):
            total += gram
            full += gram @ difference
            diagonal += gram.diagonal()[:, None] * difference
            longest = longest + torch.linalg.vector_norm(difference)
        for off_diagonal in values:
            damped = total * off_diagonal
            damped.diagonal().copy_(total.diagonal())
            right = full * off_diagonal + diagonal * (1 - off_diagonal)
            yield _solved(group, mean, start, damped, right, float(longest))


def _averaged(group: ParameterGroup, mean: Tensor) -> Outcome | None:
    """The mean, where nothing has to be solved; else None."""
    if "gram" not in group.statistics:
        return Outcome(mean, remarks=("no Gram matrix: averaged",))
    return Outcome(mean) if len(group.constituents) == 1 or mean.numel() == 0 else None


def _mean(group: ParameterGroup) -> Tensor:
    shares = normalised(group.models, len(group.constituents))
    return combination(group.constituents, shares, total=1.0)


def _solved(
    group: ParameterGroup,
    mean: Tensor,
    start: Tensor,
    matrix: Tensor,
    right: Tensor,
    longest: float,
) -> Outcome:
    """The mean plus the solution of ``matrix`` X = ``right``."""
    if not bool(matrix.any()):
        return Outcome(mean, remarks=("the Gram matrices are zero: averaged",))
    solution, ridge = system.solve(matrix, right, longest, group.name)
    value = system.as_weight(start + solution, mean, group.input_axis)
    if ridge == 0:
        return Outcome(value)
    remark = f"singular Gram matrices: ridge of {ridge:.0e} times the mean diagonal"
    return Outcome(value, remarks=(remark,), figures={"ridge": ridge})


def _merging_flops(shape: LayerShape) -> int:
    """(M+2)d²k + (3M-2)dk."""
    models, inputs, outputs = shape.models, shape.inputs, shape.outputs
    return (models + 2) * inputs**2 * outputs + (3 * models - 2) * inputs * outputs


METHOD = MergeMethod(
    name="regmean",
    title="RegMean",
    kernel=regmean,
    reference="Jin et al. 2023, arXiv 2212.09849",
    hyperparameters=(
        Hyperparameter(
            name="off_diagonal",
            type=float,
            default=0.9,
            help="the factor of the Gram matrices' off-diagonal elements",
            symbol="λ",
            minimum=0.0,
            maximum=1.0,
            sweep=(0.0, *TENTHS),
        ),
        system.PRECISION,
    ),
    sweeps={"off_diagonal": over_off_diagonals},
    statistics=lambda options: ("gram",),
    elementwise=False,
    combined=True,
    merging_flops=lambda shape, options: _merging_flops(shape),
    statistics_flops=lambda shape, tokens, options: (
        shape.models * tokens * shape.inputs**2 * shape.outputs
    ),
    flops_formula="(M+2)·d²k + (3M-2)·dk",
    statistics_formula="M·T·d²k",
)
