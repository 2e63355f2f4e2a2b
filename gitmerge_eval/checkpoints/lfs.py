"""The local store of Git LFS, read and written directly; git-lfs itself only moves objects."""

from __future__ import annotations

import hashlib
import mmap
import os
import time
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property, partial
from io import FileIO
from pathlib import Path
from typing import Protocol

from gitmerge_eval.checkpoints import checked_objects, transfer
from gitmerge_eval.checkpoints.checked_objects import CheckedObjects, is_settled, stamp
from gitmerge_eval.checkpoints.settlement import Settlement, explained, put_in_place
from gitmerge_eval.errors import CorruptObject, MissingObject
from gitmerge_eval.git.repository import Repository

Buffer = bytes | bytearray | memoryview
_HASHED_BYTES = 1 << 20


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
    ``keep=False`` :meth:`write` only hashes: recomputing a merge leaves no trace. Bytes that are
    read are compared with the hash that names them, once for as long as the object's file does not
    change; with ``recheck`` every time.
    """

    def __init__(self, repository: Repository, *, keep: bool = True, recheck: bool = False) -> None:
        self.repository = repository
        self.keep = keep
        self._recheck = recheck
        self._settlement: Settlement | None = None
        self._checked = CheckedObjects(repository.common_directory / checked_objects.FILE)

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
        with self._opened(object_id, len(buffer)) as (file, check):
            position = 0
            while position < len(buffer):
                # Hashed while it is in the processor's cache.
                count = file.readinto(buffer[position : position + _HASHED_BYTES])
                if not count:
                    break
                check.update(buffer[position : position + count])
                position += count
            if position < len(buffer):
                raise self._corrupt(object_id, len(buffer), check.path, position)

    def verified(self, object_id: str, size: int) -> Path:
        """The object's file, its bytes compared with its hash; raises what :meth:`read` does.

        For readers of parts of an object: memory does not depend on its size. A file that need not
        be read now is announced to the system, which may read it ahead.
        """
        with self._opened(object_id, size) as (file, check):
            if check.is_known:
                with suppress(OSError, AttributeError):  # AttributeError: not on every system
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)
                return check.path
            buffer = bytearray(min(_HASHED_BYTES, size + 1))
            while count := file.readinto(buffer):
                check.update(memoryview(buffer)[:count])
        return check.path

    @contextmanager
    def _opened(self, object_id: str, size: int) -> Iterator[tuple[FileIO, _Check]]:
        """The object's file and the check of what the block reads from it, from first to last."""
        path = self._at_hand(object_id, size)
        with explained(path, "read"), path.open("rb", buffering=0) as file:
            before, began_ns = stamp(os.fstat(file.fileno())), time.time_ns()
            if before[1] != size:
                raise self._corrupt(object_id, size, path, before[1])
            known = not self._recheck and self._checked.knows(object_id, before)
            check = _Check(path, known)
            yield file, check
            if known:
                return
            if check.length != size or check.name != object_id:
                raise self._corrupt(object_id, size, path, check.length)
            # A change while it was read, or in the very moment before, may show in no later stamp.
            if is_settled(before, began_ns) and stamp(os.fstat(file.fileno())) == before:
                self._checked.add(object_id, before)

    def keep_checked(self) -> None:
        """Have later commands know which objects were checked."""
        if self.keep:
            self._checked.keep()

    def forget(self, object_ids: Iterable[str]) -> None:
        """Take note that the files of these objects were removed."""
        self._checked.forget(object_ids)

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
            self.keep_checked()
        except BaseException:
            settlement.abandon()
            raise
        finally:
            self._settlement = None

    def _settle(self, name: str, path: Path) -> None:
        target = self.path(name)
        with explained(target):
            put_in_place(path, target)
            # Hashed as it was written, under a name that nobody else knew.
            self._checked.add(name, stamp(target.stat()))

    def freshen(self, object_id: str, size: int) -> bool:
        """Whether the object is here with this size; if so it counts as written now.

        What is about to be named again must not be old: ``gitmerge-eval gc`` spares young objects.
        """
        path = self._find(object_id)
        try:
            before = stamp(path.stat()) if path else None
            if path is None or before is None or before[1] != size:
                return False
            known = self._checked.knows(object_id, before)
            os.utime(path)
            if known:
                self._checked.add(object_id, stamp(path.stat()))
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

        MissingObject names what could not be had and why.
        """
        wanted = {record.object_id: record.size for record in records}
        wanted = {oid: wanted[oid] for oid in self.missing(wanted)}
        if not wanted:
            return
        source = remote or transfer.default_remote(self.repository)
        if source is None:
            raise self._absent(list(wanted), "and this repository has no remote")
        done = transfer.fetch(self.repository, source, wanted)
        absent = self.missing(wanted)
        if absent:
            why = f"and not to be had from '{source}'{transfer.reason(done)}"
            raise self._absent(absent, why)

    def push(self, remote: str, object_ids: Iterable[str]) -> None:
        """Upload objects; GitError with git-lfs' reason."""
        transfer.push(self.repository, remote, object_ids)

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
            f"{one if len(object_ids) == 1 else several} not in this clone {why}; "
            "add a remote that has them, or ask whoever made the commit to run 'gitmerge-eval "
            "push-tensors'"
        )


class _Check:
    """What is known of an object's bytes, or becomes known as they are read."""

    def __init__(self, path: Path, is_known: bool) -> None:
        self.path = path
        self.is_known = is_known
        self.length = 0
        self._digest = hashlib.sha256()

    def update(self, data: Buffer) -> None:
        """These bytes come next; no work where they are known."""
        if not self.is_known:
            self._digest.update(data)
            self.length += len(data)

    @property
    def name(self) -> str:
        """The SHA-256 of all bytes."""
        return self._digest.hexdigest()


class _Named:
    def __init__(self, object_id: str, size: int) -> None:
        self.object_id = object_id
        self.size = size


def _under(objects: str, object_id: str) -> str:
    return f"{objects}/{object_id[:2]}/{object_id[2:4]}/{object_id}"


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
