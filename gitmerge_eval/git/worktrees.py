"""Work trees of our own: a commit checked out on no branch, away from the user's files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gitmerge_eval.errors import UsageError
from gitmerge_eval.git.repository import Repository


def require_own_environment(what: str) -> None:
    """UsageError where a variable of Git's would lead commands in another work tree astray."""
    for variable in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        if os.environ.get(variable):
            raise UsageError(
                f"the variable {variable} is set, and {what} has a work tree of its own; unset "
                "it, and run the command in the repository's folder"
            )


@contextmanager
def detached(repository: Repository, directory: Path, commit: str) -> Iterator[Repository]:
    """A work tree with ``commit`` on no branch, removed at the end, and before after a kill."""
    discard(repository, directory)
    repository.run("worktree", "add", "--quiet", "--detach", str(directory), commit)
    try:
        yield Repository(directory)
    finally:
        discard(repository, directory)


def discard(repository: Repository, directory: Path) -> None:
    """Remove a folder, and what Git has noted of a work tree in it."""
    shutil.rmtree(directory, ignore_errors=True)
    repository.run("worktree", "prune")
