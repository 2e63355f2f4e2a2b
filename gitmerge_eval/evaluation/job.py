"""Evaluation after a merge, in a process of its own session that the hook watches or leaves.

Git waits for post-merge while the commit exists and MERGE_HEAD does too. A Ctrl-C there kills Git
before it can remove MERGE_HEAD, and the next 'git commit' would make a second commit. So nothing
runs in the hook's process but a watcher: it holds the signals back, and on one of them ends the
merge in Git's place and cancels the job.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gitmerge_eval.errors import GitMergeEvalError
from gitmerge_eval.evaluation import evaluating, reporting
from gitmerge_eval.evaluation.declarations import BENCHMARK_FILE
from gitmerge_eval.git import process, trailers
from gitmerge_eval.git.repository import Repository
from gitmerge_eval.git.trailers import merge_of_ours

MODE_KEY = "merge-eval.evaluate"
MODES = ("sync", "background", "off")
JOBS = "gitmerge-eval/jobs"
KEPT_JOBS = 20
POLL_SECONDS = 0.05
GRACE_SECONDS = 5.0
WATCHED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_BOOT = "import sys; from gitmerge_eval.evaluation import job; job.run(sys.argv[1])"


def after_merge(repository: Repository) -> None:
    """Evaluate HEAD if it is the merge that Git just made, as merge-eval.evaluate says.

    What the post-merge hook calls. Never raises for an evaluation that fails: the merge stands, and
    a line on standard error says what went wrong and how to evaluate by hand.
    """
    git = process.enclosing_git()
    with _held_signals() as pending:
        try:
            _after_merge(repository, pending)
        except (GitMergeEvalError, OSError) as error:
            # With a signal pending it is the signal that made a command fail.
            if not pending():
                _say(f"the merge is complete, but its evaluation could not start: {error}")
                _say("to evaluate it, run 'gitmerge-eval evaluate HEAD'")
        if pending():
            _end_merge(repository, git)


def after_commit(repository: Repository) -> None:
    """Evaluate HEAD, which a command of ours has just committed, as :func:`after_merge` does."""
    with _held_signals() as pending:
        try:
            _evaluate(repository, repository.commit("HEAD"), pending)
        except (GitMergeEvalError, OSError) as error:
            if not pending():
                _say(f"the commit is made, but its evaluation could not start: {error}")
                _say("to evaluate it, run 'gitmerge-eval evaluate HEAD'")


def _after_merge(repository: Repository, pending: Callable[[], set[int]]) -> None:
    commit = repository.commit("HEAD")
    if _made_here(repository, commit):
        _evaluate(repository, commit, pending)


def _evaluate(repository: Repository, commit: str, pending: Callable[[], set[int]]) -> None:
    mode = repository.setting(MODE_KEY) or MODES[0]
    if mode == "off" or repository.blob_id(commit, BENCHMARK_FILE) is None:
        return
    if merge_of_ours(repository, commit) is None:
        return
    if mode not in MODES:
        _say(f"'{MODE_KEY}' is '{mode}'; use one of {', '.join(MODES)}. Nothing was evaluated")
        return
    job = Job.start(repository, commit)
    if mode == "background":
        _say(
            f"evaluating {commit[:10]} in the background; 'gitmerge-eval show {commit[:10]}' has "
            f"the result when it is there (log: {job.log})"
        )
        return
    with reporting.evaluation_bar() as bar:
        interrupted = job.watch(bar, pending)
    if not interrupted:
        _say(job.outcome())
    elif interrupted == {signal.SIGHUP}:
        return  # the terminal is gone, not the wish for a result: the job goes on
    else:
        _say(
            "evaluation cancelled; the merge is complete. To evaluate it, run "
            f"'gitmerge-eval evaluate {commit[:10]}'"
        )
        job.cancel()


def _made_here(repository: Repository, commit: str) -> bool:
    """Whether Git is about to end the merge ``commit``; a fast-forward to somebody's is none."""
    heads = set(trailers.merge_heads(repository))
    parents = set(repository.text("rev-parse", f"{commit}^@").split())
    return bool(heads) and heads <= parents


def _end_merge(repository: Repository, git: process.Process | None) -> None:
    """Remove the state of a finished merge where the signal killed Git before it did."""
    deadline = time.monotonic() + GRACE_SECONDS
    while git is not None and git.alive:
        if time.monotonic() > deadline:
            return  # Git lives, and removes it when we return
        time.sleep(POLL_SECONDS)
    if not _made_here(repository, "HEAD"):
        return
    stashed = repository.path("MERGE_AUTOSTASH").exists()
    repository.run("merge", "--quit", check=False)
    if stashed:
        _say("your uncommitted changes are in the stash; 'git stash pop' brings them back")


