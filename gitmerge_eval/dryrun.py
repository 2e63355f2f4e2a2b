"""What a merge would do, without doing it: the use case behind ``gitmerge-eval plan``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from gitmerge_eval import methods
from gitmerge_eval.checkpoints.lfs import ObjectStore
from gitmerge_eval.errors import GitMergeEvalError, PrerequisiteError
from gitmerge_eval.git.heads import Heads, left_out, resolve
from gitmerge_eval.git.repository import Repository
from gitmerge_eval.merging import deciding, provenance
from gitmerge_eval.merging import options as merge_options
from gitmerge_eval.merging.devices import choose_device, describe
from gitmerge_eval.merging.fetching import absent_bytes
from gitmerge_eval.merging.flops import statistics_flops, tokens
from gitmerge_eval.merging.joint import HEADS
from gitmerge_eval.merging.options import MergeOptions
from gitmerge_eval.merging.planning import CheckpointPlan, applicable
from gitmerge_eval.merging.sources import Source


@dataclass(frozen=True)
class CheckpointPreview:
    """What would become of one checkpoint."""

    path: str
    outcome: str
    """merged, taken, removed, conflict or refused."""
    method: str
    base: str | None
    constituents: tuple[str, ...]
    states: dict[str, int] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    applicable: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """method -> what it lacks; nothing where it could be used."""
    costs: dict[str, dict[str, int]] = field(default_factory=dict)
    """method that could be used -> its merging_flops and statistics_flops with default options."""
    merging_flops: int = 0
    statistics_flops: int = 0
    statistics_tokens: dict[str, int] = field(default_factory=dict)
    """constituent -> what its statistics were computed on, where the method needs any."""
    peak_bytes: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    absent_bytes: int = 0
    """Tensors that are not in this clone; git-lfs fetches them before the merge."""
    device: str = "cpu"


@dataclass(frozen=True)
class Preview:
    """A merge that has not happened."""

    heads: tuple[str, ...]
    head_is_constituent: bool
    checkpoints: tuple[CheckpointPreview, ...]
    notes: tuple[str, ...]

    @property
    def feasible(self) -> bool:
        """Whether the merge would go through without refusal or conflict."""
        return all(c.outcome not in ("conflict", "refused") for c in self.checkpoints)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "feasible": self.feasible}


def preview(
    repository: Repository, revisions: Sequence[str], items: Sequence[tuple[str, str | None]]
) -> Preview:
    """Plan the merge of ``revisions`` into HEAD under the options ``items``.

    Raises UsageError for a wrong option and GitError for an unknown revision; what would make the
    merge itself fail is part of the result.
    """
    options = merge_options.parse(items, merge_options.settings(repository))
    heads = resolve(repository, revisions)
    paths = deciding.touched(repository, heads)
    checkpoints: list[CheckpointPreview] = []
    notes = left_out(repository, revisions, heads)
    if not paths:
        notes.append("no checkpoint differs between these heads: Git merges alone")
    names = tuple(heads.name(commit) for commit in heads.remotes)
    try:
        tensors = deciding.decide(repository, heads, options, paths)
        for decision in tensors.decisions:
            if decision.plan:
                checkpoints.append(_planned(options, decision, ObjectStore(repository)))
            else:
                checkpoints.append(_simple(heads, options, decision))
        notes += provenance.told(tensors.decisions)
    except GitMergeEvalError as error:
        if isinstance(error, PrerequisiteError):
            checkpoints += _refused(repository, heads, options, paths, error)
        else:
            notes.append(f"the merge would be refused: {error}")
            checkpoints.append(
                CheckpointPreview(
                    "", "refused", options.method.name, None, (), problems=(str(error),)
                )
            )
    return Preview(names, not heads.head_is_subsumed, tuple(checkpoints), tuple(notes))


def _planned(
    options: MergeOptions, decision: deciding.Decision, store: ObjectStore
) -> CheckpointPreview:
    plan = decision.plan
    assert plan is not None
    usable = applicable(plan.base, plan.constituents)
    return CheckpointPreview(
        path=plan.spec.path,
        outcome="merged",
        method=plan.spec.method,
        base=(plan.base.commit or None) if plan.base else None,
        constituents=tuple(_shown(source) for source in decision.sources),
        states=dict(Counter(group.state for group in plan.groups)),
        applicable=usable,
        costs={name: _costs(plan, name) for name, lacking in usable.items() if not lacking},
        merging_flops=plan.merging_flops,
        statistics_flops=statistics_flops(plan),
        statistics_tokens={
            _shown(source): tokens(plan, source)
            for source in decision.sources
            if plan.method.statistics(plan.options)
        },
        peak_bytes=plan.peak_bytes,
        read_bytes=plan.read_bytes,
        written_bytes=plan.written_bytes,
        absent_bytes=absent_bytes(store, plan),
        device=describe(choose_device(options.resources.device, options.method)),
    )


def _shown(source: Source) -> str:
    return f"{source.label} ({source.commit[:10]})"


def _costs(plan: CheckpointPlan, name: str) -> dict[str, int]:
    """Table 3's counts of another method, with its default options, on the groups of ``plan``."""
    method = methods.get(name)
    other = replace(plan, method=method, options=method.options({}, models=len(plan.constituents)))
    return {
        "merging_flops": other.merging_flops,
        "statistics_flops": statistics_flops(other),
    }


def _simple(heads: Heads, options: MergeOptions, decision: deciding.Decision) -> CheckpointPreview:
    commits = heads.candidates if decision.kind == "conflict" else (decision.origin,)
    origin = tuple(heads.name(commit) for commit in commits if commit)
    problems = (decision.message,) if decision.message else ()
    return CheckpointPreview(
        decision.path, decision.kind, options.method.name, None, origin, problems=problems
    )


def _refused(
    repository: Repository,
    heads: Heads,
    options: MergeOptions,
    paths: set[str],
    error: GitMergeEvalError,
) -> list[CheckpointPreview]:
    """The same plan by a method that needs nothing, with what the wanted method lacks."""
    fallback = replace(options, method=methods.get("average"), given={}, explicit=True)
    try:
        tensors = deciding.decide(repository, heads, fallback, paths)
    except PrerequisiteError:  # also this method lacks something, such as a merge's leaves
        fallback = replace(fallback, constituents=HEADS)
        tensors = deciding.decide(repository, heads, fallback, paths)
    return [
        replace(
            _planned(fallback, decision, ObjectStore(repository)),
            outcome="refused",
            method=options.method.name,
            problems=(str(error),),
            merging_flops=0,
            statistics_flops=0,
        )
        for decision in tensors.decisions
        if decision.plan
    ]
