"""What each constituent gives to a merge, by module: how far, where to, and with what weight.

τ_i = θ_i - θ_p, from the stored tensors in float64. Everything is of the groups that have floating
numbers, the same shape and dtype in base and constituents, and that some constituent changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import add
from typing import Any

import numpy as np

from gitmerge_eval import methods
from gitmerge_eval.checkpoints.lfs import ObjectStore
from gitmerge_eval.checkpoints.modules import modules, natural
from gitmerge_eval.errors import MissingBase, UsageError
from gitmerge_eval.git import trailers
from gitmerge_eval.git.heads import left_out, resolve
from gitmerge_eval.git.repository import Repository
from gitmerge_eval.git.trailers import MergeTrailers, merge_of_ours
from gitmerge_eval.inspecting import weights
from gitmerge_eval.inspecting.outliers import marks
from gitmerge_eval.inspecting.reading import Array, Progress, Sums, Wanted, measured, slot
from gitmerge_eval.merging import adapters, deciding, provenance
from gitmerge_eval.merging import options as merge_options
from gitmerge_eval.merging.computing import silent
from gitmerge_eval.merging.deciding import touched
from gitmerge_eval.merging.options import text_of
from gitmerge_eval.merging.planning import FLOATING
from gitmerge_eval.merging.sources import Source, value_of
from gitmerge_eval.verifying import models_of, sources_from

WHOLE = "whole model"


@dataclass(frozen=True)
class Share:
    """One constituent's part in one module, or in the whole model."""

    constituent: str
    norm: float
    """‖τ_i‖."""
    share: float | None
    """‖τ_i‖ / Σ_j ‖τ_j‖; None where nobody changed anything."""
    cosine: float | None
    """Of τ_i and Σ_j τ_j."""
    conflict: float | None
    """The part of the elements that it moves whose sign is not that of Σ_j τ_j."""
    largest: float
    """max |τ_i|."""
    non_finite: int
    weights: Mapping[str, float]
    """Statistic -> its part of Σ_j: of the sums of Fisher diagonals, of the traces of Gram
    matrices."""
    marks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Contributions:
    """Who gave what to the merge of one model."""

    path: str
    base: str
    constituents: Mapping[str, str]
    """Name -> commit."""
    modules: Mapping[str, tuple[Share, ...]]
    """Module -> one share for each constituent; first the whole model's."""
    groups: int
    """How many were measured."""
    remarks: tuple[str, ...] = ()
    sums: Mapping[str, Sums] = field(default_factory=dict, repr=False)

    @property
    def marked(self) -> tuple[tuple[str, Share], ...]:
        """(module, share) of what stands out."""
        return tuple((m, s) for m, shares in self.modules.items() for s in shares if s.marks)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "path": self.path,
            "base": self.base,
            "constituents": dict(self.constituents),
            "groups": self.groups,
            "modules": {m: [vars(s) for s in shares] for m, shares in self.modules.items()},
            "remarks": list(self.remarks),
        }


def of_merge(
    repository: Repository, revision: str = "HEAD", *, progress: Progress = silent
) -> list[Contributions]:
    """The contributions to each model that the merge at ``revision`` made, by its trailers.

    Raises UsageError where it is no merge of models, MissingBase where the merge had no base, and
    what reading tensors raises.
    """
    commit = repository.commit(revision)
    record = trailers.read(repository, commit)
    if record is None:
        raise UsageError(
            f"'{revision}' has no trailers of a merge of models; name such a commit "
            "('gitmerge-eval log' lists them), or branches that are to be merged with --heads"
        )
    kinds, true = _kinds_read(record), merge_of_ours(repository, commit) is not None
    found = []
    for path in models_of(repository, record, commit):
        base, sources = sources_from(repository, record, path, commit)
        one = _contributions(repository, path, base, sources, kinds, progress)
        if not true:
            text = "the model is not the one that the trailers record; see 'gitmerge-eval verify'"
            one = replace(one, remarks=(text, *one.remarks))
        found.append(one)
    return found


def _kinds_read(record: MergeTrailers) -> tuple[str, ...]:
    """The statistics that weigh in the merge; all of them where its method cannot be told."""
    own = methods.load().get(record.method)
    if own is None:
        return weights.KINDS
    known = {p.option for p in own.hyperparameters}
    given = {k: text_of(v) for k, v in record.options.items() if k in known and v is not None}
    try:
        read = own.statistics(own.options(given))
    except UsageError:
        return weights.KINDS  # of another version, or edited
    return tuple(kind for kind in weights.KINDS if kind in read)


