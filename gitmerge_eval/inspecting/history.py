"""The merges of models that a branch has, with what their notes say they can do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

from gitmerge_eval import methods
from gitmerge_eval.errors import EvaluationError, GitError
from gitmerge_eval.evaluation import evaluating
from gitmerge_eval.evaluation.note import EvaluationNote, TaskScore
from gitmerge_eval.evaluation.reporting import STATUSES, options_text
from gitmerge_eval.git.repository import Repository
from gitmerge_eval.git.trailers import METHOD, MergeTrailers, merge_of_ours
from gitmerge_eval.records import canonical_json

_FORMAT = "--format=%H%x00%cs%x00%s"


@dataclass(frozen=True)
class Change:
    """How a merge scores beside the evaluated merge before it, on the tasks that both have."""

    against: str
    """The commit of the other merge."""
    tasks: int
    """How many tasks both were scored on: by one evaluator, on the same data."""
    difference: float | None
    """The mean of the differences, in points; None where there is no such task."""


@dataclass(frozen=True)
class ModelMerge:
    """A commit whose model is the one that its trailers record."""

    commit: str
    date: str
    subject: str
    trailers: MergeTrailers
    note: EvaluationNote | None
    """The latest evaluation on test data, where the commit's note has one."""
    problem: str = ""
    """Why a note that is there cannot be read."""
    is_nested: bool = False
    """Whether it came with another merge: it is not in the line of first parents."""
    change: Change | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        note = self.note
        return {
            "commit": self.commit,
            "date": self.date,
            "subject": self.subject,
            "nested": self.is_nested,
            "method": self.trailers.method,
            "options": dict(self.trailers.options),
            "sweep": self.trailers.sweep or None,
            "base": list(self.trailers.bases),
            "constituents": [{"commit": c, "name": n} for c, n in self.trailers.constituents],
            "models": [{"path": path, "blob": blob} for blob, path in self.trailers.models],
            "averages": {s: note.average(s) for s in STATUSES} if note else None,
            "normalised": {s: note.normalised(s) for s in STATUSES} if note else None,
            "note_problem": self.problem or None,
            "change": vars(self.change) if self.change else None,
        }


def merges(repository: Repository, revision: str = "HEAD", limit: int = 100) -> list[ModelMerge]:
    """The latest ``limit`` merges of models that ``revision``, or a range, reaches; latest first.

    A commit counts where its model is the one in its trailers, be it a merge or a squashed one.
    Raises GitError for an unknown revision.
    """
    return list(islice(_Walk(repository, revision).merges(), limit))


def method_text(trailers: MergeTrailers) -> str:
    """The method with those of its options that are not the default, and how it was chosen."""
    own = methods.load().get(trailers.method)
    known = {p.option: p.default for p in own.hyperparameters} if own else {}
    changed = {k: v for k, v in trailers.options.items() if k in known and v != known[k]}
    method = f"{trailers.method} ({options_text(changed)})" if changed else trailers.method
    return f"{method}, chosen by a sweep" if trailers.sweep else method


class _Walk:
    """One listing, with what it has found so far."""

    def __init__(self, repository: Repository, revision: str) -> None:
        self.repository = repository
        self.revision = revision
        self._notes: dict[str, tuple[EvaluationNote | None, str]] = {}

    def merges(self) -> Iterator[ModelMerge]:
        for line in self._log("log", _FORMAT, self.revision):
            commit, date, subject = line.split("\0", 2)
            trailers = merge_of_ours(self.repository, commit)
            if trailers is None:
                continue
            note, problem = self._note(commit)
            nested = commit not in self._line
            change = self._change(commit, note) if note else None
            yield ModelMerge(commit, date, subject, trailers, note, problem, nested, change)

    @cached_property
    def _line(self) -> list[str]:
        """The commits with trailers in the line of first parents."""
        return self._log("log", "--first-parent", "--format=%H", self.revision)

    def _change(self, commit: str, note: EvaluationNote) -> Change | None:
        for before in self._before(commit):
            if merge_of_ours(self.repository, before) is None:
                continue
            other = self._note(before)[0]
            if other is not None:
                return compared(note, other, before)
        return None

    def _before(self, commit: str) -> list[str]:
        """What may be an earlier merge on the branch that ``commit`` was made on."""
        if commit in self._line and self._line[-1] != commit:
            return self._line[self._line.index(commit) + 1 :]
        if not self.repository.succeeds("rev-parse", "--verify", "--quiet", f"{commit}^1"):
            return []
        return self._log("log", "--first-parent", "--format=%H", f"{commit}^1")

    def _note(self, commit: str) -> tuple[EvaluationNote | None, str]:
        if commit not in self._notes:
            try:
                self._notes[commit] = evaluating.latest_note(self.repository, commit), ""
            except EvaluationError as error:
                self._notes[commit] = None, str(error)
        return self._notes[commit]

    def _log(self, command: str, *arguments: str) -> list[str]:
        *options, revision = arguments
        found = self.repository.run(
            command, "--no-show-signature", "--basic-regexp", f"--grep=^{METHOD}: ", *options,
            "--end-of-options", revision, "--", check=False,
        )  # fmt: skip
        if found.status:
            raise GitError(
                f"'{revision}' is neither a commit nor a range of commits in this repository; "
                "name a branch, a commit, or a range such as main..HEAD"
            )
        return found.text.splitlines()


def compared(note: EvaluationNote, other: EvaluationNote, against: str) -> Change:
    """How ``note`` scores beside the ``other``, that of the commit ``against``."""
    before = {_key(other, score): score.merged for score in other.scores}
    both = [
        score.merged - before[key] for score in note.scores if (key := _key(note, score)) in before
    ]
    return Change(against, len(both), sum(both) / len(both) if both else None)


def _key(note: EvaluationNote, score: TaskScore) -> tuple[str, ...]:
    """What two scores must have in common to be compared."""
    return (
        note.benchmark, canonical_json(dict(note.settings)), note.split, note.evaluator_version,
        score.task, score.fingerprint,
    )  # fmt: skip
