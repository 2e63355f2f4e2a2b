"""A checkpoint as Git stores it: read group by group, cleaned into Git, smudged into a file."""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, Union

import numpy as np
from numpy.typing import NDArray

from gitmerge_eval.checkpoints.encoding import decode, encoded, holds
from gitmerge_eval.checkpoints.lfs import ObjectStore
from gitmerge_eval.checkpoints.lsh import signature
from gitmerge_eval.checkpoints.metadata import DENSE, GroupRecord, Metadata, is_metadata
from gitmerge_eval.checkpoints.parallel import WORKERS, ordered
from gitmerge_eval.checkpoints.safetensors_file import (
    SafetensorsFile,
    SafetensorsWriter,
    arrange,
    data_of,
    map_file,
)
from gitmerge_eval.checkpoints.safetensors_stream import Readable, SafetensorsStream
from gitmerge_eval.errors import CheckpointError, MalformedCheckpoint

Array = NDArray[Any]


class Writable(Protocol):
    """A stream that takes all it is given."""

    def write(self, data: Any, /) -> int:
        """Write ``data``, which supports the buffer protocol."""


Source = Union[bytes, Readable, "os.PathLike[str]", str]

_START = 64
# Enough that no thread waits, and little: Git needs fresh memory for the whole file meanwhile.
_RECEIVED_BYTES = 24 * WORKERS << 20
"""Of a stream's tensors, what may wait in memory to be encoded."""
_DECODED_BYTES = 20 * WORKERS << 20
"""Of a file's groups, stored and decoded, what may wait in memory to be written."""
_KEPT_BYTES = 64 << 20
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
                with _memory_for(record.size) as buffer:
                    self.store.read_into(record.object_id, buffer)
                    return decode(buffer, record)
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
    alike = [
        record
        for record in known
        if (record.shape, record.dtype) == (array.shape, array.dtype.name)
    ]
    hashed = signature(array) if len(alike) > 1 else None
    # Quicker than encoding and hashing; most changed groups differ in their first chunk already.
    for record in alike:
        # Of many, as in a merge, only those with the same signature are worth a look.
        likely = hashed in (None, record.signature) or record.update_type != DENSE
        if likely and _holds(record, array, store, path):
            if record.update_type == DENSE:
                store.freshen(record.object_id, record.size)
            return record
    # A file of this very name that does not hold these very bits is damaged.
    doubted = {record.object_id for record in alike if record.update_type == DENSE}
    object_id, size = store.write_pieces(encoded(array), doubted)
    for record in alike:
        if record.object_id == object_id and record.update_type == DENSE:
            return record
    hashed = signature(array) if hashed is None else hashed
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
    opened = _opened(source, store)
    if isinstance(opened, bytes):
        Metadata.parse(opened)
        return opened
    header, tensors = opened

    def stored(tensor: tuple[str, Array]) -> GroupRecord:
        name, array = tensor
        known = [c.groups[name] for c in earlier if name in c.groups]
        return store_array(name, array, store, known, path=path)

    with store.settling():
        found = ordered(
            stored, tensors, nbytes=lambda t: int(t[1].nbytes), in_flight_bytes=_RECEIVED_BYTES
        )
        records = {record.name: record for record in found}
    return Metadata(records, header).serialize()


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
    if isinstance(output, (str, os.PathLike)):
        _smudge_to_file(blob, store, Path(output), path)
    else:
        for piece in smudged(blob, store, path=path):
            output.write(piece)


def smudged(
    blob: bytes, store: ObjectStore, *, path: str | None = None
) -> Generator[memoryview, None, None]:
    """The bytes of :func:`smudge` in order; the groups behind a piece are decoded meanwhile."""
    if not is_metadata(blob):
        yield memoryview(blob)
        return
    checkpoint = Checkpoint(Metadata.parse(blob), store, path)
    checkpoint.fetch()
    prefix, offsets = arrange(_layout(checkpoint), checkpoint.metadata.header)
    yield memoryview(prefix)
    for array in _values(checkpoint, offsets):
        yield data_of(array)


def _smudge_to_file(blob: bytes, store: ObjectStore, file: Path, path: str | None) -> None:
    if not is_metadata(blob):
        file.write_bytes(blob)
        return
    checkpoint = Checkpoint(Metadata.parse(blob), store, path)
    checkpoint.fetch()
    with SafetensorsWriter(file, _layout(checkpoint), checkpoint.metadata.header) as writer:
        for name, array in zip(
            checkpoint.groups, _values(checkpoint, checkpoint.groups), strict=True
        ):
            writer.write(name, array)


def _layout(checkpoint: Checkpoint) -> dict[str, tuple[tuple[int, ...], str]]:
    return {name: (record.shape, record.dtype) for name, record in checkpoint.groups.items()}


def _values(checkpoint: Checkpoint, names: Iterable[str]) -> Iterator[Array]:
    yield from ordered(
        checkpoint.read,
        names,
        nbytes=lambda name: 2 * checkpoint.groups[name].nbytes,
        in_flight_bytes=_DECODED_BYTES,
    )
    checkpoint.store.keep_checked()


def _holds(record: GroupRecord, array: Array, store: ObjectStore, path: str | None) -> bool:
    """Whether the object of ``record`` is here and stands for exactly ``array``'s bits."""
    try:
        if record.update_type == DENSE:
            file = store.mapped(record.object_id)
            if file is None or len(file) != record.size:
                return False
            return holds(memoryview(file), record, array)
        if not store.has(record.object_id):
            return False
        value = Checkpoint(Metadata({record.name: record}), store, path).read(record.name)
    except CheckpointError:
        return False
    return np.array_equal(np.asarray(data_of(value)), np.asarray(data_of(array)))


def _opened(
    source: Source, store: ObjectStore
) -> bytes | tuple[Mapping[str, str], Iterator[tuple[str, Array]]]:
    """A model's header metadata and its tensors as they come; or the bytes of a metadata blob."""
    if isinstance(source, (str, os.PathLike)):
        source = map_file(Path(source))
    if isinstance(source, (bytes, mmap.mmap)):
        start = bytes(source[:_START])
        if is_metadata(start):
            return bytes(source)
        _refuse_other_formats(start)
        file = SafetensorsFile(source)
        # The largest first, so that no thread is left with the largest at the end.
        names = sorted(file.names, key=lambda name: (-file.nbytes(name), name))
        return file.header, ((name, file.read(name)) for name in names)
    start = b""
    while len(start) < _START and (part := source.read(_START - len(start))):
        start += part
    if is_metadata(start):
        while part := source.read(1 << 20):
            start += part
        return start
    _refuse_other_formats(start)
    stream = SafetensorsStream(source, start, store.temporary)
    return stream.metadata, stream.tensors()


_memory = threading.local()


@contextmanager
def _memory_for(nbytes: int) -> Iterator[memoryview]:
    """Memory for an object; the thread uses it again, since fresh pages cost as much as reading."""
    held: bytearray | None = getattr(_memory, "held", None)
    if held is None or len(held) < nbytes:
        held = _memory.held = bytearray(nbytes)
    try:
        yield memoryview(held)[:nbytes]
    finally:
        if len(held) > _KEPT_BYTES:
            _memory.held = None


def _refuse_other_formats(start: bytes) -> None:
    if start[8:9] == b"{":  # after eight bytes of length: safetensors
        return
    if start.startswith((_ZIP, _PICKLE)):
        raise MalformedCheckpoint(
            "this is a PyTorch pickle or archive, which runs code when loaded; make a safetensors "
            "file of it with 'gitmerge-eval convert <file>' and commit that"
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
