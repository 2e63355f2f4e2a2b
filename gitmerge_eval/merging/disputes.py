"""A model in conflict, opened: its versions, the merge that was under way, what stands in its way.

Who left the conflict remembers how the model was to be merged (:mod:`gitmerge_eval.git.conflicts`).
Where nobody does, because the driver could not start or another program was the driver, the
driver's settings count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from gitmerge_eval.checkpoints import statistics_index
from gitmerge_eval.checkpoints.lfs import ObjectStore
from gitmerge_eval.checkpoints.metadata import GroupRecord
from gitmerge_eval.errors import MergeRefused, UsageError
from gitmerge_eval.git import conflicts
from gitmerge_eval.git.conflicts import Conflict, Origin, Stages
from gitmerge_eval.git.repository import Repository
from gitmerge_eval.git.trees import FILTER
from gitmerge_eval.merging import driver_options, threeway
from gitmerge_eval.merging import options as merge_options
from gitmerge_eval.merging.deciding import conflicts_in
from gitmerge_eval.merging.devices import choose_accumulate
from gitmerge_eval.merging.options import MergeOptions
from gitmerge_eval.merging.planning import CheckpointPlan, plan_checkpoint
from gitmerge_eval.merging.sources import Source, open_source


@dataclass(frozen=True)
class Dispute:
    """A parameter group in conflict."""

    name: str
    why: str
    versions: Mapping[str, str]
    """Side -> dtype and shape there, or 'absent'."""
    chosen: str = ""
    """The side that it will be taken from, once that is decided."""


@dataclass(frozen=True)
class DisputedModel:
    """A model in conflict, with the plan of its merge."""

    conflict: Conflict
    chosen: MergeOptions
    plan: CheckpointPlan
    sides: Mapping[str, Source]

    @property
    def disputes(self) -> tuple[Dispute, ...]:
        """The groups in conflict, decided or not."""
        return tuple(
            Dispute(
                group.name,
                group.remark,
                {s: _described(v.metadata.groups.get(group.name)) for s, v in self.sides.items()},
                self.conflict.choices.get(group.name, ""),
            )
            for group in self.plan.in_state("conflict")
        )

    def choosing(self, choices: Mapping[str, str]) -> DisputedModel:
        """With more groups decided; UsageError for a side that the model does not have."""
        if missing := {*choices.values()} - self.sides.keys():
            raise UsageError(
                f"'{self.conflict.path}' has no version '{min(missing)}': it was added on both "
                "sides; take --ours or --theirs"
            )
        together = {**self.conflict.choices, **choices}
        return replace(self, conflict=replace(self.conflict, choices=together))


def found(repository: Repository, stages: Mapping[str, Stages]) -> list[Conflict]:
    """The conflicts of models among the files in conflict."""
    known = conflicts.known(repository, stages)
    covered = {file for conflict in known for file in conflict.blobs}
    filters = repository.attribute("filter", stages)
    unknown = [
        Conflict(file, {file: conflicts.object_ids(stages[file])}, "")
        for file in stages.keys() - covered
        if filters.get(file) == FILTER and not statistics_index.is_statistic(file)
    ]
    return sorted([*known, *unknown], key=lambda conflict: conflict.path)


def open_model(
    repository: Repository, conflict: Conflict, options: Mapping[str, str]
) -> DisputedModel:
    """The model with its versions; ``options`` count instead of those that are remembered.

    Raises MergeRefused for what cannot be resolved by group, and what planning raises.
    """
    chosen = _options(repository, conflict, options)
    conflict = replace(conflict, method=chosen.method.name, options=chosen.items)
    open_one = _by_commits if conflict.sides else _by_blobs
    sides, plan = open_one(repository, conflict, chosen)
    if plan.outline and (plan.in_state("conflict") or plan.outline.differences):
        raise MergeRefused(
            f"'{conflict.path}': {conflicts_in(plan)}\n  or take one side of its files as a whole: "
            "'git checkout --ours' or '--theirs', and 'git add' them"
        )
    return DisputedModel(conflict, chosen, plan, sides)


def _options(
    repository: Repository, conflict: Conflict, options: Mapping[str, str]
) -> MergeOptions:
    if conflict.method:
        method, items = conflict.method, dict(conflict.options)
    else:
        configured = driver_options.configured(repository)
        method, items = configured.method.name, configured.items
    for name in options:
        if name == "base" or name in merge_options.GIT_OPTIONS:
            raise UsageError(
                f"option '{name}' cannot be given to a merge that is in conflict; start it again"
            )
    if options.get("method", method) != method:
        items = {name: value for name, value in items.items() if name in driver_options.GENERAL}
    items = {"method": method, **items, **options}
    if conflict.sides:
        return merge_options.parse([*items.items()])
    return driver_options.build(items.pop("method"), items)


def _by_commits(
    repository: Repository, conflict: Conflict, chosen: MergeOptions
) -> tuple[dict[str, Source], CheckpointPlan]:
    """What the strategy merged: models, with whatever files they have."""

    def opened(origin: Origin) -> Source:
        found = open_source(repository, origin.commit, origin.path, origin.label)
        return replace(found, models=origin.models)

    sides = {side: opened(origin) for side, origin in conflict.sides.items()}
    constituents = [opened(origin) for origin in conflict.constituents]
    accumulate = choose_accumulate(chosen.accumulate)
    base = sides.get("base")
    return sides, plan_checkpoint(repository, conflict.path, chosen, base, constituents, accumulate)


def _by_blobs(
    repository: Repository, conflict: Conflict, chosen: MergeOptions
) -> tuple[dict[str, Source], CheckpointPlan]:
    """What the driver merged: one file."""
    path, blobs = conflict.path, conflict.blobs[conflict.path]
    if absent := {"ours", "theirs"} - blobs.keys():
        raise MergeRefused(
            f"'{path}' is deleted in {min(absent)} and changed on the other side: keep it with "
            f"'git add {path}', or delete it with 'git rm {path}'"
        )
    opened = threeway.open_sides(repository, path, blobs, chosen, alone=False)
    plan = threeway.plan_sides(repository, opened, chosen, ObjectStore(repository))
    base = {"base": opened.base} if opened.base else {}
    return {**base, "ours": opened.ours, "theirs": opened.theirs}, plan


def _described(record: GroupRecord | None) -> str:
    return f"{record.dtype}{list(record.shape)}" if record else "absent"
