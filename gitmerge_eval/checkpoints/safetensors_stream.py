"""A safetensors file that arrives as a stream: every tensor is there as soon as its bytes are."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gitmerge_eval.checkpoints.safetensors_file import Header
from gitmerge_eval.checkpoints.settlement import explained

Array = NDArray[Any]

_PART_BYTES = 1 << 24


class Readable(Protocol):
    """A stream to read from; one with ``readinto`` too is read without copies."""

    def read(self, size: int = -1, /) -> bytes:
        """Up to ``size`` bytes, all if negative; empty at the end."""


class SafetensorsStream:
    """The tensors of a safetensors file in the order of its bytes.

    ``start`` is what was read of ``source`` already. A tensor of more than ``spooled_bytes`` goes
    to a file that ``temporary`` names and is mapped from there, so that memory need not hold it.
    """

    def __init__(
        self,
        source: Readable,
        start: bytes,
        temporary: Callable[[], AbstractContextManager[Path]],
        spooled_bytes: int = 1 << 30,
    ) -> None:
        """Reads the header; MalformedCheckpoint where it does not hold."""
        self._source = source
        self._start = start
        self._temporary = temporary
        self._spooled_bytes = spooled_bytes
        lead = self._take(Header.LENGTH_BYTES)
        text = self._take(Header.length(lead))
        self._header = Header(lead + text)
        self.metadata = self._header.metadata
        """safetensors' own ``__metadata__``."""

    def tensors(self) -> Iterator[tuple[str, Array]]:
        """Name and value of each tensor, in memory of its own.

        MalformedCheckpoint where the stream ends early or goes on after the last one.
        """
        total, position = self._header.total, 0
        for name, tensor in self._header.in_order():
            nbytes = tensor.extent[1] - tensor.extent[0]
            room = np.empty(nbytes, np.uint8) if nbytes <= self._spooled_bytes else None
            if room is None:
                room, received = self._spool(nbytes)
            else:
                received = self._fill(room.data)
            position += received
            if received < nbytes:
                raise Header.truncated(position, total)
            yield name, room.view(tensor.dtype.numpy).reshape(tensor.shape)
        rest = 0
        while part := self._take(1 << 20):
            rest += len(part)
        if rest:
            raise Header.overlong(rest)

    def _spool(self, nbytes: int) -> tuple[NDArray[np.uint8], int]:
        part, received = bytearray(_PART_BYTES), 0
        with self._temporary() as path:
            with explained(path), path.open("xb", buffering=0) as file:
                while received < nbytes:
                    count = self._fill(memoryview(part)[: nbytes - received])
                    if not count:
                        return np.empty(0, np.uint8), received
                    received += count
                    rest = memoryview(part)[:count]
                    while len(rest):
                        rest = rest[file.write(rest) :]
            # The mapping outlives the file's name.
            with explained(path, "read"), path.open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        return np.frombuffer(mapped, np.uint8), received

    def _take(self, size: int) -> bytes:
        """``size`` bytes, fewer only at the end of the stream."""
        buffer = bytearray(size)
        return bytes(memoryview(buffer)[: self._fill(memoryview(buffer))])

    def _fill(self, view: memoryview) -> int:
        """Fill ``view``; the number of bytes, smaller than its size only at the end."""
        position = min(len(self._start), len(view))
        view[:position] = self._start[:position]
        self._start = self._start[position:]
        read_into: Callable[[memoryview], int] | None = getattr(self._source, "readinto", None)
        while position < len(view):
            if read_into is not None:
                count = read_into(view[position:])
            else:
                part = self._source.read(len(view) - position)
                count = len(part)
                view[position : position + count] = part
            if not count:
                break
            position += count
        return position
