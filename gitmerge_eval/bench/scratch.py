"""A folder for a benchmark's repositories, and the isolated environment in which Git runs there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from tempfile import mkdtemp

from gitmerge_eval.bench.processes import Usage, measure
from gitmerge_eval.errors import UsageError
from gitmerge_eval.git import programs
from gitmerge_eval.git.repository import Repository

FILTERS = ("gitmerge-eval filter", "git-theta-filter")
"""The programs that Git starts to clean or smudge a checkpoint."""
_IDENTITY = (
    "[user]\n\tname = Benchmark\n\temail = benchmark@example.org\n"
    "[init]\n\tdefaultBranch = main\n[gc]\n\tauto = 0\n[advice]\n\tdetachedHead = false\n"
)


class Scratch:
    """A temporary folder that is gone at the end, with a home folder for each tool.

    No command sees the configuration of the person who runs the benchmark, and Git finds the
    console scripts of the running Python.
    """

    def __init__(self, parent: Path | None = None) -> None:
        """UsageError where ``parent`` is no folder."""
        if parent is not None and not parent.is_dir():
            raise UsageError(f"'{parent}' is not a folder; make it first, or leave out --folder")
        self.folder = Path(mkdtemp(prefix="gitmerge-eval-bench-", dir=parent))

    def __enter__(self) -> Scratch:
        return self

    def __exit__(self, *raised: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def environment(self, tool: str, **more: str) -> dict[str, str]:
        """The environment of ``tool``'s commands."""
        home = self.folder / f"home-{tool}"
        if not home.exists():
            (home / "tmp").mkdir(parents=True)
            (home / ".gitconfig").write_text(_IDENTITY)
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("GIT_", "MERGE_EVAL", "GITMERGE_EVAL"))
        }
        return {
            **kept,
            "HOME": os.fspath(home),
            "XDG_CONFIG_HOME": os.fspath(home / ".config"),
            "TMPDIR": os.fspath(home / "tmp"),
            "PATH": f"{programs.scripts_folder()}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_EDITOR": ":",
            "GIT_MERGE_AUTOEDIT": "no",
            **more,
        }

    def repository(self, name: str, environment: dict[str, str]) -> Clone:
        """A fresh repository; one of that name that was there is removed."""
        folder = self.folder / name
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir()
        clone = Clone(folder, environment)
        clone.git("init", "--quiet")
        return clone


class Clone:
    """A repository whose commands are measured."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self.repository = Repository(folder)
        self._environment = environment

    def run(self, *command: str) -> Usage:
        """Run and measure a command in the work tree."""
        return measure(command, folder=self.folder, environment=self._environment)

    def git(self, *arguments: str) -> Usage:
        """Run and measure ``git *arguments``."""
        return self.run("git", *arguments)

    def quietly(self, *arguments: str) -> str:
        """The output of a git command that is not measured."""
        return self.repository.run(*arguments, environment=self._environment).text
