"""Fixtures for all that runs the real Git: an isolated environment and fresh repositories."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from gitmerge_eval.git.repository import Repository

PROGRAMS = Path(sys.executable).parent
"""Where the console scripts of the Python that runs the tests are."""


@pytest.fixture(scope="session", autouse=True)
def git_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home of its own with nothing but a name, an address and 'main'; yields that folder.

    No test sees, or writes, the configuration of the person who runs it, and Git finds the
    console scripts of this Python's environment, activated or not.
    """
    home = tmp_path_factory.mktemp("home")
    (home / ".gitconfig").write_text(
        "[user]\n\tname = Ada Tester\n\temail = ada@example.org\n[init]\n\tdefaultBranch = main\n"
        "[gc]\n\tauto = 0\n[advice]\n\tdetachedHead = false\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.startswith(("GIT_", "MERGE_EVAL")):
                patch.delenv(name)
        patch.setenv("HOME", str(home))
        patch.setenv("XDG_CONFIG_HOME", str(home / ".config"))
        patch.setenv("GIT_CONFIG_NOSYSTEM", "1")
        patch.setenv("GIT_TERMINAL_PROMPT", "0")
        patch.setenv("GIT_EDITOR", ":")
        patch.setenv("PATH", f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}")
        yield home


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """A fresh, empty repository on an unborn branch 'main'."""
    folder = tmp_path / "repository"
    subprocess.run(["git", "init", "--quiet", str(folder)], check=True)
    return Repository(folder)


Committer = Callable[..., str]


@pytest.fixture
def commit(repository: Repository) -> Committer:
    """``commit({path: text or bytes}, 'message', to=a repository)``; returns the commit's id."""

    def write(
        files: Mapping[str, str | bytes], message: str = "a change", *, to: Repository = repository
    ) -> str:
        for name, content in files.items():
            path = to.directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        if files:
            to.run("add", "--", *files)
        to.run("commit", "--quiet", "--allow-empty", "-m", message)
        return to.text("rev-parse", "HEAD")

    return write
