"""Runs a program and measures it with all the processes that it starts (Linux: /proc).

- wall time: from its start until it has ended;
- CPU time: user and system time of the program and of every descendant that was waited for
  (wait4(2)); what detaches itself from the program is not counted;
- peak memory: the largest sum, over the processes that are alive at one moment, of their resident
  sets, sampled every 10 ms (less often where there are so many processes that looking at them would
  take a twentieth of a core), and at least the largest high-water mark that the kernel kept for any
  one of them. Resident are also the pages of mapped files, which the kernel may drop at any time,
  and a page that two processes share counts twice; the anonymous part is therefore given too;
- the programs that were seen among the processes.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryFile

from gitmerge_eval.errors import GitMergeEvalError, PrerequisiteError

_INTERVAL_SECONDS = 0.01
_SHARE = 0.05
"""The part of a core that looking at the processes may take."""
_LAST_LINES = 12
_SHELLS = ("sh", "bash", "dash")


class BenchmarkFailed(GitMergeEvalError):
    """A measured program ended with an error."""


@dataclass(frozen=True)
class Usage:
    """What one run of a program took."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    anonymous_bytes: int
    status: int
    output: str
    programs: tuple[str, ...] = ()
    """The first three words of each process's command, without folders; shells are left out."""

    def started(self, *words: str) -> int:
        """How many processes ran a program whose command has one of these words.

        >>> Usage(1, 1, 0, 0, 0, "", ("python gitmerge-eval filter", "git add")).started("filter")
        1
        """
        return sum(any(word in program for word in words) for program in self.programs)


@dataclass(frozen=True)
class Summary:
    """Several runs of the same program: medians of the times, the largest of the peaks."""

    runs: tuple[float, ...]
    """The wall time of each run, in seconds."""
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    anonymous_bytes: int

    @classmethod
    def of(cls, usages: Sequence[Usage]) -> Summary:
        """The summary of at least one run.

        >>> runs = [Usage(seconds, 1.0, size, 0, 0, "") for seconds, size in ((1, 5), (4, 7))]
        >>> Summary.of(runs).seconds, Summary.of(runs).peak_bytes
        (2.5, 7)
        """
        return cls(
            tuple(usage.seconds for usage in usages),
            median(usage.seconds for usage in usages),
            median(usage.cpu_seconds for usage in usages),
            max(usage.peak_bytes for usage in usages),
            max(usage.anonymous_bytes for usage in usages),
        )


def measure(
    command: Sequence[str | os.PathLike[str]],
    *,
    folder: Path,
    environment: Mapping[str, str],
    check: bool = True,
) -> Usage:
    """Run ``command`` in ``folder`` with exactly ``environment`` and measure it.

    What earlier commands wrote is on disk before the clock starts. Raises PrerequisiteError where
    there is no such program, and BenchmarkFailed, with the end of its output, for an exit status
    other than 0 unless ``check`` is false.
    """
    os.sync()
    with TemporaryFile() as output:
        begin = time.perf_counter()
        try:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        except FileNotFoundError as error:
            raise PrerequisiteError(
                f"'{error.filename}' cannot be started; is it installed and on PATH?"
            ) from error
        try:
            with _Sampler(process.pid) as sampler:
                _, waited, used = os.wait4(process.pid, 0)
        except BaseException:  # an interrupt: nothing of ours goes on without us
            process.terminate()
            process.wait()
            raise
        seconds = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(waited)
        output.seek(0)
        text = output.read().decode(errors="replace")
    if check and process.returncode:
        shown = " ".join(os.fspath(word) for word in command[:4])
        last = "\n".join(text.splitlines()[-_LAST_LINES:])
        raise BenchmarkFailed(f"'{shown} …' failed ({process.returncode}):\n{last}")
    return Usage(
        seconds,
        used.ru_utime + used.ru_stime,
        sampler.peak_bytes,
        sampler.anonymous_bytes,
        process.returncode,
        text,
        tuple(program for program in sampler.programs.values() if program),
    )


class _Sampler:
    """While entered, watches the memory of a process and its descendants."""

    def __init__(self, pid: int) -> None:
        self.peak_bytes = 0
        self.anonymous_bytes = 0
        self.programs: dict[int, str] = {}
        self._pid = pid
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> _Sampler:
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.is_set():
            begin = time.thread_time()
            self._sample()
            taken = time.thread_time() - begin
            self._ended.wait(max(_INTERVAL_SECONDS, taken / _SHARE))

    def _sample(self) -> None:
        resident = anonymous = 0
        for pid, memory in _tree(self._pid, None):
            self.programs[pid] = _program(pid) or self.programs.get(pid, "")
            resident += memory.get("VmRSS", 0)
            anonymous += memory.get("RssAnon", 0) + memory.get("RssShmem", 0)
            self.peak_bytes = max(self.peak_bytes, memory.get("VmHWM", 0))
        self.peak_bytes = max(self.peak_bytes, resident)
        self.anonymous_bytes = max(self.anonymous_bytes, anonymous)


def _tree(pid: int, parent: Mapping[str, int] | None) -> Iterator[tuple[int, Mapping[str, int]]]:
    """The memory of a process and of its descendants, in bytes by the names of proc(5)."""
    memory = _memory(pid)
    # A fork that has not started its own program yet has its parent's very memory.
    if parent is None or memory.get("VmSize") != parent.get("VmSize"):
        yield pid, memory
    for child in _children(pid):
        yield from _tree(child, memory)


def _children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            text = Path(f"/proc/{pid}/task/{thread}/children").read_text()
            found += map(int, text.split())
    except OSError:
        pass  # it has ended, as processes do
    return found


def _program(pid: int) -> str:
    """What a process runs: interpreter, script and first argument; nothing of a shell's."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:3]
    except OSError:
        return ""
    names = [os.path.basename(os.fsdecode(word)) for word in words]
    return "" if names[0] in _SHELLS else " ".join(names).strip()


def _memory(pid: int) -> dict[str, int]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    return {
        name: int(value.split()[0]) * 1024
        for name, _, value in (line.partition(":") for line in lines)
        if name in ("VmSize", "VmHWM", "VmRSS", "RssAnon", "RssShmem")
    }
