"""``gitmerge-eval filter``: what Git runs to clean and smudge checkpoints.

Without arguments it speaks Git's long-running filter protocol (version 2, gitattributes(5));
``filter clean PATH`` and ``filter smudge PATH`` convert standard input once.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from gitmerge_eval.errors import CheckpointError, GitMergeEvalError, UsageError
from gitmerge_eval.git.repository import Repository

if TYPE_CHECKING:
    from gitmerge_eval.checkpoints.checkpoint import Readable, Writable
    from gitmerge_eval.checkpoints.metadata import Metadata

CLEANED_VARIABLE = "GITMERGE_EVAL_CLEANED"
"""Names a JSON file, path -> file that holds the path's blob: a merge has cleaned these already."""

_PACKET_BYTES = 65_516
_LENGTH_DIGITS = 4
_STAGES = ("", "HEAD", ":2", ":3", ":1")


def main(argv: Sequence[str] | None = None) -> int:
    """Serve Git; the exit status is 0, or 2 after one line on standard error."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        with _protocol_streams() as (source, sink):
            if not arguments:
                Server(Conversion(Repository.here()), source, sink).serve()
            elif len(arguments) == 2 and arguments[0] in ("clean", "smudge"):
                _convert_once(arguments[0], arguments[1], source, sink)
            else:
                raise UsageError(
                    "usage: gitmerge-eval filter [clean PATH | smudge PATH]; "
                    "Git runs it once 'gitmerge-eval init' has set it up"
                )
    except (BrokenPipeError, KeyboardInterrupt):
        return 130
    except GitMergeEvalError as error:
        _say(str(error))
        return error.exit_code
    return 0


def _convert_once(command: str, path: str, source: BinaryIO, sink: BinaryIO) -> None:
    conversion = Conversion(Repository.here())
    try:
        if command == "clean":
            sink.write(conversion.clean(path, source))
        else:
            conversion.smudge(path, source.read(), sink)
    except GitMergeEvalError as error:
        raise error.within(f"{command} '{path}'") from error


@contextmanager
def _protocol_streams() -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """Standard input, and a standard output that nothing else can write to."""
    with os.fdopen(os.dup(1), "wb", buffering=1 << 16) as sink:
        sys.stdout.flush()
        saved = os.dup(1)
        os.dup2(2, 1)
        try:
            yield sys.stdin.buffer, sink
            sink.flush()
        finally:
            os.dup2(saved, 1)
            os.close(saved)


def _say(message: str) -> None:
    print(f"gitmerge-eval: {message}", file=sys.stderr)


class Conversion:
    """Clean and smudge in one repository."""

    def __init__(self, repository: Repository) -> None:
        from gitmerge_eval.checkpoints.lfs import ObjectStore

        self.repository = repository
        self.store = ObjectStore(repository)

    def clean(self, path: str, content: Readable) -> bytes:
        """The blob for the file's bytes; unchanged groups keep the index's or HEAD's entries."""
        from gitmerge_eval.checkpoints.checkpoint import clean

        cleaned = self.cleaned.get(path)
        if cleaned is not None:
            while content.read(1 << 20):
                pass
            return cleaned.read_bytes()
        return clean(content, self.store, self._previous(path), path=path)

    def smudge(self, path: str, blob: bytes, output: Writable) -> None:
        """Write the file that the blob stands for."""
        from gitmerge_eval.checkpoints.checkpoint import smudge

        smudge(blob, self.store, output, path=path)

    def prefetch(self, blobs: Sequence[bytes]) -> None:
        """Fetch what any of the blobs misses by one git-lfs process; a failure shows at smudge."""
        from gitmerge_eval.checkpoints.metadata import GroupRecord, Metadata

        wanted: list[GroupRecord] = []
        try:
            for blob in blobs:
                wanted += Metadata.parse(blob).groups.values()
            self.store.fetch(wanted)
        except CheckpointError:
            return

    def lacks_objects(self, blob: bytes) -> bool:
        """Whether smudging needs the remote."""
        from gitmerge_eval.checkpoints.metadata import Metadata, is_metadata

        if not is_metadata(blob):
            return False
        groups = Metadata.parse(blob).groups.values()
        return bool(self.store.missing(record.object_id for record in groups))

    @cached_property
    def cleaned(self) -> dict[str, Path]:
        """path -> file with its blob, from the file that CLEANED_VARIABLE names."""
        listing = os.environ.get(CLEANED_VARIABLE)
        if not listing:
            return {}
        try:
            entries = json.loads(Path(listing).read_bytes())
            return {path: Path(file) for path, file in entries.items()}
        except (OSError, ValueError, AttributeError) as error:
            raise UsageError(f"{CLEANED_VARIABLE} names '{listing}': {error}; unset it") from error

    def _previous(self, path: str) -> list[Metadata]:
        """The path's metadata in the index (all stages) and in HEAD, by one ``git cat-file``."""
        from gitmerge_eval.checkpoints.metadata import Metadata, is_metadata

        if "\n" in path:
            return []  # cat-file --batch reads a name a line; such a path loses nothing but speed
        names = "".join(f"{stage}:{path}\n" for stage in _STAGES)
        listing = self.repository.run("cat-file", "--batch", stdin=names, check=False).stdout
        found: dict[bytes, Metadata] = {}
        stream = io.BytesIO(listing)
        while line := stream.readline():
            fields = line.rsplit(b" ", 2)
            if len(fields) != 3 or fields[1] != b"blob":
                continue
            blob = stream.read(int(fields[2]))
            stream.read(1)
            if is_metadata(blob) and blob not in found:
                try:
                    found[blob] = Metadata.parse(blob)
                except CheckpointError:
                    continue  # a damaged earlier version must not keep anybody from a good one
        return list(found.values())


