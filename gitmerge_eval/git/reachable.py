"""Every Git object that anything in a repository names, and the bytes of its blobs, as a stream.

``git rev-list --all --reflog --indexed-objects`` covers refs (stash and notes among them), HEAD,
reflogs and indexes (all stages) of all work trees. It knows nothing of the refs under
``refs/bisect`` and ``refs/worktree`` of other work trees, of MERGE_HEAD, ORIG_HEAD and their like,
of a rebase that has stopped, or of a work tree whose record is damaged (seen with Git 2.39):
these are gathered here, and so are the youngest unreachable objects, which Git's own gc spares too.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from gitmerge_eval.errors import GitError
from gitmerge_eval.git.repository import Repository

EVERYTHING = ("--all", "--reflog", "--indexed-objects")
_PIECE_BYTES, _OVERLAP_BYTES = 1 << 20, 128
_LARGEST_STATE_BYTES = 64 << 20
_ID = re.compile(rb"(?<![0-9a-f])(?:[0-9a-f]{64}|[0-9a-f]{40})(?![0-9a-f])")
_STATE_FOLDERS = ("rebase-merge", "rebase-apply", "sequencer")
_OWN_STATE = ("gitmerge-eval/state", "gitmerge-eval/journal")
"""Not the caches beside them, which name much that may go."""
_OWN_REFS = ("refs/bisect", "refs/worktree", "refs/rewritten")
_ENVIRONMENT = {"GIT_NO_LAZY_FETCH": "1", "GIT_NO_REPLACE_OBJECTS": "1"}


def git_directories(repository: Repository) -> list[Path]:
    """The common git directory and that of every linked work tree, whether or not it is there."""
    common = repository.common_directory
    return [common, *(path for path in sorted(common.glob("worktrees/*")) if path.is_dir())]


def further_roots(repository: Repository, young_since: float) -> list[str]:
    """Objects that rev-list's own options miss and that are here, by id.

    ``young_since`` in seconds: unreachable objects written since then count as named.
    """
    found: set[str] = set()
    for directory in git_directories(repository):
        found |= _ids_in_state(directory, linked=directory != repository.common_directory)
        if directory != repository.common_directory:
            there = (f"--git-dir={directory}",)
            refs = repository.run(*there, "for-each-ref", "--format=%(objectname)", check=False)
            found |= set(refs.text.split())
            staged = repository.run(*there, "ls-files", "--stage", "-z", check=False).fields
            found |= {line.split()[1] for line in staged if not line.startswith("160000")}
    found |= set(_young(repository, young_since))
    return existing(repository, found)


def existing(repository: Repository, identities: Iterable[str]) -> list[str]:
    """Those of ``identities`` that are objects of this repository."""
    listing = repository.run(
        *("cat-file", "--batch-check=%(objectname)", "--buffer"),
        stdin="".join(f"{identity}\n" for identity in sorted(identities)),
        environment=_ENVIRONMENT,
    )
    return [line for line in listing.text.splitlines() if " " not in line]


def _ids_in_state(directory: Path, *, linked: bool) -> set[str]:
    """Every object id in the small files in which Git, and we, note what is under way."""
    files = [path for path in directory.glob("*") if path.name not in ("index", "packed-refs")]
    files += [directory / name for name in _OWN_STATE]
    for name in (*_STATE_FOLDERS, *(("refs", "logs") if linked else _OWN_REFS)):
        files += (directory / name).rglob("*")
    found: set[str] = set()
    for path in files:
        if path.is_file() and path.stat().st_size <= _LARGEST_STATE_BYTES:
            try:
                found |= {match.decode() for match in _ID.findall(path.read_bytes())}
            except FileNotFoundError:
                continue  # a lock or a temporary file that has just gone
    return found


def _young(repository: Repository, since: float) -> Iterator[str]:
    objects = repository.path("objects")
    for path in objects.glob("[0-9a-f][0-9a-f]/*"):
        try:
            if path.stat().st_mtime >= since:
                yield path.parent.name + path.name
        except FileNotFoundError:
            continue
    for times in objects.glob("pack/*.mtimes"):  # cruft: what Git keeps until it has expired
        if times.stat().st_mtime >= since:
            with times.with_suffix(".idx").open("rb") as index:
                lines = subprocess.run(["git", "show-index"], stdin=index, capture_output=True)
            yield from (line.split()[1].decode() for line in lines.stdout.splitlines())


def check_complete(repository: Repository) -> None:
    """GitError in a partial clone whose history lacks objects; nothing is fetched."""
    if not repository.succeeds("config", "--get-regexp", r"^remote\..*\.promisor$", "true"):
        return
    with TemporaryFile() as errors, TemporaryFile() as nothing:
        options = ("--objects", "--no-object-names", "--missing=print", *EVERYTHING)
        with _started(repository, nothing, errors, "rev-list", *options) as listing:
            assert listing.stdout is not None
            missing = sum(line.startswith(b"?") for line in listing.stdout)
    if missing:
        raise GitError(
            f"this is a partial clone: {missing} files of its history are not here and may name "
            "anything; bring them with 'git fetch --refetch --no-filter', then repeat"
        )


def pieces(
    repository: Repository,
    revisions: Sequence[str],
    roots: Sequence[str] = (),
    *,
    largest_bytes: int,
) -> Iterator[bytes]:
    """The bytes of every blob that ``revisions`` (options of rev-list) and ``roots`` (ids) reach.

    A large blob comes in pieces that overlap, so that whatever is shorter than 128 bytes is whole
    in one of them. Two processes, ``rev-list | cat-file --batch``; memory does not grow with the
    history. Blobs above ``largest_bytes`` are left out. GitError where an object cannot be read;
    what ``roots`` should reach may be missing, since nothing guards it against Git's own gc.
    """
    with TemporaryFile() as errors, TemporaryFile() as names, ExitStack() as running:
        names.write("".join(f"{root}\n" for root in roots).encode())
        names.seek(0)
        options = (
            "--objects",
            "--no-object-names",
            "--filter-provided-objects",
            f"--filter=combine:object:type=blob+blob:limit={largest_bytes}",
            # Not 'print': with this filter a missing tree would pass without a word.
            "--missing=allow-any" if roots else "--missing=error",
            "--stdin",
        )
        listing = running.enter_context(
            _started(repository, names, errors, "rev-list", *options, *revisions)
        )
        assert listing.stdout is not None
        contents = running.enter_context(
            _started(repository, listing.stdout, errors, "cat-file", "--batch", "--buffer")
        )
        listing.stdout.close()  # cat-file's now: rev-list ends when that ends
        assert contents.stdout is not None
        while header := contents.stdout.readline():
            if not header.endswith(b" missing\n"):
                yield from _overlapping(contents.stdout, int(header.split()[2]))
                contents.stdout.read(1)
        if listing.wait() or contents.wait():
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip().splitlines()
            raise GitError(
                f"the history cannot be walked ({said[-1] if said else 'git was killed'}); "
                "see 'git fsck'"
            )


def _overlapping(stream: IO[bytes], size: int) -> Iterator[bytes]:
    piece = b""
    while size:
        read = stream.read(min(size, _PIECE_BYTES))
        if not read:
            raise GitError("'git cat-file' was killed")
        size -= len(read)
        piece = piece[-_OVERLAP_BYTES:] + read
        yield piece


@contextmanager
def _started(
    repository: Repository, stdin: IO[bytes], errors: IO[bytes], *arguments: str
) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        ["git", *arguments],
        cwd=repository.directory,
        env={**os.environ, **_ENVIRONMENT},
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=errors,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
