"""Fisher and Gram statistics of a text model on a task's training examples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from gitmerge_eval.benchmarks.learning.loop import Progress
from gitmerge_eval.benchmarks.learning.measuring import (
    fisher_file,
    gram_file,
    statistic_options,
    thinned,
)
from gitmerge_eval.benchmarks.texts.grid import Grid
from gitmerge_eval.benchmarks.texts.training import encoded
from gitmerge_eval.benchmarks.texts.weights import Pair
from gitmerge_eval.records import StatisticFile


def collect(
    grid: Grid,
    kind: str,
    checkpoint: Path,
    task: str,
    *,
    options: Mapping[str, Any] | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> StatisticFile:
    """The statistic of a checkpoint on its task's training examples.

    Raises UnknownName for a kind that needs no data or does not exist, and for unknown options.
    """
    chosen = statistic_options(grid.name, kind, options)
    numbers = grid.recipe["statistics"]
    cell = grid.cell(task, str(numbers["split"]))
    rows = thinned(len(cell), chosen["examples"] or None).tolist()
    family = grid.family
    pairs = encoded(family, [cell[row] for row in rows], grid.tokens)
    model = family.load(checkpoint, grid.configuration, device)
    if chosen.get("sampled"):
        longest = int(grid.recipe["evaluation"]["longest_answer"])
        seed = int(chosen["sampling_seed"])
        pairs = family.sampled(model, grid.tokens, pairs, longest=longest, seed=seed)
    batches = [
        family.batch(part, grid.tokens.pad).to(device)
        for part in _by_length(pairs, int(numbers["batch"]))
    ]
    if kind == "fisher":
        tensors = family.fisher(model, batches, chunk=int(numbers["chunk"]), progress=progress)
        tokens = sum(int(batch.target_mask.sum()) for batch in batches)
        return fisher_file(grid, task, tensors, examples=len(rows), tokens=tokens, options=chosen)
    # float64 where it is cheap; a GPU's is slow, and so are float64's sums of large layers.
    dtype = getattr(torch, str(numbers["accumulate"]))
    state = family.gram(model, batches, dtype=dtype, progress=progress)
    return gram_file(grid, task, state, examples=len(rows), options=chosen)


def _by_length(pairs: Sequence[Pair], size: int) -> Iterator[Sequence[Pair]]:
    ordered = sorted(pairs, key=lambda pair: (len(pair[0]), len(pair[1])))
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]
