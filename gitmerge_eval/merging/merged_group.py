"""What comes out of the engine: merged groups, whole or tile by tile, of one merge or a family."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gitmerge_eval.checkpoints.dtypes import BY_NAME
from gitmerge_eval.checkpoints.lfs import ObjectStore
from gitmerge_eval.checkpoints.metadata import GroupRecord
from gitmerge_eval.merging.planning import CheckpointPlan, GroupPlan
from gitmerge_eval.records import Outcome, Positions

NO_VALUE: Any = np.empty(0)
"""Of an outcome whose value is elsewhere already."""


@dataclass(frozen=True)
class MergedGroup:
    """One computed group: its plan, its value in the stored dtype, and the kernel's remarks."""

    plan: GroupPlan
    array: NDArray[Any]
    outcome: Outcome
    number: int = 0
    """Which of a family's values it was merged under."""


@dataclass(frozen=True)
class Family:
    """Values of one hyperparameter, in ascending order, that are merged in one pass."""

    parameter: str
    values: tuple[Any, ...]


Place = Callable[[GroupPlan, int, Positions, "NDArray[Any]"], None]
"""``place(group, number, positions, part)``: takes a tile of what a group is merged into; once more
where the group had to be merged again with a scalar that it asked for."""


def known_records(plan: CheckpointPlan, name: str) -> list[GroupRecord]:
    """What base and constituents have for the group: an unchanged group keeps its entry."""
    return [s.metadata.groups[name] for s in plan.sources if name in s.metadata.groups]


def united(parts: Sequence[Outcome]) -> Outcome:
    """The remarks of all tiles once each, their figures added up; no value."""
    figures: Counter[str] = Counter()
    for part in parts:
        figures.update(part.figures)
    remarks = dict.fromkeys(remark for part in parts for remark in part.remarks)
    return Outcome(NO_VALUE, tuple(remarks), dict(figures))


def room_for(record: GroupRecord, allowed: int, store: ObjectStore) -> NDArray[Any]:
    """An array for a result: in a file where it would take most of the bytes ``allowed``."""
    dtype = BY_NAME[record.dtype].numpy
    if 2 * record.nbytes <= allowed:
        return np.empty(record.shape, dtype)
    with store.temporary() as path:
        with path.open("xb") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, record.nbytes)
            except OSError as error:  # found out later, a full disk would kill the process
                raise OSError(error.errno, error.strerror, os.fspath(path)) from None
        return np.memmap(path, dtype, "r+", shape=record.shape)
