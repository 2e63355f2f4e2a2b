"""The short critical section in which a prepared merge reaches index and work tree.

Everything expensive has been done before. The order, each step safe to be killed after:

1. block INT, TERM, HUP; check that HEAD, index and ``git merge`` are as they were;
2. ``read-tree -n``: refuse before anything is written where local files are in the way;
3. write the journal (fsync);
4. ordinary files by ``read-tree -m -u`` on a copy of the index; checkpoints by rename;
5. swap the copy of the index in by ``index.lock``; held for microseconds only;
6. undo if ``git merge`` has gone; remove the journal.

:func:`gitmerge_eval.git.journal.recover` undoes what a killed run left, and keeps a copy of
whatever is not its own.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from gitmerge_eval.errors import MergeRefused
from gitmerge_eval.git import journal
from gitmerge_eval.git.entering import enter
from gitmerge_eval.git.process import Process, this
from gitmerge_eval.git.repository import NULL_ID, Repository
from gitmerge_eval.git.scratch import scratch_folder
from gitmerge_eval.git.textmerge import StagedEntry
from gitmerge_eval.git.trees import Entry, entries, index_lines, same_file_system

_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


@dataclass(frozen=True)
class PreparedFile:
    """A checkpoint ready to be renamed into the work tree."""

    entry: Entry
    """Its metadata blob, as the index shall name it."""
    content: Path
    """The work-tree bytes, on the same file system."""
    metadata: Path
    """The metadata blob's bytes."""


@dataclass(frozen=True)
class Landing:
    """Everything that the critical section needs."""

    head: str
    tree: str
    """The merged tree, all of it."""
    ordinary_tree: str
    """The merged tree with the paths that are ours as HEAD has them."""
    prepared: Mapping[str, PreparedFile]
    removed: frozenset[str]
    """Paths of ours that the merge deletes."""
    conflicts: Mapping[str, Sequence[StagedEntry]]
    skipped: frozenset[str] = frozenset()
    """Paths that a sparse checkout keeps out of the work tree."""


def fingerprint(repository: Repository) -> tuple[object, ...]:
    """What the user may change while a merge is computed: index, work tree, HEAD."""
    dirty = repository.run("diff-files", "--name-only", "-z").fields
    return (
        repository.run("ls-files", "-s", "-z").stdout,
        # The time too: a file that was edited before the merge may be edited again.
        tuple((path, _modified(journal.at(repository, path))) for path in dirty),
        repository.text("rev-parse", "HEAD"),
    )


