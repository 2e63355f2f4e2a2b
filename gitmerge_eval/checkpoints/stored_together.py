"""Stored tensors of one shape decoded side by side, a block of each by one call for all.

One by one, each block takes two calls that let go of the interpreter's lock and have to get it
back, and threads that merge many models wait for one another.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gitmerge_eval.checkpoints.chunks import Chunk
from gitmerge_eval.checkpoints.stored_array import Frames, StoredArray
from gitmerge_eval.checkpoints.thread_memory import ThreadMemory
from gitmerge_eval.errors import MalformedCheckpoint

Array = NDArray[Any]
Fill = Callable[[int, int, int], Collection[str]]
"""``fill(low, high, held)``: decode the elements low to high of the chunk into the buffers, from
their element ``held`` on; the keys of the tensors for which it has done so."""

_FEW = 3
"""Tensors from which on it is worth it."""
_SMALL = 1 << 17
"""Elements of a chunk up to which starting the compiler takes longer."""

_memory = ThreadMemory()


class StoredTogether:
    """Open arrays of one shape and dtype, by key."""

    def __init__(self, arrays: Mapping[str, StoredArray]) -> None:
        self._arrays = arrays

    def filler(self, chunk: Chunk, buffers: Mapping[str, Array]) -> Fill | None:
        """How ``buffers`` are filled from the chunk; None where it is not worth it, this machine
        cannot, or one of them is damaged: whoever reads that alone says whose it is."""
        decoder = _decoder() if len(self._arrays) >= _FEW and chunk.size > _SMALL else None
        if decoder is None:
            return None
        try:
            frames = {key: array.frames(chunk) for key, array in self._arrays.items()}
        except MalformedCheckpoint:
            return None
        steps = next((one.steps for one in frames.values() if one), ())
        alike = {key: one for key, one in frames.items() if one and one.steps == steps}
        return _Filler(alike, buffers, decoder) if len(alike) >= _FEW else None


class _Filler:
    def __init__(
        self, frames: Mapping[str, Frames], buffers: Mapping[str, Array], decoder: int
    ) -> None:
        one = next(iter(frames))
        self._decoder = decoder
        self._keys = frames.keys()
        self._buffers = buffers  # they must outlive their addresses
        self._itemsize = buffers[one].itemsize
        self._starts = np.array([buffers[key].ctypes.data for key in frames], np.int64)
        self._files = np.array([found.file for found in frames.values()], np.int32)
        places = np.array([found.places for found in frames.values()], np.int64)
        self._steps = {
            low: _Step(high, np.ascontiguousarray(places[:, number]), heads)
            for number, (low, high) in enumerate(frames[one].spans)
            for heads in [np.array([found.heads[number] for found in frames.values()], np.int32)]
        }

    def __call__(self, low: int, high: int, held: int) -> Collection[str]:
        from gitmerge_eval.compiled.blocks import decode_blocks

        step = self._steps.get(low)
        if step is None or step.high != high:
            return ()
        targets = self._starts + held * self._itemsize
        size, frame = (high - low) * self._itemsize, _memory.take(step.frame_bytes)
        done = decode_blocks(
            self._decoder, self._files, step.places, step.heads, targets, size, frame
        )
        return self._keys if done else ()  # one by one tells whose is damaged


@dataclass(frozen=True)
class _Step:
    high: int
    places: NDArray[np.int64]
    heads: NDArray[np.int32]

    @property
    def frame_bytes(self) -> int:
        longest = int(self.places[:, 1].max())
        return 4 * int(self.heads.shape[1]) + longest


@cache
def _decoder() -> int | None:
    """The address of c-blosc's ``blosc_decompress_ctx`` in the library that numcodecs brings along;
    None where it is not to be had."""
    try:
        from numcodecs import blosc

        from gitmerge_eval.compiled.blocks import reads_files

        if not reads_files():
            return None
        function = ctypes.CDLL(blosc.__file__).blosc_decompress_ctx
    except (ImportError, OSError, AttributeError):
        return None
    return ctypes.cast(function, ctypes.c_void_p).value
