"""Sending the tensors of pushed checkpoints ahead of the commits that name them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gitmerge_eval.errors import MalformedCheckpoint
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
    blobs = metadata_blobs(repository, remote, pushed)
    if not blobs:
        return 0
    objects = lfs_objects(repository, blobs)
    if objects:
        from gitmerge_eval.checkpoints.lfs import ObjectStore

        ObjectStore(repository).push(remote, sorted(objects))
    return len(objects)


def metadata_blobs(repository: Repository, remote: str, pushed: Sequence[Update]) -> list[str]:
    """The blobs of checkpoint paths in the commits that ``remote`` does not have."""
    tips = list(dict.fromkeys(update.local for update in pushed))
    known = [
        update.remote
        for update in pushed
        if set(update.remote) != {"0"} and repository.succeeds("cat-file", "-e", update.remote)
    ]
    revisions = [*tips, "--not", *known]
    if remote in repository.text("remote").splitlines():
        revisions.append(f"--remotes={remote}")
    listing = repository.run("rev-list", "--objects", "--stdin", stdin="\n".join(revisions) + "\n")
    named: dict[str, set[str]] = {}
    for line in os.fsdecode(listing.stdout).splitlines():
        blob, _, path = line.partition(" ")
        if path:
            named.setdefault(path, set()).add(blob)
    models = _checkpoint_paths(repository, tips, list(named))
    return sorted({blob for path in models for blob in named[path]})


def _checkpoint_paths(repository: Repository, tips: Sequence[str], paths: list[str]) -> set[str]:
    """The paths with ``filter=theta`` by the attributes of any of the tips."""
    found: set[str] = set()
    if not paths:
        return found
    with tempfile.TemporaryDirectory() as folder:
        for tip in tips:
            index = str(Path(folder) / "index")
            repository.run("read-tree", tip, environment={"GIT_INDEX_FILE": index})
            filters = repository.attribute("filter", paths, index=index)
            found |= {path for path, value in filters.items() if value == "theta"}
    return found


def lfs_objects(repository: Repository, blobs: Iterable[str]) -> set[str]:
    """The LFS object ids that these blobs' metadata names; what is no metadata names none."""
    from gitmerge_eval.checkpoints.metadata import Metadata

    objects: set[str] = set()
    for content in _contents(repository, list(blobs)):
        try:
            metadata = Metadata.parse(content)
        except MalformedCheckpoint:
            continue
        objects |= {group.object_id for group in metadata.groups.values()}
    return objects


def _contents(repository: Repository, blobs: list[str]) -> Iterator[bytes]:
    """The bytes of the blobs among these ids that may be metadata."""
    sizes = repository.run(
        "cat-file", "--batch-check=%(objectname) %(objecttype) %(objectsize)",
        stdin="\n".join(blobs) + "\n",
    )  # fmt: skip
    for line in sizes.text.splitlines():
        identity, kind, size = line.split(" ", 2)
        if kind == "blob" and int(size) <= LARGEST_METADATA_BYTES:
            yield repository.blob(identity)
