"""The numbers of low-rank adapters: ΔW = s·B·A, and back by a singular value decomposition."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gitmerge_eval.checkpoints import bridge
from gitmerge_eval.errors import InvalidOption, NumericalError

if TYPE_CHECKING:
    from torch import Tensor

_FLOAT32_EPSILON = 2.0**-23


@dataclass(frozen=True)
class Factors:
    """A (r, inputs, …) and B (outputs, r, 1…) of one weight's change."""

    down: Tensor
    up: Tensor
    rank: int
    exact_rank: int
    """The rank at which nothing is lost."""
    error: float
    """‖ΔW - s·B·A‖ / ‖ΔW‖ of the cut to ``rank``, before rounding to the stored dtype."""


def product(down: Tensor, up: Tensor, scale: float, *, embedding: bool = False) -> Tensor:
    """ΔW = s·B·A in float64, in the weight's shape; s·(B·A)ᵀ for an embedding.

    >>> import torch
    >>> product(torch.ones(1, 2), torch.tensor([[1.0], [2.0]]), 0.5).tolist()
    [[0.5, 0.5], [1.0, 1.0]]
    """
    a, b = down.double(), up.double()
    delta = (scale * (b.flatten(1) @ a.flatten(1))).reshape(b.shape[0], *a.shape[1:])
    return delta.T.contiguous() if embedding else delta


def factor(
    delta: Tensor,
    rank: int | None,
    dtype: str,
    *,
    scale: Callable[[int], float] = lambda rank: 1.0,
    spans: Sequence[Tensor] = (),
    embedding: bool = False,
) -> Factors:
    """B and A with s·B·A = ΔW, of the lowest rank that is exact, or of at most ``rank``.

    The best approximation of its rank (Eckart and Young 1936), from U S Vᵀ of ΔW as an
    outputs × inputs matrix: B = U √(S/s), A = √(S/s) Vᵀ, s = ``scale(rank)``, each column of U with
    its largest entry positive. Singular values under 2⁻²³ of the largest (float64: its usual bound)
    count as zero.
    ``spans`` are up factors whose columns may span ΔW's: where they do, as after any linear method,
    only a matrix as wide as their ranks together is decomposed, with the same result.

    Raises InvalidOption for a rank below 1, NumericalError where a factor does not fit ``dtype``.
    """
    import torch

    if rank is not None and rank < 1:
        raise InvalidOption(f"option 'rank' is {rank}; give a whole number from 1")
    delta = (delta.T if embedding else delta).double()
    matrix = delta.reshape(delta.shape[0], -1)
    epsilon = 2.0**-52 * max(matrix.shape) if dtype == "float64" else _FLOAT32_EPSILON
    few = rank is not None and 2 * rank <= min(matrix.shape) and dtype != "float64"
    left, values, right = _decomposed(matrix, epsilon, spans, _by_gram if few else _by_svd)
    exact = max(1, int((values > epsilon * values[0]).sum()))
    kept = min(exact, rank or exact)
    left, right = left[:, :kept], right[:kept]
    largest = left.gather(0, left.abs().argmax(0, keepdim=True))
    sign = torch.where(largest < 0, -1.0, 1.0).to(left)
    root = (values[:kept] / scale(kept)).sqrt()
    stored = bridge.torch_dtype(dtype)
    up = (left * sign * root).to(stored)
    down = (right * (sign * root).T).to(stored)
    if not bool(up.double().isfinite().all() and down.double().isfinite().all()):
        raise NumericalError(f"the factors do not fit {dtype}; choose a smaller scale")
    total = float(values.norm())
    return Factors(
        down=down.reshape(kept, *delta.shape[1:]),
        up=up.reshape(delta.shape[0], kept, *(1,) * (delta.ndim - 2)),
        rank=kept,
        exact_rank=exact,
        error=float(values[kept:exact].norm()) / total if total else 0.0,
    )


def _decomposed(
    matrix: Tensor,
    epsilon: float,
    spans: Sequence[Tensor],
    whole: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]],
) -> tuple[Tensor, Tensor, Tensor]:
    """U, S, Vᵀ; by way of the columns' known span where that loses nothing, else by ``whole``."""
    import torch

    width = sum(span.shape[1] for span in spans)
    if 0 < 2 * width <= min(matrix.shape):
        stacked = torch.cat([span.to(matrix.device).double().flatten(1) for span in spans], dim=1)
        basis = torch.linalg.qr(stacked).Q
        small = basis.T @ matrix
        # Twice as tall as wide at least: QR first makes the decomposition one of a square.
        transposed = torch.linalg.qr(small.T)
        inner, values, right = torch.linalg.svd(transposed.R.T, full_matrices=False)
        if float((matrix - basis @ small).norm()) <= epsilon * float(values[0]):
            return basis @ inner, values, right @ transposed.Q.T
    return whole(matrix)


def _by_svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    import torch

    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    return left, values, right


def _by_gram(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U, S, Vᵀ from the eigenvectors of M Mᵀ, the smaller side's: in half the time.

    Singular values are known to 10⁻⁸ of the largest only, which is enough for the largest few.
    """
    import torch

    if matrix.shape[0] > matrix.shape[1]:
        left, values, right = _by_gram(matrix.T)
        return right.T, values, left.T
    squares, vectors = torch.linalg.eigh(matrix @ matrix.T)
    left, values = vectors.flip(1), squares.flip(0).clamp_min(0).sqrt()
    # Of this side exactly what the other leaves, so that U S Vᵀ is M on the kept columns.
    return left, values, (left.T @ matrix) / values.clamp_min(1e-300)[:, None]
