"""The scores of two revisions side by side, from notes and from the cache of results."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gitmerge_eval.errors import EvaluationError
from gitmerge_eval.evaluation import evaluating
from gitmerge_eval.evaluation.results import open_results
from gitmerge_eval.git.repository import Repository
from gitmerge_eval.records import canonical_json

Key = tuple[str, str, str, str, str, str]
"""Benchmark, settings, split, task, evaluator version, digest of the data."""


@dataclass(frozen=True)
class TaskPair:
    """One task that both were scored on, by one evaluator on the same data."""

    benchmark: str
    split: str
    task: str
    status: str
    """held-in or generalization, as the notes say; both with an arrow where they differ, and ''
    where no note says it."""
    a: float
    b: float

    @property
    def difference(self) -> float:
        """In points."""
        return self.b - self.a


def side_by_side(
    repository: Repository, commits: tuple[str, str], paths: Iterable[str]
) -> tuple[list[TaskPair], list[str]]:
    """The tasks that both commits are scored on; and what could not be read, in words."""
    remarks: list[str] = []
    statuses: list[dict[tuple[str, str], str]] = [{}, {}]
    known = [
        _scores(repository, commit, set(paths), status, remarks)
        for commit, status in zip(commits, statuses, strict=True)
    ]
    pairs = []
    for key, value in known[0].items():
        if key in known[1]:
            said = [status[key[0], key[3]] for status in statuses if (key[0], key[3]) in status]
            shown = " → ".join(dict.fromkeys(said))
            pairs.append(TaskPair(key[0], key[2], key[3], shown, value, known[1][key]))
    # 'held-in' goes before 'generalization', and what is neither comes last.
    pairs.sort(key=lambda p: (p.benchmark, p.split, not p.status, p.status[:1] == "g", p.task))
    return pairs, remarks


def _scores(
    repository: Repository,
    commit: str,
    paths: set[str],
    status: dict[tuple[str, str], str],
    remarks: list[str],
) -> dict[Key, float]:
    blobs = {blob for path in paths if (blob := repository.blob_id(commit, path))}
    found: dict[Key, float] = {}
    path = evaluating.results_path(repository)
    if path.exists():
        with open_results(path) as results:
            for key, score in results.every().items():
                if key.checkpoint.partition("+")[0] in blobs:
                    where = (
                        key.benchmark, key.settings, key.split, key.task, key.evaluator_version,
                        key.fingerprint,
                    )  # fmt: skip
                    found[where] = score.value
    try:
        notes = evaluating.show(repository, commit)
    except EvaluationError as error:
        remarks.append(f"the note of {commit[:10]} is left out: {error}")
        return found
    for note in notes:
        if note.checkpoint not in blobs:
            continue  # of a model that was replaced since
        settings = canonical_json(dict(note.settings))
        for task in note.scores:
            status[note.benchmark, task.task] = task.status
            where = (
                note.benchmark, settings, note.split, task.task, note.evaluator_version,
                task.fingerprint,
            )  # fmt: skip
            found.setdefault(where, task.merged)
    return found
