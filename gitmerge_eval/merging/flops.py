"""What the statistics of a planned merge took to compute, by the counts of Table 3."""

from __future__ import annotations

from collections import Counter

from gitmerge_eval.merging.planning import CheckpointPlan, layer_shape
from gitmerge_eval.merging.sources import Source


def statistics_flops(plan: CheckpointPlan) -> int:
    """Table 3's count for the statistics that the method needs, over the groups that are computed,
    with the tokens that each constituent's statistic says it was made of."""
    # Those of one T together: the formulas round down once for all M.
    counted = Counter(tokens(plan, source) for source in plan.constituents)
    return sum(
        plan.method.statistics_flops(layer_shape(group, models), number, plan.options)
        for number, models in counted.items()
        for group in plan.computed
    )


def tokens(plan: CheckpointPlan, source: Source) -> int:
    """T: how many tokens a constituent's statistics were computed on, as they say; 0 where the
    method needs none."""
    kinds = plan.method.statistics(plan.options)
    return max((source.statistics[kind].entry.tokens for kind in kinds), default=0)
