"""What a group is computed from: the stored tensors of base, constituents, statistics, references.

Opened by a plan, read tile by tile or as whole tensors. Every object's hash is checked once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, cast, overload

import numpy as np

from gitmerge_eval.checkpoints import bridge
from gitmerge_eval.checkpoints.checkpoint import Checkpoint
from gitmerge_eval.checkpoints.chunks import Chunk, chunk_shape, grid
from gitmerge_eval.checkpoints.dtypes import BY_NAME
from gitmerge_eval.checkpoints.lfs import ObjectStore
from gitmerge_eval.checkpoints.lora_view import Product, ProductArray, stored_records
from gitmerge_eval.checkpoints.metadata import DENSE, GroupRecord, Metadata
from gitmerge_eval.checkpoints.stored_array import Readable, StoredArray, UnknownLayout, WholeArray
from gitmerge_eval.checkpoints.stored_together import StoredTogether
from gitmerge_eval.errors import (
    CheckpointError,
    GitMergeEvalError,
    NumericalError,
    StaleStatistic,
)
from gitmerge_eval.merging import tiles
from gitmerge_eval.merging.planning import CheckpointPlan, GroupPlan
from gitmerge_eval.merging.precision import widened
from gitmerge_eval.merging.sources import Source, StatisticSource
from gitmerge_eval.merging.tiles import Sources, Tile
from gitmerge_eval.records import ParameterGroup, Positions

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

_PRODUCTS = 64
"""Adapters' factors that are kept at a time."""

Load = Callable[["Slot | None"], "Tensor"]
"""Gives a slot's tensor on the device, in the dtype of sums; None stands for zeros."""


@dataclass(frozen=True)
class Slot:
    """One stored tensor of a group, and whose it is."""

    record: GroupRecord
    path: str | None
    where: str
    """For messages: ``branch 'x'``."""
    kind: str = ""
    """Of a statistic."""

    @property
    def key(self) -> str:
        """Equal keys mean equal tensors."""
        return self.record.object_id


@dataclass(frozen=True)
class Slots:
    """The stored tensors of one group by their parts in it; None is a statistic of zeros."""

    constituents: tuple[Slot, ...]
    base: Slot | None
    references: Mapping[str, Slot]
    statistics: Mapping[str, tuple[Slot | None, ...]]

    @property
    def all(self) -> tuple[Slot, ...]:
        """Every stored tensor once: what several share is read once."""
        statistics = [slot for kind in self.statistics.values() for slot in kind if slot]
        base = [self.base] if self.base else []
        listed = [*base, *self.constituents, *self.references.values(), *statistics]
        return tuple({slot.key: slot for slot in reversed(listed)}.values())[::-1]


class Readers:
    """Stored tensors, opened where they are asked for; each object's hash is checked once."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store
        self._checked: dict[str, Path] = {}
        self._checking: dict[str, Lock] = {}
        self._products: dict[tuple[str, tuple[int, ...]], ProductArray] = {}
        self._readers: set[GroupReader] = set()
        self._lock = Lock()

    def check(self, slot: Slot) -> None:
        """Compare the slot's objects with their hashes: once, from however many threads.

        Raises CorruptObject or MissingObject, naming whose it is.
        """
        for record in stored_records([slot.record]):
            self._verified(record, slot.where)

    def _verified(self, record: GroupRecord, where: str) -> Path:
        """The object's file."""
        path = self._checked.get(record.object_id)
        if path is None:
            with self._lock:
                lock = self._checking.setdefault(record.object_id, Lock())
            with (
                lock
            ):  # whoever comes second waits for the first, and checks what that one could not
                path = self._checked.get(record.object_id)
                if path is None:
                    with inside(where):
                        path = self.store.verified(record.object_id, record.size)
                    self._checked[record.object_id] = path
                    self._checking.pop(record.object_id, None)
        return path

    @contextmanager
    def opened(self, slot: Slot) -> Iterator[Readable]:
        """The tensor, ready to be read part by part."""
        with ExitStack() as stack:
            # Only what opens it: errors of whoever reads are not of this tensor alone.
            with inside(slot.where):
                reader = self._reader(slot, stack)
            yield reader

    def _reader(self, slot: Slot, stack: ExitStack) -> Readable:
        record = slot.record
        if isinstance(record, Product):
            return self._product(record, slot)
        if record.update_type == DENSE:
            path = self._verified(record, slot.where)
            with suppress(UnknownLayout):
                stored = stack.enter_context(StoredArray(path, record))
                if stored.chunk_shape == chunk_shape(record.shape):
                    return stored
        checkpoint = Checkpoint(Metadata({record.name: record}), self.store, slot.path)
        return WholeArray(checkpoint.read(record.name))

    def _product(self, record: Product, slot: Slot) -> ProductArray:
        """An adapter's ΔW; the factors of a few groups stay in memory, for their next chunks."""
        key = slot.key, record.shape  # that no weight is changed has one id for all shapes
        with self._lock:
            found = self._products.pop(key, None)
        if found is None:
            self.check(slot)
            found = ProductArray.of(record, self.store, slot.path)
        with self._lock:
            self._products[key] = found
            while len(self._products) > _PRODUCTS:
                self._products.pop(next(iter(self._products)))
        return found

    def whole(self, slot: Slot, array: NDArray[Any] | None = None) -> NDArray[Any]:
        """The tensor, decoded part by part: into ``array``, or into one of its own."""
        record = slot.record
        if array is None:
            array = np.empty(record.shape, BY_NAME[record.dtype].numpy)
        with self.opened(slot) as reader, inside(slot.where):
            source = Sources({"": tiles.Source(reader.read, array.dtype)})
            for chunk in grid(record.shape):
                for tile in tiles.cut(chunk, reader.steps(chunk), source, tiles.TILE):
                    tiles.put(array, tile.positions, tile.arrays[""])
        return array

    def reader(self, slots: Slots, chunks: int) -> GroupReader:
        """A reader for one pass over the ``chunks`` of a group."""
        found = GroupReader(self, slots, chunks, self._readers.discard)
        self._readers.add(found)
        return found

    def close(self) -> None:
        """Close what a pass that did not come to its end left open."""
        for reader in tuple(self._readers):
            reader.close()
            self._readers.discard(reader)
        self.store.keep_checked()


