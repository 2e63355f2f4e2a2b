"""Evaluation results as Git notes: a table for people, then one JSON object a line for programs.

The lines make notes that two clones wrote for one commit unite by ``cat_sort_uniq``; after such a
union the table may be shuffled, the records are not.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping
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


def write(repository: Repository, commit: str, table: str, record: Mapping[str, Any]) -> None:
    """Make ``table`` the readable part of the commit's note and add ``record`` to its records.

    A record with the same ``kind`` and ``spec`` is replaced. Safe among any number of processes
    that write through here: Git's own read-modify-write of notes has no lock and loses some.
    Raises GitError for an unknown commit or where Git cannot write.
    """
    identity = repository.commit(commit)
    with _lock(repository):
        earlier = records(read(repository, identity) or "")
        kept = [other for other in earlier if key(other) != key(record)]
        lines = [canonical_json(one) for one in (*kept, record)]
        text = "\n".join([table.strip("\n"), "", *lines, ""])
        repository.run(
            "notes", f"--ref={NAME}", "add", "--force", "--file=-", identity,
            stdin=text,
            # Hooks run with the index of the commit in the making.
            environment={"GIT_INDEX_FILE": str(repository.git_directory / "index")},
        )  # fmt: skip


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
    found = []
    for line in text.splitlines():
        if not line.startswith("{"):
            continue
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            found.append(record)
    return found


def key(record: Mapping[str, Any]) -> tuple[str, ...]:
    """What ``record`` is a result of: two records with one key are the same one, measured twice."""
    return tuple(canonical_json(record.get(name)) for name in KEY)


@contextmanager
def _lock(repository: Repository) -> Iterator[None]:
    folder = repository.common_directory / NAME
    folder.mkdir(exist_ok=True)
    with open(folder / "notes.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
