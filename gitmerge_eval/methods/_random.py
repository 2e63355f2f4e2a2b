"""Random numbers without a state: Philox4x32-10 (Salmon et al. 2011, Random123).

A word is a function of a key and its position alone: any order, any slice, CPU or GPU.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from gitmerge_eval.records import canonical_json

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_LANES = 4
# Counters at a time: on a CPU the words of a block stay in its cache.
_CPU_BLOCK = 1 << 14
_GPU_BLOCK = 1 << 22


def philox(counter: tuple[Tensor, ...], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Philox4x32-10: four words of 32 bits (in int64) for each counter of four such words."""
    a, b, c, d = counter
    for number in range(_ROUNDS):
        first = (key[0] + number * _WEYL[0]) & _MASK
        second = (key[1] + number * _WEYL[1]) & _MASK
        high_a, low_a = _multiply(a, _MULTIPLIERS[0])
        high_c, low_c = _multiply(c, _MULTIPLIERS[1])
        a, b, c, d = high_c ^ b ^ first, low_c, high_a ^ d ^ second, low_a
    return a, b, c, d


def _multiply(word: Tensor, multiplier: int) -> tuple[Tensor, Tensor]:
    """The high and the low 32 bits of word · multiplier, for a multiplier of at least 2^31.

    The unsigned product does not fit an int64; that with multiplier - 2^32 does, and lacks
    word · 2^32, which is ``word`` in the high half.
    """
    product = word * (multiplier - (1 << 32))
    low = product & _MASK
    return (product >> 32).add_(word), low


def stream(*identity: object) -> tuple[int, int, int, int]:
    """Four words of 32 bits that stand for ``identity``: a key and the counter's upper half."""
    digest = hashlib.sha256(canonical_json(identity).encode()).digest()
    return (
        int.from_bytes(digest[0:4], "little"),
        int.from_bytes(digest[4:8], "little"),
        int.from_bytes(digest[8:12], "little"),
        int.from_bytes(digest[12:16], "little"),
    )


def words(
    start: int, count: int, words_of: tuple[int, int, int, int], device: torch.device
) -> Tensor:
    """The words at positions ``start`` to ``start + count`` of a stream, int64 in [0, 2^32)."""
    import torch

    first, last = start // _LANES, -(-(start + count) // _LANES)
    index = torch.arange(first, last, dtype=torch.int64, device=device)
    upper = (torch.full_like(index, words_of[2]), torch.full_like(index, words_of[3]))
    lanes = philox((index & _MASK, index >> 32, *upper), words_of[:2])
    offset = start - first * _LANES
    return torch.stack(lanes, dim=-1).reshape(-1)[offset : offset + count]


def kept(
    shape: torch.Size, drop_rate: float, identity: tuple[object, ...], device: torch.device
) -> Tensor:
    """A boolean mask that is False with probability ``drop_rate``, to a resolution of 2^-32."""
    import torch

    result = torch.empty(shape, dtype=torch.bool, device=device)
    flat = result.view(-1)
    threshold = round(drop_rate * (1 << 32))
    key = stream(*identity)
    block = (_CPU_BLOCK if device.type == "cpu" else _GPU_BLOCK) * _LANES
    for start in range(0, flat.numel(), block):
        count = min(block, flat.numel() - start)
        flat[start : start + count] = words(start, count, key, device) >= threshold
    return result
