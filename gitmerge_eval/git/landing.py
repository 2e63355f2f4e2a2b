"""The short critical section in which a prepared merge reaches index and work tree.

Everything expensive has been done before. The order, each step safe to be killed after:

1. block INT, TERM, HUP; check that HEAD, index and ``git merge`` are as they were;
2. ``read-tree -n``: refuse before anything is written where local files are in the way;
3. write the journal (fsync);
4. ordinary files by ``read-tree -m -u`` on a copy of the index; checkpoints by rename;
5. swap the copy of the index in by ``index.lock``; held for microseconds only;
6. mark the journal applied; undo if ``git merge`` has gone; remove the journal.

:func:`recover` undoes what a killed run left, and keeps a copy of whatever is not its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from gitmerge_eval.errors import MergeRefused
from gitmerge_eval.git.process import Process, merging_git, this
from gitmerge_eval.git.repository import NULL_ID, Repository
from gitmerge_eval.git.scratch import scratch_folder, state_directory, sweep
from gitmerge_eval.git.textmerge import StagedEntry
from gitmerge_eval.git.trees import Entry, entries, same_file_system

CLEANED = "GITMERGE_EVAL_CLEANED"
"""Names a JSON file {path: blob file} from which our clean filter answers at once."""

_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


@dataclass(frozen=True)
class PreparedFile:
    """A checkpoint ready to be renamed into the work tree."""

    entry: Entry
    """Its metadata blob, as the index shall name it."""
    content: Path
    """The work-tree bytes, on the same file system."""
    metadata: Path
    """The metadata blob's bytes, for the clean filter's fast path."""


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


@dataclass(frozen=True)
class _Journal:
    phase: str
    pid: int
    start: str
    head: str
    tree: str
    added: list[str]
    changed: list[str]
    written: dict[str, str] = field(default_factory=dict)
    """path -> SHA-256 of the checkpoint bytes that are ours."""

    @property
    def owner(self) -> Process:
        return Process(self.pid, self.start)


def fingerprint(repository: Repository) -> tuple[bytes, bytes, str]:
    """What the user may change while a merge is computed: index, work tree, HEAD."""
    return (
        repository.run("ls-files", "-s", "-z").stdout,
        repository.run("diff-files", "--raw", "-z").stdout,
        repository.text("rev-parse", "HEAD"),
    )


def land(repository: Repository, landing: Landing) -> None:
    """Put the merge into index and work tree, or leave both as they were.

    Raises MergeRefused where something changed meanwhile or a local file is in the way.
    """
    merger = merging_git()
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    _check_unmoved(repository, landing)
    index = repository.path("index")
    before = repository.run("ls-files", "-s", "-z").stdout
    journal = _journal_for(repository, landing)
    with scratch_folder(repository) as scratch:
        copy = scratch / "index"
        shutil.copyfile(index, copy)
        environment = {"GIT_INDEX_FILE": str(copy)}
        _check_nothing_in_the_way(repository, landing, environment)
        with _undone_on_failure(repository, journal):
            _write_journal(repository, journal)
            _apply(repository, landing, environment, scratch)
            _swap_index(repository, index, copy, before)
    _write_journal(repository, replace(journal, phase="applied"))
    if (merger and not merger.alive) or signal.sigpending() & _SIGNALS:
        # Nobody is left to commit this: a work tree that looks merged would be a trap.
        _write_journal(repository, replace(journal, phase="applied", pid=0, start=""))
        recover(repository)
        raise MergeRefused("the merge was interrupted; everything is as it was before")
    _journal_path(repository).unlink()


def recover(repository: Repository) -> list[str]:
    """Undo what a killed merge left in the work tree; what was done, in words.

    Only the paths in the journal are restored; a file that is neither the old nor the new version
    nor our bytes is copied to ``.git/gitmerge-eval/rescue`` first. Raises MergeRefused while the
    other merge still runs.
    """
    sweep(repository)
    path = _journal_path(repository)
    if not path.exists():
        return []
    journal = _Journal(**json.loads(path.read_text()))
    if journal.pid != os.getpid() and journal.owner.alive:
        raise MergeRefused(f"another merge is running in this work tree (process {journal.pid})")
    taken_over = (
        repository.path("MERGE_HEAD").exists()
        or repository.path("SQUASH_MSG").exists()
        or repository.text("rev-parse", "HEAD") != journal.head
    )
    other_index = journal.phase == "applied" and (
        repository.run("write-tree", check=False).text != journal.tree
    )
    if taken_over or other_index:
        path.unlink()
        return []
    said = [f"undid an interrupted merge (process {journal.pid})"] if journal.pid else []
    if journal.phase == "applied":
        repository.run("read-tree", "HEAD")
    said += _restore_files(repository, journal)
    repository.run("update-index", "-q", "--refresh", check=False)
    path.unlink()
    return said


def _check_unmoved(repository: Repository, landing: Landing) -> None:
    if repository.text("rev-parse", "HEAD") != landing.head:
        raise MergeRefused("HEAD moved while the merge was computed; run the merge again")
    if not repository.succeeds("diff-index", "--cached", "--quiet", "HEAD", "--"):
        raise MergeRefused("something was staged while the merge was computed; run the merge again")


def _check_nothing_in_the_way(
    repository: Repository, landing: Landing, environment: Mapping[str, str]
) -> None:
    known = entries(repository, landing.head)
    for path in landing.prepared:
        if (
            path not in known
            and path not in landing.skipped
            and os.path.lexists(_at(repository, path))
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
    trial = repository.run(
        *("read-tree", "-n", "-m", "-u", landing.head, landing.ordinary_tree),
        environment=environment,
        check=False,
    )
    if trial.status:
        raise MergeRefused(f"local files would be overwritten by the merge:\n{trial.stderr}")


def _journal_for(repository: Repository, landing: Landing) -> _Journal:
    fields = repository.run(
        "diff-tree", "-r", "-z", "--name-status", "--no-renames", landing.head, landing.tree
    ).fields
    changes = list(zip(fields[0::2], fields[1::2], strict=True))
    own = this()
    return _Journal(
        phase="applying",
        pid=own.pid,
        start=own.start,
        head=landing.head,
        tree=landing.tree,
        added=[path for status, path in changes if status == "A"],
        changed=[path for status, path in changes if status != "A"],
        written={path: _sha256(file.content) for path, file in landing.prepared.items()},
    )


def _apply(
    repository: Repository, landing: Landing, environment: Mapping[str, str], scratch: Path
) -> None:
    repository.run(
        "read-tree", "-m", "-u", landing.head, landing.ordinary_tree, environment=environment
    )
    answers = scratch / "cleaned.json"
    answers.write_text(
        json.dumps({path: str(file.metadata) for path, file in landing.prepared.items()})
    )
    known = entries(repository, landing.head)
    placed = []
    for path, file in landing.prepared.items():
        if path not in landing.skipped:
            _place(repository, path, file)
            placed.append(path)
    if placed:
        # Index entries with real stat data: neither this nor the next `git status` reads a tensor.
        repository.run(
            *("update-index", "--add", "-z", "--stdin"),
            stdin="\0".join(placed),
            environment={**environment, CLEANED: str(answers)},
        )
    for path in sorted(landing.removed & set(known)):
        _at(repository, path).unlink(missing_ok=True)
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


def _place(repository: Repository, path: str, file: PreparedFile) -> None:
    target = _at(repository, path)
    target.parent.mkdir(parents=True, exist_ok=True)
    content = file.content
    if not same_file_system(content.parent, target.parent):
        content = target.with_name(f".{target.name}.gitmerge-eval")
        shutil.copyfile(file.content, content)
    content.chmod(0o755 if file.entry.mode == "100755" else 0o644)
    # Git re-reads a file that is as young as the index; two seconds make it older.
    past = time.time() - 2
    os.utime(content, (past, past))
    content.replace(target)


def _swap_index(repository: Repository, index: Path, copy: Path, before: bytes) -> None:
    lock = index.with_name("index.lock")
    try:
        os.close(os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except FileExistsError:
        raise MergeRefused(
            f"'{lock}' exists: another git process is running, or one was killed; remove the file "
            "if none runs"
        ) from None
    if repository.run("ls-files", "-s", "-z").stdout != before:
        lock.unlink()
        raise MergeRefused("the index changed while the merge was computed; run the merge again")
    copy.replace(lock)
    lock.replace(index)


@contextmanager
def _undone_on_failure(repository: Repository, journal: _Journal) -> Iterator[None]:
    try:
        yield
    except BaseException:
        if _journal_path(repository).exists():
            _write_journal(repository, replace(journal, phase="failed", pid=0, start=""))
            recover(repository)
        raise


def _restore_files(repository: Repository, journal: _Journal) -> list[str]:
    new, old = entries(repository, journal.tree), entries(repository, journal.head)
    said, restored = [], []
    for path in journal.added + journal.changed:
        file = _at(repository, path)
        if (
            os.path.lexists(file)
            and not file.is_symlink()
            and not _is_ours(repository, path, [new.get(path), old.get(path)], journal)
        ):
            rescue = state_directory(repository) / "rescue" / path.replace("/", "%")
            rescue.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, rescue)
            said.append(f"kept a copy of '{path}' in '{rescue}'")
        if path in old:
            restored.append(path)
        elif os.path.lexists(file):
            file.unlink()
    if restored:
        repository.run("checkout-index", "-f", "-z", "--stdin", stdin="\0".join(restored))
    return said


def _is_ours(
    repository: Repository, path: str, versions: Sequence[Entry | None], journal: _Journal
) -> bool:
    file = _at(repository, path)
    if path in journal.written and _sha256(file) == journal.written[path]:
        return True
    found = repository.run("hash-object", f"--path={path}", "--", str(file), check=False)
    return found.text in {entry.object_id for entry in versions if entry}


def _journal_path(repository: Repository) -> Path:
    return state_directory(repository) / "journal"


def _write_journal(repository: Repository, journal: _Journal) -> None:
    path = _journal_path(repository)
    new = path.with_suffix(".new")
    with new.open("w") as file:
        json.dump(asdict(journal), file)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def _at(repository: Repository, path: str) -> Path:
    return repository.directory / path


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()
