"""Objects to and from remotes, by git-lfs: the one thing that it is started for."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from gitmerge_eval.checkpoints.metadata import LFS_VERSION
from gitmerge_eval.errors import GitError
from gitmerge_eval.git.repository import Completed, Repository

_ARGUMENTS = 10_000
"""Object ids for one command line: 65 bytes each, far below any system's limit."""
_IDENTITY = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (
        ("NAME", "gitmerge-eval"), ("EMAIL", "none"), ("DATE", "@0 +0000")
    )
}  # fmt: skip


def fetch(repository: Repository, remote: str, wanted: Mapping[str, int]) -> Completed:
    """Try to fetch objects (id -> bytes) from ``remote``, all by one git-lfs process.

    git-lfs fetches what a commit's pointers name, so that a commit of just these pointers is made
    in a temporary object store.
    """
    with tempfile.TemporaryDirectory(prefix="gitmerge-eval-") as folder:
        environment, commit = _pointer_commit(repository, Path(folder), wanted)
        return repository.run(
            *("lfs", "fetch", "--include=", "--exclude=", remote, commit),
            environment=environment,
            check=False,
        )


def push(repository: Repository, remote: str, object_ids: Iterable[str]) -> None:
    """Upload objects by ``git lfs push --object-id``; GitError with git-lfs' reason."""
    wanted = list(dict.fromkeys(object_ids))
    for start in range(0, len(wanted), _ARGUMENTS):
        part = wanted[start : start + _ARGUMENTS]
        done = repository.run("lfs", "push", "--object-id", remote, *part, check=False)
        if done.status:
            raise GitError(f"'git lfs push' to '{remote}' failed{reason(done)}")


def default_remote(repository: Repository) -> str | None:
    """The remote git-lfs would take: configured, the branch's, origin, or the only one."""
    branch = repository.run("symbolic-ref", "--quiet", "--short", "HEAD", check=False).text
    chosen = repository.setting("remote.lfsdefault") or repository.setting(
        f"branch.{branch}.remote"
    )
    remotes = repository.text("remote").split()
    if chosen in remotes:
        return chosen
    return "origin" if "origin" in remotes else (remotes[0] if len(remotes) == 1 else None)


def reason(done: Completed) -> str:
    """Why git-lfs failed, in its last line, to be put behind what it was to do."""
    if "is not a git command" in done.stderr:
        return ": git-lfs is not installed; install it with the system's package manager"
    lines = done.stderr.splitlines()
    return f": {lines[-1]}" if lines else ""


def _pointer_commit(
    repository: Repository, folder: Path, wanted: Mapping[str, int]
) -> tuple[dict[str, str], str]:
    """The environment in which a commit of pointers to ``wanted`` is there, and its id."""
    objects = repository.path("objects")
    borrowed = os.environ.get("GIT_ALTERNATE_OBJECT_DIRECTORIES")
    environment = _IDENTITY | {
        "GIT_OBJECT_DIRECTORY": str(folder / "objects"),
        "GIT_ALTERNATE_OBJECT_DIRECTORIES": os.pathsep.join(
            [str(objects), *([borrowed] if borrowed else [])]
        ),
    }
    (folder / "objects").mkdir()
    for oid, size in wanted.items():
        (folder / oid).write_text(f"version {LFS_VERSION}\noid sha256:{oid}\nsize {size}\n")
    blobs = repository.run(
        *("hash-object", "-w", "--no-filters", "--stdin-paths"),
        stdin="".join(f"{folder / oid}\n" for oid in wanted),
        environment=environment,
    ).text.split()
    lines = "".join(f"100644 blob {blob}\t{oid}\n" for blob, oid in zip(blobs, wanted, strict=True))
    tree = repository.run("mktree", stdin=lines, environment=environment).text
    commit = repository.run(
        *("commit-tree", tree, "-m", "objects to fetch"), environment=environment
    ).text
    return environment, commit
