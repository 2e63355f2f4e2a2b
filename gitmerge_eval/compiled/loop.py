"""Machine code of LLVM modules, and the vector operations that they are written in.

LLVM is given the vector code itself: it starts in a tenth of the time that numba takes, and what
numba makes of such formulas needs several times as long to run.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

from llvmlite import binding, ir

I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
F32, F64 = ir.FloatType(), ir.DoubleType()

_compiling = threading.RLock()


def compiled(module: ir.Module, name: str, types: Sequence[Any]) -> Callable[..., None]:
    """The function ``name`` of the module, which takes arguments of these ctypes."""
    with _compiling:
        _prepare()
        parsed = binding.parse_assembly(str(module))
        target = binding.Target.from_default_triple()
        machine = target.create_target_machine(
            cpu=binding.get_host_cpu_name(),
            features=binding.get_host_cpu_features().flatten(),
            opt=2,
        )
        engine = binding.create_mcjit_compiler(parsed, machine)
        engine.finalize_object()
        function = ctypes.CFUNCTYPE(None, *types)(engine.get_function_address(name))

    def run(*arguments: Any, _alive: Any = engine) -> None:
        function(*arguments)

    return run


@cache
def _prepare() -> None:
    if binding.llvm_version_info < (20,):
        binding.initialize()  # later versions do it on import and refuse to be told
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()


def constant(kind: ir.Type, value: int, lanes: int) -> Any:
    """A vector that has ``value`` in all lanes."""
    return ir.VectorType(kind, lanes)([value] * lanes)


def splat(build: Any, scalar: Any, lanes: int) -> Any:
    """A vector that has the scalar in all lanes."""
    empty = ir.VectorType(scalar.type, lanes)(ir.Undefined)
    single = build.insert_element(empty, scalar, I32(0))
    return build.shuffle_vector(single, empty, constant(I32, 0, lanes))


def join(build: Any, first: Any, second: Any, order: Iterable[int]) -> Any:
    """A vector of the lanes ``order`` of the two, which are counted on through the second."""
    lanes = list(order)
    return build.shuffle_vector(first, second, ir.VectorType(I32, len(lanes))(lanes))


def load(build: Any, pointer: Any, index: Any, kind: ir.Type) -> Any:
    """A ``kind`` from the ``index``-th element of the pointer's on."""
    address = build.gep(pointer, [I64(index) if isinstance(index, int) else index])
    return build.load(build.bitcast(address, kind.as_pointer()), align=1)


def store(build: Any, value: Any, pointer: Any, index: Any) -> None:
    """The value, to the ``index``-th element of the pointer's and on."""
    address = build.gep(pointer, [I64(index) if isinstance(index, int) else index])
    build.store(value, build.bitcast(address, value.type.as_pointer()), align=1)


class Loop:
    """What is built between its beginning and :meth:`end` runs ``count`` times, at least once."""

    def __init__(self, build: Any, count: Any, *carried: Any) -> None:
        """``carried`` are the first time's values of what each time leaves to the next."""
        self._build, self._count = build, count
        before, self._body = build.block, build.append_basic_block()
        build.branch(self._body)
        build.position_at_end(self._body)
        self.number = build.phi(I64)
        self.number.add_incoming(I64(0), before)
        self.carried = [build.phi(value.type) for value in carried]
        for phi, value in zip(self.carried, carried, strict=True):
            phi.add_incoming(value, before)

    def end(self, *carried: Any) -> None:
        """What is built next comes after the loop, in which ``carried`` are the last values."""
        build, here = self._build, self._build.block
        following = build.add(self.number, I64(1))
        self.number.add_incoming(following, here)
        for phi, value in zip(self.carried, carried, strict=True):
            phi.add_incoming(value, here)
        after = build.append_basic_block()
        build.cbranch(build.icmp_signed("<", following, self._count), self._body, after)
        build.position_at_end(after)
