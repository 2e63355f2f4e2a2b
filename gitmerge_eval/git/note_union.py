"""The notes of two clones made one, so that nothing that either has written is lost.

Git's own ``notes merge`` brings the two histories together and decides for every note that only one
side has changed. A note that both have changed it would only sort by lines, its table included;
that one is put together here, record by record against the version that both go back to.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gitmerge_eval.errors import GitError
from gitmerge_eval.git import notes
from gitmerge_eval.git.repository import FULL_ID, NULL_ID, Repository

SCRATCH = "refs/notes/uniting/"
"""Where a union is put together, a ref for each process; nothing shows these refs."""


Records = Sequence[dict[str, Any]]
Table = Callable[[Records], str]
"""What people read of records: the upper part of their note."""


@dataclass(frozen=True)
class Union:
    """What a union did, in numbers of notes."""

    received: int = 0
    """Notes that are new to this clone, or newer than its own."""
    united: int = 0
    """Of those, the ones that both sides had written."""


def apart(repository: Repository) -> list[str]:
    """The refs of fetched notes that hold something which this clone's notes do not have."""
    own = repository.run("rev-parse", "--verify", "--quiet", notes.REF, check=False).text
    unmerged = [f"--no-merged={own}"] if own else []
    pattern = f"refs/notes/*/{notes.NAME}"
    return repository.text("for-each-ref", "--format=%(refname)", *unmerged, pattern).split()


def unite(repository: Repository, theirs: str, table: Table) -> Union:
    """Bring the notes of the commit or ref ``theirs`` into this clone's.

    Safe beside any other writer of notes: those that go through :mod:`notes` wait, and where
    anybody else has moved the ref meanwhile it is done anew. Raises GitError, with this clone's
    notes as they were, where ``theirs`` are no notes or Git cannot write.
    """
    their = repository.commit(theirs)
    if repository.succeeds("merge-base", "--is-ancestor", their, notes.REF):
        return Union()
    with notes.lock(repository):
        for stale in repository.text("for-each-ref", "--format=%(refname)", SCRATCH).split():
            if stale.removeprefix(SCRATCH).isdecimal():
                repository.run("update-ref", "-d", stale)  # its process was killed under the lock
        for _ in range(3):
            ours = tip(repository, notes.REF)
            scratch = f"{SCRATCH}{os.getpid()}"
            try:
                union = _united_in(repository, scratch, ours, their, table)
                result = repository.text("rev-parse", scratch)
                said = f"notes: united with {theirs}"
                if repository.succeeds(
                    "update-ref", "-m", said, notes.REF, result, ours or NULL_ID
                ):
                    return union
            finally:
                repository.run("update-ref", "-d", scratch, check=False)
    raise GitError(
        f"'{notes.REF}' changes all the time, so that nothing can be united with it; wait until "
        "whatever writes it has ended, and repeat the command"
    )


def newer(repository: Repository, ours: str | None, theirs: str | None) -> int:
    """How many notes of the commit ``ours`` are not in ``theirs`` as they are here."""
    here, there = (_listed(repository, one) if one else {} for one in (ours, theirs))
    return sum(there.get(one) != blob for one, blob in here.items())


def foreseen(repository: Repository, theirs: str | None) -> Union:
    """What :func:`unite` would do."""
    ours = tip(repository, notes.REF)
    if theirs is None:
        return Union()
    sides = _Sides.of(repository, ours, theirs)
    return Union(len(sides.changed_there), len(sides.changed_by_both))


