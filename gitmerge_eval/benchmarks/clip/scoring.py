"""Accuracy of a checkpoint on cells of the grid."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

from gitmerge_eval.benchmarks.clip import model as clip
from gitmerge_eval.benchmarks.clip.grid import Grid

TaskProgress = Callable[[str, int, int], object]
"""``progress(task, done, total)`` examples."""


def evaluate(
    grid: Grid,
    checkpoint: Path,
    tasks: Sequence[str],
    *,
    split: str = "test",
    device: str = "cpu",
    progress: TaskProgress | None = None,
) -> dict[str, float]:
    """Accuracy in percent by task: the share whose nearest vector, of all classes, is right."""
    for task in tasks:
        grid.task(task)
    model = clip.load(checkpoint, grid.configuration, device)
    weights = clip.classifier(model, grid.prompts, grid.configuration, device)
    scores = {}
    for task in tasks:
        pictures = grid.cell(task, split)
        report = functools.partial(progress, task) if progress else None
        if report:
            report(0, len(pictures.labels))
        right = clip.correct(model, pictures, weights, progress=report)
        scores[task] = 100.0 * right / len(pictures.labels)
    return scores
