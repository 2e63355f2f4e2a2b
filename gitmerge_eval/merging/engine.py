"""Computes the groups of a planned merge, one at a time, largest first.

No whole model is ever in memory: a group is read, merged, cast once and handed on before the next
one is read. Torch is imported when the first group is computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gitmerge_eval.checkpoints import bridge
from gitmerge_eval.checkpoints.checkpoint import Checkpoint
from gitmerge_eval.checkpoints.lfs import ObjectStore
from gitmerge_eval.checkpoints.metadata import GroupRecord
from gitmerge_eval.errors import (
    CheckpointError,
    InvalidOption,
    NonFiniteValue,
    NumericalError,
    StaleStatistic,
)
from gitmerge_eval.merging.planning import CheckpointPlan, GroupPlan
from gitmerge_eval.merging.sources import Source, StatisticSource
from gitmerge_eval.records import MergeMethod, Outcome, ParameterGroup

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor


@dataclass(frozen=True)
class MergedGroup:
    """One computed group: its plan, its value in the stored dtype, and the kernel's remarks."""

    plan: GroupPlan
    array: NDArray[Any]
    outcome: Outcome


def choose_device(requested: str, method: MergeMethod) -> str:
    """The device to compute on: ``auto`` takes the GPU for methods that solve linear systems.

    Elementwise methods do a few operations on each byte that has to be moved to the GPU and back,
    so the CPU is as fast. Raises InvalidOption where a GPU is asked for and there is none.
    """
    if requested == "cpu" or (requested == "auto" and method.elementwise):
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda" if requested == "auto" else requested
    if requested == "auto":
        return "cpu"
    raise InvalidOption(
        f"option 'device' is '{requested}', but torch {torch.__version__} sees no CUDA device; "
        "use device=cpu"
    )


def choose_accumulate(requested: str) -> str:
    """The precision of sums: float64 unless asked for otherwise.

    Elementwise work is bound by memory, so that float64 costs next to nothing and rounds once;
    linear systems are solved in float64 whatever this says.
    """
    return "float64" if requested == "auto" else requested


