"""The local store of Git LFS, read and written directly; git-lfs itself only moves objects."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Protocol

from gitmerge_eval.checkpoints.metadata import LFS_VERSION
from gitmerge_eval.errors import CheckpointError, CorruptObject, GitError, MissingObject
from gitmerge_eval.git.repository import Completed, Repository

_ARGUMENTS = 10_000
"""Object ids for one command line: 65 bytes each, far below any system's limit."""
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
        return self._under(self.folder / "objects", object_id)

    def _under(self, objects: Path, object_id: str) -> Path:
        return objects / object_id[:2] / object_id[2:4] / object_id

    def _find(self, object_id: str) -> Path | None:
        for objects in (self.folder / "objects", *self._borrowed):
            path = self._under(objects, object_id)
            if path.is_file():
                return path
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
        path = self._find(object_id)
        if path is None:
            self.fetch([_Named(object_id, size)])
            path = self._find(object_id) or self.path(object_id)
        data = path.read_bytes()
        if len(data) != size or hashlib.sha256(data).hexdigest() != object_id:
            raise CorruptObject(
                f"LFS object {object_id[:12]} does not have the bytes its name promises ({path}, "
                f"{len(data)} bytes, expected {size}); delete that file and run 'git lfs fetch'"
            )
        return data

    def write(self, data: bytes, object_id: str | None = None) -> tuple[str, int]:
        """Store ``data`` and return its (SHA-256, size); an object that is here stays as it is.

        ``object_id`` is the hash where the caller has computed it. The object appears whole or not
        at all. CheckpointError where it cannot be written.
        """
        name = object_id or hashlib.sha256(data).hexdigest()
        target = self.path(name)
        if self.keep and not (self.has(name) and self._whole(name, len(data))):
            with self.temporary() as path, _explained(target):
                with path.open("xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                target.parent.mkdir(parents=True, exist_ok=True)
                path.replace(target)
        return name, len(data)

    def _whole(self, object_id: str, size: int) -> bool:
        path = self._find(object_id)
        return path is not None and path.stat().st_size == size

    @contextmanager
    def temporary(self) -> Iterator[Path]:
        """A free file name in the store's own temporary folder, removed afterwards."""
        folder = self.folder / "tmp"
        with _explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"gitmerge-eval-{uuid.uuid4().hex}"
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def fetch(self, records: Iterable[Pointer], remote: str | None = None) -> None:
        """Fetch the objects that are not here, all by one git-lfs process.

        git-lfs fetches what a commit's pointers name, so that a commit of just these pointers is
        made in a temporary object store. MissingObject names what could not be had and why.
        """
        wanted = {record.object_id: record.size for record in records}
        wanted = {oid: wanted[oid] for oid in self.missing(wanted)}
        if not wanted:
            return
        source = remote or self._default_remote()
        if source is None:
            raise self._absent(list(wanted), "and this repository has no remote")
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

    def _default_remote(self) -> str | None:
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


def _reason(done: Completed) -> str:
    if "is not a git command" in done.stderr:
        return ": git-lfs is not installed; install it with the system's package manager"
    lines = done.stderr.splitlines()
    return f": {lines[-1]}" if lines else ""


@contextmanager
def _explained(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        remedy = {
            errno.ENOSPC: "free space on that disk and repeat the command",
            errno.EDQUOT: "your quota is used up; free space and repeat the command",
        }.get(error.errno or 0, "check the folder's permissions and repeat the command")
        raise CheckpointError(f"cannot write {target}: {error.strerror}; {remedy}") from error
