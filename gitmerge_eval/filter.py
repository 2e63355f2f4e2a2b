"""``gitmerge-eval filter``: what Git runs to clean and smudge checkpoints.

Without arguments it speaks Git's long-running filter protocol (version 2, gitattributes(5));
``filter clean PATH`` and ``filter smudge PATH`` convert standard input once.
"""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from gitmerge_eval import startup
from gitmerge_eval.errors import CheckpointError, GitMergeEvalError, UsageError
from gitmerge_eval.git.pkt_line import PacketReader, PacketWriter, not_git

if TYPE_CHECKING:
    from gitmerge_eval.checkpoints.checkpoint import Writable
    from gitmerge_eval.checkpoints.lfs import ObjectStore
    from gitmerge_eval.checkpoints.metadata import Metadata
    from gitmerge_eval.checkpoints.parallel import Ahead
    from gitmerge_eval.checkpoints.safetensors_stream import Readable
    from gitmerge_eval.git.repository import Repository
    from gitmerge_eval.git.showing import Showing

_AHEAD_BYTES = 8 << 20
"""What is decoded before Git asks for it."""
_STAGES = ("", "HEAD", ":2", ":3", ":1")


def main(argv: Sequence[str] | None = None) -> int:
    """Serve Git; the exit status is 0, or 2 after one line on standard error."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    startup.prepare()
    try:
        with _output_of_our_own() as output:
            if not arguments:
                Server(PacketReader(0), PacketWriter(output)).serve()
                startup.end(0)
            elif len(arguments) == 2 and arguments[0] in ("clean", "smudge"):
                _convert_once(arguments[0], arguments[1], output)
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


def _convert_once(command: str, path: str, output: int) -> None:
    conversion = Conversion.here()
    with (
        open(0, "rb", buffering=0, closefd=False) as source,
        open(output, "wb", closefd=False) as sink,
    ):
        try:
            if command == "clean":
                sink.write(conversion.clean(path, source))
            else:
                conversion.smudge(path, source.read(), sink)
        except GitMergeEvalError as error:
            raise error.within(f"{command} '{path}'") from error


@contextmanager
def _output_of_our_own() -> Iterator[int]:
    """Standard output, moved to where nothing else writes to it."""
    sys.stdout.flush()
    output = os.dup(1)
    os.dup2(2, 1)
    try:
        yield output
    finally:
        os.dup2(output, 1)
        os.close(output)


def _say(message: str) -> None:
    print(f"gitmerge-eval: {message}", file=sys.stderr)


class Conversion:
    """Clean and smudge in one repository."""

    def __init__(self, repository: Repository) -> None:
        self.repository = repository

    @cached_property
    def store(self) -> ObjectStore:
        """The repository's objects."""
        from gitmerge_eval.checkpoints.lfs import ObjectStore

        return ObjectStore(self.repository)

    @classmethod
    def here(cls) -> Conversion:
        """In the repository of the current directory."""
        from gitmerge_eval.git.repository import Repository

        return cls(Repository.here())

    def clean(self, path: str, content: Readable) -> bytes:
        """The blob for the file's bytes; unchanged groups keep the index's or HEAD's entries."""
        from gitmerge_eval.checkpoints.checkpoint import clean

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

    def ahead(self, path: str, blob: bytes) -> Ahead[memoryview]:
        """:meth:`smudge`, begun at once; iterating gives the file."""
        from gitmerge_eval.checkpoints.checkpoint import smudged
        from gitmerge_eval.checkpoints.parallel import Ahead

        pieces = smudged(blob, self.store, path=path)
        return Ahead(pieces, nbytes=lambda piece: piece.nbytes, in_flight_bytes=_AHEAD_BYTES)

    def is_stored(self, blob: bytes) -> bool:
        """Whether there is anything to do for the blob, other than handing it through."""
        from gitmerge_eval.checkpoints.metadata import is_metadata

        return is_metadata(blob)

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

    def __init__(self, reader: PacketReader, writer: PacketWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._delayed: dict[str, bytes] = {}
        self._announced = False
        self._written: list[str] = []
        self._ahead: tuple[str, Ahead[memoryview]] | None = None

    @cached_property
    def _conversion(self) -> Conversion:
        return Conversion.here()

    @cached_property
    def _showing(self) -> Showing:
        from gitmerge_eval.git.showing import Showing

        return Showing(self._conversion.repository)

    def serve(self) -> None:
        """Shake hands, then answer until the input ends."""
        self._shake_hands()
        while request := self._reader.read_list():
            fields = dict(line.split("=", 1) for line in request)
            command, path = fields.get("command"), fields.get("pathname", "")
            if command == "list_available_blobs":
                self._list_available()
                continue
            self._reader.begin()
            if command == "clean":
                self._clean(path)
            elif command == "smudge":
                self._smudge(path, fields)
            else:
                self._reader.drain()
                self._writer.write_list("status=error")
        # Git has written the index and waits for us to end.
        if self._written:
            from gitmerge_eval.git.racy_index import settle

            settle(self._conversion.repository, self._written)

    def _shake_hands(self) -> None:
        if self._reader.read_list() != ["git-filter-client", "version=2"]:
            raise not_git()
        self._writer.write_list("git-filter-server", "version=2")
        offered = self._reader.read_list() or []
        known = ("capability=clean", "capability=smudge", "capability=delay")
        self._writer.write_list(*(name for name in known if name in offered))

    def _clean(self, path: str) -> None:
        from gitmerge_eval.git.racy_index import await_next_second

        began = time.monotonic()
        with self._answering(path) as answer:
            blob = self._conversion.clean(path, self._reader)
            # Waiting is worth it where the next 'git status' would do all this once more.
            file = self._conversion.repository.directory / path
            await_next_second(file, time.monotonic() - began)
            self._reader.drain()  # Git listens only when it has sent everything
            answer.write(blob)

    def _smudge(self, path: str, request: Mapping[str, str]) -> None:
        """Files are delayed, so that all missing objects come by one git-lfs process, and that the
        next file is decoded while Git writes one to disk. What is only shown stays metadata."""
        with self._answering(path) as answer:
            if path in self._delayed:
                pieces = self._begun(path)
                self._reader.drain()
            else:
                blob = self._reader.read()
                if self._conversion.is_stored(blob) and self._showing.wants(request):
                    answer.write(blob)
                    return
                if request.get("can-delay") == "1" and self._conversion.is_stored(blob):
                    self._delayed[path] = blob
                    answer.delay()
                    return
                pieces = self._conversion.ahead(path, blob)
            for piece in pieces:
                answer.write(piece)
            self._written.append(path)
        self._begin_next()

    def _begun(self, path: str) -> Ahead[memoryview]:
        blob = self._delayed.pop(path)
        begun, self._ahead = self._ahead, None
        if begun is not None:
            if begun[0] == path:
                return begun[1]
            begun[1].close()
        return self._conversion.ahead(path, blob)

    def _begin_next(self) -> None:
        for path, blob in self._delayed.items():
            if self._announced and self._ahead is None:
                self._ahead = path, self._conversion.ahead(path, blob)
            break

    @contextmanager
    def _answering(self, path: str) -> Iterator[Answer]:
        """An answer that is ended, or withdrawn with one line on standard error."""
        answer = Answer(self._writer)
        try:
            yield answer
            self._reader.drain()
            answer.end()
        except BrokenPipeError:
            raise
        except (GitMergeEvalError, OSError, MemoryError) as error:
            _say(f"'{path}': {error or type(error).__name__}")
            self._reader.drain()
            answer.withdraw()

    def _list_available(self) -> None:
        if not self._announced and self._delayed:
            self._conversion.prefetch(list(self._delayed.values()))
        names = [] if self._announced else [f"pathname={path}" for path in self._delayed]
        self._announced = bool(names)
        self._writer.write_list(*names)
        self._writer.write_list("status=success")
        self._begin_next()


class Answer:
    """The answer to one request: a status, the content cut into packets, a status that counts."""

    def __init__(self, writer: PacketWriter) -> None:
        self._writer = writer
        self._begun = False
        self._delayed = False

    def write(self, data: Any, /) -> int:
        """Write all of ``data``."""
        self._begin()
        return self._writer.write(data)

    def delay(self) -> None:
        """Say that the content comes when Git asks for what is available."""
        self._delayed = True
        self._writer.write_list("status=delayed")

    def end(self) -> None:
        """Say that the content is whole."""
        if not self._delayed:
            self._begin()
            self._writer.write_list()
            self._writer.write_list()

    def withdraw(self) -> None:
        """Say that the content, if any, must not be used."""
        if self._begun:
            self._writer.write_list()
        self._writer.write_list("status=error")

    def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            self._writer.write_list("status=success")


if __name__ == "__main__":
    sys.exit(main())