@dataclass
class Engine:
    """Computes one plan on one device; ``read_bytes`` counts what was opened."""

    plan: CheckpointPlan
    store: ObjectStore
    device: str
    read_bytes: int = 0
    _scalars: dict[str, tuple[float, ...]] = field(default_factory=dict)

    def __iter__(self) -> Iterator[MergedGroup]:
        """Every group to compute, merged.

        Raises NonFiniteValue (naming branch and group), CorruptObject, MissingObject, or
        NumericalError where the result does not fit the stored dtype.
        """
        self._compute_scalars()
        for group_plan in self.plan.computed:
            with _inside(f"group '{group_plan.name}' of '{self.plan.spec.path}'"):
                outcome = self.plan.method.merge(self._load(group_plan), self.plan.options)
                yield MergedGroup(group_plan, self._store_dtype(group_plan, outcome.value), outcome)

    def _compute_scalars(self) -> None:
        models = len(self.plan.constituents)
        for scalar in self.plan.method.scalars(self.plan.options, models):
            self._scalars[scalar.name] = scalar.compute(self._groups, self.plan.options)

    def _groups(self) -> Iterator[ParameterGroup]:
        for group_plan in self.plan.computed:
            with _inside(f"group '{group_plan.name}' of '{self.plan.spec.path}'"):
                yield self._load(group_plan)

    def _load(self, group_plan: GroupPlan) -> ParameterGroup:
        name, plan = group_plan.name, self.plan
        seen: dict[str, Tensor] = {}
        base = self._tensor(plan.base, name, seen) if plan.base else None
        constituents = tuple(self._tensor(source, name, seen) for source in plan.constituents)
        original = plan.base.metadata.groups[name] if plan.base else None
        return ParameterGroup(
            name=name,
            constituents=constituents,
            identities=tuple(source.blob for source in plan.constituents),
            changed=tuple(
                original is None or source.metadata.groups[name].object_id != original.object_id
                for source in plan.constituents
            ),
            base=base,
            statistics=self._statistics(group_plan, seen),
            scalars=self._scalars,
            references={
                key: self._tensor(source, name, seen) for key, source in plan.references.items()
            },
            input_axis=self._input_axis(name),
        )

    def _tensor(self, source: Source, name: str, seen: dict[str, Tensor]) -> Tensor:
        with _inside("the base" if source is self.plan.base else f"branch '{source.label}'"):
            return self._read(Checkpoint(source.metadata, self.store, source.path), name, seen)

    def _read(self, checkpoint: Checkpoint, name: str, seen: dict[str, Tensor]) -> Tensor:
        record = checkpoint.groups[name]
        # Equal tensors are one object: what several constituents share is read once.
        if record.object_id not in seen:
            tensor = bridge.to_torch(checkpoint.read(name)).to(self.device)
            tensor = tensor.to(self._dtype)
            if not bool(tensor.isfinite().all()):
                raise NonFiniteValue(
                    "it holds NaN or infinity; fine-tune again from the last good "
                    "checkpoint, or leave this branch out of the merge"
                )
            seen[record.object_id] = tensor
            self.read_bytes += record.size
        return seen[record.object_id]

    def _statistics(
        self, group_plan: GroupPlan, seen: dict[str, Tensor]
    ) -> Mapping[str, tuple[Tensor, ...]]:
        found = {}
        for kind in self.plan.statistics:
            sources = [(source, source.statistics[kind]) for source in self.plan.constituents]
            having = [pair for pair in sources if pair[1].record(group_plan.name) is not None]
            needed = kind in self.plan.method.statistics(self.plan.options)
            if needed and having and len(having) < len(sources):
                lacking = next(s.label for s, statistic in sources if (s, statistic) not in having)
                raise StaleStatistic(
                    f"the statistic '{kind}' of '{lacking}' has nothing for this group while "
                    f"others have; compute it again with 'gitmerge-eval stats {kind}'"
                )
            if having or not needed:
                found[kind] = tuple(
                    self._statistic(source, statistic, group_plan, seen)
                    for source, statistic in sources
                )
        return found

    def _statistic(
        self,
        source: Source,
        statistic: StatisticSource,
        group_plan: GroupPlan,
        seen: dict[str, Tensor],
    ) -> Tensor:
        if statistic.record(group_plan.name) is None:
            return next(iter(seen.values())).new_zeros(
                tuple(source.metadata.groups[group_plan.name].shape)
            )
        key = statistic.entry.layout[group_plan.name]["key"]
        with _inside(f"statistic '{statistic.kind}' of '{source.label}'"):
            tensor = self._read(Checkpoint(statistic.metadata, self.store), key, seen)
        if statistic.kind == "gram":
            from gitmerge_eval.statistics.gram import unpack_symmetric

            return unpack_symmetric(tensor)
        return tensor

    def _input_axis(self, name: str) -> int:
        for source in self.plan.constituents:
            for kind in self.plan.statistics:
                layout = source.statistics[kind].entry.layout.get(name)
                if layout and "input_axis" in layout:
                    return int(layout["input_axis"])
        return 1

    @property
    def _dtype(self) -> torch.dtype:
        import torch

        return torch.float64 if self.plan.spec.accumulate == "float64" else torch.float32

    def _store_dtype(self, group_plan: GroupPlan, value: Tensor) -> NDArray[np.generic]:
        assert group_plan.record is not None
        stored = value.to(bridge.torch_dtype(group_plan.record.dtype)).cpu()
        if not bool(stored.to(self._dtype).isfinite().all()):
            raise NumericalError(
                f"the merged values do not fit {group_plan.record.dtype}; choose a smaller scale"
            )
        return bridge.to_numpy(stored.reshape(group_plan.record.shape))


def known_records(plan: CheckpointPlan, name: str) -> list[GroupRecord]:
    """What base and constituents have for the group: an unchanged group keeps its entry."""
    sources = [*([plan.base] if plan.base else []), *plan.constituents]
    return [s.metadata.groups[name] for s in sources if name in s.metadata.groups]


@contextmanager
def _inside(where: str) -> Iterator[None]:
    try:
        yield
    except (CheckpointError, NumericalError) as error:
        raise error.within(where) from error.__cause__
