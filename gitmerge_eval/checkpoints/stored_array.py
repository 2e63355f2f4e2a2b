"""A stored group read part by part: what a merge needs where whole tensors are too large.

A Blosc buffer is a sequence of blocks (half a megabyte for four-byte elements) that can be decoded
one at a time. :class:`StoredArray` finds the blocks in the object's file and decodes those that a
part of a chunk overlaps, so that memory does not depend on the size of the group.
"""

from __future__ import annotations

import json
import os
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
        self._heads: dict[str, bytes] = {}

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
        head = self._head(chunk)
        size, block = _numbers(head)
        if _is_copy(head):
            block = min(size, _COPIED_BYTES)
        # A shorter last block is coded in another way, which only a buffer with a whole block
        # before it tells.
        last = max(size // block - (size % block > 0), 1)
        itemsize = self._dtype.itemsize
        return (*(number * block // itemsize for number in range(last)), chunk.size)

    def read(self, chunk: Chunk, start: int, stop: int, out: Array) -> None:
        """Decode the blocks that the elements overlap; MalformedCheckpoint where one is damaged."""
        head, itemsize = self._head(chunk), self._dtype.itemsize
        buffer = self._places[chunk.key]
        target = out.reshape(-1).view(np.uint8)
        if _is_copy(head):
            position = buffer.position + _HEADER + start * itemsize
            self._fill(target, position)
            return
        _, block = _numbers(head)
        edges = [edge * itemsize for edge in self.steps(chunk)]
        begin, end = start * itemsize, stop * itemsize
        for low, high in pairwise(edges):
            if high <= begin or low >= end:
                continue
            inside = begin <= low and high <= end
            part = target[low - begin : high - begin] if inside else np.empty(high - low, np.uint8)
            self._decode(chunk, head, low // block, -(-high // block), part)
            if not inside:
                first, last = max(low, begin), min(high, end)
                target[first - begin : last - begin] = part[first - low : last - low]

    def _decode(self, chunk: Chunk, head: bytes, first: int, last: int, out: Array) -> None:
        """Blocks ``first`` to ``last``: Blosc decodes a buffer that holds just these."""
        from numcodecs import blosc

        size, block = _numbers(head)
        buffer = self._places[chunk.key]
        starts = np.frombuffer(head, "<i4", -(-size // block), _HEADER)
        ends = np.append(np.sort(starts), buffer.length)
        begins = starts[first:last]
        lengths = ends[np.searchsorted(ends, begins, side="right")] - begins
        table = _HEADER + 4 * len(begins)
        frame = _memory.take(table + int(lengths.sum()))
        frame[:_HEADER] = np.frombuffer(head, np.uint8, _HEADER)
        places = table + np.concatenate([[0], np.cumsum(lengths)[:-1]])
        header = np.array([out.nbytes, block, frame.nbytes], "<u4")
        frame[4:_HEADER] = header.view(np.uint8)
        frame[_HEADER:table] = places.astype("<i4").view(np.uint8)
        for begin, length, place in zip(begins, lengths, places, strict=True):
            self._fill(frame[place : place + length], buffer.position + int(begin))
        try:
            blosc.decompress(frame, out)
        except (RuntimeError, ValueError) as error:
            raise self._malformed("has a damaged chunk") from error

    def _head(self, chunk: Chunk) -> bytes:
        """A chunk's Blosc header and table of blocks, checked."""
        head = self._heads.get(chunk.key)
        if head is not None:
            return head
        if chunk.key not in self._places:
            raise self._malformed(f"lacks the chunk {chunk.key}")
        buffer = self._places[chunk.key]
        head = self._peek(buffer.position, min(_PEEK, buffer.length))
        expected = chunk.size * self._dtype.itemsize
        if len(head) < _HEADER or (expected, buffer.length) != (
            int.from_bytes(head[4:8], "little"),
            int.from_bytes(head[12:16], "little"),
        ):
            raise self._malformed("has a chunk of another size")
        size, block = _numbers(head)
        if not _is_copy(head):
            table = _HEADER + 4 * -(-size // block) if block else 0
            if not 0 < block <= size or block % self._dtype.itemsize or table > buffer.length:
                raise self._malformed("has a damaged chunk")
            if table > len(head):
                head = self._peek(buffer.position, table)
            starts = np.frombuffer(head, "<i4", -(-size // block), _HEADER)
            if starts.min() < table or starts.max() >= buffer.length:
                raise self._malformed("has a damaged chunk")
        self._heads[chunk.key] = head
        return head

    def _fill(self, target: Array, position: int) -> None:
        view = target.data
        while len(view):
            count = os.preadv(self._file, [view], position)
            if count == 0:
                raise self._malformed("is truncated")
            view, position = view[count:], position + count

    def _layout(self) -> tuple[int, ...]:
        """The chunks' shape, where the array is laid out as git-theta 0.2.0 does it."""
        record, place = self._record, self._places.pop(".zarray", None)
        try:
            document = json.loads(self._peek(place.position, place.length) if place else b"")
        except (ValueError, RecursionError) as error:
            raise UnknownLayout("no readable .zarray") from error
        if (
            not isinstance(document, dict)
            or document.get("shape") != list(record.shape)
            or document.get("dtype") != BY_NAME[record.dtype].zarr
            or not is_ours(document)
        ):
            raise UnknownLayout("another layout")
        return tuple(document["chunks"])

    def _peek(self, position: int, size: int) -> bytes:
        return os.pread(self._file, size, position)

    def _malformed(self, what: str) -> MalformedCheckpoint:
        return MalformedCheckpoint(
            f"group {self._record.name!r}: the object {self._record.object_id[:12]} {what}; "
            "restore the file from a commit"
        )


_memory = ThreadMemory()


class UnknownLayout(Exception):
    """The object is to be read as a whole, by the general reader, which also names its faults."""


def _numbers(head: bytes) -> tuple[int, int]:
    """Bytes of the decoded buffer and of one block of it."""
    return int.from_bytes(head[4:8], "little"), int.from_bytes(head[8:12], "little")


def _is_copy(head: bytes) -> bool:
    """Whether Blosc gave up and stored the elements as they are."""
    return bool(head[2] & _MEMCPYED)
