"""What a merge of one checkpoint would do: constituents, groups by state, prerequisites, cost.

Reads metadata only; no tensor is opened, and torch is not imported.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any

from gitmerge_eval import methods
from gitmerge_eval.checkpoints import statistics_index
from gitmerge_eval.checkpoints.lora_result import Outline
from gitmerge_eval.checkpoints.lora_view import Product, stored_records
from gitmerge_eval.checkpoints.metadata import GroupRecord
from gitmerge_eval.errors import (
    MissingBase,
    MissingStatistic,
    StaleStatistic,
)
from gitmerge_eval.git.repository import Repository
from gitmerge_eval.merging import adapters, tying
from gitmerge_eval.merging.options import MergeOptions
from gitmerge_eval.merging.sources import Source, open_source, value_of
from gitmerge_eval.records import LayerShape, MergeMethod, MergeSpec

FLOATING = frozenset({"float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"})
"""The dtypes that can be averaged; everything else is taken from one constituent."""


@dataclass(frozen=True)
class GroupPlan:
    """What becomes of one parameter group."""

    name: str
    state: str
    """identical, merged, tied, taken (from one side), added, deleted, not-averaged or conflict."""
    record: GroupRecord | None
    """The result where nothing is computed; for 'merged' a record with shape and dtype."""
    remark: str = ""
    tied_to: str = ""
    """The group that this one is equal to, and whose result it gets."""


@dataclass(frozen=True)
class CheckpointPlan:
    """The merge of one checkpoint, ready to be computed."""

    spec: MergeSpec
    method: MergeMethod
    options: Mapping[str, Any]
    base: Source | None
    constituents: tuple[Source, ...]
    references: Mapping[str, Source]
    groups: tuple[GroupPlan, ...]
    outline: Outline | None = None
    """Of an adapter: what the result will look like."""
    rank: int | None = None
    """The highest rank of an adapter's factors; None for whatever is exact."""
    own_header: Mapping[str, str] | None = None
    """safetensors' own metadata of the result, where it is not that of the base."""

    @property
    def header(self) -> Mapping[str, str]:
        """safetensors' own metadata of the result: of the base, or of the first constituent."""
        if self.own_header is not None:
            return self.own_header
        return (self.base or self.constituents[0]).metadata.header

    def in_state(self, state: str) -> tuple[GroupPlan, ...]:
        """The groups in one state."""
        return tuple(group for group in self.groups if group.state == state)

    @property
    def sources(self) -> tuple[Source, ...]:
        """The base, where there is one, and the constituents."""
        return (*([self.base] if self.base else []), *self.constituents)

    @cached_property
    def computed(self) -> tuple[GroupPlan, ...]:
        """The groups to compute, largest first: the last to start is then the shortest."""
        merged = [group for group in self.groups if group.state == "merged"]
        return tuple(sorted(merged, key=lambda g: (-_elements(g), g.name)))

    @property
    def merging_flops(self) -> int:
        """Table 3's count, summed over the groups that are computed."""
        return sum(
            self.method.merging_flops(layer_shape(g, len(self.constituents)), self.options)
            for g in self.computed
        )

    @cached_property
    def opened(self) -> dict[str, GroupRecord]:
        """Object id -> record of everything that is read to compute the groups, each once."""
        names = [group.name for group in self.computed]
        sources = [
            *self.constituents,
            *([self.base] if self.base and self.reads_base else []),
            *self.references.values(),
        ]
        records = [source.metadata.groups.get(name) for source in sources for name in names]
        for source, kind in itertools.product(self.constituents, self.statistics):
            records += [source.statistics[kind].record(name) for name in names]
        stored = stored_records(record for record in records if record is not None)
        return {record.object_id: record for record in stored}

    @property
    def models(self) -> tuple[int, ...] | None:
        """How many models each constituent stands for; None where that is one for all."""
        counts = tuple(source.models for source in self.constituents)
        return counts if max(counts, default=1) > 1 else None

    @property
    def reads_base(self) -> bool:
        """Whether the base's tensors are read: some methods want to know only what changed."""
        return self.method.needs_base(self.options)

    @property
    def read_bytes(self) -> int:
        """Stored bytes of the objects that are opened."""
        return sum(record.size for record in self.opened.values())

    @property
    def written_bytes(self) -> int:
        """Bytes of the tensors that are computed, before compression."""
        return sum(group.record.nbytes for group in self.computed if group.record)

    @property
    def statistics(self) -> tuple[str, ...]:
        """The kinds of statistics that are read: what the method needs, and what spares it work."""
        return tuple(self.spec.constituents[0].statistics)

    @property
    def peak_bytes(self) -> int:
        """Estimated memory of the largest group's tensors while it is merged on the CPU: of its
        result where tiles stream by, else of all that a linear system holds."""
        if self.method.elementwise:
            return max((2 * g.record.nbytes for g in self.computed if g.record), default=0)
        gram = "gram" in self.statistics
        return max((working_bytes(group, gram) for group in self.computed), default=0)


