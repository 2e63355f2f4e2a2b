"""git-theta's locality-sensitive signature of a tensor.

Sixteen dot products of the flattened tensor x with rows of pseudo-random numbers, in buckets:

    signature_s = floor( Σ_i x_i · pool[(i XOR offset_s) mod 10000] / 1e-8 )

added in the order of i in float64, as ``git_theta/lsh/euclidean_lsh.py`` (0.2.0, with its default
settings) does it, so that the signatures are equal. Written for speed: the pool's length and every
aligned block of i are multiples of 16, so that 16 consecutive i meet 16 consecutive numbers of the
pool in a fixed permutation, and a look-up becomes a plain read of a row.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIGNATURE_SIZE = 16
BUCKET_WIDTH = 1e-8

POOL_SIZE = 10_000
BLOCK = 16
_SEED = 42
_SMALL = 1 << 18
"""Up to here NumPy is quicker than importing and starting the compiler."""
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
        whole = 0
        if x.size > _SMALL or _kernel.cache_info().currsize:
            whole = x.size - x.size % BLOCK
            _kernel()(x[:whole], sums)
        _accumulate_by_numpy(x[whole:], whole, sums)
        return tuple(_bucket(total) for total in sums)


def _hashable(array: NDArray[Any]) -> NDArray[Any]:
    x = np.ascontiguousarray(array, array.dtype.newbyteorder("=")).reshape(-1)
    if x.dtype.kind == "c":
        return x.view(np.float32)
    known = x.dtype.kind in "iub" or x.dtype.itemsize >= 4 or x.dtype.name == "bfloat16"
    return x if known else x.astype(np.float32)


def _bucket(total: float) -> int:
    bucket = np.floor(total / BUCKET_WIDTH)
    return int(bucket) if -(2.0**63) <= bucket < 2.0**63 else -(2**63)


@cache
def pool_and_offsets() -> tuple[Sums, NDArray[np.int64]]:
    """git-theta's pool of normal numbers, (10000,), and its offsets, (16,)."""
    from numpy.random import MT19937, Generator  # not needed where nothing changed

    generator = Generator(MT19937(seed=_SEED))
    pool = generator.normal(size=POOL_SIZE)
    limits = np.iinfo(np.int64)
    return pool, generator.integers(limits.min, limits.max, size=SIGNATURE_SIZE, dtype=np.int64)


def _accumulate_by_numpy(x: NDArray[Any], first: int, sums: Sums) -> None:
    """sums_s += Σ_i x_i · pool[((first + i) XOR offset_s) mod 10000], in the order of i."""
    pool, offsets = pool_and_offsets()
    for start in range(0, x.size, _STEP):
        part = x[start : start + _STEP].astype(np.float64)
        index = first + np.arange(start, start + part.size, dtype=np.int64)
        terms = np.empty((part.size + 1, SIGNATURE_SIZE))
        terms[0] = sums
        np.multiply(part[:, None], pool[(index[:, None] ^ offsets) % POOL_SIZE], out=terms[1:])
        # Along the first axis NumPy adds row after row: git-theta's order.
        np.add.reduce(terms, axis=0, out=sums)


@cache
def _kernel() -> Callable[..., None]:
    from gitmerge_eval.checkpoints.lsh_kernel import accumulate

    return accumulate
