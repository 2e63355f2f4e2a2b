"""Removes the LFS objects that nothing names, and what caches need not keep.

An object is named where its id stands in any blob that the repository knows: metadata of a
checkpoint or a pointer of git-lfs', committed, staged, stashed or under way; the path, and the
attributes that once made it a checkpoint, do not matter. See :mod:`gitmerge_eval.git.reachable`.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from gitmerge_eval.checkpoints.group_cache import cache_path, open_cache
from gitmerge_eval.checkpoints.lfs import ObjectStore
from gitmerge_eval.errors import PruningRefused
from gitmerge_eval.evaluation import leftovers
from gitmerge_eval.evaluation.leftovers import Leftover
from gitmerge_eval.git import scratch
from gitmerge_eval.git.reachable import (
    EVERYTHING,
    check_complete,
    existing,
    further_roots,
    git_directories,
    pieces,
)
from gitmerge_eval.git.repository import Repository
from gitmerge_eval.pushing import LARGEST_METADATA_BYTES

GRACE_DAYS = 14.0
"""As Git's own gc.pruneExpire."""
CACHE_DAYS = 14.0
_DAY_SECONDS = 86_400.0
_CLOCK_SECONDS = 1.0
"""File systems take their time from a coarser clock than ours."""
_TEMPORARY_SECONDS = 3600.0
"""A temporary file older than this belongs to no running command."""
_ASIDE = "gitmerge-eval-gc-"
_OBJECT = re.compile(rb"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
_UPDATED_COMMIT = re.compile(rb'"last_commit": "([0-9a-f]{40,64})"')


@dataclass(frozen=True)
class StoredObject:
    """An object of the local LFS store."""

    object_id: str
    size: int
    """Bytes."""
    modified: float
    """When it was written, or last counted as written: seconds since 1970."""


@dataclass(frozen=True)
class Pruned:
    """What was removed, or would be."""

    dry_run: bool
    removed: tuple[StoredObject, ...]
    young: tuple[StoredObject, ...]
    """Named by nothing, and younger than the grace period."""
    cached: tuple[StoredObject, ...]
    """Named by the cache of merged groups alone."""
    named: tuple[StoredObject, ...]
    cache_entries: int
    """Entries removed from the cache."""
    temporary: tuple[str, ...]
    """Files and folders that killed commands left."""
    evaluated: tuple[Leftover, ...] = ()
    """What evaluations had kept for figures and sheets that nothing refers to."""
    notices: tuple[str, ...] = ()


def prune(
    repository: Repository,
    *,
    older_than_days: float = GRACE_DAYS,
    cache_days: float = CACHE_DAYS,
    dry_run: bool = False,
) -> Pruned:
    """Remove every object that nothing names and that is older than ``older_than_days``.

    Groups that no merge has used for ``cache_days`` leave the cache first, and what evaluations
    kept goes by :func:`gitmerge_eval.evaluation.leftovers.remove`. Safe beside running
    commands: whatever is written, or named again, after the start is young. Raises PruningRefused
    where others may name objects that lie here, while a merge runs, or beside another gc;
    GitError where the history cannot be read whole.
    """
    store = ObjectStore(repository)
    _check_ours(repository, store)
    with _locked(repository, dry_run):
        _check_idle(repository)
        if not dry_run:
            _put_back(store)
        now = time.time()
        cutoff = now - older_than_days * _DAY_SECONDS - _CLOCK_SECONDS
        stored = {found.object_id: found for found in _stored(store)}
        named = _named(repository, stored.keys(), cutoff)
        entries, cached, notices = _prune_cache(
            repository, now - cache_days * _DAY_SECONDS, stored, dry_run
        )
        unnamed = [found for oid, found in stored.items() if oid not in named | cached]
        garbage = [found for found in unnamed if found.modified < cutoff]
        removed = garbage if dry_run else [o for o in garbage if _remove(store, o, cutoff)]
        gone = {found.object_id for found in removed}
        if not dry_run:
            store.forget(gone)
        evaluated, said = leftovers.remove(repository, cutoff, dry_run=dry_run)
        return Pruned(
            dry_run=dry_run,
            removed=tuple(removed),
            young=tuple(found for found in unnamed if found.object_id not in gone),
            cached=tuple(stored[oid] for oid in sorted(cached - named)),
            named=tuple(stored[oid] for oid in sorted(named)),
            cache_entries=entries,
            temporary=tuple(_sweep(repository, store, now, dry_run)),
            evaluated=evaluated,
            notices=(*notices, *said),
        )


def _check_ours(repository: Repository, store: ObjectStore) -> None:
    if repository.setting("extensions.preciousObjects") == "true":
        raise PruningRefused(
            "extensions.preciousObjects says that no object of this repository may be removed, "
            "because others use them"
        )
    objects = (store.folder / "objects").resolve()
    if repository.common_directory not in objects.parents:
        raise PruningRefused(
            f"the LFS store '{objects}' lies outside this repository (lfs.storage), so that other "
            "repositories may use it; what they name cannot be known here, so nothing was removed"
        )


@contextmanager
def _locked(repository: Repository, dry_run: bool) -> Iterator[None]:
    if dry_run:
        yield
        return
    path = repository.common_directory / "gitmerge-eval" / "gc.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PruningRefused("another 'gitmerge-eval gc' is running here") from None
        yield


def _check_idle(repository: Repository) -> None:
    for directory in git_directories(repository):
        for _, owner in scratch.runs(directory / "gitmerge-eval"):
            if owner.alive and owner.pid != os.getpid():
                raise PruningRefused(
                    f"a merge is being computed here (process {owner.pid}); run gc after it"
                )


def _stored(store: ObjectStore) -> Iterator[StoredObject]:
    for path in (store.folder / "objects").glob("[0-9a-f][0-9a-f]/[0-9a-f][0-9a-f]/*"):
        if _OBJECT.fullmatch(os.fsencode(path.name)):
            with suppress(FileNotFoundError):
                status = path.stat()
                yield StoredObject(path.name, status.st_size, status.st_mtime)


def _named(repository: Repository, known: Iterable[str], cutoff: float) -> set[str]:
    """Those of ``known`` that any Git object names; what git-theta's updates build on included."""
    waiting = {object_id.encode() for object_id in known}
    named: set[bytes] = set()
    commits: set[bytes] = set()

    def scan(blobs: Iterator[bytes]) -> None:
        for piece in blobs:
            if b"oid" in piece:
                named.update(waiting.intersection(_OBJECT.findall(piece)))
                commits.update(_UPDATED_COMMIT.findall(piece))

    limit = LARGEST_METADATA_BYTES
    check_complete(repository)
    scan(pieces(repository, EVERYTHING, largest_bytes=limit))
    rest = ("--not", *EVERYTHING)
    scan(pieces(repository, rest, further_roots(repository, cutoff), largest_bytes=limit))
    followed: set[bytes] = set()
    while new := commits - followed:
        # An update is applied to the value that an earlier commit has, perhaps a rebased one's.
        followed |= new
        roots = existing(repository, (commit.decode() for commit in new))
        scan(pieces(repository, rest, roots, largest_bytes=limit))
    return {object_id.decode() for object_id in named}


def _prune_cache(
    repository: Repository, before: float, stored: dict[str, StoredObject], dry_run: bool
) -> tuple[int, set[str], list[str]]:
    """How many entries went, the objects that the others name, and what the cache has to say."""
    if not cache_path(repository).exists():
        return 0, set(), []

    def present(object_id: str, size: int) -> bool:
        return object_id in stored and stored[object_id].size == size

    with open_cache(repository) as cache:
        stale = set(cache.stale(before, present))
        kept = cache.object_ids(without=stale) & stored.keys()
        if not dry_run:
            cache.forget(stale)
        return len(stale), kept, cache.notices


def _remove(store: ObjectStore, found: StoredObject, cutoff: float) -> bool:
    """Remove one object unless it has become young; moved away first, so that whoever names it
    again at this moment either makes it young in time or finds it gone and writes it anew."""
    path = store.path(found.object_id)
    aside = store.folder / "tmp" / f"{_ASIDE}{found.object_id}"
    try:
        if path.stat().st_mtime >= cutoff:
            return False
        aside.parent.mkdir(exist_ok=True)
        path.rename(aside)
    except FileNotFoundError:
        return False
    if aside.stat().st_mtime >= cutoff:
        aside.rename(path)
        return False
    aside.unlink()
    return True


def _put_back(store: ObjectStore) -> None:
    """Undo what a gc that was killed had moved away; whether it is garbage is asked again."""
    for file in (store.folder / "tmp").glob(f"{_ASIDE}*"):
        target = store.path(file.name.removeprefix(_ASIDE))
        if target.exists():
            file.unlink()
        else:
            file.rename(target)


def _sweep(repository: Repository, store: ObjectStore, now: float, dry_run: bool) -> Iterator[str]:
    """Remove what killed commands left behind, and name it."""
    for file in (store.folder / "tmp").glob("gitmerge-eval-*"):
        with suppress(FileNotFoundError):
            if file.stat().st_mtime < now - _TEMPORARY_SECONDS:
                if not dry_run:
                    file.unlink()
                yield str(file)
    for directory in git_directories(repository):
        for folder, owner in scratch.runs(directory / "gitmerge-eval"):
            if not owner.alive:
                if not dry_run:
                    shutil.rmtree(folder, ignore_errors=True)
                yield str(folder)
