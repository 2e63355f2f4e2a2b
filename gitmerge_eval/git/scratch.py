"""Folders of one run below ``.git/gitmerge-eval``: gone with the run, or swept after a kill."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gitmerge_eval.git.process import Process, this
from gitmerge_eval.git.repository import Repository

_NAME = re.compile(r"run-(?P<pid>\d+)-(?P<start>\d*)-")


def state_directory(repository: Repository) -> Path:
    """Where this tool keeps what belongs to one work tree: ``.git/gitmerge-eval``."""
    folder = repository.path("gitmerge-eval")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_state(path: Path, text: str) -> None:
    """Write a file of state in the git directory, whole or not at all; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8", errors="surrogateescape")
    os.replace(temporary, path)


@contextmanager
def scratch_folder(repository: Repository) -> Iterator[Path]:
    """An empty folder on the git directory's file system, removed at the end of the block.

    Its name says whose it is, so that :func:`sweep` can tell what a killed run left.
    """
    own = this()
    prefix = f"run-{own.pid}-{own.start}-"
    with tempfile.TemporaryDirectory(dir=state_directory(repository), prefix=prefix) as folder:
        yield Path(folder)


def sweep(repository: Repository) -> None:
    """Remove the folders of runs that have ended without doing so."""
    for folder, owner in runs(state_directory(repository)):
        if not owner.alive:
            shutil.rmtree(folder, ignore_errors=True)


def runs(state: Path) -> Iterator[tuple[Path, Process]]:
    """The folders of runs in a state directory, each with the process that made it."""
    for folder in state.glob("run-*"):
        match = _NAME.match(folder.name)
        if match:
            yield folder, Process(int(match["pid"]), match["start"])
