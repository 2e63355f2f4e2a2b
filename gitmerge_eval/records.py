"""The core types: methods, statistics, merges and benchmarks. Standard library only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from gitmerge_eval.differences import Differences
from gitmerge_eval.errors import InvalidOption, UnknownName
from gitmerge_eval.hyperparameters import Hyperparameter

if TYPE_CHECKING:
    from typing import TypeAlias

    from torch import Tensor

    Array: TypeAlias = Tensor
    """A torch tensor, or a NumPy array: kernels do to it what both understand."""

NUMERIC_VERSION = 2
"""Raised whenever a kernel may give other bytes for the same input; part of every MergeSpec."""


def canonical_json(value: object) -> str:
    """JSON with sorted keys and no white space: equal values have equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


Part = TypeVar("Part")


@dataclass(frozen=True)
class Positions:
    """Where the elements of a tile lie in their group: row r holds ``run`` of them from flat
    position ``starts[r]`` on."""

    starts: Sequence[int]
    run: int


@dataclass(frozen=True)
class ParameterGroup:
    """One named tensor of a model as the constituents have it, or a tile of it: what a kernel sees.

    All tensors share one shape, one device and one accumulation dtype (float32 or float64); the
    engine casts before and after. They are torch tensors, or NumPy arrays with at least one axis
    where the method takes any. ``constituents`` are M tensors in a canonical order that does not
    depend on the order of the heads, unless an option that names positions is set. They, and
    the statistics, may be read anew each time they are asked for: a kernel that goes through them
    once, one after the other, needs the memory of one.
    """

    name: str
    constituents: Sequence[Array]
    identities: tuple[str, ...]
    """A stable id for each constituent (its checkpoint's object id); seeds DARE's masks."""
    changed: tuple[bool, ...]
    """Whether each constituent's tensor differs from the base's."""
    base: Array | None = None
    statistics: Mapping[str, Sequence[Array]] = field(default_factory=dict)
    """kind -> one tensor for each constituent; a kind is absent where the group has none."""
    scalars: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Scalars already computed, by name."""
    references: Mapping[str, Array] = field(default_factory=dict)
    """Further tensors a method asked for, such as MaTS' ``init`` revision."""
    input_axis: int = 1
    """The axis of a linear layer's weight that its inputs meet: 1 for torch's (out, in)."""
    models: tuple[int, ...] | None = None
    """How many models each constituent stands for; None where that is one for all."""
    positions: Positions | None = None
    """Of a tile, whose tensors have the rows that these say; None for a whole group."""


class Groups(Protocol):
    """One more pass over a model, group by group or tile by tile."""

    def __call__(self, function: Callable[[ParameterGroup], Part], /) -> Iterator[Part]:
        """``function`` of every group or tile, by several threads, in an order that is always the
        same."""


@dataclass(frozen=True)
class Scalar:
    """A number (or one for each constituent) that needs passes of its own before the kernel's.

    ``compute(groups, options)`` may start as many passes as it needs by calling ``groups``: over
    the whole model, or with ``per_group`` over the tiles of one group. Those carry the scalars
    declared before this one; scalars of the whole model are declared first. One of a group that is
    ``on_demand`` is computed for the groups whose kernel raises ScalarNeeded.
    """

    name: str
    compute: Callable[[Groups, Mapping[str, Any]], tuple[float, ...]]
    per_group: bool = False
    on_demand: bool = False


class ScalarNeeded(Exception):
    """What a kernel raises that cannot do without the scalar of this name after all."""


@dataclass(frozen=True)
class Outcome:
    """What a kernel made of one group: its value, and remarks and figures for the report."""

    value: Array
    remarks: tuple[str, ...] = ()
    """Fallbacks, in words ('no Gram matrix: averaged')."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """Measured numbers, such as the conjugate gradient's relative residual."""


@dataclass(frozen=True)
class LayerShape:
    """A d×k linear layer merged from M models: what a cost formula depends on."""

    inputs: int
    outputs: int
    models: int


