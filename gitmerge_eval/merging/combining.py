"""The statistics beside a merged checkpoint: combined where exact, else dropped and said."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

import numpy as np

from gitmerge_eval import statistics
from gitmerge_eval.checkpoints import lora, statistics_index
from gitmerge_eval.checkpoints.checkpoint import Checkpoint, store_array
from gitmerge_eval.checkpoints.lfs import ObjectStore
from gitmerge_eval.checkpoints.metadata import GroupRecord, Metadata
from gitmerge_eval.checkpoints.statistics_index import Index, StatisticEntry
from gitmerge_eval.errors import CheckpointError
from gitmerge_eval.git.heads import Heads
from gitmerge_eval.git.repository import Repository
from gitmerge_eval.git.trees import Entry
from gitmerge_eval.merging.deciding import Decision, Tensors
from gitmerge_eval.merging.planning import CheckpointPlan
from gitmerge_eval.merging.sources import StatisticSource


@dataclass
class Statistics:
    """What becomes of every statistic in the merge."""

    entries: dict[str, Entry | None] = field(default_factory=dict)
    """Statistics files: taken from a head (Entry), or removed (None)."""
    combined: dict[str, Metadata] = field(default_factory=dict)
    """Statistics files that were computed by combination."""
    indexes: dict[str, bytes] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def settle(
    repository: Repository,
    store: ObjectStore,
    heads: Heads,
    tensors: Tensors,
    merged_blobs: Mapping[str, str],
) -> Statistics:
    """Decide and compute all statistics; ``merged_blobs`` names each merged checkpoint's blob."""
    result = Statistics(dict.fromkeys(tensors.statistics))
    decisions = {decision.path: decision for decision in tensors.decisions}
    listed: set[str] = set()
    for index_path in sorted(tensors.indexes):
        folder = PurePosixPath(index_path).parent
        known = _read_indexes(repository, heads, tensors, index_path)
        listed |= {
            str(folder / entry.path)
            for index in known.values()
            for kinds in index.values()
            for entry in kinds.values()
        }
        settled: Index = {}
        for name in sorted({name for index in known.values() for name in index}):
            path = str(folder.parent / name)
            decision = decisions.get(path)
            if decision and decision.plan:
                kinds = _combine(store, decision.plan, merged_blobs[path], result)
            else:
                kinds = _take(heads, known, tensors, name, decision, folder, result)
            if kinds:
                settled[name] = kinds
        if settled:
            result.indexes[index_path] = statistics_index.serialize(settled)
        else:
            result.entries[index_path] = None
    for path in sorted(tensors.statistics - listed):
        _take_unlisted(heads, tensors, path, result)
    return result


def _read_indexes(
    repository: Repository, heads: Heads, tensors: Tensors, index_path: str
) -> dict[str, Index]:
    """commit -> the index as it has it; MalformedCheckpoint names the branch of a torn one."""
    known = {}
    for commit, files in tensors.files.items():
        if index_path in files:
            try:
                known[commit] = statistics_index.parse(repository.blob(files[index_path].object_id))
            except CheckpointError as error:
                raise error.within(f"'{index_path}' of '{heads.name(commit)}'") from None
    return known


def _take(
    heads: Heads,
    known: Mapping[str, Index],
    tensors: Tensors,
    name: str,
    decision: Decision | None,
    folder: PurePosixPath,
    result: Statistics,
) -> dict[str, StatisticEntry]:
    """The statistics of a checkpoint that is not merged: those of the commit that it comes from,
    or, where no head changed the checkpoint, each kind from the first head that changed it."""
    if decision and decision.kind == "removed":
        return {}
    taken: dict[str, StatisticEntry] = {}
    for kind in sorted({k for index in known.values() for k in index.get(name, {})}):
        versions = {c: index.get(name, {}).get(kind) for c, index in known.items()}
        origin = heads.head
        if decision and decision.kind == "taken":
            origin = decision.origin
        else:
            base = versions.get(heads.bases[0]) if heads.bases else None
            origin = next((c for c in heads.candidates if versions.get(c) != base), origin)
        if (entry := versions.get(origin)) is not None:
            path = str(folder / entry.path)
            result.entries[path] = tensors.files[origin].get(path)
            taken[kind] = entry
    return taken


def _take_unlisted(heads: Heads, tensors: Tensors, path: str, result: Statistics) -> None:
    """A file in a statistics folder that no index speaks of: from the head that changed it."""
    base = tensors.files[heads.bases[0]].get(path) if heads.bases else None
    versions = {commit: tensors.files[commit].get(path) for commit in heads.candidates}
    changed = {commit: entry for commit, entry in versions.items() if entry != base}
    first = next(iter(changed), None)
    result.entries[path] = base if first is None else changed[first]
    if first is not None and len(set(changed.values())) > 1:
        result.remarks.append(
            f"'{path}' differs between the heads and no statistics index names it: taken from "
            f"'{heads.name(first)}'"
        )