def records_of(
    repository: Repository, commit: str, fetched: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """The records of a commit's note, those included that were fetched and are not united yet.

    ``fetched`` is what :func:`apart` says, for who asks of many commits. Raises GitError for an
    unknown commit.
    """
    identity = repository.commit(commit)
    text = notes.read(repository, identity) or ""
    for ref in apart(repository) if fetched is None else fetched:
        base = _base(repository, tip(repository, notes.REF), ref)
        theirs, common = (_note(repository, one, identity) for one in (ref, base))
        text = united_text(text, theirs, common, lambda records: "")
    return notes.records(text)


def tip(repository: Repository, ref: str) -> str | None:
    """The commit that a ref points to, or None where there is no such ref."""
    found = repository.run("rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}", check=False)
    return found.text or None


def united_text(ours: str, theirs: str, base: str, table: Table) -> str:
    """One note of two that go back to ``base``: a new table, the records of both, and what else
    people have written into either.

    A line of ``base`` that one side no longer has was replaced there, and is left out. What stands
    in a table that the records give is no text of its own.
    """
    versions = [ours.split("\n"), theirs.split("\n")]
    before = base.split("\n")
    gone = {line for version in versions for line in before if line not in version}
    lines = [line for line in dict.fromkeys(versions[0] + versions[1]) if line not in gone]
    # Sorted, so that two clones make the same note of it.
    records = sorted((line for line in lines if notes.record(line) is not None), key=_place)
    drawn = {
        line
        for version in (ours, theirs, base)
        for line in _table(version, table).split("\n")
    }  # fmt: skip
    said = [line for line in lines if line.strip() and line not in records and line not in drawn]
    parts = [_table("\n".join(records), table).strip("\n"), *said]
    return "\n".join([*filter(None, parts), "", *records, ""])


def _place(line: str) -> tuple[object, ...]:
    return (notes.key(notes.record(line) or {}), line)


def _table(text: str, table: Table) -> str:
    return table(notes.records(text))


def _united_in(
    repository: Repository, scratch: str, ours: str | None, theirs: str, table: Table
) -> Union:
    """Make ``scratch`` the union of the two."""
    sides = _Sides.of(repository, ours, theirs)
    repository.run("update-ref", scratch, ours or theirs)
    if ours:
        repository.run(
            "notes", f"--ref={scratch}", "merge", "--quiet", "--strategy=cat_sort_uniq", theirs,
            environment=notes.own_index(repository),
        )  # fmt: skip
    for one in sides.changed_by_both:
        notes.put(repository, scratch, one, united_text(*sides.texts(repository, one), table))
    return Union(len(sides.changed_there), len(sides.changed_by_both))


@dataclass(frozen=True)
class _Sides:
    """Three versions of all notes: annotated object -> blob."""

    ours: dict[str, str]
    theirs: dict[str, str]
    base: dict[str, str]

    @classmethod
    def of(cls, repository: Repository, ours: str | None, theirs: str) -> _Sides:
        base = _base(repository, ours, theirs)
        commits = (ours, theirs, base)
        return cls(*(_listed(repository, one) if one else {} for one in commits))

    @property
    def changed_there(self) -> list[str]:
        """What they have written, and we do not have."""
        return [
            one
            for one, blob in self.theirs.items()
            if blob not in (self.ours.get(one), self.base.get(one))
        ]

    @property
    def changed_by_both(self) -> list[str]:
        return [
            one
            for one in self.changed_there
            if one in self.ours and self.ours[one] != self.base.get(one)
        ]

    def texts(self, repository: Repository, one: str) -> tuple[str, str, str]:
        ours, theirs, base = (
            _text(repository, side.get(one)) for side in (self.ours, self.theirs, self.base)
        )
        return ours, theirs, base


def _base(repository: Repository, ours: str | None, theirs: str) -> str | None:
    """The notes that both go back to, if there are such."""
    if ours is None:
        return None
    return repository.run("merge-base", ours, theirs, check=False).text or None


def _listed(repository: Repository, notes_commit: str) -> dict[str, str]:
    """annotated object -> blob of its note, in a commit of notes."""
    found = {}
    for line in repository.run("ls-tree", "-r", "-z", notes_commit).fields:
        entry, path = line.split("\t", 1)
        _, kind, blob = entry.split()
        # Git spreads many notes over folders: 'ab/cdef…' is of 'abcdef…'.
        name = path.replace("/", "")
        if kind == "blob" and FULL_ID.fullmatch(name):
            found[name] = blob
    return found


def _note(repository: Repository, notes_commit: str | None, commit: str) -> str:
    if notes_commit is None:
        return ""
    spread = (commit, f"{commit[:2]}/{commit[2:]}", f"{commit[:2]}/{commit[2:4]}/{commit[4:]}")
    found = (repository.blob_id(notes_commit, path) for path in spread)
    return _text(repository, next(filter(None, found), None))


def _text(repository: Repository, blob: str | None) -> str:
    return os.fsdecode(repository.blob(blob)).rstrip("\n") if blob else ""
