"""Names and contents of many objects by one process, ``git cat-file --batch-command``.

A process for each question takes two milliseconds, and a merge of many models asks hundreds.
"""

from __future__ import annotations

import os
import re
import subprocess
import threading
import weakref
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO

_FOUND = re.compile(rb"([0-9a-f]{40}|[0-9a-f]{64}) ([a-z]+) ([0-9]+)\n")


class NoAnswer(Exception):
    """The process has ended, or the question cannot be put to it: a command of its own tells."""


class ObjectReader:
    """The process, which ends with this object or with ours."""

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        """Starts it; OSError where there is no git."""
        self._process = subprocess.Popen(
            ["git", "cat-file", "--batch-command"],
            cwd=directory,
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._questions: IO[bytes] = self._process.stdin
        self._answers: IO[bytes] = self._process.stdout
        self._lock = threading.Lock()
        self.started_by = os.getpid()
        """Another process must not ask: answers would go to whoever reads first."""
        weakref.finalize(self, _end, self._process, self.started_by)

    def identify(self, name: str) -> str | None:
        """The id of the object that ``name`` stands for, as for ``git rev-parse``; None where there
        is none or it is ambiguous. Raises NoAnswer.

        What it says of names with an object's full id holds forever; the index it reads once.
        """
        with self._lock:
            found = self._ask("info", name)
        return found[1].decode() if found else None

    def blob(self, object_id: str) -> bytes:
        """A blob's bytes; NoAnswer where it is not here or is another object."""
        with self._lock:
            found = self._ask("contents", object_id)
            if found is None:
                raise NoAnswer
            size = int(found[3])
            content = self._read(size + 1)[:-1]
        if found[2] != b"blob":
            raise NoAnswer
        return content

    def _ask(self, command: str, name: str) -> re.Match[bytes] | None:
        if "\n" in name:
            raise NoAnswer
        try:
            self._questions.write(os.fsencode(f"{command} {name}\n"))
            self._questions.flush()
        except (OSError, ValueError) as error:
            raise NoAnswer from error
        answer = self._answers.readline()
        if not answer.endswith(b"\n"):
            raise NoAnswer
        return _FOUND.fullmatch(answer)

    def _read(self, size: int) -> bytes:
        content = self._answers.read(size)
        if len(content) < size:
            raise NoAnswer
        return content


def _end(process: subprocess.Popen[bytes], started_by: int) -> None:
    for end in (process.stdin, process.stdout):
        if end is not None:
            with suppress(OSError):
                end.close()
    if os.getpid() == started_by:
        process.wait()