def _combine(
    store: ObjectStore, plan: CheckpointPlan, merged_blob: str, result: Statistics
) -> dict[str, StatisticEntry]:
    """Sum each statistic that all constituents have, where the sum is the merge's statistic."""
    kinds: dict[str, StatisticEntry] = {}
    dropped: dict[str, list[str]] = {}
    for kind in sorted({kind for source in plan.constituents for kind in source.statistics}):
        having = [s.statistics[kind] for s in plan.constituents if kind in s.statistics]
        if why := _why_not(plan, kind, having):
            dropped.setdefault(why, []).append(kind)
            continue
        path = statistics_index.statistic_path(plan.spec.path, kind)
        result.combined[path] = _sum(store, having)
        result.entries.pop(path, None)
        kinds[kind] = replace(
            _summary([s.entry for s in having], path, merged_blob),
            # All the same, or unknown where one of them does not say.
            companions=min(_frozen(plan.spec.path, having), key=len),
        )
    result.remarks += [
        f"statistics of '{plan.spec.path}' not carried into the merge, the branches keep theirs: "
        f"{', '.join(names)} ({why})"
        for why, names in dropped.items()
    ]
    return kinds


def summed(store: ObjectStore, plan: CheckpointPlan, kind: str) -> Metadata | None:
    """The statistic of that kind that the merge of ``plan`` has; None where it is no sum."""
    having = [s.statistics[kind] for s in plan.constituents if kind in s.statistics]
    return _sum(store, having) if having and not _why_not(plan, kind, having) else None


def _why_not(plan: CheckpointPlan, kind: str, having: Sequence[StatisticSource]) -> str:
    """Why the constituents' statistics do not add up to the merged checkpoint's; '' if they do."""
    # Not all of them are loaded: some import torch, which the merge may do without.
    declared = statistics.get(kind) if kind in statistics.names() else None
    if not declared or plan.spec.method not in declared.combine_exact_for:
        return f"no exact combination under '{plan.spec.method}'"
    if plan.options.get("weights") is not None:
        return "no exact combination with weights"
    complete = len(having) == len(plan.constituents)
    if not complete or not all(source.has_fresh(kind) for source in plan.constituents):
        return "some constituents lack it or have a stale one"
    known = [frozen for frozen in _frozen(plan.spec.path, having) if frozen]
    if any(frozen != known[0] for frozen in known):
        return "the constituents' were computed with different files beside the checkpoint"
    return ""


def _frozen(path: str, having: Sequence[StatisticSource]) -> list[dict[str, str]]:
    """What each was computed with beside the checkpoint, as far as that is known; less the
    adapter's own configuration, which is merged."""
    own = PurePosixPath(lora.configuration_of(path) or "").name
    return [
        {name: identity for name, identity in part.entry.companions.items() if name != own}
        for part in having
    ]


def _sum(store: ObjectStore, parts: Sequence[StatisticSource]) -> Metadata:
    """Σ_i S_i for every stored tensor, in float64, stored as float32; one tensor at a time."""
    return Metadata(
        {record.name: record for record in _summed_records(store, parts)}, parts[0].metadata.header
    )


def _summed_records(store: ObjectStore, parts: Sequence[StatisticSource]) -> Iterator[GroupRecord]:
    names = sorted({name for part in parts for name in part.metadata.groups})
    for name in names:
        having = [part for part in parts if name in part.metadata.groups]
        arrays = (Checkpoint(part.metadata, store).read(name) for part in having)
        total = sum((array.astype(np.float64) for array in arrays), np.float64(0))
        with np.errstate(over="ignore"):
            yield store_array(name, np.asarray(total, np.float32), store)


def _summary(entries: Sequence[StatisticEntry], path: str, checkpoint: str) -> StatisticEntry:
    fingerprints = "\n".join(sorted(entry.fingerprint for entry in entries))
    return replace(
        entries[0],
        path=PurePosixPath(path).name,
        checkpoint=checkpoint,
        data=" + ".join(sorted({part for e in entries for part in e.data.split(" + ")})),
        fingerprint=hashlib.sha256(fingerprints.encode()).hexdigest(),
        examples=sum(entry.examples for entry in entries),
        tokens=sum(entry.tokens for entry in entries),
        layout={key: value for entry in entries for key, value in entry.layout.items()},
    )
