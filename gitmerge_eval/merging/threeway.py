"""Three-way merge of one file that holds tensors, as a merge driver does it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from gitmerge_eval.checkpoints import statistics_index
from gitmerge_eval.checkpoints.lfs import ObjectStore
from gitmerge_eval.checkpoints.lora import configuration_of, has_factors
from gitmerge_eval.errors import CheckpointError, InvalidOption, MergeRefused, MissingBase
from gitmerge_eval.git import conflicts
from gitmerge_eval.git.conflicts import Conflict
from gitmerge_eval.git.repository import Repository
from gitmerge_eval.merging import driver_options, replaying, task_vector
from gitmerge_eval.merging.computing import compute
from gitmerge_eval.merging.deciding import conflicts_in
from gitmerge_eval.merging.devices import choose_accumulate
from gitmerge_eval.merging.fetching import fetch
from gitmerge_eval.merging.merge_report import MergeReport
from gitmerge_eval.merging.options import MergeOptions
from gitmerge_eval.merging.planning import CheckpointPlan, plan_checkpoint
from gitmerge_eval.merging.sources import Source, as_adapter, metadata_of, open_source
from gitmerge_eval.merging.task_vector import TASK_VECTOR

_SAID = 10
"""Remarks on groups that one merge prints."""
_OTHER_HEADS = (
    *("CHERRY_PICK_HEAD", "REVERT_HEAD", "REBASE_HEAD", "MERGE_HEAD", "ORIG_HEAD"),
    *("CHERRY_PICK_HEAD^", "REVERT_HEAD^", "REBASE_HEAD^", "refs/stash", "refs/stash^"),
)


@dataclass(frozen=True)
class Sides:
    """The three versions of one file."""

    path: str
    base: Source | None
    ours: Source
    theirs: Source


def merge_files(
    repository: Repository, base: Path, ours: Path, theirs: Path, path: str
) -> list[str]:
    """Merge ``ours`` and ``theirs`` against ``base`` into ``ours``; remarks, in words.

    Raises MergeRefused where groups conflict and PrerequisiteError where the configured method
    lacks something; the file is then as it was, and 'gitmerge-eval resolve' knows what it was to
    be.
    """
    if path.endswith(".json") and statistics_index.is_statistic(path):
        ours.write_bytes(_merge_indexes(ours.read_bytes(), theirs.read_bytes()))
        return []
    if statistics_index.is_statistic(path):
        return [f"'{path}' kept as ours: a statistic belongs to one checkpoint"]
    if again := replaying.merge_file(repository, path):
        metadata, said = again
        ours.write_bytes(metadata.serialize())
        return list(said)
    blobs = {
        side: repository.write_blob(data)
        for side, file in zip(conflicts.SIDES, (base, ours, theirs), strict=True)
        # Git gives an empty base where both sides added the file.
        if (data := file.read_bytes()) or side != "base"
    }
    chosen = driver_options.configured(repository)
    conflict = Conflict(path, {path: blobs}, chosen.method.name, chosen.items)
    conflicts.remember(repository, conflict)
    sides = open_sides(repository, path, blobs, chosen)
    store = ObjectStore(repository)
    plan = plan_sides(repository, sides, chosen, store)
    if reason := conflicts_in(plan):
        raise MergeRefused(f"CONFLICT (model): '{path}': {reason}")
    fetch(store, [plan])
    done = compute(plan, store, resources=chosen.resources)
    data = done.metadata.serialize()
    ours.write_bytes(data)
    conflicts.forget(repository, path)
    count = done.report.count("merged") + done.report.count("tied")
    return [
        f"{path}: {plan.spec.method}, {count} parameter groups merged",
        *done.report.notices,
        *_remarks(done.report),
        *_stale(repository, sides, repository.run("hash-object", "--stdin", stdin=data).text),
        *driver_options.misplaced(repository),
    ]


def _remarks(report: MergeReport) -> list[str]:
    """What was done to groups that were not simply merged or taken, the first few of them."""
    groups = [group for group in report.groups if group.state != "tied"]
    said = [remark for group in groups for remark in dict.fromkeys(group.remarks)]
    more = [f"… and {len(said) - _SAID} remarks more"] if len(said) > _SAID else []
    return [*said[:_SAID], *more]


def open_sides(
    repository: Repository,
    path: str,
    blobs: Mapping[str, str],
    chosen: MergeOptions,
    *,
    alone: bool = True,
) -> Sides:
    """The versions of a file by their blobs, with the statistics that the method may need.

    ``alone``: nothing beside the file can be written, so that an adapter with a configuration is
    refused (MergeRefused).
    """
    found = {side: _source(repository, blob, path, side, alone) for side, blob in blobs.items()}
    ours, theirs = (
        _with_statistics(repository, found[side], chosen) for side in ("ours", "theirs")
    )
    return Sides(path, found.get("base"), ours, theirs)


def plan_sides(
    repository: Repository, sides: Sides, chosen: MergeOptions, store: ObjectStore
) -> CheckpointPlan:
    """The merge of ours and theirs by the driver's method.

    Raises PrerequisiteError and InvalidOption; groups that conflict are in the plan.
    """
    accumulate = choose_accumulate(chosen.accumulate)
    constituents = [sides.ours, sides.theirs]
    try:
        plan = plan_checkpoint(repository, sides.path, chosen, sides.base, constituents, accumulate)
    except MissingBase:
        raise MissingBase(
            f"'{chosen.method.name}' needs a base, and '{sides.path}' was added on both sides; "
            f"take one of the two, or merge them by another method "
            f"(-c {driver_options.SECTION}.method=average)"
        ) from None
    if chosen.rank and not plan.outline:
        raise InvalidOption(f"option 'rank' is for adapters, and '{sides.path}' is none")
    if chosen.method is TASK_VECTOR:
        plan = task_vector.settled(plan, store)
    return replace(plan, own_header=_merged_header(sides))


def _merged_header(sides: Sides) -> dict[str, str]:
    """safetensors' own metadata: ours, with what they changed of it and we did not."""
    base = sides.base.metadata.header if sides.base else {}
    ours, theirs = dict(sides.ours.metadata.header), sides.theirs.metadata.header
    for key in {*base, *theirs}:
        if theirs.get(key) != base.get(key) == ours.get(key):
            ours.pop(key, None)
            ours |= {key: theirs[key]} if key in theirs else {}
    return ours


