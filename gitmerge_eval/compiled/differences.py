"""Sums of differences of stored numbers: the loop of averages and of task vectors on a CPU.

One pass widens, subtracts, adds up, scales and rounds, by the IEEE operations for which NumPy goes
over the tensors many times, and without the interpreter's lock.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from llvmlite import binding, ir
from numpy.typing import NDArray

from gitmerge_eval.compiled.loop import (
    F32,
    F64,
    I8,
    I16,
    I32,
    I64,
    Loop,
    compiled,
    constant,
    load,
    splat,
    store,
)

Array = NDArray[Any]

_LANES = 32
_compiling = threading.Lock()
_STORED = {"float64": F64, "float32": F32, "float16": ir.HalfType(), "bfloat16": I16}


@cache
def has_loop(dtype: str) -> bool:
    """Whether tensors of that dtype are added up here."""
    if dtype == "float16" and binding.get_process_triple().startswith(("x86_64", "i686")):
        # Without the instruction LLVM would call a function that may not be there.
        return bool(binding.get_host_cpu_features().get("f16c"))
    return dtype in _STORED and sys.byteorder == "little"


def add_differences(
    reference: Array,
    others: Sequence[Array],
    coefficients: Sequence[float],
    whole: float,
    factors: Sequence[float],
    out: Array,
) -> bool:
    """out_k = whole·x_r + f_k · Σ c_i (x_i - x_r) in float64, rounded once (to 16 bits by way of
    float32); False where not all of it is finite.

    ``reference`` and ``others``, of which there is at least one, are (rows, run) arrays of one
    dtype and one distance between rows, ``out`` is (factors, rows, run) of that dtype; in all of
    them the elements of a row lie side by side. The sum is from the first to the last.
    """
    rows, run = reference.shape
    source, apart, target = (
        stride // out.itemsize for stride in (reference.strides[0], *out.strides[:2])
    )
    addresses = [array.ctypes.data for array in (reference, *others)]
    found = ctypes.c_double()
    with _compiling:  # once, whoever comes first
        function = _function(reference.dtype.name, _LANES if run >= _LANES else 1)
    function(
        (ctypes.c_void_p * len(addresses))(*addresses),
        (ctypes.c_double * len(coefficients))(*coefficients),
        len(others), whole, rows, source, run, out.ctypes.data, target, apart,
        (ctypes.c_double * len(factors))(*factors), len(factors), ctypes.byref(found),
    )  # fmt: skip
    return found.value == 0


@cache
def _function(dtype: str, lanes: int) -> Callable[..., None]:
    pointer, number, real = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double
    given = (pointer, pointer, number, real, number, number, number)
    types = (*given, pointer, number, number, pointer, number, pointer)
    return compiled(_module(_STORED[dtype], lanes), "add_differences", types)


def _module(stored: ir.Type, lanes: int) -> ir.Module:
    """``void add_differences(tensors, coefficients, others, whole, rows, source, run, out, target,
    apart, factors, count, found)``: rows are ``source`` and ``target`` elements apart, values
    ``apart``; ``found`` becomes 0, or NaN where a result is not finite."""
    module, reals = ir.Module(), F64.as_pointer()
    given = [I8.as_pointer().as_pointer(), reals, I64, F64, I64, I64, I64]
    made = [stored.as_pointer(), I64, I64, reals, I64, reals]
    function = ir.Function(
        module, ir.FunctionType(ir.VoidType(), [*given, *made]), "add_differences"
    )
    tensors, coefficients, others, whole, rows, source, run = function.args[:7]
    out, target, apart, factors, count, found = function.args[7:]
    build = ir.IRBuilder(function.append_basic_block())
    vectors = build.sdiv(build.add(run, I64(lanes - 1)), I64(lanes))
    last = build.sub(run, I64(lanes))
    each_row = Loop(build, rows, ir.VectorType(F64, lanes)([0.0] * lanes))
    each = Loop(build, vectors, *each_row.carried)
    # The last vector of a row may begin before the one in front of it ends.
    column = build.mul(each.number, I64(lanes))
    column = build.select(build.icmp_signed("<", column, last), column, last)
    from_, to = (build.add(build.mul(each_row.number, far), column) for far in (source, target))

    def read(number: Any) -> Any:
        tensor = build.load(build.gep(tensors, [number]))
        place = build.bitcast(tensor, stored.as_pointer())
        return _widened(build, load(build, place, from_, ir.VectorType(stored, lanes)), lanes)

    reference = read(I64(0))
    total = _total(build, reference, read, coefficients, others, lanes)
    unchanged = build.fmul(reference, splat(build, whole, lanes))
    each_factor = Loop(build, count, *each.carried)
    value = build.fmul(total, _number(build, factors, each_factor.number, lanes))
    rounded, seen = _rounded(build, build.fadd(value, unchanged), stored, lanes)
    store(build, rounded, out, build.add(build.mul(each_factor.number, apart), to))
    # 0, or NaN where a value is not finite.
    doubt = build.fmul(seen, ir.VectorType(F64, lanes)([0.0] * lanes))
    doubt = build.fadd(each_factor.carried[0], doubt)
    for loop in (each_factor, each, each_row):
        loop.end(doubt)
    build.store(_added_up(build, doubt, lanes), found)
    build.ret_void()
    return module


def _total(
    build: Any, reference: Any, read: Callable[[Any], Any], numbers: Any, others: Any, lanes: int
) -> Any:
    """Σ c_i (x_i - x_r), from the first to the last."""
    # -0 + x is x, and 0 + x is not where x is -0.
    each = Loop(build, others, ir.VectorType(F64, lanes)([-0.0] * lanes))
    part = build.fsub(read(build.add(each.number, I64(1))), reference)
    part = build.fmul(part, _number(build, numbers, each.number, lanes))
    total = build.fadd(each.carried[0], part)
    each.end(total)
    return total


def _added_up(build: Any, vector: Any, lanes: int) -> Any:
    """The sum of a vector's lanes."""
    total = build.extract_element(vector, I32(0))
    for lane in range(1, lanes):
        total = build.fadd(total, build.extract_element(vector, I32(lane)))
    return total


def _number(build: Any, numbers: Any, index: Any, lanes: int) -> Any:
    """A vector of one of the numbers."""
    return splat(build, build.load(build.gep(numbers, [index])), lanes)


def _widened(build: Any, values: Any, lanes: int) -> Any:
    """Stored numbers in float64; bfloat16 is the upper half of a float32."""
    if values.type.element == I16:
        bits = build.zext(values, ir.VectorType(I32, lanes))
        bits = build.shl(bits, constant(I32, 16, lanes))
        values = build.bitcast(bits, ir.VectorType(F32, lanes))
    if values.type.element == F64:
        return values
    return build.fpext(values, ir.VectorType(F64, lanes))


def _rounded(build: Any, values: Any, stored: ir.Type, lanes: int) -> tuple[Any, Any]:
    """The values as they are stored, and those in float64 again."""
    if stored == F64:
        return values, values
    rounded = build.fptrunc(values, ir.VectorType(F32, lanes))
    if stored == I16:
        bits = build.bitcast(rounded, ir.VectorType(I32, lanes))
        half = constant(I32, 16, lanes)
        odd = build.and_(build.lshr(bits, half), constant(I32, 1, lanes))
        bits = build.add(bits, build.add(odd, constant(I32, 0x7FFF, lanes)))  # to nearest, to even
        rounded = build.trunc(build.lshr(bits, half), ir.VectorType(I16, lanes))
    elif stored != F32:
        rounded = build.fptrunc(rounded, ir.VectorType(stored, lanes))
    return rounded, _widened(build, rounded, lanes)