def plan_checkpoint(
    repository: Repository,
    path: str,
    options: MergeOptions,
    base: Source | None,
    constituents: Sequence[Source],
    accumulate: str,
) -> CheckpointPlan:
    """Decide each group's state and check every prerequisite of the method.

    Raises PrerequisiteError (missing base, missing or stale statistic), InvalidOption (a list of
    the wrong length) or UnknownName.
    """
    base, aligned = adapters.aligned(base, constituents)
    ordered = _canonical_order(aligned, options)
    values = options.method.options(options.given, models=len(ordered))
    if options.method.needs_base(values) and base is None:
        raise MissingBase(
            f"'{options.method.name}' needs the base's '{path}', and the heads have no common "
            "ancestor with it; name one with --strategy-option=base=<revision>"
        )
    for kind in options.method.statistics(values):
        check_statistic(ordered, kind, options.method.name)
    kinds = (*options.method.statistics(values), *_sparing(options.method, values, base, ordered))
    base, ordered, references = _with_references(repository, path, options, values, base, ordered)
    outline = adapters.outline(base, ordered)
    rank = options.rank if outline else None
    spec = MergeSpec(
        path,
        options.method.name,
        {**values, "rank": rank} if rank else values,
        accumulate,
        base.identity if base else None,
        tuple(
            replace(
                source.constituent,
                statistics={kind: source.statistics[kind].blob for kind in kinds},
            )
            for source in ordered
        ),
        {name: source.identity for name, source in references.items()},
    )
    groups = tying.tie(
        [_as_stored(group, outline) for group in _plan_groups(base, ordered)],
        [*([base] if base else []), *ordered, *references.values()],
        lambda name: all(s.statistics[kind].record(name) for s in ordered for kind in kinds),
    )
    return CheckpointPlan(
        spec, options.method, values, base, ordered, references, groups, outline, rank
    )


def _with_references(
    repository: Repository,
    path: str,
    options: MergeOptions,
    values: dict[str, Any],
    base: Source | None,
    ordered: tuple[Source, ...],
) -> tuple[Source | None, tuple[Source, ...], dict[str, Source]]:
    """The further models that the method asks for, with the groups that all have to have then."""
    references = {}
    for name, revision in options.method.references(values).items():
        # By its commit: a name may mean another one when the merge is verified.
        values[name] = repository.commit(revision)
        references[name] = open_source(repository, values[name], path, revision)
    if references:
        base, every = adapters.aligned(base, [*ordered, *references.values()])
        ordered, others = every[: len(ordered)], every[len(ordered) :]
        references = dict(zip(references, others, strict=True))
    return base, ordered, references


def _as_stored(group: GroupPlan, outline: Outline | None) -> GroupPlan:
    """A product that nobody changed is kept, unless the result's format has no word for its scale:
    then its factors are made anew."""
    record = group.record
    if outline and group.state == "identical" and isinstance(record, Product):
        rank = record.down.shape[0] if record.down else 1
        if record.down is None or not outline.can_say(group.name, rank, record.scale):
            return replace(group, state="merged")
    return group


def check_statistic(sources: Sequence[Source], kind: str, method: str) -> None:
    """MissingStatistic or StaleStatistic unless all have ``kind`` for their own checkpoints."""
    path = sources[0].path
    remedy = (
        f"run 'gitmerge-eval stats {kind}' on {{}} and commit "
        f"'{statistics_index.statistic_path(path, kind)}'"
    )
    absent = [source.label for source in sources if kind not in source.statistics]
    if absent:
        one = len(absent) == 1
        lacking = f"branch '{absent[0]}' does" if one else f"branches {_quoted(absent)} do"
        raise MissingStatistic(
            f"'{method}' needs the statistic '{kind}', which {lacking} not have for '{path}'; "
            + remedy.format("that branch" if one else "each of them")
        )
    for source in sources:
        entry = source.statistics[kind].entry
        if entry.checkpoint != source.blob:
            raise StaleStatistic(
                f"the statistic '{kind}' of branch '{source.label}' was computed on another "
                f"version of '{path}' ({entry.checkpoint[:10]}, now {source.blob[:10]}); "
                + remedy.format("that branch")
            )
        if changed := source.statistics[kind].changed:
            raise StaleStatistic(
                f"the statistic '{kind}' of branch '{source.label}' was computed with another "
                f"'{changed[0]}' than that branch has now; " + remedy.format("that branch")
            )


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in sorted(names))


def _sparing(
    method: MergeMethod, values: Mapping[str, Any], base: Source | None, sources: Sequence[Source]
) -> list[str]:
    """The optional statistics that every constituent has: fresh, and made with these options."""

    def usable(source: Source, kind: str, wanted: Mapping[str, Any]) -> bool:
        statistic = source.statistics.get(kind)
        made_with = {"base": base.blob if base else None, **wanted}
        return (
            statistic is not None
            and source.has_fresh(kind)
            and all(statistic.entry.options.get(k) == v for k, v in made_with.items())
        )

    optional = method.optional_statistics(values)
    return [
        kind
        for kind, wanted in optional.items()
        if all(usable(source, kind, wanted) for source in sources)
    ]


