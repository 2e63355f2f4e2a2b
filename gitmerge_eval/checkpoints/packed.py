"""What lies where in a stored object: MessagePack of a zarr array's files, found without copies.

``{'parameter': {'.zarray': …, '0.0': …}}`` is walked by the few bytes before each file, in memory
or in a file on disk alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

from gitmerge_eval.checkpoints.chunks import CHUNK_ELEMENTS

_START = b"\x81\xa9parameter"
_LEAD_BYTES = 300
"""A name of at most 255 bytes with its length, and the length of the file."""


@dataclass(frozen=True)
class Place:
    """Where a file's bytes are in the object."""

    position: int
    length: int


def places(peek: Callable[[int, int], bytes], total: int) -> dict[str, Place] | None:
    """name -> place of the array's files in an object of ``total`` bytes; None if unusual.

    ``peek(position, size)`` gives up to ``size`` bytes from there, fewer at the object's end.
    """
    start = peek(0, len(_START) + 5)
    kind = start[len(_START)] if start.startswith(_START) and len(start) > len(_START) else 0
    wide = {0xDE: 2, 0xDF: 4}.get(kind, 0)
    if not wide and kind & 0xF0 != 0x80:
        return None
    position = len(_START) + 1 + wide
    count = int.from_bytes(start[position - wide : position], "big") if wide else kind & 0x0F
    found: dict[str, Place] = {}
    for _ in range(count):
        entry = _entry(peek(position, _LEAD_BYTES))
        if entry is None:
            return None
        name, begin, length = entry
        found[name] = Place(position + begin, length)
        position += begin + length
        if position > total:
            return None
    return found if position == total and len(found) == count else None


def _entry(lead: bytes) -> tuple[str, int, int] | None:
    """A file's name, where its bytes begin, and how many they are."""
    if len(lead) < 3:
        return None
    short = lead[0] & 0xE0 == 0xA0
    if not short and lead[0] != 0xD9:
        return None
    begin, size = (1, lead[0] & 0x1F) if short else (2, lead[1])
    name, rest = lead[begin : begin + size], lead[begin + size :]
    width = {0xC4: 1, 0xC5: 2, 0xC6: 4}.get(rest[0] if rest else 0)
    if width is None or len(rest) <= width:
        return None
    length = int.from_bytes(rest[1 : 1 + width], "big")
    return name.decode("ascii", "replace"), begin + size + 1 + width, length


def is_ours(layout: dict[str, Any]) -> bool:
    """Whether a ``.zarray`` lays its array out as git-theta 0.2.0 does, so that Blosc reads it."""
    chunks, compressor = layout.get("chunks"), layout.get("compressor")
    return (
        isinstance(chunks, list)
        and len(chunks) == len(layout["shape"])
        and all(type(size) is int and size > 0 for size in chunks)
        and prod(chunks) <= 2 * CHUNK_ELEMENTS
        and isinstance(compressor, dict)
        and compressor.get("id") == "blosc"
        and layout.get("filters") is None
        and layout.get("fill_value") is None
        and layout.get("order") == "C"
        and layout.get("zarr_format") == 2
        and layout.get("dimension_separator", ".") == "."
    )
