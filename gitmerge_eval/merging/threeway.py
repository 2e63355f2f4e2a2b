"""Three-way merge of one file that holds tensors, as a merge driver does it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gitmerge_eval.checkpoints import statistics_index
from gitmerge_eval.checkpoints.lfs import ObjectStore
from gitmerge_eval.checkpoints.lora import configuration_of, has_factors
from gitmerge_eval.checkpoints.metadata import Metadata
from gitmerge_eval.errors import CheckpointError, MergeRefused
from gitmerge_eval.git.repository import Repository
from gitmerge_eval.hyperparameters import Hyperparameter
from gitmerge_eval.merging import options as merge_options
from gitmerge_eval.merging.computing import compute
from gitmerge_eval.merging.devices import choose_accumulate
from gitmerge_eval.merging.options import MergeOptions
from gitmerge_eval.merging.planning import plan_checkpoint
from gitmerge_eval.merging.sources import Source, as_adapter, open_source
from gitmerge_eval.records import MergeMethod, ParameterGroup

if TYPE_CHECKING:
    from torch import Tensor

SECTION = "merge-eval.driver"


def add_task_vector(group: ParameterGroup, *, scale: float) -> Tensor:
    """Ours + λ · (theirs - θ_p), element by element: λ = 1 adds all of their task vector."""
    ours, theirs = group.constituents
    assert group.base is not None
    return ours + scale * (theirs - group.base)


TASK_VECTOR = MergeMethod(
    name="task-vector",
    title="addition of the other side's task vector",
    kernel=add_task_vector,
    arrays="any",
    reference="Ilharco et al. 2023, arXiv 2212.04089",
    hyperparameters=(Hyperparameter("scale", float, 1.0, "the factor of their task vector", "λ"),),
    needs_base=lambda options: True,
    ordered=True,
)
"""What the driver does unless another method is configured; its sides are not alike."""

_OTHER_HEADS = ("CHERRY_PICK_HEAD", "REVERT_HEAD", "REBASE_HEAD", "MERGE_HEAD", "ORIG_HEAD")


def merge_files(
    repository: Repository, base: Path, ours: Path, theirs: Path, path: str
) -> list[str]:
    """Merge ``ours`` and ``theirs`` against ``base`` into ``ours``; remarks, in words.

    Raises MergeRefused where groups conflict and PrerequisiteError where the configured method
    lacks something; the file is then as it was.
    """
    if path.endswith(".json") and statistics_index.is_statistic(path):
        ours.write_bytes(_merge_indexes(ours.read_bytes(), theirs.read_bytes()))
        return []
    if statistics_index.is_statistic(path):
        return [f"'{path}' kept as ours: a statistic belongs to one checkpoint"]
    chosen = _options(repository)
    original = _source(repository, base, path, "the base")
    sides = [
        _with_statistics(repository, source)
        for source in (
            _source(repository, ours, path, "ours"),
            _source(repository, theirs, path, "theirs"),
        )
        if source is not None
    ]
    accumulate = choose_accumulate(chosen.accumulate)
    plan = plan_checkpoint(repository, path, chosen, original, sides, accumulate)
    if conflicts := plan.in_state("conflict"):
        listed = "\n".join(f"  {group.name}: {group.remark}" for group in conflicts)
        raise MergeRefused(f"CONFLICT (model): '{path}': these groups cannot be merged:\n{listed}")
    done = compute(plan, ObjectStore(repository), resources=chosen.resources)
    ours.write_bytes(done.metadata.serialize())
    return [f"{path}: {plan.spec.method}, {done.report.count('merged')} parameter groups merged"]


def _options(repository: Repository) -> MergeOptions:
    configured = merge_options.settings(repository, SECTION)
    chosen = merge_options.parse([], configured)
    if "method" in configured:
        return chosen
    given = {"scale": configured.get("scale", "1.0")}
    TASK_VECTOR.options(given)
    return replace(chosen, method=TASK_VECTOR, given=given)


def _source(repository: Repository, file: Path, path: str, label: str) -> Source | None:
    data = file.read_bytes()
    if not data:  # Git gives an empty base where both sides added the file.
        return None
    try:
        metadata = Metadata.parse(data)
    except CheckpointError as error:
        raise error.within(f"'{path}' of '{label}'") from None
    if (beside := configuration_of(path)) and has_factors(metadata.groups):
        raise MergeRefused(
            f"'{path}': an adapter's factors cannot be merged without '{beside}', which a merge "
            "driver cannot change; use 'git merge -X method=task-arithmetic <branch>', or merge "
            "the adapter into its model"
        )
    return as_adapter(repository, Source(label, "", path, repository.write_blob(data), metadata))


def _with_statistics(repository: Repository, source: Source) -> Source:
    """The statistics of the commit that this version comes from, where it can be told which."""
    for commit in _candidates(repository):
        if repository.blob_id(commit, source.path) == source.blob:
            found = open_source(repository, commit, source.path, source.label)
            return replace(source, commit=commit, statistics=found.statistics)
    return source


def _candidates(repository: Repository) -> Iterator[str]:
    yield "HEAD"
    yield from (head for head in _OTHER_HEADS if repository.path(head).exists())
    prefix = "GITHEAD_"
    yield from (name.removeprefix(prefix) for name in os.environ if name.startswith(prefix))


def _merge_indexes(ours: bytes, theirs: bytes) -> bytes:
    """Both sides' entries; ours where both have one, since our statistics files are kept too."""
    merged = statistics_index.parse(theirs) if theirs.strip() else {}
    for name, kinds in (statistics_index.parse(ours) if ours.strip() else {}).items():
        merged[name] = {**merged.get(name, {}), **kinds}
    return statistics_index.serialize(merged)