def applicable(base: Source | None, constituents: Iterable[Source]) -> dict[str, tuple[str, ...]]:
    """method -> what it lacks with default options: nothing, 'base', or 'stale gram of x'."""
    sources = list(constituents)
    found = {}
    for name, method in methods.load().items():
        values = method.options({})
        lacking = ["base"] if method.needs_base(values) and base is None else []
        for kind in method.statistics(values):
            for source in sources:
                if kind not in source.statistics:
                    lacking.append(f"{kind} of {source.label}")
                elif not source.has_fresh(kind):
                    lacking.append(f"fresh {kind} of {source.label}")
        found[name] = tuple(lacking)
    return found


def layer_shape(group: GroupPlan, models: int) -> LayerShape:
    """A group as the d×k layer of the cost formulas: (k, d) as torch keeps it, else n×1."""
    shape = group.record.shape if group.record else ()
    if len(shape) < 2:
        return LayerShape(inputs=prod(shape), outputs=1, models=models)
    return LayerShape(inputs=prod(shape[1:]), outputs=shape[0], models=models)


def _canonical_order(constituents: Sequence[Source], options: MergeOptions) -> tuple[Source, ...]:
    """Sorted by object id, so that the order of the heads does not matter; as given where an
    option speaks of positions; at its default, which the trailers name too, it favours none."""
    method = options.method
    values = method.options(options.given)
    if method.ordered or any(
        p.positional and values[p.name] != p.default for p in method.hyperparameters
    ):
        return tuple(constituents)
    return tuple(sorted(constituents, key=lambda source: source.identity))


def _plan_groups(base: Source | None, constituents: Sequence[Source]) -> Iterable[GroupPlan]:
    names = sorted(
        set().union(*(source.metadata.groups for source in constituents))
        | set(base.metadata.groups if base else ())
    )
    for name in names:
        original = base.metadata.groups.get(name) if base else None
        yield _plan_group(name, original, base is not None, constituents)


def _plan_group(
    name: str, original: GroupRecord | None, has_base: bool, constituents: Sequence[Source]
) -> GroupPlan:
    versions = [source.metadata.groups.get(name) for source in constituents]
    present = [record for record in versions if record is not None]
    if original is not None and len(present) < len(versions):
        return _plan_deleted(name, original, constituents)
    if original is None and (has_base or len(present) < len(versions)):
        return _plan_added(name, present, constituents)
    reference = original or present[0]
    if all(value_of(record) == value_of(reference) for record in present) and (
        original is not None or len(present) == len(versions)
    ):
        return GroupPlan(name, "identical", reference)
    for source, record in zip(constituents, present, strict=True):
        if (record.shape, record.dtype) != (reference.shape, reference.dtype):
            return GroupPlan(
                name,
                "conflict",
                original,
                f"'{source.label}' has {record.dtype}{list(record.shape)}, "
                f"{'the base' if original else repr(constituents[0].label)} has "
                f"{reference.dtype}{list(reference.shape)}",
            )
    if reference.dtype not in FLOATING:
        changed = [r for r in present if original is None or value_of(r) != value_of(original)]
        first = next(s.label for s, r in zip(constituents, present, strict=True) if r is changed[0])
        return GroupPlan(
            name, "not-averaged", changed[0], f"{reference.dtype}: taken from '{first}'"
        )
    return GroupPlan(name, "merged", reference)


def _plan_deleted(name: str, original: GroupRecord, constituents: Sequence[Source]) -> GroupPlan:
    kept = [s for s in constituents if name in s.metadata.groups]
    gone = [s.label for s in constituents if name not in s.metadata.groups]
    if all(value_of(source.metadata.groups[name]) == value_of(original) for source in kept):
        return GroupPlan(name, "deleted", None, f"deleted by {', '.join(gone)}")
    changed = [s.label for s in kept if value_of(s.metadata.groups[name]) != value_of(original)]
    return GroupPlan(
        name, "conflict", original, f"deleted by {', '.join(gone)}, changed by {', '.join(changed)}"
    )


def _plan_added(
    name: str, present: Sequence[GroupRecord], constituents: Sequence[Source]
) -> GroupPlan:
    owners = [source.label for source in constituents if name in source.metadata.groups]
    if all(value_of(record) == value_of(present[0]) for record in present):
        return GroupPlan(name, "added", present[0], f"added by {', '.join(owners)}")
    return GroupPlan(name, "conflict", None, f"added differently by {', '.join(owners)}")


def _elements(group: GroupPlan) -> int:
    return prod(group.record.shape) if group.record else 0


def working_bytes(group: GroupPlan, gram: bool) -> int:
    """What solving a group's linear system holds in float64, for any number of constituents.

    Base, start, right side, residual, direction, image, one constituent and the result; with Gram
    matrices one as stored, one unpacked, their sum and its factor.
    """
    shape = layer_shape(group, 1)
    matrices = 4 * shape.inputs**2 if gram and shape.outputs > 1 else 0
    return 8 * (8 * _elements(group) + matrices)
