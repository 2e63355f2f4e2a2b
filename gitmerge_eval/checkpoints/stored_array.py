"""A stored group read part by part: what a merge needs where whole tensors are too large.

A Blosc buffer is a sequence of blocks (half a megabyte for four-byte elements) that can be decoded
one at a time. :class:`StoredArray` finds the blocks in the object's file and decodes those that a
part of a chunk overlaps, so that memory does not depend on the size of the group.
"""

from __future__ import annotations

import json
import os
import struct
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gitmerge_eval.checkpoints.chunks import Chunk
from gitmerge_eval.checkpoints.dtypes import BY_NAME
from gitmerge_eval.checkpoints.metadata import GroupRecord
from gitmerge_eval.checkpoints.packed import is_ours, places
from gitmerge_eval.checkpoints.thread_memory import ThreadMemory
from gitmerge_eval.errors import MalformedCheckpoint

Array = NDArray[Any]

_HEADER = 16
_MEMCPYED = 0x2
_PEEK = 4096
_COPIED_BYTES = 1 << 19


class Readable(Protocol):
    """A group that is read part by part."""

    def read(self, chunk: Chunk, start: int, stop: int, out: Array) -> None:
        """The stored elements ``start`` to ``stop`` of the chunk, in C order, padding included."""

    def steps(self, chunk: Chunk) -> tuple[int, ...]:
        """Where to cut the chunk's elements so that nothing is decoded twice: 0, …, its size."""


