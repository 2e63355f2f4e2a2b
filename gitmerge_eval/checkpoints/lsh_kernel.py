"""The compiled loop of :mod:`gitmerge_eval.checkpoints.lsh`; importing it imports numba."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray


def _accumulate(
    x: NDArray[Any],
    pool: NDArray[np.float64],
    offsets: NDArray[np.int64],
    tables: NDArray[np.float64],
    sums: NDArray[np.float64],
) -> None:
    """sums_s += Σ_i x_i · pool[(i XOR offset_s) mod len(pool)], each sum in the order of i.

    x: (n,); pool: (p,) with p a multiple of 16; tables: (16, p), see ``lsh._tables``. The sums are
    independent chains, which a processor overlaps although each must be added in order.
    """
    values = np.empty(16)
    whole = x.size // 16
    for block in range(whole):
        for r in range(16):
            values[r] = np.float64(x[block * 16 + r])
        for s in range(sums.size):
            start = ((block << 4) ^ (offsets[s] & ~15)) % pool.size
            row = tables[s, start : start + 16]
            total = sums[s]
            for r in range(16):
                total += values[r] * row[r]
            sums[s] = total
    for i in range(whole * 16, x.size):
        for s in range(sums.size):
            sums[s] += np.float64(x[i]) * pool[(i ^ offsets[s]) % pool.size]


def _compiled() -> Callable[..., None]:
    try:
        return numba.njit(nogil=True, cache=True)(_accumulate)
    except RuntimeError:
        # No folder to keep compiled code in, as in a read-only container.
        return numba.njit(nogil=True)(_accumulate)


accumulate = _compiled()
