"""The record of an evaluation: what a commit's note carries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gitmerge_eval.costs import Cost


@dataclass(frozen=True)
class TaskScore:
    """One task's scores, in the benchmark's metric: the model evaluated and the known baselines."""

    task: str
    status: str
    """'held-in' or 'generalization', as seen from this model's constituents."""
    merged: float
    pretrained: float | None = None
    individual: float | None = None
    multitask: float | None = None
    fingerprint: str = ""
    """The digest of the task's data."""


@dataclass(frozen=True)
class EvaluationNote:
    """What an evaluation found: the record that a commit's note carries."""

    benchmark: str
    metric: str
    split: str
    evaluator_version: str
    path: str
    checkpoint: str
    """Git object id of the evaluated checkpoint's metadata blob."""
    scores: tuple[TaskScore, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    method: str | None = None
    """None where the model is no merge of ours."""
    options: Mapping[str, Any] = field(default_factory=dict)
    spec: str | None = None
    """The digest of the MergeSpec."""
    constituents: tuple[str, ...] = ()
    seconds: float = 0.0
    """Time that the scores took to compute; those from the cache cost nothing."""
    device: str = "cpu"
    figures: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """What the benchmark says of all tasks together: figure -> model ('merged', …) -> value."""
    sheet: str | None = None
    """Where the sheet of the model's pictures is, from the common git directory."""
    cost: Cost | None = None
    """What computing the merge took, where the strategy's own clone knows it."""
    remarks: tuple[str, ...] = ()
    """What is missing from this note, and why."""

    def average(self, status: str, model: str = "merged") -> float | None:
        """The mean score of ``model`` over the tasks of ``status``; None where one is unknown."""
        known = [getattr(score, model) for score in self.scores if score.status == status]
        return None if not known or None in known else sum(known) / len(known)

    def normalised(self, status: str) -> float | None:
        """Held-in: merged average / individual average; generalization: merged / pretrained."""
        merged = self.average(status)
        reference = self.average(status, "individual" if status == "held-in" else "pretrained")
        return None if merged is None or not reference else merged / reference
