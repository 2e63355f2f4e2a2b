"""Git's pkt-line form on a pair of pipes, for contents of gigabytes.

A packet is four hexadecimal digits of length, those included, and up to 65,516 bytes; ``0000``
ends a list or a content. Source: gitprotocol-common(5), "pkt-line Format".
"""

from __future__ import annotations

import os
import sys
from typing import Any

from gitmerge_eval.errors import GitError, UsageError

PACKET_BYTES = 65_516
_LENGTH_DIGITS = 4
_FULL = b"%04x" % (PACKET_BYTES + _LENGTH_DIGITS)
_END = b"0000"
_PACKETS_AT_ONCE = 256
"""Two buffers each: half of what a system call takes."""
_PIPE_BYTES = 1 << 20


class PacketReader:
    """What Git sends: lists of lines, and contents that are read like a file."""

    def __init__(self, file: int) -> None:
        self._file = file
        self._lead = b""
        """The next packet's first bytes, where they came with the last packet's end."""
        self._rest = 0
        """Bytes of the current packet that are to come."""
        self._ended = True
        _widen(file)

    def read_list(self) -> list[str] | None:
        """The lines up to a flush packet; None at the end of the input."""
        lines: list[str] = []
        while (size := self._next()) is not None:
            if not size:
                return lines
            packet = bytearray(size)
            self._fill(memoryview(packet))
            lines.append(os.fsdecode(bytes(packet)).removesuffix("\n"))
        return None

    def begin(self) -> None:
        """A content follows."""
        self._ended = False

    def read(self, size: int = -1, /) -> bytes:
        """Up to ``size`` bytes of the content, all if negative; empty at its end."""
        parts = []
        while size:
            part = bytearray(min(size, PACKET_BYTES) if size > 0 else PACKET_BYTES)
            count = self.readinto(part)
            if not count:
                break
            parts.append(bytes(part[:count]))
            size -= count if size > 0 else 0
        return b"".join(parts)

    def readinto(self, buffer: Any, /) -> int:
        """Fill ``buffer`` from the content; the number of bytes, 0 at the content's end."""
        view = memoryview(buffer).cast("B")
        position = 0
        while position < len(view) and not self._ended:
            if not self._rest:
                self._rest = self._next() or 0
                self._ended = not self._rest
                continue
            size = min(self._rest, len(view) - position)
            self._fill(view[position : position + size])
            position += size
        return position

    def drain(self) -> None:
        """Skip what is left of the content."""
        buffer = bytearray(PACKET_BYTES)
        while self.readinto(buffer):
            pass

    def _next(self) -> int | None:
        """The next packet's content in bytes, 0 for a flush packet, None at the input's end."""
        while len(self._lead) < _LENGTH_DIGITS:
            part = os.read(self._file, _LENGTH_DIGITS - len(self._lead))
            if not part:
                if self._lead or not self._ended:
                    raise _broken_off()
                return None
            self._lead += part
        try:
            size = int(self._lead, 16)
        except ValueError:
            size = -1
        if size and size < _LENGTH_DIGITS:
            raise not_git()
        self._lead = b""
        self._rest = max(size - _LENGTH_DIGITS, 0)
        return self._rest

    def _fill(self, view: memoryview) -> None:
        """Bytes of the current packet, and the next one's length where it is there already."""
        lead = bytearray(_LENGTH_DIGITS)
        last = len(view) == self._rest
        self._rest -= len(view)
        while len(view):
            count = os.readv(self._file, [view, lead] if last else [view])
            if not count:
                raise _broken_off()
            if count > len(view):
                self._lead = bytes(lead[: count - len(view)])
            view = view[count:]


class PacketWriter:
    """What Git is told: lists of lines, and contents cut into packets without a copy."""

    def __init__(self, file: int) -> None:
        self._file = file
        _widen(file)

    def write_list(self, *lines: str) -> None:
        """The lines, and a flush packet."""
        packets = (os.fsencode(line) + b"\n" for line in lines)
        text = b"".join(b"%04x%s" % (len(p) + _LENGTH_DIGITS, p) for p in packets)
        self._send([memoryview(text + _END)])

    def write(self, data: Any, /) -> int:
        """All of ``data``, as packets of a content."""
        view = memoryview(data).cast("B")
        step = PACKET_BYTES * _PACKETS_AT_ONCE
        for begin in range(0, len(view), step):
            part = view[begin : begin + step]
            buffers: list[memoryview] = []
            for start in range(0, len(part), PACKET_BYTES):
                packet = part[start : start + PACKET_BYTES]
                full = len(packet) == PACKET_BYTES
                lead = _FULL if full else b"%04x" % (len(packet) + _LENGTH_DIGITS)
                buffers += (memoryview(lead), packet)
            self._send(buffers)
        return len(view)

    def _send(self, buffers: list[memoryview]) -> None:
        while buffers:
            count = os.writev(self._file, buffers)
            done = 0
            while done < len(buffers) and count >= len(buffers[done]):
                count -= len(buffers[done])
                done += 1
            buffers = buffers[done:]
            if buffers:
                buffers[0] = buffers[0][count:]


def not_git() -> UsageError:
    """The error for input that is not Git's."""
    return UsageError("'gitmerge-eval filter' is run by Git, not by hand")


def _broken_off() -> GitError:
    return GitError("Git ended in the middle of a file; repeat the command")


def _widen(file: int) -> None:
    """Let a pipe hold a megabyte, so that both ends wake up less often."""
    if sys.platform == "linux":
        import fcntl

        try:
            fcntl.fcntl(file, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        except (OSError, AttributeError):
            return  # not a pipe, or the system allows no larger ones: slower, that is all
