"""Brings what planned merges read, all at once, and says whose it is that cannot be had."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from gitmerge_eval.checkpoints.lfs import ObjectStore
from gitmerge_eval.checkpoints.metadata import GroupRecord
from gitmerge_eval.errors import MissingObject
from gitmerge_eval.merging.planning import CheckpointPlan


def fetch(store: ObjectStore, plans: Iterable[CheckpointPlan]) -> None:
    """Every object that is not here, by one git-lfs process: for the merges, the files that they
    write, and the statistics.

    MissingObject names group, file and branch of the first that is neither here nor to be had.
    """
    fetch_named(store, [pair for plan in plans for pair in _wanted(plan)])


def fetch_named(store: ObjectStore, wanted: Sequence[tuple[str, GroupRecord]]) -> None:
    """Every object that is not here, by one git-lfs process; each with the words that say whose.

    MissingObject has those of the first that is neither here nor to be had.
    """
    try:
        store.fetch(record for _, record in wanted)
    except MissingObject as error:
        for where, record in wanted:
            if not store.has(record.object_id):
                raise error.within(where) from None
        raise


def absent_bytes(store: ObjectStore, plan: CheckpointPlan) -> int:
    """What :func:`fetch` would bring for the plan: the sizes of the objects that are not here."""
    sizes = {record.object_id: record.size for _, record in _wanted(plan)}
    return sum(sizes[object_id] for object_id in store.missing(sizes))


def _wanted(plan: CheckpointPlan) -> Iterator[tuple[str, GroupRecord]]:
    path = plan.spec.path
    for source in plan.constituents:
        for record in source.files.groups.values():
            yield f"group '{record.name}' of '{path}': branch '{source.label}'", record
        for kind, statistic in source.statistics.items():
            whose = f"statistic '{kind}' of '{source.label}'"
            for record in statistic.metadata.groups.values():
                yield f"group '{record.name}' of '{path}': {whose}", record
    others = {"the base": plan.base} if plan.base else {}
    for whose, source in {
        **others,
        **{f"'{s.label}'": s for s in plan.references.values()},
    }.items():
        for record in source.files.groups.values():
            yield f"group '{record.name}' of '{path}': {whose}", record
