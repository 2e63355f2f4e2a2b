"""What a merge did: the outcome of each group, and what computing it took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gitmerge_eval.costs import Cost


@dataclass(frozen=True)
class GroupReport:
    """What happened to one group."""

    name: str
    state: str
    """identical, merged, taken, added, deleted, not-averaged or conflict."""
    remarks: tuple[str, ...] = ()
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class MergeReport:
    """What a merge of one checkpoint did."""

    path: str
    digest: str
    groups: tuple[GroupReport, ...]
    cost: Cost
    notices: tuple[str, ...] = ()
    """What the user should know beside: a cache that cannot be used."""

    def count(self, state: str) -> int:
        """The number of groups in ``state``."""
        return sum(group.state == state for group in self.groups)
