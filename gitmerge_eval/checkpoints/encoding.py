"""A parameter group's stored form: MessagePack of a zarr v2 array, as git-theta 0.2.0 writes it.

git-theta lets tensorstore write a zarr array into memory and packs its files into one object:
``{'parameter': {'.zarray': …, '0.0': …}}``. The same bytes come from Blosc and MessagePack used
directly, several times faster; the tests compare them with git-theta's own serializer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from gitmerge_eval.checkpoints.chunks import Chunk, chunk_shape, grid
from gitmerge_eval.checkpoints.dtypes import BY_NAME, Dtype
from gitmerge_eval.checkpoints.metadata import GroupRecord
from gitmerge_eval.checkpoints.packed import is_ours, places
from gitmerge_eval.checkpoints.thread_memory import ThreadMemory
from gitmerge_eval.errors import MalformedCheckpoint

__all__ = ["chunk_shape", "decode", "encode", "encoded", "holds", "unpack"]

Array = NDArray[Any]
Buffer = bytes | bytearray | memoryview

_COMPRESSOR = {"blocksize": 0, "clevel": 5, "cname": "lz4", "id": "blosc", "shuffle": -1}
_AUTOMATIC_SHUFFLE = -1
_HEADER = 16


def encode(array: Array) -> bytes:
    """The object that stores ``array``: the bytes git-theta's dense update writes.

    ``array`` has any shape, strides and byte order, and a dtype of
    :mod:`gitmerge_eval.checkpoints.dtypes`; MalformedCheckpoint for another.
    """
    return b"".join(encoded(array))


def encoded(array: Array) -> Iterator[bytes]:
    """The bytes of :func:`encode` piece by piece, so that memory holds one chunk of them."""
    dtype = _known(array.dtype)
    array = np.asarray(array, dtype.numpy.newbyteorder("<"))
    chunks = {chunk.key: chunk for chunk in grid(array.shape)}
    blosc = _blosc()
    pack = msgpack.Packer(use_bin_type=True)
    document = _document(array.shape, chunk_shape(array.shape), dtype)
    yield pack.pack_map_header(1) + pack.pack("parameter") + pack.pack_map_header(len(chunks) + 1)
    yield pack.pack(".zarray") + pack.pack(document)
    # tensorstore's memory store lists its files in the order of their names.
    for key in sorted(chunks):
        whole = _words(_padded(array, chunks[key]))
        compressed = blosc.compress(whole, b"lz4", 5, _AUTOMATIC_SHUFFLE)
        yield pack.pack(key) + _binary_header(len(compressed))
        yield compressed


def decode(data: Buffer, record: GroupRecord, out: Array | None = None) -> Array:
    """The value in a dense object; MalformedCheckpoint where it is not what ``record`` says.

    ``out``, an array of the record's shape and dtype, C-contiguous, receives it instead of new
    memory.
    """
    files = _files(data, record)
    chunks = _chunks(files, record)
    if chunks is None:
        value = _decode_by_tensorstore(files, record)
        if out is None:
            return value
        out[...] = value
        return out
    array = np.empty(record.shape, BY_NAME[record.dtype].numpy) if out is None else out
    for chunk in chunks:
        # The ellipsis makes it a view where there are no dimensions too, instead of a scalar.
        position: tuple[Any, ...] = (*chunk.region, ...)
        part = array[position]
        if part.shape == chunk.shape and part.flags.c_contiguous:
            _decompress(files, chunk, part, record)
        else:
            part[...] = _decompressed(files, chunk, record)
    return array


def holds(data: Buffer, record: GroupRecord, array: Array) -> bool:
    """Whether a dense object stands for exactly ``array``'s bits; raises what :func:`decode` does.

    Ends at the first chunk that differs, so that a changed group costs next to nothing.
    """
    if (array.shape, array.dtype.name) != (record.shape, record.dtype):
        return False
    files = _files(data, record)
    chunks = _chunks(files, record)
    if chunks is None:
        return _same_bits(np.asarray(_decode_by_tensorstore(files, record)), array)
    for chunk in chunks:
        position: tuple[Any, ...] = (*chunk.region, ...)
        if not _same_bits(_decompressed(files, chunk, record), array[position]):
            return False
    return True


def unpack(data: Buffer) -> dict[str, Any]:
    """The files of an object by parameter; MalformedCheckpoint if it is not MessagePack."""
    try:
        unpacked = msgpack.unpackb(data, raw=False)
    except (ValueError, msgpack.UnpackException) as error:
        raise MalformedCheckpoint(f"the stored object is not MessagePack: {error}") from error
    if not isinstance(unpacked, dict):
        raise MalformedCheckpoint("the stored object is not a map of arrays")
    return unpacked


def _malformed(record: GroupRecord, what: str) -> MalformedCheckpoint:
    return MalformedCheckpoint(
        f"group {record.name!r}: the object {record.object_id[:12]} {what}, but the metadata says "
        f"{record.dtype} {record.shape}; restore the file from a commit"
    )


def _known(dtype: np.dtype[Any]) -> Dtype:
    name = dtype.newbyteorder("=").name
    if name not in BY_NAME:
        raise MalformedCheckpoint(f"dtype '{dtype}' cannot be stored; convert the tensor")
    return BY_NAME[name]


def _document(shape: tuple[int, ...], chunks: tuple[int, ...], dtype: Dtype) -> bytes:
    document = {
        "chunks": chunks,
        "compressor": _COMPRESSOR,
        "dimension_separator": ".",
        "dtype": dtype.zarr,
        "fill_value": None,
        "filters": None,
        "order": "C",
        "shape": shape,
        "zarr_format": 2,
    }
    return json.dumps(document, separators=(",", ":")).encode()


def _padded(array: Array, chunk: Chunk) -> Array:
    position: tuple[Any, ...] = (*chunk.region, ...)
    part: Array = array[position]
    if part.shape == chunk.shape:
        if part.flags.c_contiguous:
            return part
        full = _scratch(chunk, array.dtype)
    else:
        # A chunk at the edge is stored at full size; tensorstore fills it up with zeros.
        full = _scratch(chunk, array.dtype)
        _writable_bytes(full)[...] = 0
    full[_inside(part)] = part
    return full


def _inside(part: Array) -> tuple[Any, ...]:
    """Where a part lies in its chunk: at the start of every axis."""
    return (*(slice(size) for size in part.shape), ...)


_memory = ThreadMemory()


def _scratch(chunk: Chunk, dtype: np.dtype[Any]) -> Array:
    """Memory for a chunk, the thread's own and used again."""
    return _memory.take(chunk.size * dtype.itemsize).view(dtype).reshape(chunk.shape)


