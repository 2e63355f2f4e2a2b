"""Evaluation results as Git notes: a table for people, then one JSON object a line for programs.

The lines make notes that two clones wrote for one commit unite by ``cat_sort_uniq``; after such a
union the table may be shuffled, the records are not. :mod:`note_union` unites them and keeps both
in order.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from gitmerge_eval.git.repository import Repository
from gitmerge_eval.records import canonical_json

NAME = "gitmerge-eval"
REF = f"refs/notes/{NAME}"
KEY = ("kind", "spec")
"""The members of a record that tell what it is a result of."""


def read(repository: Repository, commit: str) -> str | None:
    """The note of ``commit``, or None; GitError for an unknown commit."""
    found = repository.run("notes", f"--ref={NAME}", "show", repository.commit(commit), check=False)
    return found.text if found.status == 0 else None


def write(
    repository: Repository,
    commit: str,
    table: str,
    added: Mapping[str, Any],
    *,
    keep: Callable[[Mapping[str, Any]], bool] = lambda record: False,
) -> None:
    """Make ``table`` the readable part of the commit's note and add a record to its records.

    A record with the same ``kind`` and ``spec`` is replaced, unless ``keep`` wants it. Safe among
    any number of processes that write through here: Git's own read-modify-write of notes has no
    lock and loses some. Raises GitError for an unknown commit or where Git cannot write.
    """
    identity = repository.commit(commit)
    with lock(repository):
        earlier = (read(repository, identity) or "").split("\n")
        kept = [
            line
            for line in earlier
            if (one := record(line)) and (key(one) != key(added) or keep(one))
        ]
        lines = [table.strip("\n"), "", *kept, canonical_json(added), ""]
        put(repository, REF, identity, "\n".join(lines))


def put(repository: Repository, ref: str, commit: str, text: str) -> None:
    """Make ``text`` the note of ``commit`` in ``ref``; the caller holds the :func:`lock`."""
    command = ("notes", f"--ref={ref}", "add", "--force", "--file=-", commit)
    repository.run(*command, stdin=text, environment=own_index(repository))


def own_index(repository: Repository) -> dict[str, str]:
    """What git's notes commands need in a hook, which runs with the index of the commit in the
    making."""
    return {"GIT_INDEX_FILE": str(repository.git_directory / "index")}


def every(repository: Repository) -> Iterator[tuple[str, str]]:
    """(blob, commit) of every note of ours, those that were fetched included."""
    refs = repository.text("for-each-ref", "--format=%(refname)", "refs/notes").split()
    for ref in refs:
        if ref.rsplit("/", 1)[-1] == NAME:
            for line in repository.text("notes", f"--ref={ref}", "list").splitlines():
                blob, commit = line.split()
                yield blob, commit


def records(text: str) -> list[dict[str, Any]]:
    """The JSON objects of a note, in the order of its lines; other lines are passed over."""
    return [one for one in map(record, text.split("\n")) if one is not None]


def record(line: str) -> dict[str, Any] | None:
    """The record that a line of a note spells, or None where it spells none."""
    if not line.startswith("{"):
        return None
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def key(of: Mapping[str, Any]) -> tuple[str, ...]:
    """What a record is a result of: two records with one key are the same one, measured twice."""
    return tuple(canonical_json(of.get(name)) for name in KEY)


@contextmanager
def lock(repository: Repository) -> Iterator[None]:
    """While entered, nobody else who asks for it writes notes of this clone."""
    folder = repository.common_directory / NAME
    folder.mkdir(exist_ok=True)
    with open(folder / "notes.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
