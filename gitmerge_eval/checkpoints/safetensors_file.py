"""Safetensors files: read by memory map, written in any order, byte for byte as safetensors does.

Format: eight bytes with the header's length, a JSON header, the tensors' bytes without gaps.
Source: https://github.com/huggingface/safetensors
"""

from __future__ import annotations

import json
import mmap
import os
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gitmerge_eval.checkpoints.dtypes import BY_NAME, BY_SAFETENSORS, FILE_RANK, Dtype
from gitmerge_eval.checkpoints.settlement import EarlyFlush
from gitmerge_eval.errors import CheckpointError, MalformedCheckpoint

Array = NDArray[Any]
Layout = Mapping[str, tuple[tuple[int, ...], str]]
"""name -> (shape, NumPy's name of the dtype)."""

HEADER_KEY = "__metadata__"
_LENGTH_BYTES = 8
_ALIGNMENT = 8
_MAXIMUM_HEADER = 100_000_000  # the limit of the published reader
_PIECE_BYTES = 1 << 17
"""Written at a time: the system takes memory for a file in units of up to a write's size, and on a
virtual machine the large ones are often those that the host has to provide first."""


class SafetensorsFile:
    """A safetensors file, or its bytes, as a map of arrays that share its memory."""

    def __init__(self, source: str | os.PathLike[str] | bytes | mmap.mmap) -> None:
        """MalformedCheckpoint where the header, or its promise of bytes, does not hold."""
        if isinstance(source, (bytes, mmap.mmap)):
            self._buffer: bytes | mmap.mmap = source
        else:
            self._buffer = map_file(Path(source))
        header = Header(self._buffer)
        self.header: dict[str, str] = header.metadata
        """safetensors' own ``__metadata__``."""
        self._tensors, self._start = header.tensors, header.nbytes
        present = len(self._buffer) - self._start
        if present < header.total:
            raise Header.truncated(present, header.total)
        if present > header.total:
            raise Header.overlong(present - header.total)

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors' names, sorted."""
        return tuple(sorted(self._tensors))

    @property
    def layout(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """name -> (shape, dtype), sorted by name."""
        return {n: (self._tensors[n].shape, self._tensors[n].dtype.name) for n in self.names}

    def nbytes(self, name: str) -> int:
        """The bytes of one tensor."""
        begin, end = self._tensors[name].extent
        return end - begin

    def read(self, name: str) -> Array:
        """The tensor, without a copy where the file aligns it; a change to it stays in memory."""
        tensor = self._tensors[name]
        begin, end = tensor.extent
        if begin == end:
            return np.empty(tensor.shape, tensor.dtype.numpy)
        raw = np.frombuffer(self._buffer, np.uint8, end - begin, self._start + begin)
        if raw.ctypes.data % tensor.dtype.numpy.alignment:
            raw = raw.copy()
        return raw.view(tensor.dtype.numpy).reshape(tensor.shape)


class Header:
    """What a safetensors file says of itself: its tensors, without their bytes."""

    LENGTH_BYTES = _LENGTH_BYTES

    def __init__(self, buffer: bytes | mmap.mmap) -> None:
        """``buffer`` starts with the header; MalformedCheckpoint where it does not hold."""
        entries, self.nbytes = _read_header(buffer)
        self.metadata: dict[str, str] = _header_metadata(entries.pop(HEADER_KEY, {}))
        self.tensors = {name: Tensor.parse(name, entry) for name, entry in entries.items()}
        self.total = 0
        """Bytes of all tensors."""
        for name, tensor in self.in_order():
            begin, end = tensor.extent
            if begin != self.total:
                raise MalformedCheckpoint(
                    f"malformed safetensors: tensor {name!r} starts at byte {begin} of the data, "
                    f"expected {self.total}; save the model again"
                )
            self.total = end

    def in_order(self) -> list[tuple[str, Tensor]]:
        """The tensors in the order of their bytes."""
        return sorted(self.tensors.items(), key=lambda item: item[1].extent)

    @staticmethod
    def length(lead: bytes) -> int:
        """Bytes of the header's text, from the first eight bytes of a file."""
        if len(lead) < _LENGTH_BYTES:
            raise MalformedCheckpoint(
                f"truncated safetensors: {len(lead)} bytes in all; save or copy the model again"
            )
        length = int.from_bytes(lead[:_LENGTH_BYTES], "little")
        if length > _MAXIMUM_HEADER:
            raise MalformedCheckpoint(
                f"malformed safetensors: a header of {length} bytes; is this a safetensors file?"
            )
        return length

    @staticmethod
    def truncated(present: int, total: int) -> MalformedCheckpoint:
        """The error for a file that ends early."""
        return MalformedCheckpoint(
            f"truncated safetensors: {present} of {total} bytes of tensors are there; "
            "save or copy the model again"
        )

    @staticmethod
    def overlong(rest: int) -> MalformedCheckpoint:
        """The error for a file that goes on after its tensors."""
        return MalformedCheckpoint(
            f"malformed safetensors: {rest} bytes follow the last tensor; save the model again"
        )


@dataclass(frozen=True)
class Tensor:
    """One entry of the header."""

    shape: tuple[int, ...]
    dtype: Dtype
    extent: tuple[int, int]
    """First byte and end in the data after the header."""

    @classmethod
    def parse(cls, name: str, entry: object) -> Tensor:
        """The entry of tensor ``name``; MalformedCheckpoint where it contradicts itself."""

        def whole(values: object, length: int | None = None) -> bool:
            return (
                isinstance(values, list)
                and length in (None, len(values))
                and all(type(v) is int and 0 <= v < 2**63 for v in values)
            )

        if not (
            isinstance(entry, dict)
            and whole(entry.get("shape"))
            and whole(entry.get("data_offsets"), 2)
        ):
            raise MalformedCheckpoint(
                f"malformed safetensors: tensor {name!r} has no valid shape and offsets; "
                "save the model again"
            )
        dtype = BY_SAFETENSORS.get(str(entry.get("dtype")))
        if dtype is None:
            raise MalformedCheckpoint(
                f"tensor {name!r} has dtype {entry.get('dtype')!r}, which cannot be stored; "
                f"convert it to one of {', '.join(BY_SAFETENSORS)}"
            )
        shape, (begin, end) = tuple(entry["shape"]), entry["data_offsets"]
        if end - begin != prod(shape) * dtype.itemsize:
            raise MalformedCheckpoint(
                f"malformed safetensors: tensor {name!r} of {dtype.name} {shape} has "
                f"{end - begin} bytes; save the model again"
            )
        return cls(shape, dtype, (begin, end))


class SafetensorsWriter:
    """Writes a file whose layout is known, tensor by tensor in any order, from any thread.

    >>> with SafetensorsWriter(path, {"w": ((2,), "float32")}, {}) as writer:  # doctest: +SKIP
    ...     writer.write("w", array)

    The bytes go to a temporary file beside ``path``, which takes its place only when every tensor
    was written; an exception inside the ``with`` block removes it. One that need not be ``durable``
    may be torn by a power cut, and does not wait for the disk.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        layout: Layout,
        header: Mapping[str, str],
        *,
        durable: bool = True,
    ) -> None:
        self.path = Path(path)
        self._layout = layout
        self._flush: EarlyFlush | None = None
        prefix, self._offsets = arrange(layout, header)
        self._missing = set(layout)
        self._temporary = self.path.with_name(f".{self.path.name}.{uuid.uuid4().hex[:8]}.tmp")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        self._file = -1
        try:
            self._file = os.open(self._temporary, flags, 0o666)
            self._flush = EarlyFlush(self._file) if durable else None
            self._write_at(memoryview(prefix), 0)
        except OSError as error:
            self.discard()
            raise self._failure(error) from error
        self._start = len(prefix)

    def write(self, name: str, array: Array) -> None:
        """Put ``array`` in its place; CheckpointError if it is not the layout's or cannot be."""
        shape, dtype = self._layout[name]
        if array.shape != shape or array.dtype.name != dtype:
            raise CheckpointError(
                f"tensor {name!r} was announced as {dtype} {shape} and came as "
                f"{array.dtype.name} {array.shape}"
            )
        try:
            self._write_at(data_of(array), self._start + self._offsets[name])
        except OSError as error:
            raise self._failure(error) from error
        self._missing.discard(name)

    def write_part(self, name: str, starts: Sequence[int], run: int, part: Array) -> None:
        """Put a part of a tensor in its place: rows of ``run`` elements, row r from the flat
        position ``starts[r]`` on. :meth:`mark_whole` says when all of it is there."""
        dtype = self._layout[name][1]
        if part.dtype.name != dtype or part.size != run * len(starts):
            raise CheckpointError(
                f"a part of tensor {name!r} was announced as {run * len(starts)} elements of "
                f"{dtype} and came as {part.size} of {part.dtype.name}"
            )
        data, nbytes = data_of(part), run * part.itemsize
        offset = self._start + self._offsets[name]
        try:
            for row, start in enumerate(starts):
                piece = data[row * nbytes : (row + 1) * nbytes]
                self._write_at(piece, offset + int(start) * part.itemsize)
        except OSError as error:
            raise self._failure(error) from error

    def mark_whole(self, name: str) -> None:
        """The tensor's parts have all been written."""
        self._missing.discard(name)

    def close(self) -> None:
        """Put the file in place; CheckpointError, and no file, if a tensor was not written."""
        if self._missing:
            absent = sorted(self._missing)
            self.discard()
            raise CheckpointError(
                f"'{self.path}' is not whole: {len(absent)} tensors were not written "
                f"({absent[0]!r}, …)"
            )
        try:
            if self._flush:
                self._flush.end()
                os.fsync(self._file)
            os.close(self._file)
            self._file = -1
            self._temporary.replace(self.path)
        except OSError as error:
            self.discard()
            raise self._failure(error) from error

    def discard(self) -> None:
        """Remove the temporary file."""
        if self._flush:
            with suppress(OSError):  # it goes away, whole or not
                self._flush.end()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self._temporary.unlink(missing_ok=True)

    def __enter__(self) -> SafetensorsWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    def _write_at(self, data: memoryview, position: int) -> None:
        while len(data):
            written = os.pwrite(self._file, data[:_PIECE_BYTES], position)
            data, position = data[written:], position + written
            if self._flush:
                self._flush.wrote(written)

    def _failure(self, error: OSError) -> CheckpointError:
        return CheckpointError(
            f"cannot write '{self.path}': {error.strerror}; make room there and repeat the command"
        )


def arrange(layout: Layout, header: Mapping[str, str]) -> tuple[bytes, dict[str, int]]:
    """The file's first bytes, and name -> offset of the tensor after them, in the file's order.

    Larger element types come first, names decide among equals; the header is padded with blanks to
    eight bytes. safetensors leaves the order of ``__metadata__`` to chance; here it is sorted.
    """
    names = sorted(layout, key=lambda name: (FILE_RANK[layout[name][1]], name))
    document: dict[str, Any] = {HEADER_KEY: dict(sorted(header.items()))} if header else {}
    offsets: dict[str, int] = {}
    position = 0
    for name in names:
        shape, dtype = layout[name]
        end = position + prod(shape) * BY_NAME[dtype].itemsize
        document[name] = {
            "dtype": BY_NAME[dtype].safetensors,
            "shape": list(shape),
            "data_offsets": [position, end],
        }
        offsets[name], position = position, end
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text, offsets


def data_of(array: Array) -> memoryview:
    """The array's elements in C order, little-endian, as bytes."""
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return np.ascontiguousarray(little).reshape(-1).view(np.uint8).data


def map_file(path: Path) -> bytes | mmap.mmap:
    """The file's bytes as a private memory map, which may be changed without touching the file."""
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return b""
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)


def _read_header(buffer: bytes | mmap.mmap) -> tuple[dict[str, Any], int]:
    length = Header.length(buffer[:_LENGTH_BYTES])
    if len(buffer) < _LENGTH_BYTES + length:
        raise MalformedCheckpoint(
            f"truncated safetensors: {len(buffer) - _LENGTH_BYTES} of {length} bytes of the header "
            "are there; save or copy the model again"
        )

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise ValueError("a name occurs twice")
        return dict(pairs)

    try:
        text = buffer[_LENGTH_BYTES : _LENGTH_BYTES + length].decode()
        entries = json.loads(text, object_pairs_hook=unique)
        json.dumps(entries, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise MalformedCheckpoint(
            f"malformed safetensors: the header is not JSON ({error}); save the model again"
        ) from error
    if not isinstance(entries, dict):
        raise MalformedCheckpoint("malformed safetensors: the header is not an object")
    return entries, _LENGTH_BYTES + length


def _header_metadata(values: object) -> dict[str, str]:
    if not isinstance(values, dict) or not all(isinstance(v, str) for v in values.values()):
        raise MalformedCheckpoint(
            f"malformed safetensors: '{HEADER_KEY}' is not text by name; save the model again"
        )
    return dict(values)
