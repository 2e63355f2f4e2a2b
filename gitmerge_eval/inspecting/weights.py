"""How much the statistics of each constituent weigh in a merge: Σ F_i, and the trace of G_i."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from gitmerge_eval.checkpoints.lfs import ObjectStore
from gitmerge_eval.inspecting.reading import Array
from gitmerge_eval.merging.fetching import fetch_named
from gitmerge_eval.merging.inputs import Readers, Slot
from gitmerge_eval.merging.precision import wide
from gitmerge_eval.merging.sources import Source, StatisticSource
from gitmerge_eval.merging.threads import without_warnings

KINDS = ("fisher", "gram")
"""The statistics that are weights."""


def by_module(
    store: ObjectStore,
    constituents: Sequence[Source],
    kinds: Sequence[str],
    cut: Mapping[str, str],
    whole: str,
) -> dict[str, dict[str, tuple[float, ...]]]:
    """kind -> module -> each constituent's part of the sum over all constituents.

    ``cut`` says which groups count, and their modules; under ``whole`` stands the sum of all. A
    kind that some constituent lacks, or that is of another checkpoint, is left out, and so is a
    module of which there is none.
    """
    found = {}
    for kind in kinds:
        if not all(source.has_fresh(kind) for source in constituents):
            continue
        sums: dict[str, Array] = {}
        statistics = [source.statistics[kind] for source in constituents]
        for name, module in cut.items():
            values = _group(store, statistics, constituents, name)
            if values is not None:
                for key in (module, whole):
                    sums[key] = sums.get(key, np.zeros(len(values))) + values
        found[kind] = {
            module: tuple((values / values.sum()).tolist())
            for module, values in sums.items()
            if values.sum() > 0
        }
    return found


def _group(
    store: ObjectStore,
    statistics: Sequence[StatisticSource],
    constituents: Sequence[Source],
    name: str,
) -> Array | None:
    """The weights of one group; None where nobody has a statistic of it."""
    records = [statistic.record(name) for statistic in statistics]
    if not any(records):
        return None
    slots = [
        Slot(record, None, f"statistic '{statistic.kind}' of '{source.label}'", statistic.kind)
        if record
        else None
        for record, statistic, source in zip(records, statistics, constituents, strict=True)
    ]
    readers = Readers(store)
    fetch_named(store, [(f"group '{name}': {s.where}", s.record) for s in slots if s])
    weights = []
    for one in slots:
        if one is None:
            weights.append(0.0)
            continue
        tensor = wide(readers.whole(one), "float64")
        weights.append(without_warnings(_trace if one.kind == "gram" else _total, tensor))
    readers.close()
    return np.array(weights)


def _total(fisher: Array) -> float:
    return float(fisher.sum())


def _trace(gram: Array) -> float:
    """The sum of the diagonal of a Gram matrix, square or packed row by row as its upper half.

    >>> import numpy as np
    >>> float(_trace(np.array([1.0, 2.0, 3.0])))  # of [[1, 2], [2, 3]]
    4.0
    """
    if gram.ndim == 2:
        return float(np.trace(gram))
    side = int((np.sqrt(8 * gram.size + 1) - 1) / 2 + 0.5)
    rows = np.arange(side)
    return float(gram[rows * side - rows * (rows - 1) // 2].sum())
