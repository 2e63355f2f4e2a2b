"""The methods' kernels on a layer, as cases to be timed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from threading import Barrier
from typing import TYPE_CHECKING, Any

from gitmerge_eval.bench.timing import Case
from gitmerge_eval.records import MergeMethod, ParameterGroup, Part, Positions

if TYPE_CHECKING:
    import torch
    from torch import Tensor

TILE = 1 << 17
"""Elements of a tile, as the merge engine cuts them."""

_Passes = Callable[..., Iterator[Any]]


@dataclass
class Kernel:
    """A method on the layer: on the whole of it, in tiles, and what its scalars cost."""

    name: str
    method: MergeMethod
    options: Mapping[str, Any]
    whole: Case
    tiles: Case | None
    scalars: Case | None
    moved: int
    """Tensors of the layer's size that it must at least read or write; 0 for linear systems."""
    peak_bytes: int | None = None

    @property
    def cases(self) -> list[Case]:
        """All that is timed."""
        return [case for case in (self.whole, self.tiles, self.scalars) if case]


def kernel(
    name: str,
    method: MergeMethod,
    options: Mapping[str, Any],
    group: ParameterGroup,
    device: torch.device,
) -> Kernel:
    """The method on the group: as a whole and, elementwise ones on a processor, in tiles."""
    models = len(group.constituents)

    passes = _passes(group, device)

    def scalars() -> ParameterGroup:
        found: dict[str, tuple[float, ...]] = {}
        for scalar in method.scalars(options, models):
            found[scalar.name] = scalar.compute(partial(passes, dict(found)), options)
        return replace(group, scalars=found)

    prepared = scalars()
    inputs = models + method.needs_base(options) + models * ("fisher" in group.statistics)
    on_gpu = device.type == "cuda"
    in_tiles = method.elementwise and not on_gpu
    return Kernel(
        name=name,
        method=method,
        options=options,
        whole=Case(name, lambda: method.merge(prepared, options).value),
        tiles=Case(name, _in_tiles(method, prepared, options)) if in_tiles else None,
        scalars=Case(name, scalars) if any(prepared.scalars.values()) else None,
        moved=inputs + 1 if method.elementwise else 0,
        peak_bytes=_peak(lambda: method.merge(prepared, options))
        if device.type == "cuda"
        else None,
    )


def _passes(group: ParameterGroup, device: torch.device) -> _Passes:
    """The passes over a model that has one group; on a processor in tiles, by several threads."""
    tiles = _cut(group, TILE) if device.type == "cpu" else [group]

    def passed(
        scalars: Mapping[str, tuple[float, ...]], function: Callable[[ParameterGroup], Part], /
    ) -> Iterator[Part]:
        known = [replace(tile, scalars=scalars) for tile in tiles]
        return _pool().map(function, known) if len(known) > 1 else map(function, known)

    return passed


def _peak(work: Callable[[], object]) -> int:
    """The device memory that ``work`` takes beyond its inputs."""
    import torch

    work()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    work()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _in_tiles(
    method: MergeMethod, group: ParameterGroup, options: Mapping[str, Any]
) -> Callable[[], Tensor]:
    """The kernel on one tile after the other, by as many threads as torch has, one tile each."""
    import torch

    target = torch.empty_like(group.constituents[0])
    parts, pieces = _cut(group, TILE), torch.split(target.view(-1), TILE)

    def merge(number: int) -> None:
        pieces[number].copy_(method.merge(parts[number], options).value)

    def work() -> Tensor:
        list(_pool().map(merge, range(len(parts))))
        return target

    return work


@cache
def _pool() -> ThreadPoolExecutor:
    """As many threads as torch has, each of which gives torch one."""
    import torch

    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    together = Barrier(threads)
    list(pool.map(lambda _: together.wait(), range(threads)))
    torch.set_num_threads(threads)  # what they have set counts for later threads, too
    return pool


def _cut(group: ParameterGroup, elements: int) -> list[ParameterGroup]:
    total = group.constituents[0].numel()
    return [
        _tile(group, start, min(elements, total - start)) for start in range(0, total, elements)
    ]


def _tile(group: ParameterGroup, start: int, count: int) -> ParameterGroup:
    def cut(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return tuple(tensor.reshape(-1)[start : start + count] for tensor in tensors)

    return replace(
        group,
        constituents=cut(group.constituents),
        base=None if group.base is None else cut((group.base,))[0],
        statistics={kind: cut(tensors) for kind, tensors in group.statistics.items()},
        positions=Positions((start,), count),
    )
