"""What collecting a statistic is in every family: its options, which examples, and what is kept."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from gitmerge_eval.benchmarks.learning.building import TaskProgress, named
from gitmerge_eval.benchmarks.learning.loop import reproducible
from gitmerge_eval.errors import UnknownName
from gitmerge_eval.records import StatisticFile
from gitmerge_eval.statistics import gram

Options = Mapping[str, Mapping[str, Any]]
OPTIONS: Options = {
    "fisher": {"examples": None, "sampled": False, "sampling_seed": 0},
    "gram": {"examples": None, "convolutions": False},
}
"""Statistic -> its options with their defaults; ``examples`` limits how many are used."""


class Grid(Protocol):
    """What all families' grids have."""

    @property
    def name(self) -> str:
        """The benchmark's."""

    @property
    def recipe(self) -> Mapping[str, Any]:
        """Its numbers."""

    @property
    def seed(self) -> int:
        """Of everything that is drawn."""

    def fingerprint(self, task: str, split: str) -> str:
        """A digest of a cell's data."""


def statistic_options(
    benchmark: str, kind: str, options: Mapping[str, Any] | None, known: Options = OPTIONS
) -> dict[str, Any]:
    """All options of a statistic, as given or their defaults.

    Raises UnknownName for a kind that needs no data or does not exist, and for unknown options.
    """
    if kind not in known:
        raise UnknownName.among(f"statistic that benchmark '{benchmark}' collects", kind, known)
    for option in options or {}:
        if option not in known[kind]:
            raise UnknownName.among(f"option of statistic '{kind}'", option, known[kind])
    return {**known[kind], **(options or {})}


def thinned(count: int, examples: int | None) -> Tensor:
    """At most ``examples`` rows of ``count``, spread evenly: data may be ordered, by class or
    otherwise."""
    if examples is None or examples >= count:
        return torch.arange(count)
    return torch.arange(examples) * count // examples


def fisher_file(
    grid: Grid, task: str, tensors: Mapping[str, Tensor], *, examples: int, tokens: int,
    options: Mapping[str, Any],
) -> StatisticFile:  # fmt: skip
    """A Fisher diagonal of a task's examples, to be stored: each group under its own name."""
    layout = {name: {"key": name} for name in tensors}
    return _file(grid, "fisher", task, tensors, layout, examples, tokens, options)


def gram_file(
    grid: Grid, task: str, state: gram.GramState, *, examples: int, options: Mapping[str, Any]
) -> StatisticFile:
    """Gram matrices of a task's examples, to be stored."""
    tensors, layout = gram.compute(state)
    tokens = max(state.tokens.values())
    return _file(grid, "gram", task, tensors, layout, examples, tokens, options)


def _file(
    grid: Grid,
    kind: str,
    task: str,
    tensors: Mapping[str, Tensor],
    layout: Mapping[str, Mapping[str, Any]],
    examples: int,
    tokens: int,
    options: Mapping[str, Any],
) -> StatisticFile:
    split = str(grid.recipe["statistics"]["split"])
    return StatisticFile(
        kind=kind,
        tensors={name: tensor.cpu().contiguous() for name, tensor in tensors.items()},
        layout=layout,
        examples=examples,
        tokens=tokens,
        data=f"{grid.name}/{task}:{split}",
        fingerprint=grid.fingerprint(task, split),
        options=options,
    )


def measure(
    collect: Callable[..., StatisticFile],
    grid: Grid,
    checkpoint: Path,
    task: str,
    *,
    device: str,
    progress: TaskProgress | None,
    **how: Any,
) -> tuple[StatisticFile, ...]:
    """The Fisher diagonal and the Gram matrices of a constituent, by its family's ``collect``."""
    options: Options = grid.recipe["statistics"]
    # The same bytes are promised on a processor; vectorised gradients on a GPU may use kernels
    # that have no deterministic form, and would be refused.
    with reproducible(grid.seed) if device == "cpu" else contextlib.nullcontext():
        return tuple(
            collect(
                grid,
                kind,
                checkpoint,
                task,
                options=options.get(kind, {}),
                device=device,
                progress=named(progress, f"{task}: {kind}"),
                **how,
            )
            for kind in ("fisher", "gram")
        )