class Server:
    """Git's end of the pipe: requests in pkt-line form until Git closes it."""

    def __init__(self, conversion: Conversion, source: BinaryIO, sink: BinaryIO) -> None:
        self._conversion = conversion
        self._source = source
        self._sink = sink
        self._delayed: dict[str, bytes] = {}
        self._announced = False

    def serve(self) -> None:
        """Shake hands, then answer until the input ends."""
        self._shake_hands()
        while request := self._read_list():
            fields = dict(line.split("=", 1) for line in request)
            command, path = fields.get("command"), fields.get("pathname", "")
            if command == "list_available_blobs":
                self._list_available()
            elif command == "clean":
                self._clean(path, PacketReader(self._source))
            elif command == "smudge":
                self._smudge(path, PacketReader(self._source), fields.get("can-delay") == "1")
            else:
                PacketReader(self._source).drain()
                _write_list(self._sink, "status=error")
            self._sink.flush()

    def _shake_hands(self) -> None:
        if self._read_list() != ["git-filter-client", "version=2"]:
            raise UsageError("'gitmerge-eval filter' is run by Git, not by hand")
        _write_list(self._sink, "git-filter-server", "version=2")
        self._sink.flush()
        offered = self._read_list() or []
        known = ("capability=clean", "capability=smudge", "capability=delay")
        _write_list(self._sink, *(name for name in known if name in offered))
        self._sink.flush()

    def _clean(self, path: str, content: PacketReader) -> None:
        with self._answering(path, content) as answer:
            answer.write(self._conversion.clean(path, content))

    def _smudge(self, path: str, content: PacketReader, can_delay: bool) -> None:
        with self._answering(path, content) as answer:
            delayed = self._delayed.pop(path, None)
            blob = content.read() if delayed is None else delayed
            if can_delay and self._conversion.lacks_objects(blob):
                # Delayed, so that the objects of all files come by one git-lfs process.
                self._delayed[path] = blob
                answer.delay()
            else:
                self._conversion.smudge(path, blob, answer)

    @contextmanager
    def _answering(self, path: str, content: PacketReader) -> Iterator[Answer]:
        """An answer that is ended, or withdrawn with one line on standard error."""
        answer = Answer(self._sink)
        try:
            yield answer
            content.drain()
            answer.end()
        except BrokenPipeError:
            raise
        except (GitMergeEvalError, OSError, MemoryError) as error:
            _say(f"'{path}': {error or type(error).__name__}")
            content.drain()
            answer.withdraw()

    def _list_available(self) -> None:
        if not self._announced and self._delayed:
            self._conversion.prefetch(list(self._delayed.values()))
        names = [] if self._announced else [f"pathname={path}" for path in self._delayed]
        self._announced = bool(names)
        _write_list(self._sink, *names)
        _write_list(self._sink, "status=success")

    def _read_list(self) -> list[str] | None:
        """The lines up to a flush packet; None at the end of the input."""
        lines: list[str] = []
        while (packet := _read_packet(self._source)) is not None:
            if not packet:
                return lines
            lines.append(os.fsdecode(packet).removesuffix("\n"))
        return None


