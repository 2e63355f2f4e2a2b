"""A checkpoint as Git stores it: read group by group, cleaned into Git, smudged into a file."""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, Union

import numpy as np
from numpy.typing import NDArray

from gitmerge_eval.checkpoints.encoding import decode, encode
from gitmerge_eval.checkpoints.lfs import ObjectStore
from gitmerge_eval.checkpoints.lsh import signature
from gitmerge_eval.checkpoints.metadata import DENSE, GroupRecord, Metadata, is_metadata
from gitmerge_eval.checkpoints.parallel import ordered
from gitmerge_eval.checkpoints.safetensors_file import (
    SafetensorsFile,
    SafetensorsWriter,
    arrange,
    data_of,
    map_file,
)
from gitmerge_eval.errors import CheckpointError, MalformedCheckpoint

Array = NDArray[Any]


class Readable(Protocol):
    """A stream to read from."""

    def read(self, size: int = -1, /) -> bytes:
        """Up to ``size`` bytes, all if negative; empty at the end."""


class Writable(Protocol):
    """A stream that takes all it is given."""

    def write(self, data: Any, /) -> int:
        """Write ``data``, which supports the buffer protocol."""


Source = Union[bytes, Readable, "os.PathLike[str]", str]

_START = 64
_COPY_BYTES = 1 << 20
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"


class Checkpoint:
    """The groups of one version of a checkpoint, each read when asked for.

    ``path``, the file's path in the repository, is needed only for groups that git-theta stored as
    updates of an earlier commit's value.
    """

    def __init__(self, metadata: Metadata, store: ObjectStore, path: str | None = None) -> None:
        self.metadata = metadata
        self.store = store
        self.path = path

    @property
    def groups(self) -> Mapping[str, GroupRecord]:
        """name -> what the metadata says of the group, sorted by name."""
        return self.metadata.groups

    def read(self, name: str) -> Array:
        """The group's value, as a writable array of its own.

        Raises MissingObject, CorruptObject, or MalformedCheckpoint, each naming the group.
        """
        record = self.groups[name]
        try:
            if record.update_type == DENSE:
                return decode(self.store.read(record.object_id, record.size), record)
            from gitmerge_eval.checkpoints import theta

            return theta.read(record, self.store, self.path)
        except MalformedCheckpoint:
            raise
        except CheckpointError as error:
            raise error.within(f"group {name!r}") from error.__cause__

    def fetch(self) -> None:
        """Bring all objects that are not here, by one git-lfs process; MissingObject if none."""
        self.store.fetch(self.groups.values())


def store_array(
    name: str,
    array: Array,
    store: ObjectStore,
    known: Sequence[GroupRecord] = (),
    *,
    path: str | None = None,
) -> GroupRecord:
    """Store one group's value and return its record; ``known`` are its records in earlier versions.

    The record is a pure function of name and value, except that an unchanged group keeps the known
    record: also where that is an update, or was encoded by another version of tensorstore.
    """
    data = encode(array)
    object_id = hashlib.sha256(data).hexdigest()
    alike = [
        record
        for record in known
        if (record.shape, record.dtype) == (array.shape, array.dtype.name)
    ]
    for record in alike:
        if record.object_id == object_id and record.update_type == DENSE:
            store.write(data, object_id)
            return record
    hashed = signature(array)
    for record in alike:
        likely = record.update_type != DENSE or record.signature == hashed
        if likely and _holds(record, array, store, path):
            return record
    _, size = store.write(data, object_id)
    fresh = GroupRecord(name, array.shape, array.dtype.name, hashed, object_id, size)
    return replace(fresh, keys=known[0].keys) if known else fresh


