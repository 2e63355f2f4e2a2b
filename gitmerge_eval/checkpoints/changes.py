"""What differs between two versions of a checkpoint, from their metadata alone: no tensor is read.

How much a group changed is estimated from git-theta's signatures. Those are 16 dot products of the
tensor with pseudo-random normal numbers (:mod:`gitmerge_eval.checkpoints.lsh`), so that the root
mean square of the differences of two signatures estimates ‖b - a‖, with a relative standard
deviation of 1/√32 = 18 %. The numbers come from a pool of 10,000 that large tensors use again and
again: of a difference that is the same everywhere, not scattered around 0, the estimate is too
large, by up to √(n / 10,000).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gitmerge_eval.checkpoints.lsh import BUCKET_WIDTH
from gitmerge_eval.checkpoints.metadata import GroupRecord, Metadata
from gitmerge_eval.checkpoints.modules import natural

_NOT_FINITE = -(2**63)
"""What a signature says of a sum that is not finite."""


@dataclass(frozen=True)
class GroupChange:
    """One parameter group in two versions."""

    name: str
    old: GroupRecord | None
    new: GroupRecord | None

    @property
    def state(self) -> str:
        """equal, changed, added, removed, or reshaped: of another shape or dtype."""
        if self.old is None:
            return "added"
        if self.new is None:
            return "removed"
        if (self.old.shape, self.old.dtype) != (self.new.shape, self.new.dtype):
            return "reshaped"
        return "equal" if self.old.object_id == self.new.object_id else "changed"

    @property
    def described(self) -> str:
        """Shape and dtype, of both where they differ: ``float32[2, 3] → float16[2, 3]``."""
        shown = [f"{record.dtype}{list(record.shape)}" for record in (self.old, self.new) if record]
        return " → ".join(dict.fromkeys(shown))


def changes(old: Metadata, new: Metadata) -> tuple[GroupChange, ...]:
    """Every group of both versions, in the order of their names."""
    names = {**old.groups, **new.groups}
    found = (GroupChange(n, old.groups.get(n), new.groups.get(n)) for n in names)
    return tuple(sorted(found, key=lambda change: natural(change.name)))


def estimated_norm(records: Iterable[GroupRecord]) -> float | None:
    """About √Σ‖x‖² over the groups; None where a signature does not tell."""
    return _norm([record.signature for record in records])


def estimated_difference(changed: Iterable[GroupChange]) -> float | None:
    """About √Σ‖b - a‖² over the groups that both versions have; None where it cannot be told."""
    differences = []
    for change in changed:
        if change.state == "equal":
            continue
        if change.state != "changed" or change.old is None or change.new is None:
            return None
        old, new = change.old.signature, change.new.signature
        if len(old) != len(new) or _NOT_FINITE in (*old, *new):
            return None
        differences.append(tuple(b - a for a, b in zip(old, new, strict=True)))
    return _norm(differences)


def _norm(projections: Iterable[tuple[int, ...]]) -> float | None:
    total = 0.0
    for values in projections:
        if not values or _NOT_FINITE in values:
            return None
        # A sum of projections is a bucket of 1e-8; Python's integers do not overflow.
        total += sum(value * value for value in values) / len(values)
    return BUCKET_WIDTH * math.sqrt(total)


def by_module(
    changed: Iterable[GroupChange], cut: Mapping[str, str]
) -> dict[str, list[GroupChange]]:
    """module -> its groups, in the natural order of the modules."""
    found: dict[str, list[GroupChange]] = {}
    for change in changed:
        found.setdefault(cut[change.name], []).append(change)
    return {module: found[module] for module in sorted(found, key=natural)}
