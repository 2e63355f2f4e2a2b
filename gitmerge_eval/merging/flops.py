"""What the statistics of a planned merge took to compute, by the counts of Table 3."""

from __future__ import annotations

from gitmerge_eval.merging.planning import CheckpointPlan, layer_shape
from gitmerge_eval.merging.sources import Source


def statistics_flops(plan: CheckpointPlan) -> int:
    """Table 3's count for the statistics that the method needs, over the groups that are computed,
    with the tokens that each constituent's statistic says it was made of."""
    shapes = [layer_shape(group, 1) for group in plan.computed]
    return sum(
        plan.method.statistics_flops(shape, tokens(plan, source), plan.options)
        for source in plan.constituents
        for shape in shapes
    )


def tokens(plan: CheckpointPlan, source: Source) -> int:
    """T: how many tokens a constituent's statistics were computed on, as they say; 0 where the
    method needs none."""
    kinds = plan.method.statistics(plan.options)
    return max((source.statistics[kind].entry.tokens for kind in kinds), default=0)
