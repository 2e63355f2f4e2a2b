"""A range of history: each commit with its trailers, and what it changed against its parents."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from gitmerge_eval.errors import GitError, UsageError
from gitmerge_eval.git.repository import Repository
from gitmerge_eval.git.trailers import KEYS, MergeTrailers, pairs_of

NOT_OURS = ("--exclude=refs/notes/*", "--exclude=refs/stash")
"""Refs that are no branch's history: commits of notes, and the stash's merges of a work tree."""
_PARENTS = re.compile(r"\^(!|@|-\d*)$")
_ID = re.compile(r"\^?(?:[0-9a-f]{64}|[0-9a-f]{40})")


@dataclass(frozen=True)
class Change:
    """A file that a commit has otherwise than every one of its parents."""

    old: tuple[str, ...]
    """Its blob in each parent, zeros where there is none; of a root commit one of zeros."""
    new: str
    """Its blob in the commit, zeros where it was removed."""
    is_file: bool
    """Whether it is a regular file there: no filter is run for a symbolic link."""


@dataclass(frozen=True)
class RecordedCommit:
    """A commit, and what can be said of it without its files."""

    commit: str
    tree: str
    parents: tuple[str, ...]
    subject: str
    trailers: tuple[tuple[str, str], ...]
    changes: Mapping[str, Change] = field(default_factory=dict)
    """path -> what was changed; of a merge only what differs from all parents."""

    @property
    def is_merge(self) -> bool:
        """Whether it has several parents."""
        return len(self.parents) > 1

    @cached_property
    def record(self) -> MergeTrailers | None:
        """What its trailers say of a merge of models, if they do."""
        return MergeTrailers.of(list(self.trailers))

    @property
    def is_torn(self) -> bool:
        """Whether it has trailers of ours that make no record."""
        ours = {key.lower() for key in KEYS}
        return self.record is None and any(key.lower() in ours for key, _ in self.trailers)


def is_range(revision: str) -> bool:
    """Whether a revision names several commits, as ``git log`` would be told.

    >>> [is_range(word) for word in ("main..HEAD", "^main", "HEAD^!", "HEAD^", "v1.0")]
    [True, True, True, False, False]
    """
    return (
        ".." in revision or revision.startswith("^") or bool(re.search(r"\^(!|@|-\d*)$", revision))
    )


def arguments(repository: Repository, words: Sequence[str]) -> list[str]:
    """Commit ids for ``git rev-list``, those that are left out with '^', of revisions and ranges.

    An id of zeros, which a forge gives as the old end of a new branch, stands for nothing. Raises
    GitError for what is not in this repository.
    """
    found = []
    for word in words:
        if word.startswith("-"):
            raise UsageError(f"'{word}' is not a range of commits; write it as main..HEAD")
        old, dots, new = word.partition("..")
        wanted = new if dots and set(old) == {"0"} else word
        ids = repository.run("rev-parse", "--quiet", wanted, check=False).text.splitlines()
        try:
            found += [
                "^" * one.startswith("^") + repository.commit(one.removeprefix("^"))
                for one in ids
                if _ID.fullmatch(one)
            ]
        except GitError:
            ids = []
        if not ids or not all(map(_ID.fullmatch, ids)):
            raise GitError(
                f"'{word}' is not a range of commits in this repository; fetch what is missing, or "
                "write it as main..HEAD"
            )
    return found


def pushed(repository: Repository, lines: Iterable[str]) -> list[str]:
    """Arguments for ``git rev-list``: what a push brings and no ref has yet.

    ``lines`` are those of a pre-receive hook, ``<old> <new> <ref>``; a ref that is removed, and a
    tag of something that is no commit, bring nothing. UsageError for other lines.
    """
    tips = []
    for line in lines:
        fields = line.split(None, 2)
        if len(fields) != 3 or not all(_ID.fullmatch(one) for one in fields[:2]):
            raise UsageError(
                f"'{line.rstrip()}' is no line of a pre-receive hook, '<old> <new> <ref>'; give "
                "the hook's standard input to --pushed"
            )
        if set(fields[1]) == {"0"}:
            continue
        wanted = f"{fields[1]}^{{commit}}"
        tip = repository.run("rev-parse", "--verify", "--quiet", wanted, check=False)
        if tip.status == 0:
            tips.append(tip.text)
    return [*tips, "--not", "--all"] if tips else []


def commits(repository: Repository, revisions: Sequence[str]) -> list[RecordedCommit]:
    """The commits that ``git rev-list revisions`` lists, oldest first; two processes for all."""
    listing = repository.run(
        *("log", "-z", "--reverse", "--topo-order", "--no-show-signature", "--encoding=UTF-8"),
        "--format=%H%n%T%n%P%n%s%n%(trailers:only=true,unfold=true)",
        *(*revisions, "--"),
    ).fields
    parts = [entry.split("\n", 4) for entry in listing]
    changes = _changes(repository, [part[0] for part in parts])
    return [
        RecordedCommit(
            commit,
            tree,
            tuple(parents.split()),
            subject,
            tuple(pairs_of(trailers.split("\n"))),
            changes.get(commit, {}),
        )
        for commit, tree, parents, subject, trailers in parts
    ]


def _changes(repository: Repository, wanted: Sequence[str]) -> dict[str, dict[str, Change]]:
    """commit -> its changes; a merge's are those of Git's combined diff."""
    listing = repository.run(
        *("diff-tree", "--stdin", "-c", "-r", "-z", "--root", "--raw", "--no-renames"),
        "--no-abbrev",
        stdin="".join(f"{commit}\n" for commit in wanted),
    ).fields
    found: dict[str, dict[str, Change]] = {}
    fields = iter(listing)
    commit = ""
    for one in fields:
        if not one.startswith(":"):
            commit = one
            found[commit] = {}
            continue
        parents = len(one) - len(one.lstrip(":"))
        words = one[parents:].split()
        modes, blobs = words[: parents + 1], words[parents + 1 : 2 * parents + 2]
        found[commit][next(fields)] = Change(
            tuple(blobs[:-1]), blobs[-1], modes[-1].startswith("100")
        )
    return found


def true_parents(repository: Repository, commit: str) -> int:
    """How many parents a commit names, whether a shallow clone has them or not."""
    header = repository.run("cat-file", "commit", commit).stdout.partition(b"\n\n")[0]
    return sum(line.startswith(b"parent ") for line in header.split(b"\n"))


def ends_of_history(repository: Repository) -> set[str]:
    """The commits of a shallow clone whose parents are not here."""
    try:
        return set(os.fsdecode(repository.path("shallow").read_bytes()).split())
    except FileNotFoundError:
        return set()
