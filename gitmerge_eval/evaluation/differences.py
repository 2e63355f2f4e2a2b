"""Two evaluations side by side: what a model scored before, and what it scores now."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gitmerge_eval.evaluation import evaluating
from gitmerge_eval.evaluation.note import EvaluationNote
from gitmerge_eval.evaluation.reporting import STATUSES
from gitmerge_eval.git.repository import Repository


@dataclass(frozen=True)
class Difference:
    """One task, or the average of those of one status."""

    task: str
    status: str
    """Of the tasks that were evaluated now; else as it was."""
    before: float | None
    now: float | None

    @property
    def change(self) -> float | None:
        """How much better it is now."""
        known = self.before is not None and self.now is not None
        return self.now - self.before if known else None  # type: ignore[operator]


def differences(before: EvaluationNote, now: EvaluationNote) -> Iterator[Difference]:
    """Task by task, and the averages; None where only one of the two has a score.

    What was held-in before may be a combination of skills now, or none of the tasks at all.
    """
    old = {score.task: score for score in before.scores}
    new = {score.task: score for score in now.scores}
    for status in STATUSES:
        for task in dict.fromkeys([*new, *old]):
            score = new.get(task) or old[task]
            if score.status == status:
                was, is_ = old.get(task), new.get(task)
                yield Difference(
                    task, status, was.merged if was else None, is_.merged if is_ else None
                )
        averages = before.average(status), now.average(status)
        if averages != (None, None):
            yield Difference("average", status, *averages)


def evaluation_of(repository: Repository, commits: tuple[str, ...]) -> EvaluationNote | None:
    """The latest evaluation on test data that the first of the commits with one has."""
    notes = (evaluating.latest_note(repository, commit) for commit in commits)
    return next((note for note in notes if note is not None), None)
