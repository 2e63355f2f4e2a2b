"""One repository, and the git commands that run in it."""

from __future__ import annotations

import difflib
import os
import re
import signal
import subprocess
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gitmerge_eval.errors import GitError
from gitmerge_eval.git.objects import NoAnswer, ObjectReader

NULL_ID = "0" * 40
FULL_ID = re.compile(r"[0-9a-f]{64}|[0-9a-f]{40}")
"""An object's id that is not shortened, of either hash."""
_ENGLISH = {"LANGUAGE": "C", "LC_ALL": "C"}
"""Git's messages are read here and quoted to the user beside our own."""
EMPTY_TREE = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"


@dataclass(frozen=True)
class Completed:
    """What a git command left: exit status, standard output, standard error."""

    status: int
    stdout: bytes
    stderr: str

    @property
    def text(self) -> str:
        """Standard output as text, without the final newline."""
        return os.fsdecode(self.stdout).rstrip("\n")

    @property
    def fields(self) -> list[str]:
        """Standard output split at NULs (of ``-z`` commands)."""
        return [part for part in os.fsdecode(self.stdout).split("\0") if part]


class Repository:
    """A work tree and its git directory; every command goes through :meth:`run`.

    >>> repository = Repository.here()                            # doctest: +SKIP
    >>> repository.text("rev-parse", "HEAD")                      # doctest: +SKIP
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory)
        self._paths: dict[str, Path] = {}
        self._environment: Mapping[str, str] = {}
        self._reader: ObjectReader | None = None
        self.listings: dict[str, Any] = {}
        """Trees that were listed, by the full id of tree or commit: these never change."""

    def as_committed(self) -> Repository:
        """The same repository, as it was committed, whatever ``refs/replace`` shows instead."""
        found = Repository(self.directory)
        found._environment = {"GIT_NO_REPLACE_OBJECTS": "1"}
        return found

    @classmethod
    def here(cls) -> Repository:
        """The repository of the current directory, from its top; GitError outside one.

        In a hook or a strategy Git sets GIT_DIR relative to the current directory: it is made
        absolute first.
        """
        _make_absolute()
        found = cls(Path.cwd()).run("rev-parse", "--show-toplevel", check=False)
        if found.status:
            raise GitError(
                f"'{Path.cwd()}' is not in the work tree of a Git repository; change to one, "
                "or make one with 'git init'"
            )
        return cls(found.text)

    @classmethod
    def anywhere(cls) -> Repository:
        """As :meth:`here`, or a repository without a work tree: a bare one, or as Git calls the
        hooks of a server. For what reads commits alone."""
        _make_absolute()
        asked = ("rev-parse", "--is-inside-work-tree", "--absolute-git-dir")
        found = cls(Path.cwd()).run(*asked, check=False)
        inside, _, directory = found.text.partition("\n")
        return cls.here() if found.status or inside == "true" else cls(directory)

    def run(
        self,
        *arguments: str,
        stdin: str | bytes | None = None,
        environment: Mapping[str, str] | None = None,
        config: Mapping[str, str] | None = None,
        check: bool = True,
    ) -> Completed:
        """Run ``git *arguments`` in the work tree; GitError on a non-zero status unless ``check``
        is false, and where git was killed: that is no answer."""
        settings = [
            item for key, value in (config or {}).items() for item in ("-c", f"{key}={value}")
        ]
        command = ["git", *settings, *arguments]
        data = os.fsencode(stdin) if isinstance(stdin, str) else stdin
        try:
            # Not through GitPython: importing it takes 0.1 s, and Git starts our filter often.
            process = subprocess.Popen(
                command,
                cwd=self.directory,
                env={**os.environ, **_ENGLISH, **self._environment, **(environment or {})},
                stdin=subprocess.DEVNULL if data is None else subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        except OSError as error:
            raise GitError(
                f"cannot run 'git' in '{self.directory}': {error.strerror}; install Git, or put it "
                "on PATH"
            ) from error
        output, errors = process.communicate(data)
        done = Completed(process.returncode, output, os.fsdecode(errors).strip())
        if done.status < 0:
            name = signal.Signals(-done.status).name
            raise GitError(
                f"'git {' '.join(arguments[:3])}' was killed ({name}); repeat the command"
            )
        if check and done.status:
            raise GitError(f"'git {' '.join(arguments[:3])}' failed ({done.status}): {done.stderr}")
        return done

    def run_attached(self, *arguments: str, environment: Mapping[str, str] | None = None) -> int:
        """Run a command whose input and output are ours, for the user to see; its exit status."""
        return subprocess.run(
            ["git", *arguments],
            cwd=self.directory,
            env={**os.environ, **(environment or {})},
            check=False,
        ).returncode

    def text(self, *arguments: str) -> str:
        """The standard output of a command that must succeed."""
        return self.run(*arguments).text

    def succeeds(self, *arguments: str, environment: Mapping[str, str] | None = None) -> bool:
        """Whether the command ends with status 0."""
        return self.run(*arguments, environment=environment, check=False).status == 0

    @cached_property
    def git_directory(self) -> Path:
        """This work tree's git directory (``.git``, or ``.git/worktrees/<name>``)."""
        return Path(self.text("rev-parse", "--absolute-git-dir"))

    @cached_property
    def common_directory(self) -> Path:
        """The git directory that all work trees share: objects, LFS store, hooks."""
        common = Path(self.text("rev-parse", "--git-common-dir"))
        return (common if common.is_absolute() else self.directory / common).resolve()

    @cached_property
    def version(self) -> tuple[int, ...]:
        """Git's version as numbers: (2, 39, 5)."""
        words = self.text("version").split()
        return tuple(int(part) for part in words[2].split(".") if part.isdigit())

    def path(self, name: str) -> Path:
        """``git rev-parse --git-path name``, absolute; Git is asked once for each name."""
        if name not in self._paths:
            found = self.text("rev-parse", "--git-path", name)
            self._paths[name] = (self.directory / found).absolute()
        return self._paths[name]

    def commit(self, revision: str) -> str:
        """The commit id of ``revision``; GitError that suggests near names if there is none."""
        found = self.run("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}", check=False)
        if found.status:
            raise GitError(f"'{revision}' is not a commit in this repository{self._hint(revision)}")
        return found.text

    def commits(self, revisions: Iterable[str]) -> list[str | None]:
        """The commit id of each revision, None where there is none."""
        return [self._commit(revision) for revision in revisions]

    def has_commit(self, commit: str) -> bool:
        """Whether the commit of that full id is here: a shallow clone has not all."""
        return self._commit(commit) is not None

    def _commit(self, revision: str) -> str | None:
        name = f"{revision}^{{commit}}"
        with suppress(NoAnswer):
            return self._objects.identify(name)
        found = self.run("rev-parse", "--verify", "--quiet", name, check=False)
        return found.text if found.status == 0 else None

    @property
    def _objects(self) -> ObjectReader:
        """NoAnswer where git cannot be started: a command of its own says why."""
        if self._reader is None or self._reader.started_by != os.getpid():
            try:
                self._reader = ObjectReader(
                    self.directory, {**os.environ, **_ENGLISH, **self._environment}
                )
            except OSError as error:
                raise NoAnswer from error
        return self._reader

    def _hint(self, revision: str) -> str:
        """``; did you mean 'origin/bird-real'?`` where a branch or tag has a similar name."""
        listed = self.run(
            "for-each-ref", "--format=%(refname) %(refname:short)",
            "refs/tags", "refs/remotes", "refs/heads", check=False,
        )  # fmt: skip
        names = {}
        for line in listed.text.splitlines():
            ref, _, short = line.partition(" ")
            # A remote's branch is as near as its name without the remote's.
            parts = ref.split("/", 3)
            names[parts[3] if parts[1] == "remotes" and len(parts) > 3 else short] = short
        near = difflib.get_close_matches(revision, names, n=1, cutoff=0.6)
        return f"; did you mean '{names[near[0]]}'?" if near else ""

    def blob(self, object_id: str) -> bytes:
        """A blob's bytes."""
        if FULL_ID.fullmatch(object_id):
            with suppress(NoAnswer):
                return self._objects.blob(object_id)
        return self.run("cat-file", "blob", object_id).stdout

    def blob_id(self, revision: str, path: str) -> str | None:
        """The id of the blob at ``revision:path`` (``revision`` '' is the index), or None."""
        if FULL_ID.fullmatch(revision):
            with suppress(NoAnswer):
                return self._objects.identify(f"{revision}:{path}")
        found = self.run("rev-parse", "--verify", "--quiet", f"{revision}:{path}", check=False)
        return found.text if found.status == 0 else None

    def write_blob(self, data: bytes) -> str:
        """Store ``data`` as a blob and return its id."""
        return self.run("hash-object", "-w", "--stdin", stdin=data).text

    def setting(self, key: str) -> str | None:
        """The value of a configuration key that counts (the last one), or None."""
        found = self.run("config", "--get", key, check=False)
        return found.text if found.status == 0 else None

    def attribute(
        self, name: str, paths: Iterable[str], *, index: str | None = None
    ) -> dict[str, str]:
        """path -> value of the attribute ``name``; from an index file alone where one is given."""
        found = self.run(
            "check-attr",
            *(["--cached"] if index else []),
            "-z",
            "--stdin",
            name,
            stdin="\0".join(paths),
            environment={"GIT_INDEX_FILE": index} if index else None,
        )
        fields = os.fsdecode(found.stdout).split("\0")
        return {fields[i]: fields[i + 2] for i in range(0, len(fields) - 2, 3)}


def _make_absolute() -> None:
    """Git's variables, so that a change of directory cannot detach us from the repository."""
    for variable in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        if os.environ.get(variable):
            os.environ[variable] = os.path.abspath(os.environ[variable])
