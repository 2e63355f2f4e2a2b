"""Groups in conflict that somebody has decided: each from one side of the merge, or deleted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from gitmerge_eval.errors import MergeRefused
from gitmerge_eval.merging.planning import CheckpointPlan
from gitmerge_eval.merging.sources import Source


def decided(plan: CheckpointPlan, choices: Mapping[str, Source]) -> CheckpointPlan:
    """The plan with each group of ``choices`` as that source has it: deleted where it has none.

    Raises MergeRefused for groups that are not in conflict: their result is the method's.
    """
    conflicts = {group.name for group in plan.in_state("conflict")}
    if wrong := sorted(choices.keys() - conflicts):
        raise MergeRefused(f"group '{wrong[0]}' of '{plan.spec.path}' is not in conflict")
    groups = []
    for group in plan.groups:
        if group.name in choices:
            source = choices[group.name]
            record = source.metadata.groups.get(group.name)
            state = "taken" if record else "deleted"
            group = replace(group, state=state, record=record, remark=f"as '{source.label}' has it")
        groups.append(group)
    return replace(plan, groups=tuple(groups))
