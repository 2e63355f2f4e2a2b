"""Blocks of many files read and decoded by one call, without the interpreter's lock.

The decoder is a function of a library, given by its address; the loop around it is made here.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numpy.typing import NDArray

from gitmerge_eval.compiled.loop import I8, I32, I64, Loop, compiled

Numbers = NDArray[np.int64]


def reads_files() -> bool:
    """Whether this system's ``pread`` can be called here."""
    return sys.platform == "linux" and ctypes.sizeof(ctypes.c_void_p) == 8


def decode_blocks(
    decoder: int,
    files: NDArray[np.int32],
    places: NDArray[np.int64],
    heads: NDArray[np.int32],
    targets: Numbers,
    size: int,
    frame: NDArray[np.uint8],
) -> bool:
    """Decode one frame of each file; False as soon as one cannot be read or decoded.

    A frame is put together in ``frame``: the words of ``heads[i]``, then ``places[i] = (position,
    length)`` of the file with the descriptor ``files[i]``. The function at the address ``decoder``,
    ``int (const void *frame, void *target, size_t size, int threads)``, has to give ``size``, the
    bytes that it writes to the address ``targets[i]``. All arrays are C-contiguous.
    """
    done = ctypes.c_int64()
    _function()(
        len(files), files.ctypes.data, places.ctypes.data, heads.ctypes.data, heads.shape[1],
        targets.ctypes.data, size, frame.ctypes.data, _pread(), decoder, ctypes.byref(done),
    )  # fmt: skip
    return done.value == len(files)


@cache
def _pread() -> int:
    return ctypes.cast(ctypes.CDLL(None).pread, ctypes.c_void_p).value or 0


@cache
def _function() -> Callable[..., None]:
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    types = (number, pointer, pointer, pointer, number, pointer, number, pointer, number, number)
    return compiled(_module(), "decode_blocks", (*types, pointer))


def _module() -> ir.Module:
    """``void decode_blocks(count, files, places, heads, words, targets, size, frame, pread,
    decoder, done)``: ``done`` becomes the number of the first that fails, or ``count``."""
    module, memory, numbers = ir.Module(), I8.as_pointer(), I64.as_pointer()
    kinds = (I64, I32.as_pointer(), numbers, I32.as_pointer(), I64, numbers, I64, memory, I64, I64)
    function = ir.Function(
        module, ir.FunctionType(ir.VoidType(), [*kinds, numbers]), "decode_blocks"
    )
    count, files, places, heads, words, targets, size, frame, *addresses, done = function.args
    entry, each, decode, following, end = (
        function.append_basic_block(name)
        for name in ("entry", "each", "decode", "following", "end")
    )
    build: Any = ir.IRBuilder(entry)
    pread = _called(build, addresses[0], I64, [I32, memory, I64, I64])
    decoder = _called(build, addresses[1], I32, [memory, memory, I64, I32])
    start = build.gep(frame, [build.mul(words, I64(4))])
    build.branch(each)

    build.position_at_end(each)
    number = build.phi(I64)
    number.add_incoming(I64(0), entry)
    place = build.mul(number, I64(2))
    position, length = (build.load(build.gep(places, [build.add(place, I64(k))])) for k in (0, 1))
    file = build.load(build.gep(files, [number]))
    read = build.call(pread, [file, start, length, position])
    build.cbranch(build.icmp_signed("==", read, length), decode, end)

    build.position_at_end(decode)
    target_words = build.bitcast(frame, I32.as_pointer())
    own = build.gep(heads, [build.mul(number, words)])
    copied = Loop(build, words)
    word = build.load(build.gep(own, [copied.number]))
    build.store(word, build.gep(target_words, [copied.number]))
    copied.end()
    target = build.inttoptr(build.load(build.gep(targets, [number])), memory)
    made = build.call(decoder, [frame, target, size, I32(1)])
    decoded = build.block
    build.cbranch(build.icmp_signed("==", build.sext(made, I64), size), following, end)

    build.position_at_end(following)
    next_number = build.add(number, I64(1))
    number.add_incoming(next_number, following)
    build.cbranch(build.icmp_signed("<", next_number, count), each, end)

    build.position_at_end(end)
    reached = build.phi(I64)
    for value, block in ((number, each), (number, decoded), (next_number, following)):
        reached.add_incoming(value, block)
    build.store(reached, done)
    build.ret_void()
    return module


def _called(build: Any, address: Any, result: ir.Type, arguments: list[ir.Type]) -> Any:
    """The function at an address."""
    return build.inttoptr(address, ir.FunctionType(result, arguments).as_pointer())
