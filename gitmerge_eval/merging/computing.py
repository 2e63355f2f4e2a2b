"""Computes a planned checkpoint: objects into the store, the work-tree file beside, a report."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from gitmerge_eval.checkpoints.checkpoint import store_array
from gitmerge_eval.checkpoints.group_cache import CachedGroup, open_cache
from gitmerge_eval.checkpoints.lfs import ObjectStore
from gitmerge_eval.checkpoints.metadata import GroupRecord, Metadata
from gitmerge_eval.costs import Cost
from gitmerge_eval.merging import adapters
from gitmerge_eval.merging.devices import (
    DEFAULT_RESOURCES,
    Resources,
    choose_device,
    choose_memory,
    describe,
)
from gitmerge_eval.merging.engine import WORKERS, Engine
from gitmerge_eval.merging.flops import statistics_flops
from gitmerge_eval.merging.merge_report import GroupReport, MergeReport
from gitmerge_eval.merging.merged_group import MergedGroup, known_records
from gitmerge_eval.merging.output import COPIED, IsThere, ModelFiles, Output
from gitmerge_eval.merging.planning import CheckpointPlan, GroupPlan
from gitmerge_eval.merging.reuse import Reuse

Progress = Callable[[str, int, int], None]
"""``progress(what, done, total)`` in groups."""


@dataclass(frozen=True)
class Computed:
    """A merged checkpoint: its files and what was done. The peak of memory is whoever watches it's
    to fill in."""

    files: ModelFiles
    report: MergeReport

    @property
    def metadata(self) -> Metadata:
        """All that is stored, as of one file."""
        return self.files.whole


def silent(what: str, done: int, total: int) -> None:
    """Progress for callers that show none."""


def compute(
    plan: CheckpointPlan,
    store: ObjectStore,
    *,
    resources: Resources = DEFAULT_RESOURCES,
    folder: Path | None = None,
    is_there: IsThere = lambda path, data: False,
    fresh: bool = False,
    progress: Progress = silent,
) -> Computed:
    """Merge every group; with ``folder``, write the work-tree files into it too.

    Files that the work tree has already (``is_there``) are not written. Groups that an earlier
    merge has computed are taken from the cache, unless all is to be ``fresh``. Objects go to
    ``store`` (one that only hashes recomputes a merge without a trace). A failure leaves no file
    in ``folder``. Raises what the engine raises.
    """
    started = time.perf_counter()
    device = choose_device(resources.device, plan.method)
    engine = Engine(
        plan,
        store,
        device=device,
        memory=choose_memory(resources.memory),
        workers=resources.workers or WORKERS,
    )
    copied = {g.name: (g.record,) for g in plan.groups if g.state in COPIED and g.record}
    with (
        open_cache(store.repository, reading=not fresh) as cache,
        Output(plan, store, folder, is_there) as output,
    ):
        with store.settling():
            done = _merge_groups(engine, Reuse(plan, cache, device), output, progress)
            found = {**done.records, **copied}
            files = output.finish(found)
        stored = [*done.reused, *copied]
        for number, name in enumerate(stored):
            output.write_stored(found, [name])
            progress(f"writing {plan.spec.path}", number + 1, len(stored))
    figures = {name: group.figures for name, group in done.groups.items()}
    report = MergeReport(
        path=plan.spec.path,
        digest=plan.spec.digest,
        groups=tuple(_group_report(group, done.groups.get(group.name)) for group in plan.groups),
        cost=Cost(
            seconds=time.perf_counter() - started,
            read_bytes=plan.read_bytes,
            written_bytes=plan.written_bytes,
            flops=plan.merging_flops,
            statistics_flops=statistics_flops(plan),
            device=describe(device),
            reused_groups=len(done.reused),
        ),
        notices=(*cache.notices, *adapters.notices(plan, figures)),
    )
    return Computed(files, report)


@dataclass
class _Done:
    """What became of the groups that are merged, and which of them were known."""

    groups: dict[str, CachedGroup] = field(default_factory=dict)
    reused: list[str] = field(default_factory=list)

    @property
    def records(self) -> dict[str, tuple[GroupRecord, ...]]:
        """One for each group, two where it is a product of factors."""
        return {name: group.records for name, group in self.groups.items()}


def _merge_groups(engine: Engine, reuse: Reuse, output: Output, progress: Progress) -> _Done:
    """Find each group in the cache, or merge it, store it and write it to the file."""
    plan, done, missing = engine.plan, _Done(), []
    scalars = engine.scalars(reuse.scalars(), reuse.keep_scalar)
    for group in plan.computed:
        if found := reuse.group(group, scalars):
            done.groups[group.name] = found
            done.reused.append(group.name)
        else:
            missing.append(group)

    def store(merged: MergedGroup) -> CachedGroup:
        name, outcome = merged.plan.name, merged.outcome
        remarks, figures = tuple(outcome.remarks), dict(outcome.figures)
        if plan.outline and name in plan.outline.pairs:
            records, cut = adapters.factored(plan, name, merged.array, engine.store)
            group = CachedGroup(records, remarks + cut.remarks, {**figures, **cut.figures})
        else:
            output.write(name, merged.array)
            record = store_array(name, merged.array, engine.store, known_records(plan, name))
            group = CachedGroup((record,), remarks, figures)
        reuse.keep(merged.plan, scalars, group)
        return group

    for group, (found,) in zip(missing, engine.run(store, missing, scalars), strict=True):
        done.groups[group.name] = found
        progress(f"merging {plan.spec.path}", len(done.groups), len(plan.computed))
    return done


def _group_report(plan: GroupPlan, found: CachedGroup | None) -> GroupReport:
    remarks = (*((plan.remark,) if plan.remark else ()), *(found.remarks if found else ()))
    return GroupReport(plan.name, plan.state, remarks, found.figures if found else {})
