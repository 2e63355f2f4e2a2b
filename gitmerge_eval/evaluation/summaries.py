"""What a benchmark says of all tasks together: figures beside the scores, and a sheet of pictures.

While it scores a task, the benchmark keeps what it needs for them (features, pictures) in a folder
of that score; the folders are a cache in the git directory, like the scores.
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gitmerge_eval.evaluation.results import ScoreKey
from gitmerge_eval.evaluation.subjects import Model, Subject

SHEETS = "sheets"
"""Where the sheets are, beside the folders of scores."""


_LOCK = "evaluations.lock"


@contextmanager
def in_use(folder: Path) -> Iterator[None]:
    """While entered, nothing that an evaluation keeps below ``folder`` is removed by others."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield


@contextmanager
def unused(folder: Path) -> Iterator[bool]:
    """Whether no evaluation runs; where none does, the next one waits until the context ends."""
    with (folder / _LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


@dataclass(frozen=True)
class Outputs:
    """The folders that hold what was kept of each score, below ``parent``."""

    parent: Path

    def of(self, key: ScoreKey) -> Path:
        """The folder of one score."""
        return self.parent / key.digest

    def fresh(self, key: ScoreKey) -> Path:
        """The folder of a score that is about to be computed: there, and empty."""
        folder = self.of(key)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder


Figures = Mapping[str, Mapping[str, float]]
"""figure -> role ('merged' or a baseline) -> value."""


def summary(
    subject: Subject,
    models: Sequence[Model],
    folder_of: Callable[[Model, str], Path | None],
    split: str,
    sheet: Path,
) -> tuple[Figures, Path | None]:
    """The figures of each role, and where the evaluated model's sheet is, if there is one.

    ``folder_of`` gives what was kept of a model's score on a task, None where it has no score. A
    role that lacks tasks has the figures of those statuses of which it has all.
    """
    summarise = subject.benchmark.summarise
    if summarise is None:
        return {}, None
    sheet.parent.mkdir(parents=True, exist_ok=True)
    figures: dict[str, dict[str, float]] = {}
    for role in dict.fromkeys(model.role for model in models):
        kept = _kept(subject, [model for model in models if model.role == role], folder_of)
        if not kept:
            continue
        found = summarise(
            kept,
            sheet=sheet if role == "merged" else None,
            settings=subject.declaration.settings,
            split=split,
        )
        for name, value in found.items():
            figures.setdefault(name, {})[role] = float(value)
    return figures, sheet if sheet.exists() else None


def _kept(
    subject: Subject, models: Sequence[Model], folder_of: Callable[[Model, str], Path | None]
) -> dict[str, dict[str, Path]]:
    known = {
        task: folder
        for model in models
        for task in model.tasks
        if (folder := folder_of(model, task))
    }
    wanted = {"held-in": subject.held_in, "generalization": subject.generalization}
    return {
        status: {task: known[task] for task in tasks}
        for status, tasks in wanted.items()
        if tasks and all(task in known for task in tasks)
    }
