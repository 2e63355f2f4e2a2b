"""What the trailers of a merge say of it, from the plans that were carried out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from gitmerge_eval.git import trailers
from gitmerge_eval.git.trailers import MergedModel, MergeTrailers
from gitmerge_eval.merging.planning import CheckpointPlan
from gitmerge_eval.records import MergeMethod

Models = Mapping[str, Sequence[tuple[str, str]]]
"""model -> (blob, path) of each of its files."""


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


def trailer_options(
    method: MergeMethod, values: Mapping[str, object], accumulate: str, rank: int = 0
) -> dict[str, object]:
    """All of a merge's options by their names on the command line, defaults included."""
    names = {parameter.name: parameter.option for parameter in method.hyperparameters}
    shown = {names[name]: value for name, value in values.items() if value is not None}
    return {**shown, **({"rank": rank} if rank else {}), "accumulate": accumulate}


def united(earlier: MergeTrailers, later: MergeTrailers) -> MergeTrailers | None:
    """Both records as one, of models that were merged one after the other; None where method or
    options differ, which trailers can say once only."""
    if (earlier.method, dict(earlier.options)) != (later.method, dict(later.options)):
        return None
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
