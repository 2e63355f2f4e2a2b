"""git-theta's locality-sensitive signature of a tensor.

Sixteen dot products of the flattened tensor x with rows of pseudo-random numbers, in buckets:

    signature_s = floor( Σ_i x_i · pool[(i XOR offset_s) mod 10000] / 1e-8 )

added in the order of i in float64, as ``git_theta/lsh/euclidean_lsh.py`` (0.2.0, with its default
settings) does it, so that the signatures are equal. Written for speed: the pool's length and every
aligned block of i are multiples of 16, so that 16 consecutive i meet 16 consecutive numbers of the
pool in a fixed permutation, and tables in that permutation turn look-ups into plain reads.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.random import MT19937, Generator
from numpy.typing import NDArray

SIGNATURE_SIZE = 16
BUCKET_WIDTH = 1e-8

_POOL_SIZE = 10_000
_SEED = 42
_BLOCK = 16
_SMALL = 1 << 18
"""Up to here NumPy is quicker than importing numba."""
_STEP = 1 << 12

Sums = NDArray[np.float64]


def signature(array: NDArray[Any]) -> tuple[int, ...]:
    """The signature of ``array``: 16 integers.

    Equal to git-theta's for every dtype that it can hash. float16, bfloat16 and float8, which it
    cannot, count as their value in float32, and a complex number as its two parts. A sum that is
    not finite or does not fit 64 bits gives -2^63, as on the processors git-theta runs on.
    """
    sums = np.zeros(SIGNATURE_SIZE)
    # Infinities, signalling NaNs and overflow have a defined result and deserve no warning.
    with np.errstate(all="ignore"):
        x = _hashable(array)
        if x.size <= _SMALL:
            _accumulate_by_numpy(x, sums)
        else:
            _accumulate_by_numba()(x, _pool(), _offsets(), _tables(), sums)
        return tuple(_bucket(total) for total in sums)


def _hashable(array: NDArray[Any]) -> NDArray[Any]:
    x = np.ascontiguousarray(array).reshape(-1)
    if x.dtype.kind == "c":
        return x.view(np.float32)
    return x if x.dtype.kind in "iub" or x.dtype.itemsize >= 4 else x.astype(np.float32)


def _bucket(total: float) -> int:
    bucket = np.floor(total / BUCKET_WIDTH)
    return int(bucket) if -(2.0**63) <= bucket < 2.0**63 else -(2**63)


@cache
def _random() -> tuple[Sums, NDArray[np.int64]]:
    generator = Generator(MT19937(seed=_SEED))
    pool = generator.normal(size=_POOL_SIZE)
    limits = np.iinfo(np.int64)
    return pool, generator.integers(limits.min, limits.max, size=SIGNATURE_SIZE, dtype=np.int64)


def _pool() -> Sums:
    return _random()[0]


def _offsets() -> NDArray[np.int64]:
    return _random()[1]


@cache
def _tables() -> Sums:
    """tables[s, 16·m + r] = pool[16·m + (r XOR (offset_s mod 16))]."""
    blocks = _pool().reshape(-1, _BLOCK)
    inside = np.arange(_BLOCK)
    return np.stack([blocks[:, inside ^ int(o & (_BLOCK - 1))].reshape(-1) for o in _offsets()])


def _accumulate_by_numpy(x: NDArray[Any], sums: Sums) -> None:
    pool, offsets = _random()
    for start in range(0, x.size, _STEP):
        part = x[start : start + _STEP].astype(np.float64)
        index = np.arange(start, start + part.size, dtype=np.int64)
        terms = np.empty((part.size + 1, SIGNATURE_SIZE))
        terms[0] = sums
        with np.errstate(all="ignore"):
            np.multiply(part[:, None], pool[(index[:, None] ^ offsets) % _POOL_SIZE], out=terms[1:])
            # Along the first axis NumPy adds row after row: git-theta's order.
            np.add.reduce(terms, axis=0, out=sums)


@cache
def _accumulate_by_numba() -> Callable[..., None]:
    from gitmerge_eval.checkpoints.lsh_kernel import accumulate

    return accumulate