def _words(array: Array) -> Array:
    """The elements as integers of their size, by which Blosc shuffles bytes."""
    # Neither Blosc nor the buffer protocol knows the dtypes of ml_dtypes.
    return array.reshape(-1).view(f"u{array.dtype.itemsize}")


def _binary_header(size: int) -> bytes:
    """MessagePack's lead of a binary of that many bytes."""
    if size < 1 << 8:
        return b"\xc4" + size.to_bytes(1, "big")
    if size < 1 << 16:
        return b"\xc5" + size.to_bytes(2, "big")
    return b"\xc6" + size.to_bytes(4, "big")


def _files(data: Buffer, record: GroupRecord) -> Mapping[str, Buffer]:
    """The files of the zarr array, without a copy where the object is laid out as usual."""
    view = memoryview(data)
    found = places(lambda position, size: bytes(view[position : position + size]), len(view))
    if found is not None:
        return {name: view[p.position : p.position + p.length] for name, p in found.items()}
    files = unpack(data).get("parameter")
    if not isinstance(files, dict) or not all(isinstance(v, bytes) for v in files.values()):
        raise _malformed(record, "holds no zarr array named 'parameter'")
    return files


def _chunks(files: Mapping[str, Buffer], record: GroupRecord) -> Iterator[Chunk] | None:
    """The chunks in the object, None where only tensorstore reads it.

    MalformedCheckpoint where shape or dtype are not the record's.
    """
    layout = _layout(files.get(".zarray"), record)
    if layout.get("shape") != list(record.shape):
        raise _malformed(record, f"has shape {layout.get('shape')}")
    if layout.get("dtype") != BY_NAME[record.dtype].zarr:
        raise _malformed(record, f"has dtype {layout.get('dtype')}")
    return grid(record.shape, tuple(layout["chunks"])) if is_ours(layout) else None


def _layout(document: Buffer | None, record: GroupRecord) -> dict[str, Any]:
    try:
        layout = json.loads(bytes(document or b""))
    except (ValueError, RecursionError) as error:
        raise _malformed(record, "holds no readable .zarray") from error
    if not isinstance(layout, dict):
        raise _malformed(record, "holds no readable .zarray")
    return layout


def _decompressed(files: Mapping[str, Buffer], chunk: Chunk, record: GroupRecord) -> Array:
    """The part of the array in one chunk, in memory that the thread's next call uses again."""
    whole = _scratch(chunk, BY_NAME[record.dtype].numpy)
    _decompress(files, chunk, whole, record)
    position: tuple[Any, ...] = (*(slice(p.stop - p.start) for p in chunk.region), ...)
    part: Array = whole[position]
    return part


def _decompress(
    files: Mapping[str, Buffer], chunk: Chunk, target: Array, record: GroupRecord
) -> None:
    data = files.get(chunk.key)
    if data is None:
        raise _malformed(record, f"lacks the chunk {chunk.key}")
    # Blosc trusts its own header for the sizes before and after, so these are compared first.
    head = bytes(data[:_HEADER])
    sizes = int.from_bytes(head[4:8], "little"), int.from_bytes(head[12:16], "little")
    if sizes != (target.nbytes, len(data)):
        raise _malformed(record, "has a chunk of another size")
    try:
        _blosc().decompress(data, _writable_bytes(target))
    except (RuntimeError, ValueError) as error:
        raise _malformed(record, "has a damaged chunk") from error


def _same_bits(one: Array, other: Array) -> bool:
    """Whether two arrays of one shape and dtype agree in every bit: NaN equals itself, 0 not -0."""
    words = f"u{one.dtype.itemsize}"
    return bool(np.array_equal(one.view(words), other.view(words)))


def _writable_bytes(array: Array) -> NDArray[np.uint8]:
    return array.reshape(-1).view(np.uint8)


def _decode_by_tensorstore(files: Mapping[str, Buffer], record: GroupRecord) -> Array:
    """Arrays of another tensorstore version: other chunks, compressors or fill values."""
    import tensorstore

    context = tensorstore.Context()
    store = tensorstore.KvStore.open("memory://", context=context).result()
    for name, contents in files.items():
        store[name] = bytes(contents)
    try:
        opened = tensorstore.open({"driver": "zarr", "kvstore": "memory://"}, context=context)
        value: Array = opened.result().read().result()
    except ValueError as error:
        raise _malformed(record, "is no array that tensorstore reads") from error
    return value


def _blosc() -> ModuleType:
    from numcodecs import blosc

    # Groups run in threads of their own; Blosc's own pool would lock them against each other.
    blosc.use_threads = False
    module: ModuleType = blosc
    return module