@dataclass
class Job:
    """One evaluation in its own process, and the files that it is followed by."""

    process: subprocess.Popen[bytes]
    state: Path
    log: Path

    @classmethod
    def start(cls, repository: Repository, commit: str) -> Job:
        """Start evaluating ``commit``; the job outlives the caller."""
        folder = repository.git_directory / JOBS
        folder.mkdir(parents=True, exist_ok=True)
        _forget_old(folder)
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{commit[:10]}-{os.getpid()}"
        state, log = folder / f"{name}.json", folder / f"{name}.log"
        directory = str(repository.directory.absolute())
        _write(state, {"directory": directory, "commit": commit})
        environment = {k: v for k, v in os.environ.items() if k not in _HOOK_VARIABLES}
        environment["GIT_DIR"] = str(repository.git_directory)
        environment["GIT_WORK_TREE"] = str(repository.directory.absolute())
        with log.open("wb") as output:
            started = subprocess.Popen(
                [sys.executable, "-c", _BOOT, str(state)],
                # Python looks for modules in the current directory first: that must never be the
                # work tree, whose files come from the merged branches.
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return cls(started, state, log)

    def watch(
        self, show: Callable[[str, float], None], pending: Callable[[], set[int]]
    ) -> set[int]:
        """Wait for the job's end and show its progress; the signals that ended the waiting."""
        while self.process.poll() is None:
            signals = pending()
            if signals:
                return signals
            state = _read(self.state)
            if "completed" in state:
                show(f"{state['model']} on {state['task']}", state["completed"])
            time.sleep(POLL_SECONDS)
        return set()

    def outcome(self) -> str:
        """What the ended job has to say, in one line; the files of a good one are removed."""
        state = _read(self.state)
        if self.process.returncode == 0 and "summary" in state:
            self.state.unlink(missing_ok=True)
            self.log.unlink(missing_ok=True)
            return str(state["summary"])
        why = state.get("error", f"it ended with status {self.process.returncode}")
        return (
            f"the merge is complete, but its evaluation failed: {why}. To try again, run "
            f"'gitmerge-eval evaluate HEAD' (log: {self.log})"
        )

    def cancel(self) -> None:
        """End the job; what it has scored stays in the cache."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, number)
                self.process.wait(GRACE_SECONDS)
                return
            except subprocess.TimeoutExpired:
                continue
            except ProcessLookupError:
                return


_HOOK_VARIABLES = frozenset({"GIT_INDEX_FILE", "GIT_PREFIX", "GIT_REFLOG_ACTION"})
"""What Git sets for its hooks and what does not hold after them."""


def run(state_file: str) -> None:
    """The job: evaluate the commit that ``state_file`` names, and keep the file up to date."""
    state = Path(state_file)
    request = {**_read(state), "pid": os.getpid()}
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    # The hook held these back when it started us.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, WATCHED)
    repository = Repository(request["directory"])
    shown = 0.0

    def progress(step: evaluating.Progress) -> None:
        nonlocal shown
        if time.monotonic() - shown > 2 * POLL_SECONDS:
            shown = time.monotonic()
            _write(state, {**request, **vars(step)})

    try:
        note = evaluating.evaluate(repository, request["commit"], progress=progress)
    except GitMergeEvalError as error:
        _write(state, {**request, "error": str(error)})
        sys.exit(1)
    except Exception as error:
        # A benchmark may come from anybody and raise anything; whoever merges learns of it in a
        # line, and the log has the rest.
        traceback.print_exc()
        _write(state, {**request, "error": f"{type(error).__name__}: {error}"})
        sys.exit(1)
    _write(state, {**request, "summary": reporting.summary(note)})


@contextmanager
def _held_signals() -> Iterator[Callable[[], set[int]]]:
    """Hold the terminal's signals back, from us and from the commands that we start.

    Yields a function that gives those that have come; all are dropped in the end, because they
    have been acted upon.
    """
    # A merge in the background of a shell script ignores Ctrl-C, and so do we.
    watched = {n for n in WATCHED if signal.getsignal(n) is not signal.SIG_IGN}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
    try:
        yield lambda: signal.sigpending() & watched
    finally:
        handlers = {number: signal.signal(number, signal.SIG_IGN) for number in WATCHED}
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _say(text: str) -> None:
    try:
        print(f"gitmerge-eval: {text}", file=sys.stderr, flush=True)
    except OSError:
        return  # the terminal has been closed


def _write(path: Path, state: dict[str, Any]) -> None:
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(state))
    temporary.replace(path)


def _read(path: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    return state


def _forget_old(folder: Path) -> None:
    logs = sorted(folder.glob("*.log"))
    for log in logs[:-KEPT_JOBS]:
        log.unlink(missing_ok=True)
        log.with_suffix(".json").unlink(missing_ok=True)
