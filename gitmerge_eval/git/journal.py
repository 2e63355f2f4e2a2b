"""The journal of a landing merge: what is needed to undo it after a kill, and the undoing."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from gitmerge_eval.errors import MergeRefused
from gitmerge_eval.git.process import Process
from gitmerge_eval.git.repository import Repository
from gitmerge_eval.git.scratch import state_directory, sweep
from gitmerge_eval.git.trees import Entry, entries


@dataclass(frozen=True)
class Journal:
    """What one landing is about to do; whole on disk before the first file is touched."""

    pid: int
    start: str
    """With ``pid``: the process that lands."""
    head: str
    tree: str
    """The merged tree."""
    added: list[str]
    changed: list[str]
    index: str = ""
    """SHA-256 of the entries of the index that is swapped in; empty before it is known."""

    @property
    def owner(self) -> Process:
        """The process that lands."""
        return Process(self.pid, self.start)


def recover(repository: Repository) -> list[str]:
    """Undo what a killed merge left in the work tree; what was done, in words.

    Only the paths in the journal are restored, and of these only what nobody has staged since; a
    file that is neither the old nor the new version is copied to
    ``.git/gitmerge-eval/rescue`` first. Raises MergeRefused while the other merge still runs.
    """
    sweep(repository)
    path = journal_path(repository)
    if not path.exists():
        return []
    journal = _read(path)
    if journal.pid != os.getpid() and journal.owner.alive:
        raise MergeRefused(f"another merge is running in this work tree (process {journal.pid})")
    swapped = hashlib.sha256(index_entries(repository)).hexdigest() == journal.index
    # A merge that Git took over, or a commit since: nothing of it is ours to undo any more.
    taken_over = (
        repository.path("MERGE_HEAD").exists()
        or (swapped and repository.path("SQUASH_MSG").exists())
        or repository.text("rev-parse", "HEAD") != journal.head
    )
    said = []
    if not taken_over:
        said.append(f"undid an interrupted merge (process {journal.pid})")
        if swapped:
            repository.run("read-tree", "HEAD")
        said += _restore_files(repository, journal)
        repository.run("update-index", "-q", "--refresh", check=False)
    path.unlink()
    return said


def _restore_files(repository: Repository, journal: Journal) -> list[str]:
    new, old = entries(repository, journal.tree), entries(repository, journal.head)
    staged = set(repository.run("diff-index", "--cached", "--name-only", "-z", "HEAD").fields)
    said, restored = [], []
    for path in [path for path in journal.added + journal.changed if path not in staged]:
        file = at(repository, path)
        beside(file).unlink(missing_ok=True)
        if (
            file.is_file()
            and not file.is_symlink()
            and not _is_ours(repository, path, [new.get(path), old.get(path)])
        ):
            rescue = _rescue_name(repository, path)
            shutil.copyfile(file, rescue)
            said.append(f"kept a copy of '{path}' in '{rescue}'")
        if path in old:
            restored.append(path)
        elif file.is_file() or file.is_symlink():
            file.unlink()
            _remove_empty_folders(repository, file.parent)
    if restored:
        repository.run("checkout-index", "-f", "-z", "--stdin", stdin="\0".join(restored))
    return said


def _rescue_name(repository: Repository, path: str) -> Path:
    """A file name that no earlier rescue has."""
    folder = state_directory(repository) / "rescue"
    folder.mkdir(exist_ok=True)
    name = path.replace("/", "%")[-200:]
    names = (f"{name}.{number}" if number else name for number in itertools.count())
    return next(folder / name for name in names if not os.path.lexists(folder / name))


def _remove_empty_folders(repository: Repository, folder: Path) -> None:
    while folder != repository.directory:
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent


def _is_ours(repository: Repository, path: str, versions: Sequence[Entry | None]) -> bool:
    # By its blob, through the filter: slow for a model, but only where a merge was killed.
    file = str(at(repository, path))
    found = repository.run("hash-object", f"--path={path}", "--", file, check=False)
    return found.text in {entry.object_id for entry in versions if entry}


def journal_path(repository: Repository) -> Path:
    """Where the journal of this work tree is while a merge lands."""
    return state_directory(repository) / "journal"


def _read(path: Path) -> Journal:
    try:
        return Journal(**json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise MergeRefused(
            f"the record of an interrupted merge, '{path}', is unreadable ({error}); see 'git "
            "status', restore what it left with 'git checkout', and remove that file"
        ) from None


def write(repository: Repository, journal: Journal) -> None:
    """Store the journal, whole or not at all, and on the disk itself."""
    path = journal_path(repository)
    new = path.with_suffix(".new")
    with new.open("w") as file:
        json.dump(asdict(journal), file)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def index_entries(repository: Repository, environment: Mapping[str, str] | None = None) -> bytes:
    """What is staged, as ``git ls-files`` lists it; of another index by GIT_INDEX_FILE."""
    return repository.run("ls-files", "-s", "-z", environment=environment).stdout


def beside(target: Path) -> Path:
    """Where a checkpoint waits on the work tree's file system, if that is not the scratch's."""
    return target.with_name(f".{target.name}.gitmerge-eval")


def at(repository: Repository, path: str) -> Path:
    """The work-tree file of a path."""
    return repository.directory / path
