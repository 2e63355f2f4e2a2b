"""What a merge records and says of its constituents: the trailers, and lines for the user."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from gitmerge_eval.git import trailers
from gitmerge_eval.git.trailers import MergedModel, MergeState, MergeTrailers, Parts
from gitmerge_eval.merging.deciding import Decision
from gitmerge_eval.merging.joint import HEADS, Joint
from gitmerge_eval.merging.options import MergeOptions, shown
from gitmerge_eval.merging.planning import CheckpointPlan
from gitmerge_eval.records import MergeMethod

Models = Mapping[str, Sequence[tuple[str, str]]]
"""model -> (blob, path) of each of its files."""


def recorded(
    options: MergeOptions,
    decisions: Sequence[Decision],
    models: Models,
) -> MergeTrailers:
    """The trailers of a merge; ``models`` has (blob, path) of each file of each merged model."""
    plans = [decision.plan for decision in decisions if decision.plan]
    joints = [decision.joint for decision in decisions if decision.joint]
    named = {part.commit: part.name for joint in joints for part in joint.parts}
    found = record(options.method, plans, models, named)
    if any(joint.kept for joint in joints):
        found = replace(found, options={**found.options, "constituents": HEADS})
    leaves = {
        leaf.commit: leaf.name
        for joint in joints
        for standing in joint.combined.values()
        for leaf in standing
    }
    return replace(
        found,
        parts=_parts(decisions, tuple(named), found.bases),
        leaves=tuple(leaves.items()),
    )


def record(
    method: MergeMethod, plans: Sequence[CheckpointPlan], models: Models, order: Iterable[str]
) -> MergeTrailers:
    """The provenance of models that were merged by one method; ``order``: the heads'."""
    named = {source.commit: source.label for plan in plans for source in plan.constituents}
    rank = max(plan.rank or 0 for plan in plans)
    return MergeTrailers(
        method=method.name,
        options=trailer_options(method, plans[0].options, plans[0].spec.accumulate, rank),
        bases=tuple(dict.fromkeys(p.base.commit for p in plans if p.base and p.base.commit)),
        constituents=tuple((commit, named[commit]) for commit in order if commit in named),
        models=tuple(pair for plan in plans for pair in models[plan.spec.path]),
        specs=tuple((plan.spec.digest, plan.spec.path) for plan in plans),
        sweep=trailers.sweep_from_environment(),
    )


def merged_models(plans: Iterable[CheckpointPlan], models: Models) -> tuple[MergedModel, ...]:
    """The files of the models, as the hooks look for them."""
    return tuple(
        MergedModel(path, blob, plan.spec.digest, plan.spec.path)
        for plan in plans
        for blob, path in models[plan.spec.path]
    )


def state_of(
    head: str,
    remotes: tuple[str, ...],
    record: MergeTrailers,
    models: tuple[MergedModel, ...],
    costs: trailers.Costs,
    *,
    squash: bool = False,
) -> MergeState:
    """What the hooks need to write ``record`` into the commit of this merge."""
    return MergeState(
        head=head,
        remotes=remotes,
        trailers=record.lines(),
        constituents=tuple(trailers.NamedCommit(*pair) for pair in record.constituents),
        models=models,
        squash=squash,
        costs=costs,
    )


def _parts(
    decisions: Sequence[Decision], commits: Sequence[str], bases: Sequence[str]
) -> tuple[Parts, ...]:
    """What each model was merged from, where that is not the same for all."""
    found = []
    for decision in decisions:
        if decision.plan and decision.joint:
            base = decision.plan.base.commit if decision.plan.base else ""
            listed = tuple((commits.index(p.commit) + 1, p.models) for p in decision.joint.parts)
            number = bases.index(base) + 1 if base else None
            found.append(Parts(decision.path, number, listed))
    everything = tuple((n + 1, 1) for n in range(len(commits)))
    of_heads = not any(decision.joint and decision.joint.is_of_leaves for decision in decisions)
    if of_heads or (len(bases) < 2 and all(one.constituents == everything for one in found)):
        return ()
    return tuple(found)


def trailer_options(
    method: MergeMethod, values: Mapping[str, object], accumulate: str, rank: int = 0
) -> dict[str, object]:
    """All of a merge's options by their names on the command line, defaults included."""
    own = shown(method, values)
    return {**own, **({"rank": rank} if rank else {}), "accumulate": accumulate}


def united(earlier: MergeTrailers, later: MergeTrailers) -> MergeTrailers | None:
    """Both records as one, of models that were merged one after the other; None where method or
    options differ, which trailers can say once only, or where other models take part."""
    if (earlier.method, dict(earlier.options)) != (later.method, dict(later.options)):
        return None
    if earlier.parts or earlier.leaves or not {*later.constituents} <= {*earlier.constituents}:
        return None  # who takes part in which model would not be told apart
    paths = {path for _, path in later.models}
    models = {path for _, path in later.specs}
    return replace(
        later,
        bases=tuple(dict.fromkeys((*earlier.bases, *later.bases))),
        constituents=tuple(dict.fromkeys((*earlier.constituents, *later.constituents))),
        models=(*(pair for pair in earlier.models if pair[1] not in paths), *later.models),
        specs=(*(pair for pair in earlier.specs if pair[1] not in models), *later.specs),
        resolutions=(
            *(part for part in earlier.resolutions if part[1] not in models),
            *later.resolutions,
        ),
        sweep=earlier.sweep,
    )


def told(decisions: Sequence[Decision], *, heads: bool = True) -> tuple[str, ...]:
    """What the user should know of who takes part, each line once; of the heads that are merges
    where ``heads`` were named."""
    joints = [decision.joint for decision in decisions if decision.joint]
    return tuple(dict.fromkeys(line for joint in joints for line in _told(joint, heads)))


def _told(joint: Joint, heads: bool) -> Iterator[str]:
    for head, names in joint.expanded.items() if heads else ():
        yield (
            f"'{head}' is a merge: its constituents take part in its place ({', '.join(names)}); "
            f"to merge '{head}' as one model, add --strategy-option=constituents={HEADS}"
        )
    names_of = {part.commit: part.name for part in joint.parts}
    for commit, leaves in joint.combined.items():
        yield (
            f"'{names_of.get(commit, commit[:10])}' is a merge and stands for its constituents "
            f"({', '.join(leaf.name for leaf in leaves)}): it counts as {len(leaves)}"
            + (f"; {joint.missing}" if joint.missing else "")
        )
    yield from joint.notices