def _source(repository: Repository, blob: str, path: str, side: str, alone: bool) -> Source:
    label = "the base" if side == "base" else side
    try:
        source = Source(label, "", path, blob, metadata_of(repository, blob))
    except CheckpointError as error:
        raise error.within(f"'{path}' of '{label}'") from None
    if (beside := configuration_of(path)) and has_factors(source.metadata.groups):
        if alone:
            raise MergeRefused(
                f"'{path}': an adapter's factors cannot be merged without '{beside}', which a "
                "merge driver cannot change; 'gitmerge-eval resolve' merges both"
            )
        source = replace(source, commit=_holder(repository, source, beside))
    return as_adapter(repository, source)


def _holder(repository: Repository, source: Source, beside: str) -> str:
    """A commit that has the version, and its configuration beside it."""
    for commit in _candidates(repository, source, True):
        there = repository.blob_id(commit, source.path) == source.blob
        if there and repository.blob_id(commit, beside) is not None:
            return commit
    raise MergeRefused(
        f"no commit here has '{source.path}' as it is in '{source.label}' with '{beside}' beside "
        "it; take a side of both files with 'git checkout --ours' or '--theirs', and 'git add' them"
    )


def _with_statistics(repository: Repository, source: Source, chosen: MergeOptions) -> Source:
    """The statistics of the commit that this version comes from, where it can be told which."""
    needed = chosen.method.statistics(chosen.method.options(chosen.given))
    for commit in _candidates(repository, source, bool(needed)):
        if repository.blob_id(commit, source.path) == source.blob:
            found = open_source(repository, commit, source.path, source.label)
            if set(needed) <= found.statistics.keys():
                return replace(source, commit=commit, statistics=found.statistics)
    return source


def _candidates(repository: Repository, source: Source, needed: bool) -> Iterator[str]:
    """Commits that may have the version, the likeliest first; Git does not say which has it."""
    yield "HEAD"
    for head in _OTHER_HEADS:
        yield from repository.run("rev-parse", "-q", "--verify", head, check=False).text.split()
    prefix = "GITHEAD_"
    yield from (name.removeprefix(prefix) for name in os.environ if name.startswith(prefix))
    if needed:
        yield from repository.text("for-each-ref", "--format=%(objectname)").split()
        search = ("log", "--all", "--format=%H", f"--find-object={source.blob}")
        yield from repository.text(*search, "--", source.path).split()


def _stale(repository: Repository, sides: Sides, blob: str) -> list[str]:
    """What to do about the statistics beside the result, which are of other versions."""
    known = {**sides.theirs.statistics, **sides.ours.statistics}
    stale = sorted(kind for kind, found in known.items() if found.entry.checkpoint != blob)
    if not stale:
        return []
    return [
        f"the statistics of '{sides.path}' ({', '.join(stale)}) are of another version now; before "
        f"a merge that needs them, compute them anew: gitmerge-eval stats {' '.join(stale)}"
    ]


def _merge_indexes(ours: bytes, theirs: bytes) -> bytes:
    """Both sides' entries; ours where both have one, since our statistics files are kept too."""
    merged = statistics_index.parse(theirs) if theirs.strip() else {}
    for name, kinds in (statistics_index.parse(ours) if ours.strip() else {}).items():
        merged[name] = {**merged.get(name, {}), **kinds}
    return statistics_index.serialize(merged)
