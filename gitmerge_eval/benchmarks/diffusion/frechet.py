"""The Fréchet distance between two sets of features (Heusel et al. 2017, arXiv 1706.08500)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Gaussian:
    """Mean (d,) and covariance (d, d) of a set of features."""

    mean: Array
    covariance: Array


def fitted(features: Array) -> Gaussian:
    """The mean and the unbiased covariance of ``features``, shape (n, d) with n > 1."""
    rows = np.asarray(features, np.float64)
    return Gaussian(rows.mean(0), np.atleast_2d(np.cov(rows, rowvar=False)))


def distance(first: Gaussian, second: Gaussian) -> float:
    """|μ₁ - μ₂|² + tr(C₁ + C₂ - 2·(C₁C₂)^½), as pytorch-fid computes it.

    The root's trace is that of (C₁^½ C₂ C₁^½)^½, which is symmetric: so it is real, and exact for
    covariances of fewer pictures than features, where a general matrix's root is not.
    """
    between = first.mean - second.mean
    root = _root(first.covariance)
    inner = root @ second.covariance @ root
    eigenvalues = np.linalg.eigvalsh((inner + inner.T) / 2)
    overlap = np.sqrt(np.clip(eigenvalues, 0, None)).sum()
    traces = np.trace(first.covariance) + np.trace(second.covariance)
    return max(0.0, float(between @ between + traces - 2 * overlap))


def _root(covariance: Array) -> Array:
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    return np.asarray((vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T)
