"""Computes the groups of a planned merge by several threads, largest first, in bounded memory.

Groups stream through read → decode → compute → encode → write. Elementwise methods work on tiles
of the stored chunks, so that no tensor but the result is ever whole in memory and any number of
threads gives the same bytes. Methods that solve linear systems get whole groups, one constituent
at a time, each group on one thread. Torch is imported where a method needs it: tiles are NumPy's.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from gitmerge_eval.checkpoints.chunks import Chunk
from gitmerge_eval.checkpoints.dtypes import BY_NAME
from gitmerge_eval.checkpoints.lfs import ObjectStore
from gitmerge_eval.checkpoints.parallel import ordered
from gitmerge_eval.errors import CheckpointError
from gitmerge_eval.merging import tiles
from gitmerge_eval.merging.inputs import GroupReader, Inputs, Slot, inside
from gitmerge_eval.merging.lanes import Lanes, free_bytes
from gitmerge_eval.merging.merged_group import (
    NO_VALUE,
    Family,
    MergedGroup,
    Place,
    room_for,
    united,
)
from gitmerge_eval.merging.planning import CheckpointPlan, GroupPlan, working_bytes
from gitmerge_eval.merging.precision import finite, store, stored
from gitmerge_eval.merging.quick_sums import quick_sum
from gitmerge_eval.merging.threads import one_thread_each, threads, without_warnings
from gitmerge_eval.records import Outcome, ParameterGroup, Part, Scalar, ScalarNeeded

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

Result = TypeVar("Result")
Item = TypeVar("Item")

WORKERS = os.cpu_count() or 1
_Work = tuple[GroupPlan, GroupReader, tuple[Chunk, ...]]
"""Chunks of a group with the same rows, and who reads them."""
_AHEAD_BYTES = 48 << 20
"""Results of elementwise methods that wait to be stored, for each thread."""


class Engine:
    """Computes one plan on one device; with a ``family`` under each of its values at once.

    With ``place`` tiles are handed on as they come: no group is ever whole, and a MergedGroup that
    was :attr:`tiled` has no array.
    """

    def __init__(
        self,
        plan: CheckpointPlan,
        store: ObjectStore,
        *,
        device: str,
        memory: int,
        workers: int = WORKERS,
        family: Family | None = None,
        place: Place | None = None,
    ) -> None:
        self.plan, self.store, self.device, self.memory = plan, store, device, memory
        self.workers = min(workers, self._most_threads) if self.tiled else workers
        self.family = family
        self.place = place
        self.inputs = Inputs(plan, store)
        self._pool: ThreadPoolExecutor

    def scalars(
        self,
        known: Mapping[str, tuple[float, ...]],
        keep: Callable[[str, tuple[float, ...]], None],
    ) -> dict[str, tuple[float, ...]]:
        """All scalars of the whole model; those that are not ``known`` by streamed passes, each
        given to ``keep`` when it is. Raises as :meth:`run` does."""
        wanted = [scalar for scalar in self._declared if not scalar.per_group]
        found = dict(known)
        if len(found) < len(wanted):
            with self._started(self.plan.computed):
                for scalar in wanted:
                    if scalar.name not in found:
                        found[scalar.name] = self._scalar(scalar, self.plan.computed, found)
                        keep(scalar.name, found[scalar.name])
        return found

    def run(
        self,
        finish: Callable[[MergedGroup], Result],
        groups: Sequence[GroupPlan],
        scalars: Mapping[str, tuple[float, ...]],
    ) -> Iterator[tuple[Result, ...]]:
        """``finish`` of each of ``groups`` when it is merged, in their order: one result, or one
        for each value of the family. It runs in the engine's threads. ``scalars`` are those of
        the whole model.

        Raises NonFiniteValue (naming branch and group), CorruptObject, MissingObject, or
        NumericalError where the result does not fit the stored dtype.
        """
        if not groups:
            return
        own = [scalar for scalar in self._declared if scalar.per_group]
        with self._started(groups):
            # Its threads only wait for the pool's: groups overlap, and their scalars do.
            yield from ordered(
                lambda group: self._merged(group, scalars, own, finish),
                groups,
                nbytes=self._footprint,
                workers=2 * self.workers,
                in_flight_bytes=self._in_flight,
            )

    @property
    def _declared(self) -> tuple[Scalar, ...]:
        return self.plan.method.scalars(self.plan.options, len(self.plan.constituents))

    @contextmanager
    def _started(self, groups: Sequence[GroupPlan]) -> Iterator[None]:
        self.store.fetch(self.plan.opened.values())
        with ExitStack() as stack:
            stack.callback(self.inputs.close)
            self._pool = stack.enter_context(threads(self.workers))
            self._hash_ahead(groups)
            if self._needs_torch:
                stack.enter_context(one_thread_each())
                self._lanes = Lanes(self.device)
            yield

    def _hash_ahead(self, groups: Iterable[GroupPlan]) -> None:
        """Let the threads check hashes in advance; what is read stays in the system's cache."""
        ahead = self.memory
        for group in groups:
            slots = self.inputs.slots(group).all
            ahead -= sum(slot.record.size for slot in slots)
            if ahead < 0:
                return
            self._pool.submit(_quietly, self.inputs.check, slots)

    def _merged(
        self,
        group: GroupPlan,
        known: Mapping[str, tuple[float, ...]],
        own: Iterable[Scalar],
        finish: Callable[[MergedGroup], Result],
    ) -> tuple[Result, ...]:
        with inside(f"group '{group.name}' of '{self.plan.spec.path}'"):
            scalars = dict(known)
            for scalar in own:
                if not scalar.on_demand:
                    scalars[scalar.name] = self._scalar(scalar, (group,), scalars)
            if not self.tiled and self.device == "cpu":
                return self._pool.submit(self._finish_whole, group, scalars, finish).result()
            merged = (
                self._merge_tiles_on_demand(group, scalars, own)
                if self.tiled
                else self._merge_whole(group, scalars)
            )
            futures = [self._pool.submit(finish, one) for one in merged]
            return tuple(future.result() for future in futures)

    def _finish_whole(
        self,
        group: GroupPlan,
        scalars: Mapping[str, tuple[float, ...]],
        finish: Callable[[MergedGroup], Result],
    ) -> tuple[Result, ...]:
        """A group on one thread; each of a family's values is finished before the next is
        computed, a single one when what it was solved with has been freed."""
        merged = self._merge_whole(group, scalars)
        return tuple(map(finish, merged if self.family else tuple(merged)))

    def _outcomes(self, group: ParameterGroup) -> Iterator[Outcome]:
        """What the method makes of a group or tile: one outcome, or one for each value."""
        method, options = self.plan.method, self.plan.options
        if self.family is None:
            yield method.merge(group, options)
        else:
            yield from method.sweep(group, options, self.family.parameter, self.family.values)

    @property
    def _count(self) -> int:
        return len(self.family.values) if self.family else 1

    def _scalar(
        self,
        scalar: Scalar,
        groups: Iterable[GroupPlan],
        known: Mapping[str, tuple[float, ...]],
    ) -> tuple[float, ...]:
        """One scalar by passes over the tiles of ``groups``, which have the ``known`` ones."""

        def passed(function: Callable[[ParameterGroup], Part]) -> Iterator[Part]:
            def of_chunk(work: _Work) -> list[Part]:
                return [function(tile) for tile in self._tiles(work, known)]

            for parts in self._ahead(of_chunk, self._chunks(groups)):
                yield from parts

        return scalar.compute(passed, self.plan.options)

    def _chunks(
        self, groups: Iterable[GroupPlan], *, side_by_side: bool = False
    ) -> Iterator[_Work]:
        for group in groups:
            assert group.record is not None
            slots, itemsize = self.inputs.slots(group), BY_NAME[group.record.dtype].itemsize
            most = tiles.most_together(len(slots.all) + self._count, itemsize)
            bands = tuple(tiles.bands(group.record.shape, most if side_by_side else 1))
            reader = self.inputs.reader(slots, sum(map(len, bands)))
            for chunks in bands:
                yield group, reader, chunks

    def _ahead(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """``map`` by the pool, a few items ahead."""
        pending: deque[Future[Result]] = deque()
        try:
            for item in items:
                pending.append(self._pool.submit(without_warnings, function, item))
                if len(pending) > 2 * self.workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()

    def _tiles(
        self, work: _Work, scalars: Mapping[str, tuple[float, ...]]
    ) -> Iterator[ParameterGroup]:
        """The group's tiles in one chunk, in the dtype of sums."""
        group, reader, chunks = work
        with inside(f"group '{group.name}' of '{self.plan.spec.path}'"):
            for (tile,) in reader.tiles(chunks, tiles.TILE):
                yield self.inputs.tile(group, reader.slots, tile, scalars)

    def _merge_tiles_on_demand(
        self, group: GroupPlan, scalars: Mapping[str, tuple[float, ...]], own: Iterable[Scalar]
    ) -> tuple[MergedGroup, ...]:
        """Every tile merged; if one asks for a scalar of the group, all once more with it."""
        try:
            return self._merge_tiles(group, scalars)
        except ScalarNeeded as needed:
            (asked,) = (scalar for scalar in own if scalar.name == str(needed))
            value = self._scalar(asked, (group,), scalars)
        return self._merge_tiles(group, {**scalars, asked.name: value})

    def _merge_tiles(
        self, group: GroupPlan, scalars: Mapping[str, tuple[float, ...]]
    ) -> tuple[MergedGroup, ...]:
        """Every tile merged, cast once and put in its place."""
        assert group.record is not None
        arrays = [NO_VALUE] * self._count
        if self.place is None:
            allowed = self.memory // self._count
            arrays = [room_for(group.record, allowed, self.store) for _ in arrays]
        fill, dtype = self._filler(group, scalars), BY_NAME[group.record.dtype].numpy

        def of_chunks(work: _Work) -> list[Outcome]:
            _, reader, chunks = work
            outcomes = []
            for parts in reader.tiles(chunks, tiles.TILE):
                where = tiles.joined([tile.positions for tile in parts])
                room, is_there = tiles.room(parts, arrays, dtype)
                begin = 0
                for tile in parts:
                    end = begin + tile.positions.run
                    outcomes += fill(tile, room[:, :, begin:end])
                    begin = end
                for number, part in enumerate(room):
                    if self.place is not None:
                        self.place(group, number, where, part)
                    elif not is_there:
                        tiles.put(arrays[number], where, part)
            return outcomes

        work = self._chunks((group,), side_by_side=self.place is not None)
        parts = [part for found in self._ahead(of_chunks, work) for part in found]
        return tuple(
            MergedGroup(group, array, united(parts[number :: self._count]), number)
            for number, array in enumerate(arrays)
        )

    def _filler(
        self, group: GroupPlan, scalars: Mapping[str, tuple[float, ...]]
    ) -> Callable[[tiles.Tile, NDArray[Any]], list[Outcome]]:
        """``fill(tile, out)``: merges a tile into ``out``, (values, rows, run) as it is stored."""
        slots = self.inputs.slots(group)
        quick = quick_sum(self.inputs, group, slots, self.family)

        def fill(tile: tiles.Tile, out: NDArray[Any]) -> list[Outcome]:
            if quick and quick(tile, out):
                return [Outcome(NO_VALUE)] * len(out)
            made = self._outcomes(self.inputs.tile(group, slots, tile, scalars))
            outcomes = []
            for part, outcome in zip(out, made, strict=True):
                store(outcome.value, part)
                outcomes.append(replace(outcome, value=NO_VALUE))
            return outcomes

        return fill

    def _merge_whole(
        self, group: GroupPlan, scalars: Mapping[str, tuple[float, ...]]
    ) -> Iterator[MergedGroup]:
        """The kernel on the whole group, on one thread or, by a stream of its own, on a GPU."""
        assert group.record is not None
        slots = self.inputs.slots(group)
        lane = self._lanes.of_this_thread()
        kept: dict[str, Tensor] = {}

        def load(slot: Slot | None) -> Tensor:
            if slot is None:
                return lane.zeros(slots.constituents[0].record.shape, self._dtype)
            if slot.key in kept:
                return kept[slot.key]
            tensor = lane.upload(partial(self.inputs.whole, slot), slot.record, self._dtype)
            tensor = _unpacked(finite(tensor, slot.where), slot)
            if slots.base and slot.key == slots.base.key:
                kept[slot.key] = tensor  # methods ask for the base again and again
            return tensor

        with lane:
            seen = self.inputs.group(group, slots, load, scalars)
            for number, outcome in enumerate(self._outcomes(seen)):
                array = stored(outcome.value, group.record.dtype).reshape(group.record.shape)
                yield MergedGroup(group, array, outcome, number)

    @property
    def _in_flight(self) -> int:
        """Bytes of groups that may be worked on at a time."""
        if self.tiled:
            return min(self.memory, self.workers * _AHEAD_BYTES)
        # What a system is solved with lies on the GPU; the host holds its threads' staging.
        return self.memory if self.device == "cpu" else free_bytes(self.device) * 4 // 5

    def _footprint(self, group: GroupPlan) -> int:
        """What a group that is worked on takes, whatever the number of constituents."""
        assert group.record is not None
        if self.tiled:
            # A product is decomposed: itself, U, Vᵀ and what LAPACK works in.
            count = 1 if self.place else self._count
            return (6 if self.plan.outline else 2) * count * group.record.nbytes
        return working_bytes(group, "gram" in self.plan.statistics)

    @property
    def tiled(self) -> bool:
        """Whether groups are merged tile by tile."""
        return self.plan.method.elementwise and self.device == "cpu"

    @property
    def _most_threads(self) -> int:
        """So many that what they decode side by side does not grow with the models."""
        plan = self.plan
        own = len(plan.constituents) * (1 + len(plan.statistics))
        return tiles.most_threads(own + len(plan.references) + 1)

    @property
    def _needs_torch(self) -> bool:
        numpy_alone = self.tiled and self.plan.method.arrays == "any"
        return not numpy_alone or self.plan.outline is not None  # an adapter is factored by torch

    @property
    def _dtype(self) -> torch.dtype:
        import torch

        return torch.float64 if self.plan.spec.accumulate == "float64" else torch.float32


def _unpacked(tensor: Tensor, slot: Slot) -> Tensor:
    if slot.kind == "gram":
        from gitmerge_eval.statistics.gram import unpack_symmetric

        return unpack_symmetric(tensor)
    return tensor


def _quietly(check: Callable[[Slot], object], slots: Iterable[Slot]) -> None:
    for slot in slots:
        # Whoever needs the object gets the error, with its group.
        with suppress(CheckpointError, OSError):
            check(slot)
