"""Computes a planned checkpoint: objects into the store, the work-tree file beside, a report."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from gitmerge_eval.checkpoints.checkpoint import Checkpoint, store_array
from gitmerge_eval.checkpoints.lfs import ObjectStore
from gitmerge_eval.checkpoints.metadata import GroupRecord, Metadata
from gitmerge_eval.checkpoints.safetensors_file import SafetensorsWriter
from gitmerge_eval.merging.engine import Engine, choose_device, reuse
from gitmerge_eval.merging.planning import CheckpointPlan
from gitmerge_eval.records import GroupReport, MergeReport, Outcome

Progress = Callable[[str, int, int], None]
"""``progress(what, done, total)`` in groups."""

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
    chosen = choose_device(device, plan.method)
    engine = Engine(plan, store, chosen)
    records: dict[str, GroupRecord] = {}
    outcomes: dict[str, Outcome] = {}
    copied = [g for g in plan.groups if g.state in ("identical", "added", "not-averaged")]
    layout = {
        group.name: (group.record.shape, group.record.dtype)
        for group in plan.groups
        if group.record is not None and group.state != "conflict"
    }
    header = (plan.base or plan.constituents[0]).metadata.header
    total = len(plan.computed) + (len(copied) if content else 0)
    writer = SafetensorsWriter(content, layout, header) if content else None
    pending: deque[Future[GroupRecord]] = deque()
    written = 0

    def settle(limit: int) -> None:
        while len(pending) > limit:
            record = reuse(plan, pending.popleft().result())
            records[record.name] = record

    with _Closing(writer), ThreadPoolExecutor(max_workers=2) as pool:
        for number, merged in enumerate(engine):
            pending.append(pool.submit(store_array, merged.plan.name, merged.array, store))
            if writer:
                writer.write(merged.plan.name, merged.array)
            outcomes[merged.plan.name] = merged.outcome
            written += merged.array.nbytes
            settle(_IN_FLIGHT)
            progress(f"merging {plan.spec.path}", number + 1, total)
        settle(0)
        records |= {g.name: g.record for g in copied if g.record is not None}
        metadata = Metadata(dict(sorted(records.items())), header)
        if writer:
            checkpoint = Checkpoint(metadata, store)
            for number, group in enumerate(copied):
                writer.write(group.name, checkpoint.read(group.name))
                progress(f"writing {plan.spec.path}", len(plan.computed) + number + 1, total)
    report = MergeReport(
        path=plan.spec.path,
        digest=plan.spec.digest,
        groups=tuple(
            _group_report(group.name, group.state, group.remark, outcomes) for group in plan.groups
        ),
        seconds=time.perf_counter() - started,
        read_bytes=engine.read_bytes,
        written_bytes=written,
        flops=plan.merging_flops,
        device=chosen,
    )
    return Computed(metadata, report)


class _Closing:
    """Enters a writer where there is one."""

    def __init__(self, writer: SafetensorsWriter | None) -> None:
        self._writer = writer

    def __enter__(self) -> None:
        if self._writer:
            self._writer.__enter__()

    def __exit__(self, *error: object) -> None:
        if self._writer:
            self._writer.__exit__(*error)


def _group_report(name: str, state: str, remark: str, outcomes: dict[str, Outcome]) -> GroupReport:
    outcome = outcomes.get(name)
    remarks = (*((remark,) if remark else ()), *(outcome.remarks if outcome else ()))
    return GroupReport(name, state, remarks, outcome.figures if outcome else {})
