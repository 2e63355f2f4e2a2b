"""A parameter group's stored form: MessagePack of a zarr v2 array, as git-theta 0.2.0 writes it.

git-theta lets tensorstore write a zarr array into memory and packs its files into one object:
``{'parameter': {'.zarray': …, '0.0': …}}``. The same bytes come from Blosc and MessagePack used
directly, several times faster; the tests compare them with git-theta's own serializer.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from math import prod
from types import ModuleType
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from gitmerge_eval.checkpoints.dtypes import BY_NAME, Dtype
from gitmerge_eval.checkpoints.metadata import GroupRecord
from gitmerge_eval.errors import MalformedCheckpoint

Array = NDArray[Any]

_CHUNK_ELEMENTS = 1024 * 1024
_COMPRESSOR = {"blocksize": 0, "clevel": 5, "cname": "lz4", "id": "blosc", "shuffle": -1}
_AUTOMATIC_SHUFFLE = -1


def encode(array: Array) -> bytes:
    """The object that stores ``array``: the bytes git-theta's dense update writes.

    ``array`` has any shape, strides and byte order, and a dtype of
    :mod:`gitmerge_eval.checkpoints.dtypes`; MalformedCheckpoint for another.
    """
    dtype = _known(array.dtype)
    array = np.asarray(array, dtype.numpy.newbyteorder("<"))
    chunks = chunk_shape(array.shape)
    files: dict[str, bytes] = {".zarray": _document(array.shape, chunks, dtype)}
    blosc = _blosc()
    compressed = {
        key: blosc.compress(_words(_padded(array[region], chunks)), b"lz4", 5, _AUTOMATIC_SHUFFLE)
        for key, region in _grid(array.shape, chunks)
    }
    # tensorstore's memory store lists its files in the order of their names.
    files |= dict(sorted(compressed.items()))
    packed: bytes = msgpack.packb({"parameter": files}, use_bin_type=True)
    return packed


def decode(data: bytes, record: GroupRecord) -> Array:
    """The value in a dense object; MalformedCheckpoint where it is not what ``record`` says."""
    files = unpack(data).get("parameter")
    if not isinstance(files, dict) or not all(isinstance(v, bytes) for v in files.values()):
        raise _malformed(record, "holds no zarr array named 'parameter'")
    layout = _layout(files.get(".zarray"), record)
    if layout.get("shape") != list(record.shape):
        raise _malformed(record, f"has shape {layout.get('shape')}")
    dtype = BY_NAME[record.dtype]
    if layout.get("dtype") != dtype.zarr:
        raise _malformed(record, f"has dtype {layout.get('dtype')}")
    if not _is_ours(layout):
        return _decode_by_tensorstore(files, record)
    array = np.empty(record.shape, dtype.numpy)
    chunks = tuple(layout["chunks"])
    blosc = _blosc()
    for key, region in _grid(record.shape, chunks):
        if key not in files:
            raise _malformed(record, f"lacks the chunk {key}")
        _decode_chunk(blosc, files[key], array, region, chunks, record)
    return array


def unpack(data: bytes) -> dict[str, Any]:
    """The files of an object by parameter; MalformedCheckpoint if it is not MessagePack."""
    try:
        unpacked = msgpack.unpackb(data, raw=False)
    except (ValueError, msgpack.UnpackException) as error:
        raise MalformedCheckpoint(f"the stored object is not MessagePack: {error}") from error
    if not isinstance(unpacked, dict):
        raise MalformedCheckpoint("the stored object is not a map of arrays")
    return unpacked


def chunk_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """tensorstore's default chunk: the largest near-cube of at most 2^20 elements.

    The edge e is the greatest with Π max(1, min(d, e)) ≤ 2^20, found by bisection.
    Source: tensorstore's ``ChooseChunkShape``.
    """
    low, high = 1, max(shape, default=1)
    while low < high:
        middle = (low + high + 1) // 2
        if prod(max(1, min(size, middle)) for size in shape) <= _CHUNK_ELEMENTS:
            low = middle
        else:
            high = middle - 1
    return tuple(max(1, min(size, low)) for size in shape)


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


def _grid(
    shape: tuple[int, ...], chunks: tuple[int, ...]
) -> Iterator[tuple[str, tuple[slice, ...]]]:
    """The key and the region of every chunk."""
    counts = [-(-size // chunk) for size, chunk in zip(shape, chunks, strict=True)]
    for index in itertools.product(*map(range, counts)):
        region = tuple(
            slice(i * chunk, min((i + 1) * chunk, size))
            for i, chunk, size in zip(index, chunks, shape, strict=True)
        )
        yield ".".join(map(str, index)) or "0", region


def _padded(part: Array, chunks: tuple[int, ...]) -> Array:
    # A chunk at the edge is stored at full size; tensorstore fills it up with zeros.
    if part.shape == chunks:
        return np.ascontiguousarray(part)
    full = np.zeros(chunks, part.dtype)
    full[tuple(slice(size) for size in part.shape)] = part
    return full


def _words(array: Array) -> Array:
    """The elements as integers of their size, by which Blosc shuffles bytes."""
    # Neither Blosc nor the buffer protocol knows the dtypes of ml_dtypes.
    return array.reshape(-1).view(f"u{array.dtype.itemsize}")


def _layout(document: bytes | None, record: GroupRecord) -> dict[str, Any]:
    try:
        layout = json.loads(document or b"")
    except (ValueError, RecursionError) as error:
        raise _malformed(record, "holds no readable .zarray") from error
    if not isinstance(layout, dict):
        raise _malformed(record, "holds no readable .zarray")
    return layout


def _is_ours(layout: dict[str, Any]) -> bool:
    """Whether the array is laid out as git-theta 0.2.0 does it, so that Blosc alone reads it."""
    chunks, compressor = layout.get("chunks"), layout.get("compressor")
    return (
        isinstance(chunks, list)
        and len(chunks) == len(layout["shape"])
        and all(type(size) is int and size > 0 for size in chunks)
        and prod(chunks) <= 2 * _CHUNK_ELEMENTS
        and isinstance(compressor, dict)
        and compressor.get("id") == "blosc"
        and layout.get("filters") is None
        and layout.get("fill_value") is None
        and layout.get("order") == "C"
        and layout.get("zarr_format") == 2
        and layout.get("dimension_separator", ".") == "."
    )


def _decode_chunk(
    blosc: ModuleType,
    data: bytes,
    array: Array,
    region: tuple[slice, ...],
    chunks: tuple[int, ...],
    record: GroupRecord,
) -> None:
    nbytes = prod(chunks) * array.dtype.itemsize
    # Blosc trusts its own header for the sizes before and after, so these are compared first.
    sizes = int.from_bytes(data[4:8], "little"), int.from_bytes(data[12:16], "little")
    if sizes != (nbytes, len(data)):
        raise _malformed(record, "has a chunk of another size")
    # The ellipsis makes it a view where there are no dimensions too, instead of a scalar.
    position: tuple[Any, ...] = (*region, ...)
    part = array[position]
    whole = part.shape == chunks and part.flags.c_contiguous
    target = part if whole else np.empty(chunks, array.dtype)
    try:
        blosc.decompress(data, _writable_bytes(target))
    except (RuntimeError, ValueError) as error:
        raise _malformed(record, "has a damaged chunk") from error
    if not whole:
        part[...] = target[tuple(slice(size) for size in part.shape)]


def _writable_bytes(array: Array) -> NDArray[np.uint8]:
    return array.reshape(-1).view(np.uint8)


def _decode_by_tensorstore(files: dict[str, bytes], record: GroupRecord) -> Array:
    """Arrays of another tensorstore version: other chunks, compressors or fill values."""
    import tensorstore

    context = tensorstore.Context()
    store = tensorstore.KvStore.open("memory://", context=context).result()
    for name, contents in files.items():
        store[name] = contents
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