@dataclass(frozen=True)
class MergeMethod:
    """A way to merge one parameter group, as a declaration around a pure kernel."""

    name: str
    title: str
    kernel: Callable[..., Array | Outcome]
    """``kernel(group, **options)``; pure, works in the group's dtype and on its device."""
    reference: str
    hyperparameters: tuple[Hyperparameter, ...] = ()
    sweeps: Mapping[str, Callable[..., Iterator[Array | Outcome]]] = field(default_factory=dict)
    """hyperparameter -> ``kernel(group, values, **others)``: what the method's kernel makes of the
    group under each of the values, in their order, by shared work: bit for bit where the method is
    elementwise, else within 1e-6. The values ascend; neither needs nor scalars depend on them. The
    first hyperparameter is the one that a sweep varies unless it is told otherwise."""
    differences: Callable[[Sequence[bool], Mapping[str, Any]], Differences | None] = (
        lambda changed, options: None
    )
    """``(changed, options)``: the kernel as a formula that there is a loop for, bit for bit; None
    where it is another. ``changed`` is a group's."""
    needs_base: Callable[[Mapping[str, Any]], bool] = lambda options: False
    """Whether the base is needed under these options."""
    statistics: Callable[[Mapping[str, Any]], tuple[str, ...]] = lambda options: ()
    """The statistics needed under these options."""
    optional_statistics: Callable[[Mapping[str, Any]], Mapping[str, Mapping[str, Any]]] = (
        lambda options: {}
    )
    """Statistics that spare work, each with the options that it must have been made with. They
    are used where all constituents have them; a group that one lacks counts as zeros."""
    scalars: Callable[[Mapping[str, Any], int], tuple[Scalar, ...]] = lambda options, models: ()
    """The scalars needed under these options for M models, in order."""
    references: Callable[[Mapping[str, Any]], Mapping[str, str]] = lambda options: {}
    """Further revisions whose tensors the kernel wants in ``group.references``."""
    elementwise: bool = True
    """Whether each element of the result depends on the elements at its position and on scalars
    alone. Then it is computed in tiles, remarks and figures of the tiles are united and added up,
    and it must be the same bytes on every device and for every number of threads."""
    arrays: Literal["torch", "any"] = "torch"
    """What kernel and scalars of an elementwise method understand: torch tensors, or NumPy arrays
    too. On the CPU ``any`` gets the latter, and a merge need not import torch."""
    ordered: bool = False
    """Whether each constituent has a part of its own, so that they stay as they are given."""
    combined: bool = False
    """Whether a merge by it, with its summed statistics, can stand for the models that it is of."""
    merging_flops: Callable[[LayerShape, Mapping[str, Any]], int] = lambda shape, options: 0
    statistics_flops: Callable[[LayerShape, int, Mapping[str, Any]], int] = (
        lambda shape, tokens, options: 0
    )
    """``(shape, tokens, options)``; the paper's Table 3."""
    flops_formula: str = ""
    statistics_formula: str = ""

    def options(self, given: Mapping[str, str], *, models: int | None = None) -> dict[str, Any]:
        """All hyperparameters with their values: parsed from text where given, else the default.

        Raises UnknownName for an option the method does not have and InvalidOption for a value
        out of range or a list whose length is not the number of constituents.
        """
        known = {parameter.option: parameter for parameter in self.hyperparameters}
        for name in given:
            if name not in known:
                raise UnknownName.among(f"option of method '{self.name}'", name, known)
        values = {
            parameter.name: parameter.parse(given[option]) if option in given else parameter.default
            for option, parameter in known.items()
        }
        for parameter in self.hyperparameters:
            value = values[parameter.name]
            if parameter.type is tuple and value is not None and models not in (None, len(value)):
                raise InvalidOption(
                    f"option '{parameter.option}' has {len(value)} numbers for {models} "
                    "constituents; give one for each, in the order of the heads"
                )
        return values

    def merge(self, group: ParameterGroup, options: Mapping[str, Any]) -> Outcome:
        """The kernel's result, always as an Outcome."""
        result = self.kernel(group, **options)
        return result if isinstance(result, Outcome) else Outcome(result)

    def sweep(
        self, group: ParameterGroup, options: Mapping[str, Any], name: str, values: Sequence[Any]
    ) -> Iterator[Outcome]:
        """:meth:`merge` for each value of the hyperparameter ``name``, which is in ``sweeps``, the
        others being those of ``options``. What is yielded may share memory with what came before.
        """
        others = {key: value for key, value in options.items() if key != name}
        for result in self.sweeps[name](group, tuple(values), **others):
            yield result if isinstance(result, Outcome) else Outcome(result)


@dataclass(frozen=True)
class Statistic:
    """A per-constituent statistic as sums over batches: update, compute, combine."""

    name: str
    title: str
    reference: str
    needs_data: bool
    combine_exact_for: tuple[str, ...]
    """The methods after which the constituents' statistics combine exactly into the result's."""
    options: tuple[str, ...] = ()
    """The names of its options."""


@dataclass(frozen=True)
class StatisticFile:
    """A computed statistic, ready to be stored beside its checkpoint."""

    kind: str
    tensors: Mapping[str, Tensor]
    """Stored tensors by key."""
    layout: Mapping[str, Mapping[str, Any]]
    """group name -> {'key': stored key, 'input_axis': 0 or 1 (gram only)}."""
    examples: int
    tokens: int
    data: str
    """The data's name and split, e.g. 'domainnet-classification-mini/fruit-quickdraw:train'."""
    fingerprint: str
    """A digest of the data's bytes."""
    options: Mapping[str, Any] = field(default_factory=dict)
    version: int = 1


@dataclass(frozen=True)
class Constituent:
    """One model that takes part in a merge."""

    commit: str
    name: str
    checkpoint: str
    """Git object id of the checkpoint's metadata blob."""
    statistics: Mapping[str, str] = field(default_factory=dict)
    """kind -> Git object id of the statistic's metadata blob."""
    models: int = 1
    """How many models it stands for, whose merge by the same method it is."""


