"""Computes a planned checkpoint: objects into the store, the work-tree file beside, a report."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from gitmerge_eval.checkpoints.checkpoint import Checkpoint, store_array
from gitmerge_eval.checkpoints.lfs import ObjectStore
from gitmerge_eval.checkpoints.metadata import GroupRecord, Metadata
from gitmerge_eval.checkpoints.safetensors_file import SafetensorsWriter
from gitmerge_eval.merging.engine import Engine, choose_device, known_records
from gitmerge_eval.merging.planning import CheckpointPlan, GroupPlan
from gitmerge_eval.records import GroupReport, MergeReport, Outcome

Progress = Callable[[str, int, int], None]
"""``progress(what, done, total)`` in groups."""

COPIED = ("identical", "added", "not-averaged")
"""States in which the stored object is referenced again."""
_IN_FLIGHT = 4
"""Groups that may wait for encoding at a time; bounds memory."""


@dataclass(frozen=True)
class Computed:
    """A merged checkpoint: its metadata and what was done."""

    metadata: Metadata
    report: MergeReport


def silent(what: str, done: int, total: int) -> None:
    """Progress for callers that show none."""


def compute(
    plan: CheckpointPlan,
    store: ObjectStore,
    *,
    device: str = "auto",
    content: Path | None = None,
    progress: Progress = silent,
) -> Computed:
    """Merge every group; with ``content``, write the work-tree file there too.

    Objects go to ``store`` (one that only hashes recomputes a merge without a trace). A failure
    leaves no file at ``content``. Raises what the engine raises.
    """
    started = time.perf_counter()
    store.fetch(plan.opened.values())
    engine = Engine(plan, store, choose_device(device, plan.method))
    header = (plan.base or plan.constituents[0]).metadata.header
    layout = {
        group.name: (group.record.shape, group.record.dtype)
        for group in plan.groups
        if group.record is not None and group.state != "conflict"
    }
    outcomes: dict[str, Outcome] = {}
    writer = SafetensorsWriter(content, layout, header) if content else None
    with writer or nullcontext():
        records = _merge_groups(engine, outcomes, writer, progress)
        copied = {g.name: g.record for g in plan.groups if g.state in COPIED and g.record}
        metadata = Metadata({**records, **copied}, header)
        if writer:
            checkpoint = Checkpoint(metadata, store, plan.spec.path)
            for number, name in enumerate(copied):
                writer.write(name, checkpoint.read(name))
                progress(f"writing {plan.spec.path}", number + 1, len(copied))
    report = MergeReport(
        path=plan.spec.path,
        digest=plan.spec.digest,
        groups=tuple(_group_report(group, outcomes.get(group.name)) for group in plan.groups),
        seconds=time.perf_counter() - started,
        read_bytes=engine.read_bytes,
        written_bytes=plan.written_bytes,
        flops=plan.merging_flops,
        device=engine.device,
    )
    return Computed(metadata, report)


def _merge_groups(
    engine: Engine,
    outcomes: dict[str, Outcome],
    writer: SafetensorsWriter | None,
    progress: Progress,
) -> dict[str, GroupRecord]:
    """Merge and store every computed group; encoding overlaps with the next group's merge."""
    plan, records = engine.plan, {}
    pending: deque[Future[GroupRecord]] = deque()
    with ThreadPoolExecutor(max_workers=2) as pool:
        for number, merged in enumerate(engine):
            name = merged.plan.name
            known = known_records(plan, name)
            pending.append(pool.submit(store_array, name, merged.array, engine.store, known))
            outcomes[name] = merged.outcome
            if writer:
                writer.write(name, merged.array)
            if len(pending) > _IN_FLIGHT:
                record = pending.popleft().result()
                records[record.name] = record
            progress(f"merging {plan.spec.path}", number + 1, len(plan.computed))
        for future in pending:
            records[future.result().name] = future.result()
    return records


def _group_report(plan: GroupPlan, outcome: Outcome | None) -> GroupReport:
    remarks = (*((plan.remark,) if plan.remark else ()), *(outcome.remarks if outcome else ()))
    return GroupReport(plan.name, plan.state, remarks, outcome.figures if outcome else {})
