"""The local store of Git LFS, read and written directly; git-lfs itself only moves objects."""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from io import FileIO
from pathlib import Path
from typing import Protocol

from gitmerge_eval.checkpoints.metadata import LFS_VERSION
from gitmerge_eval.checkpoints.settlement import Settlement, explained, put_in_place
from gitmerge_eval.errors import CorruptObject, GitError, MissingObject
from gitmerge_eval.git.repository import Completed, Repository

_ARGUMENTS = 10_000
"""Object ids for one command line: 65 bytes each, far below any system's limit."""
Buffer = bytes | bytearray | memoryview
_HASHED_BYTES = 1 << 20
_IDENTITY = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (
        ("NAME", "gitmerge-eval"), ("EMAIL", "none"), ("DATE", "@0 +0000")
    )
}  # fmt: skip


class Pointer(Protocol):
    """What names an object: a ``GroupRecord``, for one."""

    @property
    def object_id(self) -> str:
        """SHA-256, 64 hexadecimal digits."""

    @property
    def size(self) -> int:
        """Bytes."""


class ObjectStore:
    """The LFS objects of one repository, shared by all its work trees.

    Honours ``lfs.storage`` and reads the stores of the repositories it borrows objects from. With
    ``keep=False`` :meth:`write` only hashes: recomputing a merge leaves no trace.
    """

    def __init__(self, repository: Repository, *, keep: bool = True) -> None:
        self.repository = repository
        self.keep = keep
        self._settlement: Settlement | None = None

    @cached_property
    def folder(self) -> Path:
        """``.git/lfs``, or where ``lfs.storage`` says (relative to the common git directory)."""
        storage = self.repository.setting("lfs.storage") or "lfs"
        return self.repository.common_directory / storage

    @cached_property
    def _borrowed(self) -> list[Path]:
        """The object folders of alternates, where git-lfs looks too."""
        alternates = self.repository.common_directory / "objects" / "info" / "alternates"
        try:
            lines = os.fsdecode(alternates.read_bytes()).splitlines()
        except FileNotFoundError:
            return []
        folders = [(alternates.parents[1] / line).resolve() for line in lines if line]
        return [folder.parent / "lfs" / "objects" for folder in folders]

    def path(self, object_id: str) -> Path:
        """Where the object lies, or would lie."""
        return Path(_under(self._folders[0], object_id))

    @cached_property
    def _folders(self) -> list[str]:
        """Where objects may be; text, since there are as many objects as groups in all models."""
        return [os.fspath(folder) for folder in (self.folder / "objects", *self._borrowed)]

    def _find(self, object_id: str) -> Path | None:
        for objects in self._folders:
            path = _under(objects, object_id)
            if os.path.isfile(path):
                return Path(path)
        return None

    def has(self, object_id: str) -> bool:
        """Whether the object is here; its bytes are checked only when read."""
        return self._find(object_id) is not None

    def missing(self, object_ids: Iterable[str]) -> list[str]:
        """Those of ``object_ids`` that are not here, once each, in order."""
        return [oid for oid in dict.fromkeys(object_ids) if not self.has(oid)]

    def read(self, object_id: str, size: int) -> bytes:
        """The object's bytes, fetched once from the remote if they are not here.

        Raises CorruptObject if they do not have the hash and size that name them, MissingObject if
        neither this store nor the remote has them.
        """
        buffer = bytearray(size)
        self.read_into(object_id, memoryview(buffer))
        return bytes(buffer)

    def read_into(self, object_id: str, buffer: memoryview) -> None:
        """:meth:`read` into memory of exactly the object's size."""
        path = self._at_hand(object_id, len(buffer))
        with explained(path, "read"), path.open("rb", buffering=0) as file:
            present = os.fstat(file.fileno()).st_size
            digest, position = hashlib.sha256(), 0
            while present == len(buffer) and position < present:
                # Hashed while it is in the processor's cache.
                count = file.readinto(buffer[position : position + _HASHED_BYTES])
                if not count:
                    break
                digest.update(buffer[position : position + count])
                position += count
        if position != len(buffer) or digest.hexdigest() != object_id:
            raise self._corrupt(object_id, len(buffer), path, present)

    def verified(self, object_id: str, size: int) -> Path:
        """The object's file, its hash checked in one streamed pass; raises what :meth:`read` does.

        For readers of parts of an object: memory does not depend on its size.
        """
        path = self._at_hand(object_id, size)
        digest, length = hashlib.sha256(), 0
        with explained(path, "read"), path.open("rb", buffering=0) as file:
            buffer = bytearray(min(_HASHED_BYTES, size + 1))
            while count := file.readinto(buffer):
                digest.update(memoryview(buffer)[:count])
                length += count
        if length != size or digest.hexdigest() != object_id:
            raise self._corrupt(object_id, size, path, length)
        return path

    def mapped(self, object_id: str) -> mmap.mmap | None:
        """The object's file as it is, hash unchecked; None if it is not here or cannot be read.

        For those who compare it with what they have.
        """
        path = self._find(object_id)
        try:
            if path is None:
                return None
            with path.open("rb") as file:
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError):  # ValueError: an empty file cannot be mapped
            return None

    def _at_hand(self, object_id: str, size: int) -> Path:
        """The object's file, fetched if it is not here."""
        path = self._find(object_id)
        if path is None:
            self.fetch([_Named(object_id, size)])
            path = self._find(object_id) or self.path(object_id)
        return path

    def write(self, data: bytes) -> tuple[str, int]:
        """Store ``data`` and return its (SHA-256, size); an object that is here stays as it is.

        The object appears whole or not at all. CheckpointError where it cannot be written.
        """
        name = hashlib.sha256(data).hexdigest()
        if self.keep and not self.freshen(name, len(data)):
            self.write_pieces([data])
        return name, len(data)

    def write_pieces(
        self, pieces: Iterable[Buffer], doubted: Container[str] = ()
    ) -> tuple[str, int]:
        """:meth:`write` for an object that comes in pieces, hashed and written as they come.

        An object that is here is replaced if it is among ``doubted``: its file was found damaged.
        """
        if not self.keep:
            return _pour(pieces, None)
        path, settling, handed_over = self._free_name(), self._settlement, False
        try:
            with explained(path), path.open("xb", buffering=0) as file:
                name, size = _pour(pieces, file)
            if name not in doubted and self.freshen(name, size):
                return name, size
            if settling is not None:
                settling.take(path, partial(self._settle, name))
                handed_over = True
            else:
                self._settle(name, path)
            return name, size
        finally:
            if not handed_over:
                path.unlink(missing_ok=True)

    @contextmanager
    def settling(self) -> Iterator[None]:
        """Let what is written inside the block go to disk in the background.

        All of it is in place and on disk when the block ends without an exception. An object is
        here only from then on. CheckpointError at the block's end if one could not be written.
        """
        if not self.keep:
            yield
            return
        if self._settlement is not None:  # a block inside another keeps its own promise
            yield
            self._settlement.wait()
            return
        self._settlement = settlement = Settlement()
        try:
            yield
            settlement.end()
        except BaseException:
            settlement.abandon()
            raise
        finally:
            self._settlement = None

    def _settle(self, name: str, path: Path) -> None:
        target = self.path(name)
        with explained(target):
            put_in_place(path, target)

    def freshen(self, object_id: str, size: int) -> bool:
        """Whether the object is here with this size; if so it counts as written now.

        What is about to be named again must not be old: ``gitmerge-eval gc`` spares young objects.
        """
        path = self._find(object_id)
        try:
            if path is None or path.stat().st_size != size:
                return False
            os.utime(path)
        except FileNotFoundError:
            return False
        except OSError:
            return True  # another's, or on a read-only file system: nobody deletes it from here
        return True

    @contextmanager
    def temporary(self) -> Iterator[Path]:
        """A free file name in the store's own temporary folder, removed afterwards.

        What a killed process leaves there, ``gitmerge-eval gc`` removes.
        """
        path = self._free_name()
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def _free_name(self) -> Path:
        folder = self.folder / "tmp"
        with explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
        return folder / f"gitmerge-eval-{os.urandom(16).hex()}"

    def fetch(self, records: Iterable[Pointer], remote: str | None = None) -> None:
        """Fetch the objects that are not here, all by one git-lfs process.

        git-lfs fetches what a commit's pointers name, so that a commit of just these pointers is
        made in a temporary object store. MissingObject names what could not be had and why.
        """
        wanted = {record.object_id: record.size for record in records}
        wanted = {oid: wanted[oid] for oid in self.missing(wanted)}
        if not wanted:
            return
        source = remote or self.default_remote()
        if source is None:
            raise self._absent(list(wanted), "and this repository has no remote")
        import tempfile

        with tempfile.TemporaryDirectory(prefix="gitmerge-eval-") as folder:
            environment, commit = self._pointer_commit(Path(folder), wanted)
            done = self.repository.run(
                *("lfs", "fetch", "--include=", "--exclude=", source, commit),
                environment=environment,
                check=False,
            )
        absent = self.missing(wanted)
        if absent:
            raise self._absent(absent, f"and not to be had from '{source}'{_reason(done)}")

    def push(self, remote: str, object_ids: Iterable[str]) -> None:
        """Upload objects by ``git lfs push --object-id``; GitError with git-lfs' reason."""
        wanted = list(dict.fromkeys(object_ids))
        for start in range(0, len(wanted), _ARGUMENTS):
            part = wanted[start : start + _ARGUMENTS]
            done = self.repository.run("lfs", "push", "--object-id", remote, *part, check=False)
            if done.status:
                raise GitError(f"'git lfs push' to '{remote}' failed{_reason(done)}")

    def default_remote(self) -> str | None:
        """The remote git-lfs would take: configured, the branch's, origin, or the only one."""
        git = self.repository
        branch = git.run("symbolic-ref", "--quiet", "--short", "HEAD", check=False).text
        chosen = git.setting("remote.lfsdefault") or git.setting(f"branch.{branch}.remote")
        remotes = git.text("remote").split()
        if chosen in remotes:
            return chosen
        return "origin" if "origin" in remotes else (remotes[0] if len(remotes) == 1 else None)

    def _pointer_commit(self, folder: Path, wanted: dict[str, int]) -> tuple[dict[str, str], str]:
        objects = self.repository.path("objects")
        borrowed = os.environ.get("GIT_ALTERNATE_OBJECT_DIRECTORIES")
        environment = _IDENTITY | {
            "GIT_OBJECT_DIRECTORY": str(folder / "objects"),
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": os.pathsep.join(
                [str(objects), *([borrowed] if borrowed else [])]
            ),
        }
        (folder / "objects").mkdir()
        for oid, size in wanted.items():
            (folder / oid).write_text(f"version {LFS_VERSION}\noid sha256:{oid}\nsize {size}\n")
        run: Callable[..., Completed] = self.repository.run
        names = "".join(f"{folder / oid}\n" for oid in wanted)
        blobs = run(
            *("hash-object", "-w", "--no-filters", "--stdin-paths"),
            stdin=names,
            environment=environment,
        ).text.split()
        lines = "".join(
            f"100644 blob {blob}\t{oid}\n" for blob, oid in zip(blobs, wanted, strict=True)
        )
        tree = run("mktree", stdin=lines, environment=environment).text
        commit = run("commit-tree", tree, "-m", "objects to fetch", environment=environment).text
        return environment, commit

    def _corrupt(self, object_id: str, size: int, path: Path, length: int) -> CorruptObject:
        sizes = f"{length} bytes instead of {size}"
        what = sizes if length != size else "its SHA-256 is another"
        return CorruptObject(
            f"LFS object {object_id[:12]} does not have the bytes its name promises ({path}: "
            f"{what}); delete that file and repeat the command, which fetches it from the remote"
        )

    def _absent(self, object_ids: list[str], why: str) -> MissingObject:
        several = f"{len(object_ids)} LFS objects ({object_ids[0][:12]}, …) are"
        one = f"LFS object {object_ids[0][:12]} is"
        return MissingObject(
            f"{one if len(object_ids) == 1 else several} not in {self.folder / 'objects'} {why}; "
            "add a remote that has them, or ask whoever made the commit to push again"
        )


class _Named:
    def __init__(self, object_id: str, size: int) -> None:
        self.object_id = object_id
        self.size = size


def _under(objects: str, object_id: str) -> str:
    return f"{objects}/{object_id[:2]}/{object_id[2:4]}/{object_id}"


def _reason(done: Completed) -> str:
    if "is not a git command" in done.stderr:
        return ": git-lfs is not installed; install it with the system's package manager"
    lines = done.stderr.splitlines()
    return f": {lines[-1]}" if lines else ""


def _pour(pieces: Iterable[Buffer], file: FileIO | None) -> tuple[str, int]:
    """Hash the pieces, write them where there is a file; (SHA-256, size)."""
    digest, size = hashlib.sha256(), 0
    for piece in pieces:
        view = memoryview(piece)
        size += view.nbytes
        digest.update(view)
        while file is not None and len(view):
            view = view[file.write(view) :]
    return digest.hexdigest(), size