@dataclass(frozen=True)
class MergeSpec:
    """Everything that determines the result of merging one checkpoint path."""

    path: str
    method: str
    options: Mapping[str, Any]
    accumulate: str
    base: str | None
    """Git object id of the base's metadata blob."""
    constituents: tuple[Constituent, ...]
    references: Mapping[str, str] = field(default_factory=dict)
    numeric_version: int = NUMERIC_VERSION

    @property
    def digest(self) -> str:
        """SHA-256 over method, options and object ids; names and commits do not count."""
        content = {
            "method": self.method,
            "options": self.options,
            "accumulate": self.accumulate,
            "base": self.base,
            "constituents": [
                [c.checkpoint, dict(c.statistics), *([c.models] if c.models > 1 else [])]
                for c in self.constituents
            ],
            "references": self.references,
            "numeric_version": self.numeric_version,
        }
        return hashlib.sha256(canonical_json(content).encode()).hexdigest()


@dataclass(frozen=True)
class Task:
    """One cell of a benchmark's grid."""

    name: str
    skills: Mapping[str, str]
    """axis -> value, e.g. {'category': 'fruit', 'domain': 'quickdraw'}."""
    status: str
    """'held-in', 'generalization' or 'unavailable'."""
    metric: str = ""
    """What its scores are, where the benchmark's tasks have different metrics."""


@dataclass(frozen=True)
class Benchmark:
    """A grid of tasks over named skill axes, and how a checkpoint is evaluated on them."""

    name: str
    title: str
    axes: Mapping[str, tuple[str, ...]]
    tasks: tuple[Task, ...]
    metric: str
    evaluator_version: str
    """Raised when the same checkpoint and data may score differently."""
    evaluate: Callable[..., Mapping[str, float]]
    """``evaluate(checkpoint: Path, tasks: Sequence[str], *, settings, split, device, progress) ->
    task -> score in percent``; ``progress(task, done, total)`` is called as examples are done.
    ``settings`` are what a repository's ``benchmark.toml`` says beside the benchmark's name, here
    and below (``{'seed': 0}``: which data were drawn); left out, the benchmark's defaults."""
    fingerprint: Callable[..., str]
    """``fingerprint(task, split, settings)``: a digest of that cell's data."""
    collect: Callable[..., StatisticFile]
    """``collect(kind, checkpoint: Path, task, *, options, settings, device, progress) ->
    StatisticFile``; ``progress(done, total)`` examples."""
    checkpoint: str = "model.safetensors"
    """Where a repository of the benchmark has its checkpoint."""
    companions: tuple[str, ...] = ()
    """Files and folders that evaluation, statistics and training need around the checkpoint, as
    paths from its folder. An evaluation finds those of the evaluated revision there; one that the
    revision lacks is missing there too."""
    build: Callable[..., object] | None = None
    """``build(directory: Path, *, settings, progress) -> benchmarks.BuiltModels``: trains the
    repository's models into plain files; ``progress(what, done, total)``. It may also take
    ``device`` and ``precision``, as below, which are given where the user names them."""
    train: Callable[..., None] | None = None
    """``train(base: Path, tasks: Sequence[str], target: Path, *, settings, device, precision,
    state, progress)``: fine-tunes the checkpoint ``base`` on the training split of one task, or of
    several together, and writes ``target``. ``precision`` is float32 or bfloat16, and left out
    where the recipe's own is meant; ``state`` is a folder to save into, from which the same call
    goes on after it was killed; ``progress(done, total)`` steps."""
    summarise: Callable[..., Mapping[str, float]] | None = None
    """``summarise(outputs, *, sheet: Path | None, settings, split) -> name -> figure``: what is
    said of all tasks together, such as a distance between distributions. Where there is one,
    ``evaluate`` also gets ``outputs``, task -> an empty folder, to keep what this needs; here
    ``outputs`` is status -> task -> that folder, of one model. At ``sheet`` a picture (PNG) of
    what the model does may be written."""
    reference: str = ""
    family: str = ""
    """What loads its models: open_clip, transformers, causal-lm or diffusers; '' for any other."""

    def task(self, name: str) -> Task:
        """The task called ``name``; UnknownName suggests near ones."""
        for task in self.tasks:
            if task.name == name:
                return task
        raise UnknownName.among(
            f"task of benchmark '{self.name}'", name, [t.name for t in self.tasks]
        )

    def generalization(self, trained: Iterable[str]) -> tuple[Task, ...]:
        """The other cells spanned by the skills of the tasks in ``trained``, in grid order.

        For fruit-quickdraw and bird-real these are fruit-real and bird-quickdraw
        (arXiv 2409.18314, section 3). Unavailable cells are left out.
        """
        held_in = [self.task(name) for name in trained]
        names = {task.name for task in held_in}
        spanned = {axis: {task.skills[axis] for task in held_in} for axis in self.axes}
        return tuple(
            task
            for task in self.tasks
            if task.name not in names
            and task.status != "unavailable"
            and all(task.skills[axis] in values for axis, values in spanned.items())
        )
