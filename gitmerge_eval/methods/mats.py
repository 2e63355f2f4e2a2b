"""MaTS: matching models in their task parameter subspaces by conjugate gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gitmerge_eval.errors import PrerequisiteError
from gitmerge_eval.hyperparameters import Hyperparameter
from gitmerge_eval.methods import _linear_system as linear
from gitmerge_eval.methods._options import scale as scale_option
from gitmerge_eval.methods._sums import combination
from gitmerge_eval.methods._task_vectors import add_task_vectors
from gitmerge_eval.methods.task_arithmetic import DEFAULT_SCALE
from gitmerge_eval.records import LayerShape, MergeMethod, Outcome, ParameterGroup

if TYPE_CHECKING:
    from torch import Tensor

# The default of the merge tool that arXiv 2409.18314 used, and the first of its sweep.
DEFAULT_ITERATIONS = 10

SYSTEMS = {"gram": ("gram",), "fisher": ("fisher",), "both": ("gram", "fisher")}
"""system -> the statistics that are asked for; the first that a group has is its matrix."""


def mats(
    group: ParameterGroup,
    *,
    iterations: int = DEFAULT_ITERATIONS,
    init: str = "task-arithmetic",
    init_scale: float = DEFAULT_SCALE,
    system: str = "gram",
    precision: str = "float64",
) -> Outcome:
    """N steps of conjugate gradient on (Σ G_i) W = Σ G_i W_i from ``init`` (Tam et al. 2024).

    W_i is d×k, inputs first. With the statistic ``gram`` G_i is the Gram matrix (d×d) of the
    layer's inputs; with ``fisher`` it is the diagonal Fisher, element by element. ``system`` 'gram'
    and 'fisher' name one of them, 'both' takes what the group has, Gram matrices first. ``init`` is
    task arithmetic with ``init_scale``, the average, or a revision (``group.references['init']``).
    A group that has no such statistic is averaged, with a remark; one constituent is returned as
    it is. ``precision`` float64, float32 or tf32 is that of the system. Figures:
    ``initial_residual`` and ``relative_residual``, ‖B - A W‖ / ‖B‖ at the start and at the end.

    Raises StaleStatistic for Gram matrices of another size and PrerequisiteError where the init
    revision lacks the group.
    """
    (outcome,) = over_iterations(
        group, (iterations,), init=init, init_scale=init_scale, system=system, precision=precision
    )
    return outcome


def over_iterations(
    group: ParameterGroup,
    values: Sequence[int],
    *,
    init: str,
    init_scale: float,
    system: str,
    precision: str,
) -> Iterator[Outcome]:
    """:func:`mats` for each N, which ascend, bit for bit: one run to the largest hands them out."""
    models = len(group.constituents)
    if models == 1 or group.constituents[0].numel() == 0:
        yield from (Outcome(group.constituents[0]) for _ in values)
        return
    kind = _system_of(group, system)
    if kind is None:
        wanted = "Fisher" if system == "fisher" else "Gram matrix"
        averaged = Outcome(_average(group), remarks=(f"no {wanted}: averaged",))
        yield from (averaged for _ in values)
        return
    start = _start(group, init, init_scale)
    descend = _by_gram if kind == "gram" else _by_fisher
    with linear.products(precision):
        yield from descend(group, start, values, precision)


def _system_of(group: ParameterGroup, wanted: str) -> str | None:
    """The kind of statistic whose system is solved for this group."""
    kinds = SYSTEMS[wanted]
    return next((kind for kind in kinds if kind in group.statistics), None)


def _average(group: ParameterGroup) -> Tensor:
    models = len(group.constituents)
    return combination(group.constituents, (1 / models,) * models, total=1.0)


def _start(group: ParameterGroup, init: str, init_scale: float) -> Tensor:
    """X_0, in the group's shape."""
    if init == "task-arithmetic":
        return add_task_vectors(group, init_scale)
    if init == "average":
        return _average(group)
    if "init" not in group.references:
        raise PrerequisiteError(
            f"revision '{init}' of option 'init' has no parameter group '{group.name}'; "
            "name a revision of the same architecture, 'task-arithmetic' or 'average'"
        )
    return group.references["init"]


