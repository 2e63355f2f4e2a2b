"""One model on some tasks: what is computed here or on another machine, and no cache knows."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from gitmerge_eval.errors import EvaluationError
from gitmerge_eval.evaluation.results import Score
from gitmerge_eval.evaluation.subjects import Model
from gitmerge_eval.evaluation.workspace import Workspace
from gitmerge_eval.records import Benchmark

Relay = Callable[[str, int, int], None]
"""A benchmark's ``progress(task, done, total)``."""


def scores_of(
    model: Model,
    tasks: Sequence[str],
    benchmark: Benchmark,
    settings: Mapping[str, object],
    room: Workspace,
    path: str,
    *,
    split: str,
    device: str,
    outputs: Mapping[str, Path],
    relay: Relay,
) -> dict[str, Score]:
    """task -> score of a model whose checkpoint belongs at ``path``; seconds are equal shares.

    ``outputs``: task -> an empty folder, where the benchmark summarises. Raises EvaluationError
    where a score is missing or not finite, CheckpointError where the model cannot be read.
    """
    keeping = {"outputs": outputs} if benchmark.summarise else {}
    with room.laid_out(model.blob, path, model.companions, model.file) as file:
        start = time.perf_counter()
        found = benchmark.evaluate(
            file,
            tuple(tasks),
            split=split,
            device=device,
            progress=relay,
            settings=settings,
            **keeping,
        )
        seconds = (time.perf_counter() - start) / len(tasks)
    values = {task: _finite(found, task, benchmark.name) for task in tasks}
    return {task: Score(value, seconds, device) for task, value in values.items()}


def _finite(found: Mapping[str, float], task: str, benchmark: str) -> float:
    if task not in found:
        raise EvaluationError(
            f"benchmark '{benchmark}' gave no score for the task '{task}'; report it to its authors"
        )
    value = float(found[task])
    if not math.isfinite(value):
        raise EvaluationError(
            f"benchmark '{benchmark}' gave {value} for the task '{task}'; look for weights that "
            "are not finite"
        )
    return value
