"""Resolves models in conflict group by group: one side's version of each, or its deletion.

What is not in conflict is merged as it would have been, by the method that was under way. Choices
add up over several calls; when none is left the merged model goes to the work tree and the index.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase

from gitmerge_eval.errors import UnknownName, UsageError
from gitmerge_eval.git import conflicts, trailers
from gitmerge_eval.git.conflicts import Conflict, Stages
from gitmerge_eval.git.repository import Repository
from gitmerge_eval.git.trailers import MergeTrailers
from gitmerge_eval.git.trees import entries
from gitmerge_eval.merging import computing, disputes, provenance
from gitmerge_eval.merging.choices import decided
from gitmerge_eval.merging.disputes import Dispute, DisputedModel
from gitmerge_eval.merging.merge_report import MergeReport
from gitmerge_eval.merging.models import Models
from gitmerge_eval.merging.planning import CheckpointPlan
from gitmerge_eval.merging.staging import Staged, stage


@dataclass(frozen=True)
class Resolution:
    """What became of one model in conflict."""

    path: str
    method: str
    disputes: tuple[Dispute, ...]
    report: MergeReport | None = None
    """Where the merged model is in work tree and index now."""
    recorded: bool = False
    """Whether the merge commit's trailers will say how it was resolved."""

    @property
    def left(self) -> tuple[Dispute, ...]:
        """The groups that nobody has decided."""
        return tuple(dispute for dispute in self.disputes if not dispute.chosen)


def resolve(
    repository: Repository,
    side: str = "",
    names: Sequence[str] = (),
    *,
    path: str = "",
    options: Mapping[str, str] | None = None,
    only_list: bool = False,
    progress: computing.Progress = computing.silent,
) -> tuple[Resolution, ...]:
    """Take ``side`` for the groups in conflict that ``names`` fit (patterns; none: all the rest).

    A model in which no group is left in conflict is merged, written and staged, unless it is
    ``only_list``. ``options`` are for the groups that are not in conflict, instead of those that
    the merge was started with. Raises UsageError where no model is in conflict or a group is not,
    UnknownName for one that is not there, and MergeRefused where a file would be overwritten that
    is no side's.
    """
    stages = conflicts.unmerged(repository)
    models = [
        disputes.open_model(repository, conflict, options or {})
        for conflict in _wanted(repository, stages, path)
    ]
    for name in names:
        _check_name(models, name)
    results = []
    for model in models:
        if side:
            model = model.choosing(dict.fromkeys(_meant(model, names), side))
        if only_list or any(not dispute.chosen for dispute in model.disputes):
            if side or options:
                conflicts.remember(repository, model.conflict)
            results.append(
                Resolution(model.conflict.path, model.chosen.method.name, model.disputes)
            )
        else:
            results.append(_settle(repository, model, stages, progress))
    return tuple(results)


def _wanted(repository: Repository, stages: Mapping[str, Stages], path: str) -> list[Conflict]:
    found = disputes.found(repository, stages)
    if not found:
        raise UsageError("no model is in conflict here; 'git status' says what is under way")
    if not path:
        return found
    matching = [conflict for conflict in found if path in {conflict.path, *conflict.blobs}]
    if not matching:
        raise UnknownName.among("model in conflict", path, [conflict.path for conflict in found])
    return matching


def _meant(model: DisputedModel, names: Sequence[str]) -> list[str]:
    """The groups that the names fit; without names, those that are not decided yet."""
    return [
        dispute.name
        for dispute in model.disputes
        if (any(_fits(dispute.name, name) for name in names) if names else not dispute.chosen)
    ]


def _fits(name: str, pattern: str) -> bool:
    return name == pattern or fnmatchcase(name, pattern)


def _check_name(models: Sequence[DisputedModel], name: str) -> None:
    """UsageError or UnknownName unless the name, or pattern, fits a group in conflict."""
    in_conflict = [dispute.name for model in models for dispute in model.disputes]
    if any(_fits(group, name) for group in in_conflict):
        return
    for model in models:
        for group in model.plan.groups:
            if _fits(group.name, name):
                raise UsageError(
                    f"group '{group.name}' of '{model.conflict.path}' is not in conflict "
                    f"({group.state}); 'gitmerge-eval resolve --list' lists those that are"
                )
    raise UnknownName.among("parameter group in conflict", name, in_conflict)


def _settle(
    repository: Repository,
    model: DisputedModel,
    stages: Mapping[str, Stages],
    progress: computing.Progress,
) -> Resolution:
    choices = {d.name: model.sides[d.chosen] for d in model.disputes}
    plan = decided(model.plan, choices)
    staged = stage(
        repository,
        plan,
        stages,
        _files(repository, model),
        resources=model.chosen.resources,
        progress=progress,
    )
    recorded = bool(model.conflict.sides) and _record(repository, model, plan, staged)
    conflicts.forget(repository, model.conflict.path)
    disputed = model.disputes
    return Resolution(model.conflict.path, plan.spec.method, disputed, staged.report, recorded)


def _files(repository: Repository, model: DisputedModel) -> set[str]:
    """Every file that the model has in conflict, or in the versions that the strategy merged."""
    known, models = set(model.conflict.blobs), Models(repository)
    for side in ("ours", "theirs"):
        if origin := model.conflict.sides.get(side):
            known |= set(models.files(model.conflict.path, entries(repository, origin.commit)))
    return known


def _record(
    repository: Repository, model: DisputedModel, plan: CheckpointPlan, staged: Staged
) -> bool:
    """Let the merge commit's trailers say how the model was merged and resolved."""
    ours, theirs = (model.conflict.sides[side].commit for side in ("ours", "theirs"))
    if repository.commit("HEAD") != ours or trailers.merge_heads(repository) != (theirs,):
        return False
    if any(source.models > 1 for source in plan.constituents):
        return False  # by hand it stands for nobody
    models = {plan.spec.path: staged.files}
    # In the order of the heads, which the plan need not have.
    order = [origin.commit for origin in model.conflict.constituents]
    record = provenance.record(model.chosen.method, [plan], models, order)
    record = replace(record, resolutions=_resolutions(model))
    merged = provenance.merged_models([plan], models)
    costs: trailers.Costs = {plan.spec.digest: asdict(staged.report.cost)}
    earlier = trailers.read_state(repository)
    if earlier is not None and trailers.is_current(repository, earlier):
        pairs = [(key, value) for key, _, value in (t.partition(": ") for t in earlier.trailers)]
        before = MergeTrailers.of(pairs)
        united = provenance.united(before, record) if before else record
        if united is None:
            return False
        record = united
        merged = (*(m for m in earlier.models if m.model != plan.spec.path), *merged)
        costs = {**earlier.costs, **costs}
    state = provenance.state_of(ours, (theirs,), record, merged, costs)
    trailers.write_state(repository, state)
    return True


def _resolutions(model: DisputedModel) -> tuple[tuple[str, str, tuple[str, ...]], ...]:
    by_side: dict[str, list[str]] = {}
    for dispute in model.disputes:
        by_side.setdefault(dispute.chosen, []).append(dispute.name)
    sides, path = model.conflict.sides, model.conflict.path
    return tuple((sides[side].commit, path, tuple(groups)) for side, groups in by_side.items())
