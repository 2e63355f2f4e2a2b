"""Enters checkpoints that a merge has written into an index, without their bytes being read.

Only ``git update-index`` on the file in its place gives an index entry its real stat data, by which
the next ``git status`` knows that nothing changed; but it also cleans the file, gigabytes through a
pipe. The blob is known already. So the command runs with a git directory of its own, whose
``info/attributes`` (which count most) give the files a filter that answers with that blob and does
not read its input, as Git allows. Index, objects, work tree and configuration are the repository's.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from gitmerge_eval.git.repository import Repository

_FILTER = "gitmerge-eval-landed"


def enter(repository: Repository, blobs: Mapping[str, Path], index: Path, scratch: Path) -> None:
    """Put each path of the work tree into ``index`` as the blob whose bytes are in the file.

    ``scratch`` is a folder that is removed afterwards.
    """
    answers = scratch / "answers"
    for path, blob in blobs.items():
        answer = answers / path
        answer.parent.mkdir(parents=True, exist_ok=True)
        os.link(blob, answer)
    repository.run(
        *("update-index", "--add", "-z", "--stdin"),
        stdin="\0".join(blobs),
        environment=_environment(repository, index, _git_directory(repository, scratch, blobs)),
        config={
            f"filter.{_FILTER}.clean": f"cat {shlex.quote(str(answers))}/%f",
            f"filter.{_FILTER}.required": "true",
            # A shared index would be written beside this git directory.
            "core.splitIndex": "false",
            **_own_filter(repository),
        },
    )


def _own_filter(repository: Repository) -> dict[str, str]:
    """Our filter, told of the real git directory: Git cleans other files as young as the index."""
    command = repository.setting("filter.theta.process")
    if command is None:
        return {}
    return {
        "filter.theta.process": f"GIT_DIR={shlex.quote(str(repository.git_directory))} {command}"
    }


def _pattern(path: str) -> str:
    r"""The path as a pattern of gitattributes that matches nothing else, in Git's quotes.

    >>> print(_pattern('a [1].bin'))
    "/a \\[1].bin"
    """
    literal = re.sub(r"([*?\[\\])", r"\\\1", path)
    escaped = literal.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"/{escaped}"'


def _git_directory(repository: Repository, scratch: Path, paths: Iterable[str]) -> Path:
    """A git directory with the repository's configuration and attributes of its own."""
    folder = scratch / "git"
    for name in ("info", "objects", "refs"):
        (folder / name).mkdir(parents=True)
    (folder / "HEAD").write_text("ref: refs/heads/unborn\n")
    lines = "".join(f"{_pattern(path)} filter={_FILTER}\n" for path in paths)
    (folder / "info" / "attributes").write_bytes(os.fsencode(lines))
    shutil.copyfile(repository.common_directory / "config", folder / "config")
    worktree_config = repository.git_directory / "config.worktree"
    if worktree_config.exists():
        shutil.copyfile(worktree_config, folder / "config.worktree")
    for shared in repository.git_directory.glob("sharedindex.*"):
        (folder / shared.name).symlink_to(shared)
    return folder


def _environment(repository: Repository, index: Path, git_directory: Path) -> dict[str, str]:
    objects = os.environ.get("GIT_OBJECT_DIRECTORY") or str(repository.path("objects"))
    return {
        "GIT_DIR": str(git_directory),
        "GIT_WORK_TREE": str(repository.directory),
        "GIT_INDEX_FILE": str(index),
        "GIT_OBJECT_DIRECTORY": objects,
    }