def clean(
    source: Source,
    store: ObjectStore,
    previous: Iterable[Metadata] = (),
    *,
    path: str | None = None,
) -> bytes:
    """The metadata blob for a model file; its tensors go to ``store``.

    The format is told by content. Metadata passes through unchanged, so that a file that was never
    smudged is not stored twice. Groups unchanged since one of ``previous`` keep their entries byte
    for byte; else the blob is a pure function of the tensors. ``path`` as for :class:`Checkpoint`.
    Raises MalformedCheckpoint for anything that is not a sound safetensors file.
    """
    earlier = [Checkpoint(metadata, store, path) for metadata in previous]
    with _mapped(source, store) as data:
        start = bytes(data[:_START])
        if is_metadata(start):
            blob = bytes(data)
            Metadata.parse(blob)
            return blob
        _refuse_other_formats(start)
        file = SafetensorsFile(data)

        def stored(name: str) -> GroupRecord:
            known = [c.groups[name] for c in earlier if name in c.groups]
            return store_array(name, file.read(name), store, known, path=path)

        # The largest first, so that no thread is left with the largest at the end.
        names = sorted(file.names, key=lambda name: (-file.nbytes(name), name))
        records = {record.name: record for record in ordered(stored, names, nbytes=file.nbytes)}
        return Metadata(records, file.header).serialize()


def smudge(
    blob: bytes,
    store: ObjectStore,
    output: Writable | str | os.PathLike[str],
    *,
    path: str | None = None,
) -> None:
    """Write the safetensors file that ``blob`` stands for, to a stream or as a whole file.

    A blob that is not metadata was committed without the filter and is written as it is.
    Raises MissingObject, CorruptObject or MalformedCheckpoint.
    """
    if not is_metadata(blob):
        if isinstance(output, (str, os.PathLike)):
            Path(output).write_bytes(blob)
        else:
            output.write(blob)
        return
    checkpoint = Checkpoint(Metadata.parse(blob), store, path)
    checkpoint.fetch()
    groups, header = checkpoint.groups, checkpoint.metadata.header
    layout = {name: (record.shape, record.dtype) for name, record in groups.items()}
    prefix, offsets = arrange(layout, header)
    arrays = ordered(checkpoint.read, offsets, nbytes=lambda name: 2 * groups[name].nbytes)
    if isinstance(output, (str, os.PathLike)):
        with SafetensorsWriter(output, layout, header) as writer:
            for name, array in zip(offsets, arrays, strict=True):
                writer.write(name, array)
    else:
        output.write(prefix)
        for array in arrays:
            output.write(data_of(array))


def _holds(record: GroupRecord, array: Array, store: ObjectStore, path: str | None) -> bool:
    """Whether the object of ``record`` is here and stands for exactly ``array``'s bits."""
    if not store.has(record.object_id):
        return False
    try:
        value = Checkpoint(Metadata({record.name: record}), store, path).read(record.name)
    except CheckpointError:
        return False
    return np.array_equal(np.asarray(data_of(value)), np.asarray(data_of(array)))


@contextmanager
def _mapped(source: Source, store: ObjectStore) -> Iterator[bytes | mmap.mmap]:
    if isinstance(source, bytes):
        yield source
    elif isinstance(source, (str, os.PathLike)):
        yield map_file(Path(source))
    else:
        # To disk and mapped: a stream may be larger than memory.
        with store.temporary() as path:
            with path.open("xb") as file:
                while part := source.read(_COPY_BYTES):
                    file.write(part)
            yield map_file(path)


def _refuse_other_formats(start: bytes) -> None:
    if start[8:9] == b"{":  # after eight bytes of length: safetensors
        return
    if start.startswith((_ZIP, _PICKLE)):
        raise MalformedCheckpoint(
            "this is a PyTorch pickle or archive, which runs code when loaded; save the model with "
            "safetensors.torch.save_file and commit that file"
        )
    if start.startswith((b"<<<<<<< ", b"version https://git-lfs")):
        raise MalformedCheckpoint(
            "this is text (a Git conflict or an LFS pointer), not a model; "
            "restore the file with 'git checkout'"
        )
    if not start:
        raise MalformedCheckpoint("the file is empty; save the model with safetensors")
    if len(start) >= _START:
        raise MalformedCheckpoint(
            "unknown checkpoint format; save the model with safetensors and commit that file"
        )
