"""Which words of Philox4x32-10's streams reach a threshold: the loop of DARE's masks on a CPU."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numpy.typing import NDArray

from gitmerge_eval.compiled.loop import I8, I64, compiled, constant, join, splat, store

_COUNTERS = 8
"""Counters in a vector, four words each."""
_WORDS = 4 * _COUNTERS
_LEAD = 3
"""The words of its counter that may come before the first one of a row."""


def at_least(
    threshold: int,
    starts: Sequence[int],
    run: int,
    key: tuple[int, int],
    upper: tuple[int, int],
    rounds: Sequence[tuple[int, int]],
    multipliers: tuple[int, int],
) -> NDArray[np.bool_]:
    """(rows, run): whether each word ≥ ``threshold``; row r has those from position starts[r] on.

    Word w of a stream is lane w mod 4 of the counter ⌊w/4⌋, whose upper half is ``upper``;
    ``rounds`` are what Philox adds to the ``key`` in each round.
    """
    firsts = np.asarray(starts, np.int64)
    vectors = -(-(run + _LEAD) // _WORDS)
    out = np.empty((len(firsts), vectors * _WORDS + _LEAD), np.bool_)
    keys = np.array([(key[0] + a, key[1] + b) for a, b in rounds], np.uint64) & 0xFFFFFFFF
    _function(len(rounds), multipliers)(
        firsts.ctypes.data, len(firsts), vectors, out.shape[1], out.ctypes.data,
        keys.ctypes.data, *upper, threshold,
    )  # fmt: skip
    return out[:, _LEAD : _LEAD + run]


@cache
def _function(rounds: int, multipliers: tuple[int, int]) -> Callable[..., None]:
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    types = (pointer, number, number, number, pointer, pointer, number, number, number)
    return compiled(_module(rounds, multipliers), "at_least", types)


def _module(rounds: int, multipliers: tuple[int, int]) -> ir.Module:
    """``void at_least(starts, rows, vectors, stride, out, keys, upper1, upper2, threshold)``."""
    module = ir.Module()
    signature = ir.FunctionType(
        ir.VoidType(),
        [I64.as_pointer(), I64, I64, I64, I8.as_pointer(), I64.as_pointer(), I64, I64, I64],
    )
    function = ir.Function(module, signature, "at_least")
    starts, rows, vectors, stride, out, keys, *scalars, threshold = function.args
    entry, each_row, loop, row_done, end = (
        function.append_basic_block(name) for name in ("entry", "row", "loop", "done", "end")
    )
    build = ir.IRBuilder(entry)
    wide = [
        [splat(build, build.load(build.gep(keys, [I64(2 * n + k)])), _COUNTERS) for k in range(2)]
        for n in range(rounds)
    ]
    right = splat(build, build.xor(build.shl(scalars[0], I64(32)), scalars[1]), _COUNTERS)
    limit = splat(build, threshold, _COUNTERS)
    lanes = ir.VectorType(I64, _COUNTERS)(list(range(_COUNTERS)))
    build.branch(each_row)

    build.position_at_end(each_row)
    row = build.phi(I64)
    row.add_incoming(I64(0), entry)
    start = build.load(build.gep(starts, [row]))
    first = build.add(splat(build, build.lshr(start, I64(2)), _COUNTERS), lanes)
    place = build.sub(
        build.add(build.mul(row, stride), I64(_LEAD)), build.and_(start, I64(3))
    )  # the words before the start fill what lies in front of the row
    build.branch(loop)

    build.position_at_end(loop)
    number = build.phi(I64)
    number.add_incoming(I64(0), each_row)
    index = build.add(first, splat(build, build.mul(number, I64(_COUNTERS)), _COUNTERS))
    half = constant(I64, 32, _COUNTERS)
    left = build.xor(build.shl(index, half), build.lshr(index, half))  # the lower word comes first
    words = _rounds(build, left, right, wide, multipliers)
    mask = _interleaved(build, [build.icmp_unsigned(">=", word, limit) for word in words])
    store(build, mask, out, build.add(place, build.mul(number, I64(_WORDS))))
    following = build.add(number, I64(1))
    number.add_incoming(following, loop)
    build.cbranch(build.icmp_unsigned("<", following, vectors), loop, row_done)

    build.position_at_end(row_done)
    next_row = build.add(row, I64(1))
    row.add_incoming(next_row, row_done)
    build.cbranch(build.icmp_unsigned("<", next_row, rows), each_row, end)
    build.position_at_end(end)
    build.ret_void()
    return module


def _rounds(
    build: Any, left: Any, right: Any, keys: Sequence[Sequence[Any]], multipliers: tuple[int, int]
) -> list[Any]:
    """The four words of each counter after all rounds."""
    half, low = constant(I64, 32, _COUNTERS), constant(I64, 0xFFFFFFFF, _COUNTERS)
    by = [constant(I64, multiplier, _COUNTERS) for multiplier in multipliers]
    for first, second in keys:
        by_left = build.mul(build.lshr(left, half), by[0])
        by_right = build.mul(build.lshr(right, half), by[1])
        left, right = (
            build.xor(by_right, build.shl(build.xor(left, first), half)),
            build.xor(by_left, build.shl(build.xor(right, second), half)),
        )
    return [word for side in (left, right)
            for word in (build.lshr(side, half), build.and_(side, low))]  # fmt: skip


def _interleaved(build: Any, flags: Sequence[Any]) -> Any:
    """The flags of four words of each counter in turn, a byte each."""
    bytes_of = ir.VectorType(I8, _COUNTERS)
    a, b, c, d = (build.zext(flag, bytes_of) for flag in flags)
    halves = (join(build, a, b, range(2 * _COUNTERS)), join(build, c, d, range(2 * _COUNTERS)))
    order = [lane * _COUNTERS + counter for counter in range(_COUNTERS) for lane in range(4)]
    return join(build, *halves, order)
