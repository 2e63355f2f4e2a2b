"""Adapters in a merge: all see the same weights, and the result is factored again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gitmerge_eval.checkpoints import bridge, lora_factors, lora_result, lora_view
from gitmerge_eval.checkpoints.checkpoint import Checkpoint, store_array
from gitmerge_eval.checkpoints.lfs import ObjectStore
from gitmerge_eval.checkpoints.lora import configuration_of
from gitmerge_eval.checkpoints.lora_result import Outline
from gitmerge_eval.checkpoints.lora_view import Product
from gitmerge_eval.checkpoints.metadata import GroupRecord, Metadata
from gitmerge_eval.errors import MergeRefused
from gitmerge_eval.merging.sources import Source, zeros
from gitmerge_eval.records import Outcome

if TYPE_CHECKING:
    from gitmerge_eval.merging.planning import CheckpointPlan


def aligned(
    base: Source | None, sources: Sequence[Source]
) -> tuple[Source | None, tuple[Source, ...]]:
    """The sources with a group for every weight that any adapter changes, zeros where it does not.

    A base that has no adapter is zero itself. Models that are no adapters stay as they are.
    Raises MergeRefused where some are adapters and some are not.
    """
    everyone = [*([base] if base else []), *sources]
    if not any(source.adapter for source in everyone):
        return base, tuple(sources)
    for source in everyone:
        if source.adapter is None:
            other = next(s.label for s in everyone if s.adapter)
            raise MergeRefused(
                f"'{source.path}' is an adapter in '{other}' and none in '{source.label}'; bring "
                "them to one kind on one of the branches"
            )
    base = base or zeros(sources[0])
    products: dict[str, Product] = {}
    for source in [base, *sources]:
        for name, record in source.metadata.groups.items():
            if isinstance(record, Product):
                products.setdefault(name, record)
    base, *rest = (
        replace(source, metadata=lora_view.with_zeros(source.metadata, products))
        for source in [base, *sources]
    )
    return base, tuple(rest)


def outline(base: Source | None, sources: Sequence[Source]) -> Outline | None:
    """What the merged adapter will look like; None for models that are none."""
    if not sources or sources[0].adapter is None:
        return None
    known = base.adapter if base and base.adapter and base.adapter.pairs else None
    first = base if base and known else sources[0]
    labelled = [(s.label, s.adapter) for s in sources if s.adapter]
    return lora_result.outline(known, labelled, first.metadata.header)


def factored(
    plan: CheckpointPlan, name: str, array: NDArray[Any], store: ObjectStore
) -> tuple[tuple[GroupRecord, ...], Outcome]:
    """The factors of a merged ΔW, stored; what they cost, as remarks and figures.

    Raises NumericalError where a factor does not fit its dtype.
    """
    assert plan.outline is not None
    pair = plan.outline.pairs[name]
    records = {s.metadata.groups[name].object_id: s.metadata.groups[name] for s in plan.sources}
    ups = [r.up for r in records.values() if isinstance(r, Product) and r.up is not None]
    spans = [
        bridge.to_torch(Checkpoint(Metadata({up.name: up}), store, plan.spec.path).read(up.name))
        for up in ups
    ]
    found = lora_factors.factor(
        bridge.to_torch(array),
        plan.rank,
        pair.dtype,
        scale=lambda rank: plan.outline.pair(name, rank).scale if plan.outline else 1.0,
        spans=spans,
        embedding=pair.embedding,
    )
    stored = tuple(
        store_array(factor_name, bridge.to_numpy(tensor.contiguous()), store)
        for factor_name, tensor in ((pair.down, found.down), (pair.up, found.up))
    )
    figures = {"rank": found.rank, "exact_rank": found.exact_rank, "rank_error": found.error}
    remarks = (f"cut to rank {found.rank}",) if found.rank < found.exact_rank else ()
    import torch

    return stored, Outcome(torch.empty(0), remarks, figures)


def notices(plan: CheckpointPlan, figures: Mapping[str, Mapping[str, float]]) -> list[str]:
    """What the user should know of the ranks: what a cut loses, or that a cut would be wise.

    ``figures``: group -> those of :func:`factored`.
    """
    if plan.outline is None:
        return []
    known = {name: own for name, own in figures.items() if "rank" in own}
    worst = max(known, key=lambda name: known[name]["rank_error"], default="")
    if worst and known[worst]["rank_error"] > 0:
        return [
            f"rank={plan.rank} loses at most {known[worst]['rank_error']:.2%} of a change "
            f"(‖error‖/‖ΔW‖, in '{worst}', whose exact rank is {known[worst]['exact_rank']:.0f})"
        ]
    full = [
        name
        for name, own in known.items()
        if plan.rank is None and own["rank"] > sum(_ranks(plan, name))
    ]
    if full:
        highest = max(known[name]["rank"] for name in full)
        return [
            f"{len(full)} changes have a higher rank than all branches together (up to "
            f"{highest:.0f}): choose a smaller one with -X rank=<n>"
        ]
    return []


def _ranks(plan: CheckpointPlan, name: str) -> list[int]:
    adapters = [source.adapter for source in plan.sources if source.adapter]
    return [a.pairs[name].rank for a in adapters if name in a.pairs]


def result_names(plan: CheckpointPlan, name: str) -> tuple[str, ...]:
    """What a merged group is stored under: its name, or the names of its two factors."""
    if plan.outline is None or name not in plan.outline.pairs:
        return (name,)
    return plan.outline.pairs[name].down, plan.outline.pairs[name].up


def assembled(
    plan: CheckpointPlan, found: Mapping[str, Sequence[GroupRecord]], store: ObjectStore
) -> tuple[Metadata, dict[str, bytes]]:
    """The adapter's file and, for PEFT, its configuration by path.

    ``found``: group -> its records, a :class:`Product` where it is taken as it was.
    """
    assert plan.outline is not None
    records: dict[str, GroupRecord] = {}
    ranks: dict[str, int] = {}
    scales: dict[str, float] = {}
    for name, parts in found.items():
        if name not in plan.outline.pairs:
            records[name] = parts[0]
            continue
        pair = plan.outline.pairs[name]
        kept = parts[0] if isinstance(parts[0], Product) else None
        if kept:
            parts, scales[name] = kept.stored, kept.scale
        by_name = dict(zip((pair.down, pair.up), parts, strict=True))
        if not kept:
            by_name = {record.name: record for record in parts}
        for factor_name, record in by_name.items():
            records[factor_name] = replace(record, name=factor_name, keys=())
        ranks[name] = records[pair.down].shape[0]
        if pair.alpha:
            records[pair.alpha] = _alpha(plan, name, store)
    header, configuration = plan.outline.finish(ranks, scales)
    beside = configuration_of(plan.spec.path)
    plain = {beside: configuration} if beside and configuration is not None else {}
    return Metadata(records, header), plain


def _alpha(plan: CheckpointPlan, name: str, store: ObjectStore) -> GroupRecord:
    """The α of a pair: the very tensor of a branch that has it, else one of its own."""
    assert plan.outline is not None
    pair = plan.outline.pairs[name]
    for source in plan.sources:
        known = source.adapter.pairs.get(name) if source.adapter else None
        if known and known.alpha == pair.alpha and known.alpha_value == pair.alpha_value:
            return source.files.groups[pair.alpha]
    return store_array(pair.alpha, np.array(pair.alpha_value, np.float32), store)
