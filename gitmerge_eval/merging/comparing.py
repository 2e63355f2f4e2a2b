"""A recomputed model beside the one that a commit has: object by object, adapters by product."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gitmerge_eval.checkpoints import bridge, lora, lora_factors, lora_view
from gitmerge_eval.checkpoints.checkpoint import Checkpoint
from gitmerge_eval.checkpoints.lfs import ObjectStore
from gitmerge_eval.checkpoints.lora_configuration import RANKS
from gitmerge_eval.checkpoints.lora_view import Product
from gitmerge_eval.checkpoints.metadata import GroupRecord, Metadata
from gitmerge_eval.checkpoints.sharded import is_index
from gitmerge_eval.git.repository import Repository
from gitmerge_eval.merging.output import ModelFiles
from gitmerge_eval.merging.planning import CheckpointPlan
from gitmerge_eval.merging.sources import Source, open_source, value_of

if TYPE_CHECKING:
    from torch import Tensor

TOLERANCE = 1e-4
"""Relative error that a method which solves linear systems, or the decomposition that makes an
adapter's factors, may show on another machine."""
_HALF_TOLERANCE = 2e-2
"""The same where factors are stored in 16 bits or less: they round to 2⁻⁹, and not alike."""
_WIDE = frozenset({"float32", "float64"})


@dataclass(frozen=True)
class WrittenModel:
    """What a commit has of a model."""

    source: Source
    files: Mapping[str, Metadata | None]
    """path -> metadata of that file; None where the commit does not have it."""
    plain: Mapping[str, bytes | None]


def written_model(
    repository: Repository, commit: str, path: str, expected: ModelFiles
) -> WrittenModel:
    """The model at ``commit:path``, with the files that ``expected`` has.

    Raises what :func:`open_source` does.
    """

    def content(file: str) -> bytes | None:
        blob = repository.blob_id(commit, file)
        return repository.blob(blob) if blob else None

    tensors = {file: content(file) for file in expected.tensors}
    return WrittenModel(
        open_source(repository, commit, path, commit[:10]),
        {file: Metadata.parse(data) if data else None for file, data in tensors.items()},
        {file: content(file) for file in expected.plain},
    )


def compare(
    plan: CheckpointPlan,
    expected: ModelFiles,
    written: WrittenModel,
    store: ObjectStore,
    *,
    rounded: bool = False,
) -> tuple[bool, list[str]]:
    """Whether all is equal, and what is wrong; ``rounded`` forgives rounding to elementwise
    methods too, as one version of this program may round in another order than the next."""
    wrong = [f"'{p}' is missing" for p, metadata in written.files.items() if metadata is None]
    wrong += [
        f"'{path}' is not what the merge writes"
        for path, data in expected.plain.items()
        if not _same_text(path, data, written.plain[path])
    ]
    for path, metadata in expected.tensors.items():
        there = written.files[path]
        misplaced = set(metadata.groups) ^ set(there.groups) if there else set()
        if len(expected.tensors) > 1 and misplaced:
            wrong.append(f"'{path}' has other groups: {', '.join(sorted(misplaced)[:5])}")
    mine = _view(expected, store) if plan.outline else expected.whole
    least = TOLERANCE if rounded or not plan.method.elementwise else 0.0
    return _compare_groups(plan, least, mine, written.source.metadata, store, wrong)


def _compare_groups(
    plan: CheckpointPlan,
    tolerance: float,
    expected: Metadata,
    written: Metadata,
    store: ObjectStore,
    wrong: list[str],
) -> tuple[bool, list[str]]:
    exact = True
    computed = {group.name for group in plan.groups if group.state in ("merged", "tied")}
    for name in sorted({*expected.groups, *written.groups}):
        ours, theirs = expected.groups.get(name), written.groups.get(name)
        if ours is None or theirs is None:
            wrong.append(f"group '{name}' is {'not to be there' if ours is None else 'missing'}")
        elif value_of(ours) != value_of(theirs):
            exact = False
            error = _relative_error(ours, theirs, store)
            if name not in computed or error > _tolerance(ours, tolerance):
                wrong.append(
                    f"group '{name}' is not what {plan.spec.method} gives: relative difference "
                    f"{error:.2g} (stored object {theirs.object_id[:10]}, recomputed "
                    f"{ours.object_id[:10]})"
                )
    return exact, wrong


def _tolerance(record: GroupRecord, tolerance: float) -> float:
    if isinstance(record, Product):
        wide = all(factor.dtype in _WIDE for factor in record.stored)
        return TOLERANCE if wide else _HALF_TOLERANCE
    return tolerance


def _relative_error(ours: GroupRecord, theirs: GroupRecord, store: ObjectStore) -> float:
    """‖stored - recomputed‖ / ‖recomputed‖, infinite where the shapes differ."""
    if ours.shape != theirs.shape:
        return float("inf")
    mine, other = _value(ours, store), _value(theirs, store)
    return float((other - mine).norm() / mine.norm().clamp_min(1e-30))


def _value(record: GroupRecord, store: ObjectStore) -> Tensor:
    if isinstance(record, Product) and record.down and record.up:
        down, up = (_value(factor, store) for factor in (record.down, record.up))
        return lora_factors.product(down, up, record.scale, embedding=record.embedding)
    stored = Checkpoint(Metadata({record.name: record}), store)
    return bridge.to_torch(stored.read(record.name)).double()


def _view(expected: ModelFiles, store: ObjectStore) -> Metadata:
    """The recomputed adapter as the changes of weights."""
    settings = next((json.loads(data) for data in expected.plain.values()), None)
    stored = expected.whole

    def scalar(name: str) -> float:
        return float(Checkpoint(stored, store).read(name).reshape(-1)[0])

    adapter = lora.read_adapter(stored.groups, stored.header, settings, scalar)
    return lora_view.view(adapter, stored)


def _same_text(path: str, expected: bytes, written: bytes | None) -> bool:
    """Equal, but for ranks in an adapter's configuration: the groups tell whether they are true."""
    if written is None or is_index(path):
        return written == expected
    return bool(_without_ranks(expected) == _without_ranks(written))


def _without_ranks(data: bytes) -> Any:
    try:
        document = json.loads(data)
    except ValueError:
        return data
    if not isinstance(document, dict):
        return document
    return {key: value for key, value in document.items() if key not in RANKS}
