"""Trimming task vectors to their largest elements, counted over the whole model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import TYPE_CHECKING

from gitmerge_eval.methods._task_vectors import changed
from gitmerge_eval.records import Groups, ParameterGroup, Part

if TYPE_CHECKING:
    from gitmerge_eval.records import Array

TaskVector = Callable[[ParameterGroup, int], "Array"]
"""The task vector of one constituent, by its position."""

TRIM_THRESHOLD = "trim_threshold"


def trimmed(group: ParameterGroup, task_vector: TaskVector) -> tuple[Array, ...]:
    """The task vectors that are not zero, each cut to |τ| ≥ its ``trim_threshold``.

    A group without that scalar is not trimmed.
    """
    thresholds = group.scalars.get(TRIM_THRESHOLD)
    vectors = []
    for index in changed(group):
        vector = task_vector(group, index)
        if thresholds is not None:
            vector *= abs(vector) >= thresholds[index]
        vectors.append(vector)
    return tuple(vectors)


def trim_thresholds(
    groups: Groups, models: int, density: float, task_vector: TaskVector
) -> tuple[float, ...]:
    """For each constituent the k-th largest |τ_i| over all groups that it changed.

    k = max(1, ⌊density · n⌋) of the n elements of those groups; 0 where it changed none.
    """
    from gitmerge_eval.statistics.trimmed import thresholds

    def vectors(function: Callable[[int, Array], Part]) -> Iterator[Part]:
        def of_group(group: ParameterGroup) -> list[Part]:
            return [function(index, task_vector(group, index)) for index in changed(group)]

        return chain.from_iterable(groups(of_group))

    return thresholds(vectors, models, density)