def land(repository: Repository, landing: Landing, merger: Process | None) -> None:
    """Put the merge into index and work tree, or leave both as they were.

    ``merger`` is the ``git merge`` that started us, as it was found then: once it has died, its
    children have other parents. Raises MergeRefused where it died, where something changed
    meanwhile, or where a local file is in the way.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    _check_wanted(merger)
    index = repository.path("index")
    before = journal.index_entries(repository)
    record = _journal_for(repository, landing)
    with scratch_folder(repository) as scratch:
        copy = scratch / "index"
        # With its time, by which Git tells which files were written as late as the index itself.
        shutil.copy2(index, copy)
        environment = {"GIT_INDEX_FILE": str(copy)}
        _check_unmoved(repository, landing, environment)
        _check_nothing_in_the_way(repository, landing, environment)
        with _undone_on_failure(repository):
            journal.write(repository, record)
            _apply(repository, landing, environment, scratch)
            entered = hashlib.sha256(journal.index_entries(repository, environment)).hexdigest()
            record = replace(record, index=entered)
            journal.write(repository, record)
            swap_index(repository, index, copy, before)
            # Nobody is left to commit this: a work tree that looks merged would be a trap.
            _check_wanted(merger)
    journal.journal_path(repository).unlink()


def _check_wanted(merger: Process | None) -> None:
    if (merger and not merger.alive) or signal.sigpending() & _SIGNALS:
        raise MergeRefused("the merge was interrupted; everything is as it was before")


def _check_unmoved(
    repository: Repository, landing: Landing, environment: Mapping[str, str]
) -> None:
    if repository.text("rev-parse", "HEAD") != landing.head:
        raise MergeRefused("HEAD moved while the merge was computed; run the merge again")
    staged = ("diff-index", "--cached", "--quiet", landing.head, "--")
    if not repository.succeeds(*staged, environment=environment):
        raise MergeRefused("something was staged while the merge was computed; run the merge again")


def _check_nothing_in_the_way(
    repository: Repository, landing: Landing, environment: Mapping[str, str]
) -> None:
    known = entries(repository, landing.head)
    for path in landing.prepared:
        if (
            path not in known
            and path not in landing.skipped
            and os.path.lexists(journal.at(repository, path))
        ):
            raise MergeRefused(
                f"the untracked file '{path}' would be overwritten by the merge; move or remove it"
            )
    touched = set(landing.prepared) | landing.removed
    edited = repository.run("diff-files", "--name-only", "-z", environment=environment).fields
    if dirty := sorted(touched & set(edited)):
        raise MergeRefused(
            f"your changes to {', '.join(dirty)} would be overwritten by the merge; "
            "commit or stash them first"
        )
    # The whole tree, although only ordinary files will be written so: Git also tells whether a
    # checkpoint would go through a symbolic link or into a folder's place.
    trial = repository.run(
        *("read-tree", "-n", "-m", "-u", landing.head, landing.tree),
        environment=environment,
        check=False,
    )
    if trial.status:
        raise MergeRefused(f"local files would be overwritten by the merge:\n{trial.stderr}")


def _journal_for(repository: Repository, landing: Landing) -> journal.Journal:
    fields = repository.run(
        "diff-tree", "-r", "-z", "--name-status", "--no-renames", landing.head, landing.tree
    ).fields
    changes = list(zip(fields[0::2], fields[1::2], strict=True))
    own = this()
    return journal.Journal(
        pid=own.pid,
        start=own.start,
        head=landing.head,
        tree=landing.tree,
        added=[path for status, path in changes if status == "A"],
        changed=[path for status, path in changes if status != "A"],
    )


def _apply(
    repository: Repository, landing: Landing, environment: Mapping[str, str], scratch: Path
) -> None:
    repository.run(
        "read-tree", "-m", "-u", landing.head, landing.ordinary_tree, environment=environment
    )
    known = entries(repository, landing.head)
    placed: dict[str, Path] = {}
    for path, file in landing.prepared.items():
        if path not in landing.skipped:
            place(repository, path, file)
            placed[path] = file.metadata
    if placed:
        # Without the old entries first: a merged checkpoint has the old one's size and may have its
        # time too, and where core.checkStat is 'minimal' Git would take it for unchanged.
        repository.run(
            *("update-index", "-z", "--index-info"),
            stdin=index_lines(dict.fromkeys(placed)),
            environment=environment,
        )
        # Index entries with real stat data: neither this nor the next `git status` reads a tensor.
        enter(repository, placed, Path(environment["GIT_INDEX_FILE"]), scratch)
    for path in sorted(landing.removed & set(known)):
        journal.at(repository, path).unlink(missing_ok=True)
        repository.run("update-index", "--remove", "--", path, environment=environment)
    for path in sorted(landing.skipped & set(landing.prepared)):
        entry = landing.prepared[path].entry
        repository.run(
            *("update-index", "--add", "--cacheinfo", f"{entry.mode},{entry.object_id},{path}"),
            environment=environment,
        )
        repository.run("update-index", "--skip-worktree", "--", path, environment=environment)
    stages = "".join(
        f"0 {NULL_ID}\t{path}\0"
        + "".join(f"{s.entry.mode} {s.entry.object_id} {s.stage}\t{path}\0" for s in staged)
        for path, staged in landing.conflicts.items()
    )
    if stages:
        repository.run("update-index", "-z", "--index-info", stdin=stages, environment=environment)


def place(repository: Repository, path: str, file: PreparedFile) -> None:
    """Rename a prepared file into the work tree; MergeRefused where it has no room there."""
    target = journal.at(repository, path)
    target.parent.mkdir(parents=True, exist_ok=True)
    content = file.content
    if not same_file_system(content.parent, target.parent):
        content = journal.beside(target)
        try:
            shutil.copyfile(file.content, content)
        except OSError as error:
            # Its own words name the file that was read.
            raise MergeRefused(
                f"cannot write '{target}': {error.strerror}; make room there and merge again "
                "(nothing was changed)"
            ) from error
    if file.entry.mode == "100755":
        # Executable for whom the umask lets read it, as Git does it.
        readable = content.stat().st_mode & 0o777
        content.chmod(readable | (readable & 0o444) >> 2)
    # Git re-reads a file that is as young as the index; two seconds make it older.
    past = time.time() - 2
    os.utime(content, (past, past))
    content.replace(target)


def swap_index(repository: Repository, index: Path, copy: Path, before: bytes) -> None:
    """Put ``copy`` in the index' place; MergeRefused where another process has changed or locked
    the index, whose entries were ``before``."""
    lock = index.with_name(f"{index.name}.lock")
    try:
        os.close(os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except FileExistsError:
        raise MergeRefused(
            f"'{lock}' exists: another git process is running, or one was killed; remove the file "
            "if none runs"
        ) from None
    if journal.index_entries(repository) != before:
        lock.unlink()
        raise MergeRefused("the index changed while the merge was computed; run the merge again")
    copy.replace(lock)
    lock.replace(index)


@contextmanager
def _undone_on_failure(repository: Repository) -> Iterator[None]:
    try:
        yield
    except BaseException:
        journal.recover(repository)
        raise


def _modified(file: Path) -> int:
    try:
        return file.lstat().st_mtime_ns
    except OSError:
        return 0