class Inputs(Readers):
    """The stored tensors of a plan's groups."""

    def __init__(self, plan: CheckpointPlan, store: ObjectStore) -> None:
        super().__init__(store)
        self.plan = plan

    def slots(self, group: GroupPlan) -> Slots:
        """What the group's kernel gets; StaleStatistic where only some constituents have one."""
        plan, name = self.plan, group.name
        return Slots(
            constituents=tuple(_slot(s, name, f"branch '{s.label}'") for s in plan.constituents),
            base=_slot(plan.base, name, "the base") if plan.base and plan.reads_base else None,
            references={
                key: _slot(source, name, f"'{source.label}'")
                for key, source in plan.references.items()
                if name in source.metadata.groups
            },
            statistics={kind: s for kind in plan.statistics if (s := self._statistic(group, kind))},
        )

    def _statistic(self, group: GroupPlan, kind: str) -> tuple[Slot | None, ...]:
        """One statistic of all constituents; empty where the group has none and needs none."""
        plan = self.plan
        slots = [_statistic_slot(source.label, source.statistics[kind], group.name)
                 for source in plan.constituents]  # fmt: skip
        needed = kind in plan.method.statistics(plan.options)
        if needed and None in slots and any(slots):
            lacking = plan.constituents[slots.index(None)].label
            raise StaleStatistic(
                f"the statistic '{kind}' of '{lacking}' has nothing for this group while "
                f"others have; compute it again with 'gitmerge-eval stats {kind}'"
            )
        shape = plan.constituents[0].metadata.groups[group.name].shape
        for slot in slots:
            if slot and plan.method.elementwise and slot.record.shape != shape:
                raise StaleStatistic(
                    f"{slot.where} has the shape {list(slot.record.shape)} for a group of "
                    f"{list(shape)}; compute it again with 'gitmerge-eval stats {kind}'"
                )
        return tuple(slots) if any(slots) or not needed else ()

    def group(
        self,
        group: GroupPlan,
        slots: Slots,
        load: Load,
        scalars: Mapping[str, tuple[float, ...]],
        positions: Positions | None = None,
    ) -> ParameterGroup:
        """What the kernel sees; ``load`` gives a slot's tensor, or that part of it."""
        return ParameterGroup(
            name=group.name,
            constituents=Sequenced(slots.constituents, load),
            identities=tuple(source.blob for source in self.plan.constituents),
            changed=self.changed(group, slots),
            base=load(slots.base) if slots.base else None,
            statistics={kind: Sequenced(found, load) for kind, found in slots.statistics.items()},
            scalars=scalars,
            references={key: load(slot) for key, slot in slots.references.items()},
            input_axis=self._input_axis(group.name),
            models=self.plan.models,
            positions=positions,
        )

    def tile(
        self,
        group: GroupPlan,
        slots: Slots,
        tile: Tile,
        scalars: Mapping[str, tuple[float, ...]],
    ) -> ParameterGroup:
        """:meth:`group` of a tile, in the dtype of sums."""
        accumulate, any_arrays = self.plan.spec.accumulate, self.plan.method.arrays == "any"

        def load(slot: Slot | None) -> Tensor:
            array = tile.arrays[(slot or slots.constituents[0]).key]
            if slot is None:
                values = np.zeros(array.shape, accumulate)
            else:
                values = widened(array, accumulate, slot.where)
            return cast("Tensor", values) if any_arrays else bridge.to_torch(values)

        return self.group(group, slots, load, scalars, tile.positions)

    def changed(self, group: GroupPlan, slots: Slots) -> tuple[bool, ...]:
        """Whether each constituent's tensor differs from the base's."""
        base = self.plan.base
        original = base.metadata.groups[group.name].object_id if base else None
        return tuple(slot.key != original for slot in slots.constituents)

    def _input_axis(self, name: str) -> int:
        for source in self.plan.constituents:
            for kind in self.plan.statistics:
                layout = source.statistics[kind].entry.layout.get(name)
                if layout and "input_axis" in layout:
                    return int(layout["input_axis"])
        return 1