def _by_gram(
    group: ParameterGroup, start: Tensor, iterations: Sequence[int], precision: str
) -> Iterator[Outcome]:
    """Conjugate gradient on the d×k matrix."""
    origin = linear.as_matrix(start, group.input_axis, precision)
    matrix = origin.new_zeros(len(origin), len(origin))
    residual = origin.new_zeros(origin.shape)
    for gram, difference in linear.systems(group, origin, precision):
        matrix += gram
        residual += gram @ difference
    found = _descend(lambda direction: matrix @ direction, origin, residual, iterations)
    for value, figures in found:
        yield Outcome(linear.as_weight(value, start, group.input_axis), figures=figures)


def _by_fisher(
    group: ParameterGroup, start: Tensor, iterations: Sequence[int], precision: str
) -> Iterator[Outcome]:
    """Conjugate gradient with the diagonal matrix Σ F_i, over all elements of the group."""
    origin = linear.solved_in(start, precision)
    diagonal, residual = origin.new_zeros(origin.shape), origin.new_zeros(origin.shape)
    for tensor, fisher in zip(group.constituents, group.statistics["fisher"], strict=True):
        exact = linear.solved_in(fisher, precision)
        diagonal += exact
        residual += exact * (linear.solved_in(tensor, precision) - origin)
    found = _descend(lambda direction: diagonal * direction, origin, residual, iterations)
    for value, figures in found:
        yield Outcome(value.to(start.dtype), figures=figures)


def _descend(
    apply: Callable[[Tensor], Tensor], origin: Tensor, residual: Tensor, iterations: Sequence[int]
) -> Iterator[tuple[Tensor, Mapping[str, float]]]:
    """X_0 plus N steps for each N, and the relative residuals, each brought to the host in one
    transfer."""
    import torch

    norm = torch.linalg.vector_norm
    right = norm(residual + apply(origin))
    for change, left in linear.conjugate_gradient(apply, residual, iterations):
        ratios = torch.stack([norm(residual), norm(left)]) / torch.where(right > 0, right, 1.0)
        initial, relative = ratios.tolist()
        yield origin + change, {"initial_residual": initial, "relative_residual": relative}


def _merging_flops(shape: LayerShape, options: Mapping[str, Any]) -> int:
    """(M+N)d²k + (2M+5N-2)dk; a diagonal system's products cost dk instead of d²k."""
    models, steps, size = shape.models, options["iterations"], shape.inputs * shape.outputs
    product = size if options["system"] == "fisher" else shape.inputs * size
    return int((models + steps) * product + (2 * models + 5 * steps - 2) * size)


METHOD = MergeMethod(
    name="mats",
    title="MaTS",
    kernel=mats,
    reference="Tam et al. 2024, arXiv 2312.04339",
    hyperparameters=(
        Hyperparameter(
            name="iterations",
            type=int,
            default=DEFAULT_ITERATIONS,
            help="steps of conjugate gradient",
            symbol="N",
            minimum=0,
            sweep=tuple(range(10, 101, 10)),
        ),
        Hyperparameter(
            name="init",
            type=str,
            default="task-arithmetic",
            help="where to start: task-arithmetic, average, or a revision with a merged model",
        ),
        scale_option(
            DEFAULT_SCALE,
            "the factor of the task vectors where init=task-arithmetic",
            name="init_scale",
        ),
        Hyperparameter(
            name="system",
            type=str,
            default="gram",
            help="Gram matrices, diagonal Fishers, or both: Fishers where there is no Gram matrix",
            choices=tuple(SYSTEMS),
        ),
        linear.PRECISION,
    ),
    sweeps={"iterations": over_iterations},
    needs_base=lambda options: options["init"] == "task-arithmetic",
    statistics=lambda options: SYSTEMS[options["system"]],
    references=lambda options: (
        {} if options["init"] in ("task-arithmetic", "average") else {"init": options["init"]}
    ),
    elementwise=False,
    merging_flops=_merging_flops,
    statistics_flops=lambda shape, tokens, options: (
        4 * shape.models * tokens * shape.inputs**2 * shape.outputs
    ),
    flops_formula="(M+N)·d²k + (2M+5N-2)·dk; system=fisher: (3M+6N-2)·dk",
    statistics_formula="4M·T·d²k",
)
