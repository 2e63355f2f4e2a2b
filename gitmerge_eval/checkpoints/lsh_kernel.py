"""The compiled loop of :mod:`gitmerge_eval.checkpoints.lsh`; importing it imports llvmlite."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numpy.typing import NDArray

from gitmerge_eval.checkpoints.lsh import BLOCK, POOL_SIZE, SIGNATURE_SIZE, pool_and_offsets
from gitmerge_eval.compiled.loop import F64, I32, I64, compiled, join, load, splat, store

_LANES = 4
"""Sums in one vector; four vectors hold the sixteen."""
_WINDOW = 1 << 12
"""Blocks in an aligned window of 2^16 elements, inside which the offsets' high bits are fixed."""
_BLOCKS_IN_POOL = POOL_SIZE // BLOCK
_DIVIDE, _SHIFT = 6711, 22
"""n // 625 = n · 6711 >> 22 for n < 625 + 2^12."""

_compiling = threading.Lock()
_QUAD = ir.VectorType(F64, _LANES)


def accumulate(x: NDArray[Any], sums: NDArray[np.float64]) -> None:
    """sums_s += Σ_i x_i · pool[(i XOR offset_s) mod len(pool)], each sum in the order of i.

    x: (n,), contiguous, n a multiple of 16, of a dtype of :data:`KINDS`. The sums are independent
    chains, so that vectors of four of them keep each one's order.
    """
    blocks = x.size // BLOCK
    if blocks:
        bases, pools = _bases(-(-blocks // _WINDOW)), _pools()
        with _compiling:  # once, whoever comes first
            function = _function(x.dtype.name)
        # Addresses keep nothing alive: the names do. Of two threads that come first, only one's
        # pools are the cache's.
        function(x.ctypes.data, blocks, pools.ctypes.data, bases.ctypes.data, sums.ctypes.data)


KINDS = {
    "float32": "float", "float64": "double", "bfloat16": "bfloat", "bool": "u8",
    "int8": "i8", "int16": "i16", "int32": "i32", "int64": "i64",
    "uint8": "u8", "uint16": "u16", "uint32": "u32", "uint64": "u64",
}  # fmt: skip
"""NumPy's dtypes that the loop reads, and how."""


@cache
def _pools() -> NDArray[np.float64]:
    """The pool, and the pool with the two numbers of every pair exchanged.

    i XOR offset permutes the 16 numbers of a block: pairs move as wholes, and where the offset is
    odd the two of a pair change places.
    """
    pool, _ = pool_and_offsets()
    return np.concatenate([pool, pool.reshape(-1, 2)[:, ::-1].reshape(-1)])


def _bases(windows: int) -> NDArray[np.int32]:
    """Where in the pool, in blocks, each window starts for each offset: (windows, 16)."""
    _, offsets = pool_and_offsets()
    high = np.arange(windows, dtype=np.int64)[:, None] << 16
    return (((high ^ (offsets & ~0xFFFF)) % POOL_SIZE) // BLOCK).astype(np.int32)


@cache
def _function(dtype: str) -> Callable[..., None]:
    types = (ctypes.c_void_p, ctypes.c_int64, *[ctypes.c_void_p] * 3)
    return compiled(_module(KINDS[dtype]), "accumulate", types)


def _module(kind: str) -> ir.Module:
    """``void accumulate(x, blocks, pools, bases, sums)`` in LLVM's intermediate language."""
    module = ir.Module()
    pointer = F64.as_pointer()
    element = {"float": ir.FloatType(), "double": F64, "bfloat": ir.IntType(16)}.get(kind)
    element = element or ir.IntType(int(kind[1:]))
    signature = ir.FunctionType(
        ir.VoidType(), [element.as_pointer(), I64, pointer, I32.as_pointer(), pointer]
    )
    function = ir.Function(module, signature, "accumulate")
    x, blocks, pools, bases, sums = function.args
    entry, loop, end = (function.append_basic_block(name) for name in ("entry", "loop", "end"))

    build = ir.IRBuilder(entry)
    values = build.alloca(F64, size=I64(BLOCK))
    rows = build.alloca(I32, size=I64(SIGNATURE_SIZE))
    quads = range(SIGNATURE_SIZE // _LANES)
    initial = [load(build, sums, _LANES * q, _QUAD) for q in quads]
    build.branch(loop)

    build.position_at_end(loop)
    block = build.phi(I64)
    totals = [build.phi(_QUAD) for _ in quads]
    block.add_incoming(I64(0), entry)
    _store_rows(build, bases, block, rows)
    _store_values(build, x, build.mul(block, I64(BLOCK)), kind, element, values)
    results = _add_block(build, pools, rows, values, totals)
    following = build.add(block, I64(1))
    block.add_incoming(following, loop)
    for phi, start, result in zip(totals, initial, results, strict=True):
        phi.add_incoming(start, entry)
        phi.add_incoming(result, loop)
    build.cbranch(build.icmp_unsigned("<", following, blocks), loop, end)

    build.position_at_end(end)
    for q, result in zip(quads, results, strict=True):
        store(build, result, sums, _LANES * q)
    build.ret_void()
    return module


def _store_rows(build: Any, bases: Any, block: Any, rows: Any) -> None:
    """rows[s] = the pool's element at which the block's row for offset s starts."""
    _, offsets = pool_and_offsets()
    lanes = 8  # halves of 8, since wider vectors switch off one of the three arithmetic units
    vector = ir.VectorType(I32, lanes)
    window = build.mul(build.lshr(block, I64(12)), I64(SIGNATURE_SIZE))
    number = splat(build, build.trunc(build.and_(block, I64(_WINDOW - 1)), I32), lanes)
    for half in (slice(0, lanes), slice(lanes, 2 * lanes)):
        low = [(int(offset) & 0xFFFF) >> 4 for offset in offsets[half]]
        copy = [POOL_SIZE * (int(offset) & 1) for offset in offsets[half]]
        base = load(build, bases, build.add(window, I64(half.start)), vector)
        n = build.add(build.xor(number, vector(low)), base)
        quotient = build.lshr(build.mul(n, vector([_DIVIDE] * lanes)), vector([_SHIFT] * lanes))
        n = build.sub(n, build.mul(quotient, vector([_BLOCKS_IN_POOL] * lanes)))
        row = build.add(build.shl(n, vector([4] * lanes)), vector(copy))
        store(build, row, rows, half.start)


def _store_values(build: Any, x: Any, start: Any, kind: str, element: ir.Type, values: Any) -> None:
    """values[r] = x[start + r] in float64."""
    narrow = ir.VectorType(element, _LANES)
    wide = ir.VectorType(I32, _LANES)
    for r in range(0, BLOCK, _LANES):
        loaded = load(build, x, build.add(start, I64(r)), narrow)
        if kind == "bfloat":
            bits = build.shl(build.zext(loaded, wide), wide([16] * _LANES))
            loaded = build.bitcast(bits, ir.VectorType(ir.FloatType(), _LANES))
        if kind in ("float", "bfloat"):
            loaded = build.fpext(loaded, _QUAD)
        elif kind != "double":
            loaded = (build.uitofp if kind[0] == "u" else build.sitofp)(loaded, _QUAD)
        store(build, loaded, values, r)


def _add_block(build: Any, pools: Any, rows: Any, values: Any, totals: list[Any]) -> list[Any]:
    """totals + Σ_r values[r] · column_r; a column is the r-th number of each offset's row."""
    _, offsets = pool_and_offsets()
    starts = [
        build.gep(pools, [build.zext(load(build, rows, s, I32), I64)])
        for s in range(SIGNATURE_SIZE)
    ]
    totals = list(totals)
    pair = ir.VectorType(F64, 2)
    for r in range(0, BLOCK, 2):
        factors = [splat(build, load(build, values, r + k, F64), _LANES) for k in range(2)]
        for q in range(len(totals)):
            own = range(_LANES * q, _LANES * (q + 1))
            a, b, c, d = (
                load(build, starts[s], r ^ (int(offsets[s]) & (BLOCK - 2)), pair) for s in own
            )
            left, right = join(build, a, c, (0, 1, 2, 3)), join(build, b, d, (0, 1, 2, 3))
            for factor, order in zip(factors, ((0, 4, 2, 6), (1, 5, 3, 7)), strict=True):
                product = build.fmul(factor, join(build, left, right, order))
                totals[q] = build.fadd(totals[q], product)
    return totals
