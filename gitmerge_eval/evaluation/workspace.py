"""Where a model is laid out for an evaluation: its checkpoint, and around it what it needs.

In the git directory, not in the system's temporary folder: models are large, and that one may be in
memory.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from gitmerge_eval.errors import EvaluationError
from gitmerge_eval.git.repository import Repository
from gitmerge_eval.git.trees import tensor_paths
from gitmerge_eval.records import canonical_json

STALE_SECONDS = 24 * 3600
_REGULAR = ("100644", "100755")


@dataclass(frozen=True)
class Companions:
    """The files that an evaluation needs beside a checkpoint, of one revision."""

    blobs: Mapping[str, str] = field(default_factory=dict)
    """path from the checkpoint's folder -> blob id."""
    tensors: frozenset[str] = frozenset()
    """Those of the paths that are stored as checkpoints are."""

    @property
    def digest(self) -> str:
        """SHA-256 over paths and blobs; '' where there are none."""
        if not self.blobs:
            return ""
        return hashlib.sha256(canonical_json(dict(self.blobs)).encode()).hexdigest()


NO_COMPANIONS = Companions()


def companions_at(
    repository: Repository, commit: str, checkpoint: str, wanted: Sequence[str]
) -> Companions:
    """What ``commit`` has of the files and folders ``wanted`` beside ``checkpoint``.

    Raises EvaluationError for anything that is no plain file, such as a symbolic link: a branch
    must not make an evaluation read files from elsewhere.
    """
    if not wanted:
        return NO_COMPANIONS
    folder = posixpath.dirname(checkpoint)
    listing = repository.run(
        *("--literal-pathspecs", "ls-tree", "-r", "-z", "--full-tree", commit, "--"),
        *(posixpath.join(folder, path) for path in wanted),
    )
    found = {}
    for line in listing.fields:
        entry, path = line.split("\t", 1)
        mode, _, blob = entry.split()
        if mode not in _REGULAR or ".." in PurePosixPath(path).parts:
            raise EvaluationError(
                f"'{path}' at {commit[:10]} is no plain file, and the benchmark needs it beside "
                f"'{checkpoint}'; commit the file itself"
            )
        found[path] = blob
    tensors = tensor_paths(repository, commit, found)
    return Companions(
        {posixpath.relpath(path, folder or "."): blob for path, blob in sorted(found.items())},
        frozenset(posixpath.relpath(path, folder or ".") for path in tensors),
    )


class Workspace:
    """A folder of one evaluation; made by :func:`workspace`."""

    def __init__(self, repository: Repository, folder: Path) -> None:
        self._repository = repository
        self._folder = folder

    @contextmanager
    def laid_out(
        self, blob: str, path: str, companions: Companions, file: Path | None = None
    ) -> Iterator[Path]:
        """The checkpoint whose metadata blob is ``blob``, or that is in a ``file`` already, as a
        file with ``companions`` around it, and with what lies beside a file.

        It lasts as long as the context; companions are smudged once, however many models share
        them. Raises CheckpointError where a tensor cannot be read.
        """
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        try:
            for name, companion in companions.blobs.items():
                kept = self._kept(companion, name, tensors=name in companions.tensors)
                _linked(kept, folder / name)
            target = folder / PurePosixPath(path).name
            if file is None:
                self._write(blob, target, path)
            else:
                for other in file.parent.iterdir():
                    _linked(other, target if other == file else folder / other.name)
            yield target
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _kept(self, blob: str, name: str, *, tensors: bool) -> Path:
        kept = self._folder / f"{blob}{'.tensors' if tensors else ''}"
        if not kept.exists():
            # Processes that share the folder write beside each other.
            partial = kept.with_name(f"{kept.name}.{os.getpid()}.partial")
            if tensors:
                self._write(blob, partial, name)
            else:
                partial.write_bytes(self._repository.blob(blob))
            partial.replace(kept)
        return kept

    def _write(self, blob: str, file: Path, path: str) -> None:
        from gitmerge_eval.checkpoints.checkpoint import smudge
        from gitmerge_eval.checkpoints.lfs import ObjectStore

        smudge(self._repository.blob(blob), ObjectStore(self._repository), file, path=path)


def _linked(file: Path, target: Path) -> None:
    """``file`` at ``target`` too, in the place of what is there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(file, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(file, target)


@contextmanager
def workspace(repository: Repository, parent: Path) -> Iterator[Workspace]:
    """A workspace below ``parent``, removed with the context."""
    parent.mkdir(parents=True, exist_ok=True)
    remove_stale(parent)
    folder = Path(tempfile.mkdtemp(dir=parent))
    try:
        yield Workspace(repository, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_stale(parent: Path) -> None:
    """What processes that were killed left there."""
    for folder in parent.iterdir():
        try:
            if time.time() - folder.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)
        except FileNotFoundError:
            continue
