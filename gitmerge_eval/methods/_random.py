"""Random numbers without a state: Philox4x32-10 (Salmon et al. 2011, Random123).

A word is a function of a key and its position alone: any order, any slice, CPU or GPU.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

from gitmerge_eval.methods import _arrays as arrays
from gitmerge_eval.records import Positions, canonical_json

if TYPE_CHECKING:
    from gitmerge_eval.records import Array

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_LANES = 4
# Elements of a whole group at a time: on a CPU their words stay in its cache.
_CPU_BLOCK = 1 << 15
_GPU_BLOCK = 1 << 24


def philox(counter: tuple[Array, Array], key: tuple[int, int]) -> tuple[Array, Array]:
    """Philox4x32-10 of the counters a, b, c, d, two in a word of 64 bits: a·2^32 + b, c·2^32 + d.

    A round makes of them hi(m₂c) ⊕ b ⊕ k₁, lo(m₂c), hi(m₁a) ⊕ d ⊕ k₂, lo(m₁a): the words m₂c and
    m₁a with b ⊕ k₁ and d ⊕ k₂ added to their upper halves. Everything is modulo 2^64, so that
    signed words get the same bits as unsigned ones.
    """
    left, right = counter
    for number in range(_ROUNDS):
        first = (key[0] + number * _WEYL[0]) & _MASK
        second = (key[1] + number * _WEYL[1]) & _MASK
        by_left, by_right = arrays.upper_half(left), arrays.upper_half(right)
        by_left *= _MULTIPLIERS[0]
        by_right *= _MULTIPLIERS[1]
        upper_left, upper_right = left ^ first, right ^ second
        upper_left <<= 32
        upper_right <<= 32
        left, right = by_right ^ upper_left, by_left ^ upper_right
    return left, right


def stream(*identity: object) -> tuple[int, int, int, int]:
    """Four words of 32 bits that stand for ``identity``: a key and the counter's upper half."""
    digest = hashlib.sha256(canonical_json(identity).encode()).digest()
    return (
        int.from_bytes(digest[0:4], "little"),
        int.from_bytes(digest[4:8], "little"),
        int.from_bytes(digest[8:12], "little"),
        int.from_bytes(digest[12:16], "little"),
    )


def kept(
    vector: Array,
    drop_rate: float,
    identity: tuple[object, ...],
    positions: Positions | None = None,
) -> Array:
    """A mask for the vector that is False with probability ``drop_rate``, to a resolution of 2^-32.

    An element is kept where the word at its position in the identity's stream is at least
    ``drop_rate``·2^32. Of a tile it is the part of the whole group's mask at its ``positions``.
    """
    words_of = stream(*identity)
    threshold = round(drop_rate * (1 << 32))
    if positions is not None:
        return _kept_at(positions, threshold, words_of, vector).reshape(vector.shape)
    flat = vector.reshape(-1)
    mask = arrays.mask_like(flat)
    block = _GPU_BLOCK if arrays.on_gpu(vector) else _CPU_BLOCK
    for start in range(0, len(flat), block):
        stop = min(start + block, len(flat))
        part = Positions((start,), stop - start)
        mask[start:stop] = _kept_at(part, threshold, words_of, vector)[0]
    return mask.reshape(vector.shape)


def _kept_at(
    positions: Positions, threshold: int, words_of: tuple[int, int, int, int], like: Array
) -> Array:
    """The mask of a tile, row by row."""
    fast = None if arrays.is_torch(like) else _compiled()
    if fast:
        found: Array = fast(
            threshold, positions.starts, positions.run, words_of[:2], words_of[2:],
            [(number * _WEYL[0], number * _WEYL[1]) for number in range(_ROUNDS)], _MULTIPLIERS,
        )  # fmt: skip
        return found
    return _kept_by_arrays(positions, threshold, words_of, like)


def _kept_by_arrays(
    positions: Positions, threshold: int, words_of: tuple[int, int, int, int], like: Array
) -> Array:
    """The mask by array operations; counters that a row shares with its neighbours are hashed
    once more."""
    shifts = [start % _LANES for start in positions.starts]
    counters = -(-(positions.run + max(shifts)) // _LANES)
    index = arrays.words([start // _LANES for start in positions.starts], like)[:, None]
    index = index + arrays.word_range(counters, like)
    left = (index << 32) ^ (index >> 32)  # the lower word comes first
    right = (arrays.words(words_of[2:3], like) << 32) ^ arrays.words(words_of[3:], like)
    left, right = philox((left, right), words_of[:2])
    lanes = arrays.upper_half(left), left & _MASK, arrays.upper_half(right), right & _MASK
    mask = arrays.interleaved([lane >= threshold for lane in lanes])
    if len(set(shifts)) == 1:
        return mask[:, shifts[0] : shifts[0] + positions.run]
    return arrays.shifted_rows(mask, shifts, positions.run)


@cache
def _compiled() -> Callable[..., Any] | None:
    """The same in machine code, ten times as fast; None without llvmlite, which a bare GPU machine
    need not have."""
    try:
        from gitmerge_eval.compiled.philox import at_least
    except ImportError:
        return None
    return at_least