class GroupReader:
    """All tensors of a group, side by side: open from the first to the last chunk of one pass."""

    def __init__(
        self, inputs: Readers, slots: Slots, chunks: int, closed: Callable[[GroupReader], None]
    ) -> None:
        self.slots = slots
        self._inputs = inputs
        self._left = chunks
        self._closed = closed
        self._stack = ExitStack()
        self._sources: Sources | None = None
        self._steps: Callable[[Chunk], tuple[int, ...]] = lambda chunk: ()
        self._lock = Lock()

    def tiles(self, chunks: Sequence[Chunk], elements: int) -> Iterator[tuple[Tile, ...]]:
        """The chunks of every tensor, cut into tiles; by any thread, each chunk once. The tiles of
        several, which share their rows, come side by side.

        Raises what opening and decoding raise, naming whose tensor it is.
        """
        with self._lock:
            if self._sources is None:
                self._sources = self._open()
        steps, sources = self._steps(chunks[0]), self._sources
        yield from zip(
            *(tiles.cut(chunk, steps, sources, elements) for chunk in chunks), strict=True
        )
        with self._lock:
            self._left -= len(chunks)
            if not self._left:
                self.close()
                self._closed(self)

    def close(self) -> None:
        """Close everything; no chunk may be read afterwards."""
        self._stack.close()

    def _open(self) -> Sources:
        sources, stored = {}, {}
        for number, slot in enumerate(self.slots.all):
            reader = self._stack.enter_context(self._inputs.opened(slot))
            dtype = BY_NAME[slot.record.dtype].numpy
            sources[slot.key] = tiles.Source(_named(slot.where, reader.read), dtype)
            if number == 0:
                self._steps = _named(slot.where, reader.steps)
                first = slot.record.dtype
            if isinstance(reader, StoredArray) and slot.record.dtype == first:
                stored[slot.key] = reader
        return Sources(sources, StoredTogether(stored))


class Sequenced(Sequence["Tensor"]):
    """Tensors that are loaded when they are asked for, so that one at a time is in memory."""

    def __init__(self, slots: Sequence[Slot | None], load: Load) -> None:
        self._slots = slots
        self._load = load

    def __len__(self) -> int:
        return len(self._slots)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Tensor, ...]: ...

    def __getitem__(self, index: int | slice) -> Tensor | tuple[Tensor, ...]:
        if isinstance(index, slice):
            return tuple(self._load(slot) for slot in self._slots[index])
        return self._load(self._slots[index])


@contextmanager
def inside(where: str) -> Iterator[None]:
    """Errors of reading and of arithmetic with ``where`` in front."""
    try:
        yield
    except (CheckpointError, NumericalError) as error:
        raise _within(where, error) from error.__cause__


def _within(where: str, error: GitMergeEvalError) -> GitMergeEvalError:
    return error if str(error).startswith(f"{where}: ") else error.within(where)


def _named(where: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def named(*arguments: Any) -> Any:  # :func:`inside`, without its cost for every block
        try:
            return function(*arguments)
        except (CheckpointError, NumericalError) as error:
            raise _within(where, error) from error.__cause__

    return named


def _slot(source: Source, name: str, where: str) -> Slot:
    return Slot(source.metadata.groups[name], source.path, where)


def _statistic_slot(label: str, statistic: StatisticSource, group: str) -> Slot | None:
    record = statistic.record(group)
    where = f"statistic '{statistic.kind}' of '{label}'"
    return Slot(record, None, where, statistic.kind) if record else None