class PacketReader(io.RawIOBase):
    """The content of one request: packets up to the flush packet."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._rest = b""
        self._ended = False

    def read(self, size: int = -1) -> bytes:
        """Up to ``size`` bytes (all that is left if negative); empty at the end."""
        parts = [self._rest]
        length = len(self._rest)
        while not self._ended and (size < 0 or length < size):
            packet = _read_packet(self._source)
            if packet is None:
                raise CheckpointError("Git ended in the middle of a file; repeat the command")
            self._ended = not packet
            parts.append(packet)
            length += len(packet)
        data = b"".join(parts)
        if size < 0:
            size = length
        self._rest = data[size:]
        return data[:size]

    def drain(self) -> None:
        """Skip what is left."""
        while self.read(1 << 20):
            pass


class Answer(io.RawIOBase):
    """The answer to one request: a status, the content cut into packets, a status that counts."""

    def __init__(self, sink: BinaryIO) -> None:
        self._sink = sink
        self._begun = False
        self._delayed = False

    def write(self, data: Any) -> int:
        """Write all of ``data``."""
        self._begin()
        view = memoryview(data)
        for start in range(0, len(view), _PACKET_BYTES):
            _write_packet(self._sink, view[start : start + _PACKET_BYTES])
        return len(view)

    def delay(self) -> None:
        """Say that the content comes when Git asks for what is available."""
        self._delayed = True
        _write_list(self._sink, "status=delayed")

    def end(self) -> None:
        """Say that the content is whole."""
        if not self._delayed:
            self._begin()
            _write_list(self._sink)
            _write_list(self._sink)

    def withdraw(self) -> None:
        """Say that the content, if any, must not be used."""
        if self._begun:
            _write_list(self._sink)
        _write_list(self._sink, "status=error")

    def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            _write_list(self._sink, "status=success")


def _write_list(sink: BinaryIO, *lines: str) -> None:
    for line in lines:
        _write_packet(sink, os.fsencode(line) + b"\n")
    sink.write(b"0000")


def _write_packet(sink: BinaryIO, data: bytes | memoryview) -> None:
    sink.write(b"%04x" % (len(data) + _LENGTH_DIGITS))
    sink.write(data)


def _read_packet(source: BinaryIO) -> bytes | None:
    """A packet's content, empty for a flush packet, None at the end of the input."""
    length = source.read(_LENGTH_DIGITS)
    if not length:
        return None
    try:
        size = int(length, 16)
    except ValueError:
        size = -1
    if size and size < _LENGTH_DIGITS:
        raise UsageError("'gitmerge-eval filter' is run by Git, not by hand")
    return source.read(size - _LENGTH_DIGITS) if size else b""


if __name__ == "__main__":
    sys.exit(main())
