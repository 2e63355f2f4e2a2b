"""The files of a merged model: one, several shards with their index, or an adapter's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from numpy.typing import NDArray

from gitmerge_eval.checkpoints import sharded
from gitmerge_eval.checkpoints.checkpoint import Checkpoint
from gitmerge_eval.checkpoints.lfs import ObjectStore
from gitmerge_eval.checkpoints.metadata import GroupRecord, Metadata
from gitmerge_eval.checkpoints.safetensors_file import SafetensorsWriter
from gitmerge_eval.checkpoints.sharded import ShardIndex
from gitmerge_eval.merging import adapters
from gitmerge_eval.merging.models import single_of
from gitmerge_eval.merging.planning import CheckpointPlan, GroupPlan
from gitmerge_eval.records import Positions

COPIED = ("identical", "taken", "added", "not-averaged")
"""States in which the stored object is referenced again."""

IsThere = Callable[[str, bytes], bool]
"""``is_there(path, metadata)``: whether the work tree has that file already."""


@dataclass(frozen=True)
class ModelFiles:
    """A merged model as Git shall have it."""

    whole: Metadata
    """All that is stored, as of one file."""
    tensors: Mapping[str, Metadata]
    """path -> the metadata of that file."""
    plain: Mapping[str, bytes]
    """path -> an index or a configuration, ordinary text."""
    contents: Mapping[str, Path] = field(default_factory=dict)
    """path -> the work-tree file, where it was written on the way."""


class Output:
    """Where the groups of a planned merge go while they are merged.

    With a ``folder`` the work-tree files are written into it, unless they are there already; those
    that are used and thrown away need not be ``durable``. A failure inside the ``with`` block
    leaves none of them.
    """

    def __init__(
        self,
        plan: CheckpointPlan,
        store: ObjectStore,
        folder: Path | None = None,
        is_there: IsThere = lambda path, data: False,
        *,
        durable: bool = True,
    ) -> None:
        self.plan, self.store, self._durable = plan, store, durable
        self.header = plan.header
        self._groups = {
            g.name: g for g in plan.groups if g.record is not None and g.state != "conflict"
        }
        self.index = _index(plan, self._groups)
        self._tied: dict[str, list[str]] = {}
        for group in self._groups.values():
            if group.tied_to:
                self._tied.setdefault(group.tied_to, []).append(group.name)
        self._contents = dict(self._places(folder, is_there)) if folder else {}
        self._writers: dict[str, SafetensorsWriter] = {}
        self._entered = ExitStack()

    def __enter__(self) -> Output:
        with ExitStack() as opened:
            for path, place in self._contents.items():
                names = self._names_in(path)
                layout = {n: (r.shape, r.dtype) for n in names if (r := self._groups[n].record)}
                writer = SafetensorsWriter(place, layout, self.header, durable=self._durable)
                self._writers[path] = opened.enter_context(writer)
            self._entered = opened.pop_all()
        return self

    def __exit__(self, *raised: Any) -> None:
        self._entered.__exit__(*raised)

    @property
    def contents(self) -> Mapping[str, Path]:
        """path -> where that file is, or will be when the block has ended."""
        return self._contents

    def write(self, name: str, array: NDArray[Any]) -> None:
        """Put a merged group, and those tied to it, where the work tree shall have them."""
        for alike in (name, *self._tied.get(name, ())):
            if writer := self._writers.get(self._path_of(alike)):
                writer.write(alike, array)

    def write_part(self, name: str, positions: Positions, part: NDArray[Any]) -> None:
        """:meth:`write` for a tile of a merged group; :meth:`mark_whole` follows the last."""
        for alike in (name, *self._tied.get(name, ())):
            if writer := self._writers.get(self._path_of(alike)):
                writer.write_part(alike, positions.starts, positions.run, part)

    def mark_whole(self, name: str) -> None:
        """The tiles of a group, and of those tied to it, are all where they shall be."""
        for alike in (name, *self._tied.get(name, ())):
            if writer := self._writers.get(self._path_of(alike)):
                writer.mark_whole(alike)

    def write_stored(
        self, found: Mapping[str, Sequence[GroupRecord]], names: Sequence[str]
    ) -> None:
        """Write groups that were not merged just now, from their stored objects."""
        for name in names:
            alike = [name, *self._tied.get(name, ())]
            if any(self._path_of(n) in self._writers for n in alike):
                record = replace(found[name][0], name=name)
                stored = Checkpoint(Metadata({name: record}), self.store, self.plan.spec.path)
                self.write(name, stored.read(name))

    def finish(self, found: Mapping[str, Sequence[GroupRecord]]) -> ModelFiles:
        """The files' metadata; ``found``: group -> its records, those of tied ones left out."""
        complete = dict(found)
        for name, alike in self._tied.items():
            for other in alike:
                known = self._groups[other].record
                keys = known.keys if known else ()
                complete[other] = [replace(r, name=other, keys=keys) for r in found[name]]
        if self.plan.outline:
            whole, plain = adapters.assembled(self.plan, complete, self.store)
            return ModelFiles(whole, {self.plan.spec.path: whole}, plain)
        whole = Metadata({n: records[0] for n, records in complete.items()}, self.header)
        if self.index is None:
            return ModelFiles(whole, {self._single: whole}, {}, self._contents)
        parts = {self._beside(f): m for f, m in sharded.divide(self.index, whole).items()}
        plain = {self.plan.spec.path: self.index.serialize()}
        return ModelFiles(whole, parts, plain, self._contents)

    @property
    def _single(self) -> str:
        path = self.plan.spec.path
        return single_of(path) if sharded.is_index(path) else path

    def _beside(self, file: str) -> str:
        return str(PurePosixPath(self.plan.spec.path).with_name(file))

    def _path_of(self, name: str) -> str:
        return self._beside(self.index.weight_map[name]) if self.index else self._single

    def _names_in(self, path: str) -> list[str]:
        return [name for name in self._groups if self._path_of(name) == path]

    def _places(self, folder: Path, is_there: IsThere) -> dict[str, Path]:
        """path -> where to write it, of all files that are not there already."""
        if self.plan.outline:  # an adapter's shapes are known when it is done; it is small
            return {}
        places: dict[str, Path] = {}
        by_path: dict[str, list[GroupPlan]] = {}
        for name, group in self._groups.items():
            by_path.setdefault(self._path_of(name), []).append(group)
        for path, groups in by_path.items():
            if all(group.state in COPIED for group in groups):
                records = {g.name: g.record for g in groups if g.record}
                if is_there(path, Metadata(records, self.header).serialize()):
                    continue
            places[path] = folder / f"{len(places)}.checkpoint"
        return places


def _index(plan: CheckpointPlan, groups: Mapping[str, GroupPlan]) -> ShardIndex | None:
    """How the result is cut into shards; None for one file.

    As the constituents have it where they agree, else as the base has it.
    """
    versions = [source.index for source in plan.constituents]
    having = [index for index in versions if index is not None]
    if not having:
        return None
    if len(having) < len(versions):
        decisive = plan.base or plan.constituents[0]
        if decisive.index is None:
            return None
    records = {name: group.record for name, group in groups.items() if group.record}
    return sharded.arrange(plan.base.index if plan.base else None, having, records)
