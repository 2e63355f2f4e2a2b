"""The ``git merge`` above us: is it still there, and would it commit what we leave?"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path

_SHELLS = frozenset({"sh", "dash", "bash"})


@dataclass(frozen=True)
class Process:
    """A process as /proc names it; the start time tells a reused id from the old process."""

    pid: int
    start: str

    @property
    def alive(self) -> bool:
        """Whether it runs; a zombie has ended already."""
        fields = _stat(self.pid)
        return bool(fields) and fields[0] not in "ZX" and fields[19] == self.start

    @property
    def command(self) -> list[str]:
        """Its command line; nothing where that cannot be read."""
        try:
            content = Path(f"/proc/{self.pid}/cmdline").read_bytes()
        except OSError:
            return []
        return [os.fsdecode(word) for word in content.split(b"\0")[:-1]]

    def terminate(self) -> None:
        """Ask it to end."""
        if self.alive:
            os.kill(self.pid, signal.SIGTERM)


def this() -> Process:
    """Our own process."""
    return _process(os.getpid())


def merging_git() -> Process | None:
    """The ``git merge`` that started this strategy, or None when a person runs it by hand.

    Git starts ``git-merge-<strategy>`` through a ``git`` wrapper, so it is the grandparent.
    """
    parent = _stat(os.getppid())
    return _process(int(parent[1])) if parent and int(parent[1]) > 1 else None


def enclosing_git() -> Process | None:
    """The ``git`` that runs this hook, or None when a person runs it by hand.

    Between Git and us are as many shells as hooks are chained.
    """
    pid = os.getppid()
    while pid > 1:
        fields = _stat(pid)
        if not fields:
            return None
        if _command(pid) == "git":
            return _process(pid)
        pid = int(fields[1])
    return None


def calling_git() -> list[str]:
    """The command line of the ``git`` that started us, by a shell or itself; nothing where that
    cannot be known.

    Git starts a filter in the very process that converts a file.
    """
    pid = os.getppid()
    while pid > 1 and _command(pid) in _SHELLS:
        fields = _stat(pid)
        pid = int(fields[1]) if fields else 0
    return _process(pid).command if pid > 1 and _command(pid) == "git" else []


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _process(pid: int) -> Process:
    fields = _stat(pid)
    return Process(pid, fields[19] if fields else "")


def _stat(pid: int) -> list[str]:
    # The command's name, in parentheses, may itself hold spaces and parentheses.
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return []
