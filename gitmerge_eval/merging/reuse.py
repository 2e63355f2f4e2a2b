"""What of a planned merge is known already: each group by a digest of all that determines it.

A digest covers the method with its options, the precision of sums, the stored entries of the group
in base, constituents, references and statistics, the whole-model scalars bit for bit, and the
versions of whatever computes and encodes. What it does not cover must not matter: the order in
which groups are computed, the number of threads, the memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from gitmerge_eval.checkpoints.group_cache import CachedGroup, GroupCache
from gitmerge_eval.checkpoints.metadata import DENSE, GroupRecord
from gitmerge_eval.merging.adapters import result_names
from gitmerge_eval.merging.planning import CheckpointPlan, GroupPlan
from gitmerge_eval.merging.sources import Source
from gitmerge_eval.records import canonical_json

KEY_VERSION = 2
"""Raised whenever a key comes to mean something else."""
_PACKAGES = ("torch", "numpy", "numcodecs")
"""Those whose versions may change the bytes of a result or of its encoding."""


class Reuse:
    """What the cache knows of one plan on one kind of device.

    A method from another package is never found: nothing tells when its code changes.
    """

    def __init__(self, plan: CheckpointPlan, cache: GroupCache, device: str) -> None:
        self.plan = plan
        self._cache = cache
        self._device = device
        kernel = getattr(plan.method.kernel, "__module__", None) or ""
        self._ours = kernel.startswith("gitmerge_eval.")
        self._keys: dict[str, str] = {}

    def scalars(self) -> dict[str, tuple[float, ...]]:
        """The whole-model scalars that are known."""
        if not self._ours:
            return {}
        declared = self.plan.method.scalars(self.plan.options, len(self.plan.constituents))
        found = {
            scalar.name: self._cache.scalars(scalar_key(self.plan, scalar.name, self._device))
            for scalar in declared
            if not scalar.per_group
        }
        return {name: values for name, values in found.items() if values is not None}

    def keep_scalar(self, name: str, values: tuple[float, ...]) -> None:
        """Remember a whole-model scalar."""
        if self._ours:
            self._cache.put_scalars(scalar_key(self.plan, name, self._device), values)

    def group(
        self, group: GroupPlan, scalars: Mapping[str, tuple[float, ...]]
    ) -> CachedGroup | None:
        """What the group becomes, if it is known and its object is here."""
        if group.record is None or not self._knows(group):
            return None
        found = self._cache.get(self._key(group, scalars))
        names = result_names(self.plan, group.name)
        if found is None or sorted(names) != sorted(r.name for r in found.records):
            return None
        if names == (group.name,) and [(r.shape, r.dtype) for r in found.records] != [
            (group.record.shape, group.record.dtype)
        ]:
            return None
        return found

    def keep(
        self, group: GroupPlan, scalars: Mapping[str, tuple[float, ...]], found: CachedGroup
    ) -> None:
        """Remember what the group has become, once its object is in the store."""
        if self._knows(group):
            self._cache.put(self._key(group, scalars), found)

    def _key(self, group: GroupPlan, scalars: Mapping[str, tuple[float, ...]]) -> str:
        if group.name not in self._keys:
            self._keys[group.name] = group_key(self.plan, group, scalars, self._device)
        return self._keys[group.name]

    def _knows(self, group: GroupPlan) -> bool:
        """Whether the key of the group covers it: not what a view makes of several tensors."""
        return self._ours and all(
            type(source.metadata.groups.get(group.name)) in (GroupRecord, type(None))
            for source in (*self.plan.sources, *self.plan.references.values())
        )


def group_key(
    plan: CheckpointPlan,
    group: GroupPlan,
    scalars: Mapping[str, tuple[float, ...]],
    device: str,
) -> str:
    """The SHA-256 over everything that determines the bytes of one merged group."""
    content = {
        **_common(plan),
        "group": group.name,
        "result": [group.record.shape, group.record.dtype] if group.record else None,
        **_factors(plan, group.name),
        "base": _entry(plan.base, group.name) if plan.base else None,
        "constituents": [_entry(source, group.name) for source in plan.constituents],
        "identities": [constituent.checkpoint for constituent in plan.spec.constituents],
        **({"models": plan.models} if plan.models else {}),
        "references": {k: _entry(source, group.name) for k, source in plan.references.items()},
        "statistics": {
            kind: [_statistic(source, kind, group.name) for source in plan.constituents]
            for kind in plan.statistics
        },
        "scalars": {name: [v.hex() for v in values] for name, values in sorted(scalars.items())},
        "device": None if plan.method.elementwise else _kind(device),
    }
    return _digest(content)


def _factors(plan: CheckpointPlan, name: str) -> dict[str, Any]:
    """What an adapter's factors depend on beside their product: dtype, scale, rank."""
    if plan.outline is None or name not in plan.outline.pairs:
        return {}
    # At rank 2 a scale of √2 is told from one of 1.
    return {"pair": asdict(plan.outline.pair(name, 2)), "rank": plan.rank}


def scalar_key(plan: CheckpointPlan, name: str, device: str) -> str:
    """The SHA-256 over everything that determines a scalar of the whole model."""
    content = {
        **_common(plan),
        "spec": plan.spec.digest,
        "path": plan.spec.path,
        "scalar": name,
        "device": _kind(device),
    }
    return _digest(content)


def _common(plan: CheckpointPlan) -> dict[str, Any]:
    return {
        "key_version": KEY_VERSION,
        "numeric_version": plan.spec.numeric_version,
        "versions": {package: _version(package) for package in _PACKAGES},
        "method": plan.spec.method,
        "options": plan.spec.options,
        "accumulate": plan.spec.accumulate,
    }


def _entry(source: Source, name: str) -> tuple[Any, ...] | None:
    record = source.metadata.groups.get(name)
    if record is None:
        return None
    # An update is applied to the value at this path in an earlier commit.
    return (*_fields(record), None if record.update_type == DENSE else source.path)


def _fields(record: GroupRecord) -> tuple[Any, ...]:
    """All but the name; much faster than dataclasses.asdict."""
    return (
        record.shape,
        record.dtype,
        record.signature,
        record.object_id,
        record.size,
        record.update_type,
        record.last_commit,
        record.keys,
    )


def _statistic(source: Source, kind: str, name: str) -> tuple[Any, ...] | None:
    statistic = source.statistics[kind]
    record = statistic.record(name)
    if record is None:
        return None
    return (*_fields(record), statistic.entry.layout[name])


def _kind(device: str) -> str:
    return device.partition(":")[0]


@cache
def _version(package: str) -> str:
    """Without importing it: torch takes two seconds."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()