def of_heads(
    repository: Repository,
    revisions: Sequence[str],
    *,
    base: str | None = None,
    progress: Progress = silent,
) -> list[Contributions]:
    """What would contribute to each model if the heads were merged into HEAD now: the heads, or
    what those are made of that are merges, as ``git merge`` takes them.

    Raises as :func:`of_merge` does; UsageError where no model differs between them.
    """
    heads = resolve(repository, revisions)
    given = [("method", "average"), *([("base", base)] if base else [])]
    options = merge_options.parse(given, {})
    paths = touched(repository, heads)
    decisions = deciding.decide(repository, heads, options, paths).decisions
    remarks = (*left_out(repository, revisions, heads), *provenance.told(decisions))
    found = []
    for decision in decisions:
        plan = decision.plan or decision.disputed
        if plan is not None:
            one = _contributions(
                repository, decision.path, plan.base, decision.sources, weights.KINDS, progress
            )
            found.append(replace(one, remarks=(*remarks, *one.remarks)))
    if not found:
        raise UsageError(f"no model differs between HEAD and {', '.join(revisions)}")
    return found


def _contributions(
    repository: Repository,
    path: str,
    base: Source | None,
    sources: Sequence[Source],
    kinds: Sequence[str],
    progress: Progress,
) -> Contributions:
    base, constituents = adapters.aligned(base, sources)
    if base is None:
        raise MissingBase(
            f"'{path}' has no base that task vectors could be taken from; name one with --base, or "
            "merge with --strategy-option=base=<revision>"
        )
    labels = _distinct(constituents)
    names, remarks = _comparable(base, constituents)
    store = ObjectStore(repository)
    groups = [Wanted(n, tuple(slot(s, n) for s in (base, *constituents))) for n in names]
    sums = measured(store, groups, _task_vectors, what=f"reading {path}", progress=progress)
    cut = modules(names)
    by_module: dict[str, Sums] = {}
    for name in names:
        if name in sums:
            key = cut[name]
            by_module[key] = by_module[key] + sums[name] if key in by_module else sums[name]
    if by_module:
        by_module = {WHOLE: reduce(add, by_module.values()), **by_module}
    parts = weights.by_module(store, constituents, kinds, cut, WHOLE)
    for kind in kinds:
        if kind not in parts:
            remarks.append(f"no weights by '{kind}': not all constituents have it fresh")
    remarks += [
        f"'{label}' is equal to the base"
        for label, source in zip(labels, constituents, strict=True)
        if source.equals(base)
    ]
    shares = {
        module: _shares(labels, found, {k: parts[k].get(module) for k in parts})
        for module, found in by_module.items()
    }
    named = {label: s.commit for label, s in zip(labels, constituents, strict=True)}
    return Contributions(path, base.commit, named, shares, len(sums), tuple(remarks), by_module)


def _task_vectors(tensors: Sequence[Array]) -> list[Array]:
    base, *constituents = tensors
    return [tensor - base for tensor in constituents]


def _distinct(constituents: Sequence[Source]) -> list[str]:
    """Their names, with the commit where two have the same."""
    labels = [source.label for source in constituents]
    return [
        label if labels.count(label) == 1 else f"{label} ({source.commit[:10]})"
        for label, source in zip(labels, constituents, strict=True)
    ]


def _comparable(base: Source, constituents: Sequence[Source]) -> tuple[list[str], list[str]]:
    """The groups that can be measured and that somebody changed; which others changed, in words."""
    names, others = [], []
    everyone = (base, *constituents)
    for name in sorted(set().union(*(s.metadata.groups for s in everyone)), key=natural):
        found = [source.metadata.groups.get(name) for source in everyone]
        records = [record for record in found if record is not None]
        if len(records) == len(everyone) and len({value_of(r) for r in records}) == 1:
            continue
        kinds = {(record.shape, record.dtype) for record in records}
        if len(records) < len(everyone) or len(kinds) > 1 or records[0].dtype not in FLOATING:
            others.append(name)
        else:
            names.append(name)
    shown = ", ".join(f"'{name}'" for name in others[:3]) + (", …" if len(others) > 3 else "")
    text = "not measured, since added, deleted, of another shape or not of floating numbers"
    return names, [
        f"{text}: {shown} ({len(others)} of {len(names) + len(others)})"
    ] if others else []


def _shares(
    labels: Sequence[str], sums: Sums, parts: Mapping[str, Sequence[float] | None]
) -> tuple[Share, ...]:
    remarkable = marks(labels, sums)
    total = sums.products.sum(axis=1)
    whole = float(np.sqrt(max(float(sums.products.sum()), 0.0)))
    norms = sums.norms.tolist()
    return tuple(
        Share(
            constituent=label,
            norm=norms[i],
            share=norms[i] / sum(norms) if sum(norms) else None,
            cosine=float(total[i]) / (norms[i] * whole) if norms[i] and whole else None,
            conflict=sums.conflict(i, -1),
            largest=float(sums.largest[i]),
            non_finite=int(sums.non_finite[i]),
            weights={kind: values[i] for kind, values in parts.items() if values},
            marks=tuple(remarkable.get(label, ())),
        )
        for i, label in enumerate(labels)
    )