class WholeArray:
    """An array that is in memory already, as a :class:`Readable`."""

    def __init__(self, array: Array) -> None:
        self.array = np.ascontiguousarray(array)
        self._flat = self.array.reshape(-1)

    def steps(self, chunk: Chunk) -> tuple[int, ...]:
        """Every 2^17 elements."""
        return (*range(0, chunk.size, 1 << 17), chunk.size)

    def read(self, chunk: Chunk, start: int, stop: int, out: Array) -> None:
        """Gathered row by row; padding is zero."""
        out[...] = 0
        for row in range(start // chunk.width, -(-stop // chunk.width)):
            origin, begin = int(chunk.starts[row]), row * chunk.width
            first, last = max(start, begin), min(stop, begin + chunk.run)
            if origin >= 0 and first < last:
                part = self._flat[origin + first - begin : origin + last - begin]
                out[first - start : last - start] = part


@dataclass(frozen=True)
class _Buffer:
    """One chunk as Blosc wrote it."""

    position: int
    """Of the buffer in the file."""
    flags: bytes
    block: int
    """Decoded bytes of one block."""
    blocks: tuple[tuple[int, int], ...]
    """Where in the buffer each block begins and its length; none where Blosc gave up and stored the
    elements as they are."""
    in_order: bool
    """Whether the blocks lie one after the other, as ever with one thread."""
    steps: tuple[int, ...]


@dataclass(frozen=True)
class Frames:
    """What makes each step of a chunk a Blosc buffer of its own."""

    file: int
    """The descriptor."""
    steps: tuple[int, ...]
    """The chunk's elements where one ends and the next begins."""
    places: tuple[tuple[int, int], ...]
    """Where in the file the blocks of each step are: position and length."""
    heads: tuple[tuple[int, ...], ...]
    """The words in front of them: Blosc's header, and where each block begins."""

    @property
    def spans(self) -> pairwise[tuple[int, int]]:
        """First and last element of each step."""
        return pairwise(self.steps)


class StoredArray:
    """The dense object in ``path``; whoever opens it has checked its hash.

    Raises MalformedCheckpoint where the object is not what ``record`` says and UnknownLayout where
    it was written by other software than git-theta 0.2.0's, to be read as a whole.
    """

    def __init__(self, path: Path, record: GroupRecord) -> None:
        self._record = record
        self._dtype = BY_NAME[record.dtype].numpy
        self._file = os.open(path, os.O_RDONLY)
        try:
            found = places(self._peek, os.fstat(self._file).st_size)
            if found is None:
                raise UnknownLayout("not the files of one array")
            self._places = found
            self.chunk_shape = self._layout()
        except BaseException:
            self.close()
            raise
        self._buffers: dict[str, _Buffer] = {}

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> StoredArray:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def steps(self, chunk: Chunk) -> tuple[int, ...]:
        """The blocks' first elements; the last two blocks count as one."""
        return self._buffer(chunk).steps

    def read(self, chunk: Chunk, start: int, stop: int, out: Array) -> None:
        """Decode the blocks that the elements overlap; MalformedCheckpoint where one is damaged."""
        buffer, itemsize = self._buffer(chunk), self._dtype.itemsize
        target = out.reshape(-1).view(np.uint8)
        if not buffer.blocks:
            self._fill(target, buffer.position + _HEADER + start * itemsize)
            return
        begin, end = start * itemsize, stop * itemsize
        for low, high in pairwise(step * itemsize for step in buffer.steps):
            if high <= begin or low >= end:
                continue
            inside = begin <= low and high <= end
            part = target[low - begin : high - begin] if inside else np.empty(high - low, np.uint8)
            self._decode(buffer, low, high, part)
            if not inside:
                first, last = max(low, begin), min(high, end)
                target[first - begin : last - begin] = part[first - low : last - low]

    def frames(self, chunk: Chunk) -> Frames | None:
        """The chunk's steps as buffers to be decoded; None where its blocks do not lie in order, or
        are not coded at all. Raises MalformedCheckpoint."""
        buffer, itemsize = self._buffer(chunk), self._dtype.itemsize
        if not buffer.blocks or not buffer.in_order:
            return None
        (flags,) = struct.unpack("<i", buffer.flags)
        places, heads = [], []
        for low, high in pairwise(step * itemsize for step in buffer.steps):
            blocks = buffer.blocks[low // buffer.block : -(-high // buffer.block)]
            begin = blocks[0][0]
            table = _HEADER + 4 * len(blocks)
            length = sum(size for _, size in blocks)
            places.append((buffer.position + begin, length))
            starts = (table + start - begin for start, _ in blocks)
            heads.append((flags, high - low, buffer.block, table + length, *starts))
        return Frames(self._file, buffer.steps, tuple(places), tuple(heads))

    def _decode(self, buffer: _Buffer, low: int, high: int, out: Array) -> None:
        """The bytes ``low`` to ``high``, whole blocks: Blosc decodes a buffer of just these."""
        from numcodecs import blosc

        blocks = buffer.blocks[low // buffer.block : -(-high // buffer.block)]
        table = _HEADER + 4 * len(blocks)
        places, place = [], table
        for _, length in blocks:
            places.append(place)
            place += length
        frame = _memory.take(place)
        if buffer.in_order:
            self._fill(frame[table:], buffer.position + blocks[0][0])
        else:
            for (begin, length), at in zip(blocks, places, strict=True):
                self._fill(frame[at : at + length], buffer.position + begin)
        sizes = (len(out), buffer.block, len(frame))
        struct.pack_into(f"<4s3I{len(places)}I", frame.data, 0, buffer.flags, *sizes, *places)
        try:
            blosc.decompress(frame, out)
        except (RuntimeError, ValueError) as error:
            raise self._malformed("has a damaged chunk") from error

    def _buffer(self, chunk: Chunk) -> _Buffer:
        """A chunk's Blosc buffer: its header and table of blocks, checked."""
        found = self._buffers.get(chunk.key)
        if found is None:
            found = self._buffers[chunk.key] = self._parsed(chunk)
        return found

    def _parsed(self, chunk: Chunk) -> _Buffer:
        if chunk.key not in self._places:
            raise self._malformed(f"lacks the chunk {chunk.key}")
        place, itemsize = self._places[chunk.key], self._dtype.itemsize
        head = self._peek(place.position, min(_PEEK, place.length))
        if len(head) < _HEADER:
            raise self._malformed("has a chunk of another size")
        flags, size, block, length = struct.unpack_from("<4s3I", head)
        if (size, length) != (chunk.size * itemsize, place.length):
            raise self._malformed("has a chunk of another size")
        if flags[2] & _MEMCPYED:
            steps = (*range(0, chunk.size, _COPIED_BYTES // itemsize), chunk.size)
            return _Buffer(place.position, flags, _COPIED_BYTES, (), True, steps)
        count = -(-size // block) if block else 0
        table = _HEADER + 4 * count
        if not 0 < block <= size or block % itemsize or table > place.length:
            raise self._malformed("has a damaged chunk")
        if table > len(head):
            head = self._peek(place.position, table)
        starts = struct.unpack_from(f"<{count}i", head, _HEADER)
        if min(starts) < table or max(starts) >= place.length:
            raise self._malformed("has a damaged chunk")
        following = dict(pairwise([*sorted(starts), place.length]))
        blocks = tuple((start, following[start] - start) for start in starts)
        # A shorter last block is coded in another way, which only a buffer with a whole block
        # before it tells.
        last = max(count - (size % block > 0), 1)
        steps = (*(number * block // itemsize for number in range(last)), chunk.size)
        in_order = all(a + length == b for (a, length), (b, _) in pairwise(blocks))
        return _Buffer(place.position, flags, block, blocks, in_order, steps)

    def _fill(self, target: Array, position: int) -> None:
        view = target.data
        while len(view):
            count = os.preadv(self._file, [view], position)
            if count == 0:
                raise self._malformed("is truncated")
            view, position = view[count:], position + count

    def _layout(self) -> tuple[int, ...]:
        """The chunks' shape, where the array is laid out as git-theta 0.2.0 does it."""
        place = self._places.pop(".zarray", None)
        document = self._peek(place.position, place.length) if place else b""
        found = _chunks(document, self._record.shape, BY_NAME[self._record.dtype].zarr)
        if found is None:
            raise UnknownLayout("no readable .zarray, or another layout")
        return found

    def _peek(self, position: int, size: int) -> bytes:
        return os.pread(self._file, size, position)

    def _malformed(self, what: str) -> MalformedCheckpoint:
        return MalformedCheckpoint(
            f"group {self._record.name!r}: the object {self._record.object_id[:12]} {what}; "
            "restore the file from a commit"
        )


@lru_cache(maxsize=1024)
def _chunks(document: bytes, shape: tuple[int, ...], dtype: str) -> tuple[int, ...] | None:
    """The chunks' shape by a ``.zarray``; None where it cannot be read or says anything else. That
    of every constituent of a group is the same."""
    try:
        layout = json.loads(document)
    except (ValueError, RecursionError):
        return None
    if (
        not isinstance(layout, dict)
        or layout.get("shape") != list(shape)
        or layout.get("dtype") != dtype
        or not is_ours(layout)
    ):
        return None
    return tuple(layout["chunks"])


_memory = ThreadMemory()


class UnknownLayout(Exception):
    """The object is to be read as a whole, by the general reader, which also names its faults."""
