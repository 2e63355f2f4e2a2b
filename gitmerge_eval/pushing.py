"""Sending the tensors of pushed checkpoints ahead of the commits that name them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gitmerge_eval.errors import MalformedCheckpoint
from gitmerge_eval.git.note_exchange import remote_of
from gitmerge_eval.git.repository import Repository

LARGEST_METADATA_BYTES = 256 * 2**20
"""A blob beyond this is no metadata (600 bytes a group), but a checkpoint committed unfiltered."""


@dataclass(frozen=True)
class Update:
    """A ref that a push changes: the commit that it gets, and the one that the remote has."""

    local: str
    remote: str


def updates(lines: Iterable[str]) -> list[Update]:
    """What Git tells a pre-push hook, ``<local ref> <id> <remote ref> <id>`` a line; deletions
    carry nothing and are left out."""
    found = []
    for line in lines:
        fields = line.rsplit(" ", 3)
        if len(fields) == 4 and set(fields[1]) != {"0"}:
            found.append(Update(fields[1], fields[3]))
    return found


def push_objects(repository: Repository, remote: str, pushed: Sequence[Update]) -> int:
    """Send every tensor that the pushed commits' checkpoints name and ``remote`` may lack.

    Returns the number of LFS objects handed to git-lfs, which asks the remote for each and sends
    what is missing there. Raises MissingObject or GitError where that fails.
    """
    if not pushed:
        return 0
    listing = _new(repository, remote, pushed)
    if not listing.models:
        return 0
    objects = lfs_objects(repository, listing.blobs)
    if not objects:
        return 0
    from gitmerge_eval.checkpoints.lfs import ObjectStore

    store = ObjectStore(repository)
    missing = set(store.missing(objects))
    if missing:
        # git-lfs stops at what is not here, though nobody asks for what the remote has.
        objects -= missing & lfs_objects(repository, _boundary_blobs(repository, listing))
    if objects:
        store.push(_destination(repository, remote), sorted(objects))
    return len(objects)


@dataclass(frozen=True)
class Sent:
    """What was handed to git-lfs, which sends what the remote lacks."""

    remote: str
    tensors: int
    missing: int
    """Those that this clone does not have itself."""


def push_every_tensor(repository: Repository, remote: str) -> Sent:
    """Offer ``remote`` the tensors of every commit of this clone's branches and tags.

    For what a hook could not send: a push with ``--no-verify`` leaves commits on the remote, of
    which no later push looks at the tensors again. Raises UnknownName or UsageError for a remote
    that is not there and GitError where it cannot be reached.
    """
    name = remote_of(repository, remote)
    refs = ("for-each-ref", "--format=%(objectname)", "refs/heads", "refs/tags")
    tips = list(dict.fromkeys(repository.text(*refs).splitlines()))
    objects = lfs_objects(repository, _reachable(repository, tips).blobs) if tips else set()
    if not objects:
        return Sent(name, 0, 0)
    from gitmerge_eval.checkpoints.lfs import ObjectStore

    store = ObjectStore(repository)
    missing = set(store.missing(objects))
    if here := sorted(objects - missing):
        store.push(_destination(repository, name), here)
    return Sent(name, len(here), len(missing))


def _destination(repository: Repository, remote: str) -> str:
    """The remote as git-lfs understands it, which takes a bare path for an address."""
    path = (repository.directory / remote).absolute()
    named = remote in repository.text("remote").splitlines()
    return remote if named or not path.exists() else path.as_uri()


@dataclass(frozen=True)
class _Listing:
    """What a push brings: revisions as for rev-list, checkpoint paths, and their blobs."""

    revisions: tuple[str, ...]
    models: frozenset[str]
    blobs: tuple[str, ...]


def metadata_blobs(repository: Repository, remote: str, pushed: Sequence[Update]) -> list[str]:
    """The blobs of checkpoint paths in the commits that ``remote`` does not have."""
    return list(_new(repository, remote, pushed).blobs)


def _new(repository: Repository, remote: str, pushed: Sequence[Update]) -> _Listing:
    tips = list(dict.fromkeys(update.local for update in pushed))
    has = [
        update.remote
        for update in pushed
        if set(update.remote) != {"0"} and repository.succeeds("cat-file", "-e", update.remote)
    ]
    if remote in repository.text("remote").splitlines():
        has += repository.text(
            "for-each-ref", "--format=%(objectname)", f"refs/remotes/{remote}/"
        ).splitlines()
    return _reachable(repository, tips, has)


def _reachable(repository: Repository, tips: Sequence[str], has: Sequence[str] = ()) -> _Listing:
    """What ``tips`` reach, and ``has`` does not."""
    # Not '--not' and '--remotes': options are read from standard input since Git 2.42 only.
    revisions = (*tips, *(f"^{commit}" for commit in has))
    listing = repository.run("rev-list", "--objects", "--stdin", stdin=_lines(revisions))
    named: dict[str, set[str]] = {}
    for line in os.fsdecode(listing.stdout).splitlines():
        blob, _, path = line.partition(" ")
        if path:
            named.setdefault(path, set()).add(blob)
    models = _checkpoint_paths(repository, tips, list(named))
    blobs = {blob for path in models for blob in named[path]}
    return _Listing(revisions, frozenset(models), tuple(sorted(blobs)))


def _boundary_blobs(repository: Repository, listing: _Listing) -> list[str]:
    """The checkpoints' blobs in the commits that the remote has and the push builds upon."""
    commits = repository.run("rev-list", "--boundary", "--stdin", stdin=_lines(listing.revisions))
    boundary = [line[1:] for line in commits.text.splitlines() if line.startswith("-")]
    blobs = (repository.blob_id(commit, path) for commit in boundary for path in listing.models)
    return [blob for blob in blobs if blob is not None]


def _lines(revisions: Iterable[str]) -> str:
    return "".join(f"{revision}\n" for revision in revisions)


def _checkpoint_paths(repository: Repository, tips: Sequence[str], paths: list[str]) -> set[str]:
    """The paths with ``filter=theta`` by the attributes of any of the tips."""
    found: set[str] = set()
    if not paths:
        return found
    with tempfile.TemporaryDirectory() as folder:
        for tip in tips:
            index = str(Path(folder) / "index")
            if not repository.succeeds(
                "read-tree", f"{tip}^{{tree}}", environment={"GIT_INDEX_FILE": index}
            ):
                continue  # a tag on something that is no commit
            filters = repository.attribute("filter", paths, index=index)
            found |= {path for path, value in filters.items() if value == "theta"}
    return found


def lfs_objects(repository: Repository, blobs: Sequence[str]) -> set[str]:
    """The LFS object ids that these blobs' metadata names; what is no metadata names none."""
    from gitmerge_eval.checkpoints.metadata import Metadata

    objects: set[str] = set()
    if not blobs:
        return objects
    for content in _contents(repository, blobs):
        try:
            metadata = Metadata.parse(content)
        except MalformedCheckpoint:
            continue
        objects |= {group.object_id for group in metadata.groups.values()}
    return objects


def _contents(repository: Repository, blobs: Sequence[str]) -> Iterator[bytes]:
    """The bytes of the blobs among these ids that may be metadata."""
    sizes = repository.run(
        "cat-file", "--batch-check=%(objectname) %(objecttype) %(objectsize)",
        stdin=_lines(blobs),
    )  # fmt: skip
    for line in sizes.text.splitlines():
        identity, kind, size = line.split(" ", 2)
        if kind == "blob" and int(size) <= LARGEST_METADATA_BYTES:
            yield repository.blob(identity)
