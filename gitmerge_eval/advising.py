"""Which method to merge by: what is at hand decides what can be done, results what is advised.

The terms are those of arXiv 2409.18314: prerequisites, held-in and generalization, cost. Nothing is
known of a method that was not measured here or published by somebody who is named; then the advice
says so, and goes by what the method needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from gitmerge_eval import methods
from gitmerge_eval.errors import EvaluationError, GitMergeEvalError, InvalidOption, MergeRefused
from gitmerge_eval.evaluation.evidence import GOALS, PUBLISHED, Evidence, evidence
from gitmerge_eval.evaluation.gathering import Gathered, gather
from gitmerge_eval.evaluation.subjects import planned_subject
from gitmerge_eval.git.heads import Heads, resolve
from gitmerge_eval.git.repository import Repository
from gitmerge_eval.merging import deciding
from gitmerge_eval.merging import options as merge_options
from gitmerge_eval.merging.devices import choose_memory
from gitmerge_eval.merging.planning import CheckpointPlan, applicable
from gitmerge_eval.records import MergeMethod


@dataclass(frozen=True)
class Budget:
    """What a merge may take."""

    memory: str = "auto"
    """A size such as 4G; auto is half of what is free."""
    flops: float | None = None
    data: bool = True
    """Whether there are data, to compute missing statistics on and to choose options by."""


@dataclass(frozen=True)
class MethodAdvice:
    """What is said of one method."""

    method: str
    rank: int | None
    """From 1; None where it cannot be used as things are."""
    obstacles: tuple[str, ...]
    """What is in its way, with the remedy."""
    evidence: Evidence | None
    merging_flops: int | None
    peak_bytes: int | None
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Advice:
    """What is said of merging one checkpoint."""

    path: str
    constituents: tuple[str, ...]
    benchmark: str | None
    goal: str
    methods: tuple[MethodAdvice, ...]
    """The advised ones first."""
    remarks: tuple[str, ...]
    """How far the advice can be trusted."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def advise(
    repository: Repository,
    revisions: Sequence[str],
    *,
    goal: str = "both",
    budget: Budget | None = None,
) -> tuple[Advice, ...]:
    """Advice for each checkpoint that a merge of ``revisions`` into HEAD would compute.

    Methods whose prerequisites and cost are within reach come first, those measured here before
    those that only others have published, and these before those of which nothing is known; the
    last by what they cost. Raises InvalidOption for an unknown goal or size, and what a dry run
    raises: GitError for an unknown revision, MergeRefused where models cannot be merged at all.
    """
    budget = budget or Budget()
    if goal not in GOALS:
        raise InvalidOption(f"the goal '{goal}' is none of {', '.join(GOALS)}")
    memory = choose_memory(budget.memory)
    heads = resolve(repository, revisions)
    paths = deciding.touched(repository, heads)
    gathered = gather(repository)
    return tuple(
        _of_checkpoint(repository, heads, plan, gathered, goal, replace(budget, memory=str(memory)))
        for plan in _plans(repository, heads, "average", paths)
    )


def _plans(
    repository: Repository, heads: Heads, method: str, paths: set[str]
) -> tuple[CheckpointPlan, ...]:
    wanted = merge_options.parse([("method", method)], merge_options.settings(repository))
    tensors = deciding.decide(repository, heads, wanted, paths)
    for decision in tensors.decisions:
        if decision.kind == "conflict":
            raise MergeRefused(
                f"these heads conflict, whatever the method: {decision.message or decision.path}"
            )
    return tuple(tensors.plans)


def _of_checkpoint(
    repository: Repository,
    heads: Heads,
    plan: CheckpointPlan,
    gathered: Gathered,
    goal: str,
    budget: Budget,
) -> Advice:
    path = plan.spec.path
    benchmark, names, remarks = _subject(repository, plan)
    models = [source.identity for source in plan.constituents]
    known = evidence(gathered, benchmark, models, goal)
    lacking = applicable(plan.base, plan.constituents)
    found = []
    for name, method in methods.load().items():
        obstacles = [_remedy(what, budget) for what in lacking[name]]
        own = None
        if not obstacles:
            try:
                (own,) = (p for p in _plans(repository, heads, name, {path}) if p.spec.path == path)
                obstacles += _over(own, budget)
            except GitMergeEvalError as error:
                obstacles.append(str(error))
        found.append(_advice(method, obstacles, known.get(name), own, budget))
    ranked = sorted(found, key=_order)
    numbered = [
        replace(one, rank=number) if not one.obstacles else one
        for number, one in enumerate(ranked, 1)
    ]
    remarks += _trust([one for one in numbered if one.rank], goal)
    return Advice(path, names, benchmark, goal, tuple(numbered), tuple(remarks))


