"""The diff programs for checkpoints: what ``git diff``, ``git show`` and ``git log -p`` print.

    gitmerge-eval differ one FILE
    gitmerge-eval differ both PATH OLD-FILE OLD-HEX OLD-MODE NEW-FILE NEW-HEX NEW-MODE [NEW-PATH …]

The first is ``diff.theta.textconv``, the second ``diff.theta.command``. A file is metadata, where
our filter knows that it is only shown, or else a model. A side that cannot be read is said in its
place, with status 0: a program that fails ends the whole ``git diff``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gitmerge_eval import startup
from gitmerge_eval.errors import GitMergeEvalError, UsageError

if TYPE_CHECKING:
    from gitmerge_eval.checkpoints.metadata import Metadata

_NOTHING = "/dev/null"
_START = 64


def main(argv: Sequence[str]) -> int:
    """Print one version or the difference of two; 2 after one line on stderr for wrong usage."""
    try:
        startup.prepare()
        lines = _answer(list(argv))
        sys.stdout.buffer.write("".join(f"{line}\n" for line in lines).encode("utf-8", "replace"))
        startup.end(0)
    except GitMergeEvalError as error:
        print(f"gitmerge-eval: {error}", file=sys.stderr)
        return error.exit_code
    except (BrokenPipeError, KeyboardInterrupt):
        return 130


def _answer(argv: list[str]) -> list[str]:
    from gitmerge_eval.inspecting import listing

    if len(argv) == 2 and argv[0] == "one":
        try:
            return listing.one(_version(argv[1]))
        except (GitMergeEvalError, OSError) as error:
            return [f"checkpoint that cannot be shown: {error}"]
    if len(argv) == 2 and argv[0] == "both":
        return [f"* Unmerged path {argv[1]}"]
    if len(argv) < 8 or argv[0] != "both":
        raise UsageError(
            "usage: gitmerge-eval differ [one FILE | both PATH OLD-FILE OLD-HEX OLD-MODE NEW-FILE "
            "NEW-HEX NEW-MODE]; Git runs it once 'gitmerge-eval init' has set it up"
        )
    path, old_file, old_hex, old_mode, new_file, new_hex, new_mode, *renamed = argv[1:]
    sides = [_side(old_file, old_hex), _side(new_file, new_hex)]
    to = f" → {renamed[0]}" if renamed and renamed[0] != path else ""
    lines = [f"checkpoint {path}{to}  {'..'.join(sides)}"]
    if old_mode != new_mode and _NOTHING not in (old_file, new_file):
        lines.append(f"mode {old_mode} → {new_mode}")
    try:
        old = None if old_file == _NOTHING else _version(old_file, old_hex)
        new = None if new_file == _NOTHING else _version(new_file, new_hex, old)
    except (GitMergeEvalError, OSError) as error:
        return [*lines, f"cannot be shown: {error}"]
    return [*lines, *listing.both(old, new)]


def _side(file: str, object_id: str) -> str:
    """What is compared: a blob, the work tree's file, or that there is none."""
    if file == _NOTHING:
        return "none"
    return object_id[:10] if object_id.strip("0") else "work tree"


def _version(file: str, object_id: str = "", previous: Metadata | None = None) -> Metadata:
    """The metadata of one side: the file is it, or its blob is known, or the model is cleaned.

    Cleaning stores nothing. Raises MalformedCheckpoint for what is no checkpoint.
    """
    from gitmerge_eval.checkpoints.metadata import Metadata, is_metadata

    with open(file, "rb") as stream:
        start = stream.read(_START)
        if is_metadata(start):
            return Metadata.parse(start + stream.read())
    from gitmerge_eval.checkpoints.checkpoint import clean
    from gitmerge_eval.checkpoints.lfs import ObjectStore
    from gitmerge_eval.git.repository import Repository

    absolute = Path(os.path.abspath(file))
    repository = Repository.here()
    if object_id.strip("0"):
        found = repository.run("cat-file", "blob", object_id, check=False)
        if found.status == 0 and is_metadata(found.stdout):
            return Metadata.parse(found.stdout)
    store = ObjectStore(repository, keep=False)
    return Metadata.parse(clean(absolute, store, [previous] if previous else ()))