def _subject(
    repository: Repository, plan: CheckpointPlan
) -> tuple[str | None, tuple[str, ...], list[str]]:
    """The benchmark, the constituents as results call them, and what is in the way of either."""
    heads = [(source.commit, source.label) for source in plan.constituents]
    bases = [plan.base.commit] if plan.base and plan.base.commit else []
    try:
        subject = planned_subject(repository, heads, bases, plan.spec.path)
    except EvaluationError as error:
        names = tuple(name for _, name in heads)
        return None, names, [f"no results can be of this merge: {error}"]
    return subject.benchmark.name, tuple(leaf.declaration.name for leaf in subject.leaves), []


def _remedy(lacking: str, budget: Budget) -> str:
    """What is missing, and how it can be had."""
    kind, _, branch = lacking.removeprefix("fresh ").partition(" of ")
    if not branch:
        return "needs the pretrained model: name it with merge-eval.base"
    stale = "computed on another checkpoint, " if lacking.startswith("fresh ") else ""
    wants_data = _computed_on_data(kind)
    if wants_data and not budget.data:
        return f"lacks {kind} of {branch} ({stale}and there are no data)"
    return f"lacks {kind} of {branch} ({stale}'gitmerge-eval stats {kind}' on it)"


def _computed_on_data(kind: str) -> bool:
    """Whether a statistic is computed on data."""
    from gitmerge_eval import statistics

    return statistics.get(kind).needs_data


def _over(plan: CheckpointPlan, budget: Budget) -> list[str]:
    over = []
    if budget.flops is not None and plan.merging_flops > budget.flops:
        over.append(f"{plan.merging_flops:.3g} FLOPs are over the {budget.flops:.3g} allowed")
    if plan.peak_bytes > int(budget.memory):
        over.append(f"about {plan.peak_bytes:.3g} bytes are over the {int(budget.memory):.3g} free")
    return over


def _advice(
    method: MergeMethod,
    obstacles: Sequence[str],
    known: Evidence | None,
    plan: CheckpointPlan | None,
    budget: Budget,
) -> MethodAdvice:
    defaults = method.options({})
    needs = ["pretrained model"] if method.needs_base(defaults) else []
    needs += method.statistics(defaults)
    reasons = [_measured(known), f"needs {', '.join(needs) or 'the models alone'}"]
    swept = [f"{p.option} {p.symbol}".strip() for p in method.hyperparameters if p.sweep]
    if swept:
        how = "to be chosen by a sweep" if budget.data else "left at the default without data"
        reasons.append(f"{how}: {', '.join(swept)}")
    return MethodAdvice(
        method=method.name,
        rank=None,
        obstacles=tuple(obstacles),
        evidence=known,
        merging_flops=plan.merging_flops if plan else None,
        peak_bytes=plan.peak_bytes if plan else None,
        reasons=tuple(reasons),
    )


def _measured(known: Evidence | None) -> str:
    """``n = 1, thin: held-in 0.953 of individual, …``; what little there is is not hidden."""
    if known is None:
        return "n = 0: neither measured here nor in an imported table"
    thin = ", thin" if known.is_thin else ""
    published = known.scope == PUBLISHED
    parts = []
    if known.held_in is not None:
        of = "" if published else " of individual"
        parts.append(f"held-in {_figure(known.held_in, published)}{of}")
    if known.generalization is not None:
        of = "" if published else " of pretrained"
        parts.append(f"generalization {_figure(known.generalization, published)}{of}")
    others = "1 other method" if known.others == 1 else f"{known.others} other methods"
    beside = f"beside {others}, on {known.scope}"
    return f"n = {known.comparisons}{thin}: {', '.join(parts) or 'compared'} ({beside})"


def _figure(value: float, raw: bool) -> str:
    return f"{value:.2f}" if raw else f"{value:.3f}"


def _order(one: MethodAdvice) -> tuple[object, ...]:
    known = one.evidence
    kind = 2 if known is None else int(known.scope == PUBLISHED)
    return (
        bool(one.obstacles),
        kind,
        -known.place if known else 0.0,
        one.merging_flops or 0,
    )


def _trust(usable: Sequence[MethodAdvice], goal: str) -> list[str]:
    """How far the order can be trusted."""
    if not usable:
        return ["no method can be used as things are; each says what is in its way"]
    measured = [one for one in usable if one.evidence and one.evidence.scope != PUBLISHED]
    if not measured:
        return [
            "nothing has been measured here, so the order says nothing of scores; 'gitmerge-eval "
            "sweep --methods all' with these heads measures them"
        ]
    said = []
    thin = [one.method for one in measured if one.evidence and one.evidence.is_thin]
    if thin:
        said.append(
            f"the evidence is thin (fewer than 3 comparisons) for {', '.join(thin)}; methods a "
            "point or two apart may change places"
        )
    if goal == "both":
        said.append("held-in and generalization count alike; --goal says which matters")
    return said
