"""``bench layer``: each method's kernel on one linear layer, against the device's own limits.

The layer is that of the paper's Table 4 (arXiv 2409.18314, section 5.2): 5,120 inputs, 2,048
outputs, five models. Needs torch alone, so that it runs on a bare GPU machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from gitmerge_eval import methods
from gitmerge_eval.bench import machine
from gitmerge_eval.bench.layer_group import made_up
from gitmerge_eval.bench.layer_kernels import Kernel, kernel
from gitmerge_eval.bench.report import Column, Report, Table, ratio
from gitmerge_eval.bench.timing import Case, timed, timer_of
from gitmerge_eval.errors import PrerequisiteError, UsageError
from gitmerge_eval.records import LayerShape, MergeMethod

if TYPE_CHECKING:
    import torch
    from torch import Tensor

PAPER_SECONDS: Mapping[str, float] = {
    "average": 1.2e-3,
    "task-arithmetic": 1.9e-3,
    "dare": 2.6e-3,
    "ties": 2.1e-3,
    "fisher": 0.8e-3,
    "regmean": 49.9e-3,
    "mats": 4.28,
}
"""Table 4 of the paper, on an NVIDIA RTX A6000."""

_COPIED_BYTES = {"cpu": 1 << 28, "cuda": 1 << 30}

Say = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """What is measured."""

    methods: tuple[str, ...]
    inputs: int = 5120
    outputs: int = 2048
    models: int = 5
    iterations: int = 50
    repeat: int = 10
    device: str = "cpu"
    dtype: str = "float32"
    """Of the tensors; linear systems are solved in each of the precisions."""
    precisions: tuple[str, ...] = ("float64", "float32")
    threads: int | None = None


def run(settings: Settings, say: Say = lambda line: None) -> Report:
    """Measure every method; PrerequisiteError where the device is not there."""
    import torch

    device = _device(settings.device, settings.precisions)
    described = machine.described() | {"device": _named(device)}
    if settings.threads:
        torch.set_num_threads(settings.threads)
    limits = _limits(settings, device)
    kernels = _kernels(settings, device)
    timer = timer_of(device)
    cases = [*limits.values(), *(case for one in kernels for case in one.cases)]
    for number in range(1, settings.repeat + 1):
        for case in cases:
            timed(case, timer)
        say(f"round {number} of {settings.repeat}")
    shown = {
        "layer": f"{settings.inputs} inputs × {settings.outputs} outputs",
        "models": settings.models,
        "dtype": settings.dtype,
        "iterations of mats": settings.iterations,
        "repeat": settings.repeat,
        "threads": torch.get_num_threads(),
    }
    tables = [
        _limit_table(settings, limits, device),
        _kernel_table(settings, limits, kernels, device),
    ]
    return Report(f"layer-{device.type}", described, shown, tables, _REMARKS)


def _device(name: str, precisions: tuple[str, ...]) -> torch.device:
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu" and "tf32" in precisions:
        raise UsageError("TF32 is a GPU's; leave out --tf32, or choose --device cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise PrerequisiteError("torch sees no CUDA device here; choose --device cpu")
    return torch.device(name)


def _named(device: torch.device) -> str:
    import torch

    if device.type == "cpu":
        return "processor"
    properties = torch.cuda.get_device_properties(device)
    return f"{properties.name}, {properties.total_memory / 1e9:.0f} GB, CUDA {torch.version.cuda}"


def _limits(settings: Settings, device: torch.device) -> dict[str, Case]:
    """What the device can do: a copy, and the layer's matrix product in each precision."""
    import torch

    count = _COPIED_BYTES[device.type] // 4
    source = torch.ones(count, device=device)
    target = torch.empty_like(source)
    found = {"copy": Case("copy", lambda: target.copy_(source))}
    for name in settings.precisions:
        found[name] = Case(name, _product(settings, device, name))
    return found


def _product(settings: Settings, device: torch.device, precision: str) -> Callable[[], Tensor]:
    """(d×d)·(d×k), d inputs and k outputs."""
    import torch

    dtype = torch.float64 if precision == "float64" else torch.float32
    generator = torch.Generator(device).manual_seed(0)
    shapes = ((settings.inputs, settings.inputs), (settings.inputs, settings.outputs))
    left, right = (
        torch.randn(shape, generator=generator, device=device, dtype=dtype) for shape in shapes
    )

    def multiply() -> Tensor:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        try:
            return left @ right
        finally:
            torch.set_float32_matmul_precision(before)

    return multiply


def _kernels(settings: Settings, device: torch.device) -> list[Kernel]:
    """One for each method, and for each precision of a linear system; all see the same layer."""
    import torch

    chosen = [methods.get(name) for name in settings.methods]
    given = {"mats": {"iterations": str(settings.iterations)}}
    options = {method.name: method.options(given.get(method.name, {})) for method in chosen}
    kinds = {method.name: _used(method, options[method.name]) for method in chosen}
    layer = made_up(
        dict.fromkeys(kind for used in kinds.values() for kind in used),
        inputs=settings.inputs,
        outputs=settings.outputs,
        models=settings.models,
        device=device,
        dtype=getattr(torch, settings.dtype),
    )
    found = []
    for method in chosen:
        own = {kind: layer.statistics[kind] for kind in kinds[method.name]}
        group, values = replace(layer, statistics=own), options[method.name]
        for precision in [None] if method.elementwise else settings.precisions:
            more = {} if precision is None else {"precision": precision}
            found.append(kernel(method.name, method, {**values, **more}, group, device))
        if method.name == "ties":
            bare = replace(group, statistics={})
            found.append(kernel("ties, trimming itself", method, values, bare, device))
    return found


def _used(method: MergeMethod, options: Mapping[str, Any]) -> tuple[str, ...]:
    """The statistics that it needs, or may use."""
    return (*method.statistics(options), *method.optional_statistics(options))


def _limit_table(settings: Settings, limits: Mapping[str, Case], device: torch.device) -> Table:
    flops = 2 * settings.inputs**2 * settings.outputs
    rows: list[dict[str, Any]] = [
        {
            "what": "copy",
            "seconds": limits["copy"].median,
            "bytes_per_second": 2 * _COPIED_BYTES[device.type] / limits["copy"].median,
        }
    ]
    for name in settings.precisions:
        seconds = limits[name].median
        rows.append({"what": f"{name} product", "seconds": seconds, "flops": flops / seconds})
    columns = [
        Column("what", "the device"),
        Column("seconds", "ms", "ms"),
        Column("bytes_per_second", "GB/s", "GB/s"),
        Column("flops", "TFLOP/s", "TFLOP/s"),
    ]
    return Table("the device's limits", columns, rows)


def _kernel_table(
    settings: Settings, limits: Mapping[str, Case], kernels: list[Kernel], device: torch.device
) -> Table:
    rate = 2 * _COPIED_BYTES[device.type] / limits["copy"].median
    rows = [_row(settings, limits, one, rate) for one in kernels]
    shown = {key for row in rows for key, value in row.items() if value is not None}
    columns = [
        Column("method", "method"),
        Column("seconds", "ms", "ms"),
        Column("tiles_seconds", "in tiles, ms", "ms"),
        Column("scalars_seconds", "its scalars, ms", "ms"),
        Column("peak_bytes", "memory, MB", "MB"),
        Column("flop", "GFLOP", "GFLOP"),
        Column("floor", "floor"),
        Column("floor_seconds", "floor, ms", "ms"),
        Column("ratio", "ours / floor", "ratio"),
        Column("paper_seconds", "paper (A6000), ms", "ms"),
    ]
    return Table("kernels on the layer", [c for c in columns if c.key in shown], rows)


def _row(
    settings: Settings, limits: Mapping[str, Case], one: Kernel, rate: float
) -> dict[str, Any]:
    """What is known of one kernel; its floor is that of the faster of its two forms."""
    shape = LayerShape(settings.inputs, settings.outputs, settings.models)
    seconds = one.whole.median
    tiles = one.tiles.median if one.tiles else None
    row: dict[str, Any] = {
        "method": one.name,
        "seconds": seconds,
        "tiles_seconds": tiles,
        "scalars_seconds": one.scalars.median if one.scalars else None,
        "peak_bytes": one.peak_bytes,
        "flop": 2 * one.method.merging_flops(shape, one.options),
        "paper_seconds": PAPER_SECONDS.get(one.name),
    }
    if one.method.elementwise:
        size = settings.inputs * settings.outputs * (4 if settings.dtype == "float32" else 8)
        row |= {
            "floor": f"{one.moved} tensors moved",
            "floor_seconds": one.moved * size / rate,
        }
    else:
        precision = one.options["precision"]
        products = settings.models + (settings.iterations if one.name == "mats" else 2)
        row |= {
            "method": f"{one.name}, {precision}",
            "floor": f"{products} products",
            "floor_seconds": products * limits[precision].median,
        }
    row["ratio"] = ratio(min(seconds, tiles or seconds), row["floor_seconds"])
    return row


_REMARKS = (
    "in tiles: 32,768 elements at a time, each thread a tile of its own, as the merge engine does "
    "it on a processor; the ratio is that of the faster form",
    "its scalars: what a method has to know of the whole layer first (norms, thresholds); "
    "the paper's times, and 'ties', suppose trimmed task vectors",
    "floor: the tensors that must be read and written, at the speed of a copy; for regmean and "
    "mats the M+2 and M+N products of a d×d with a d×k matrix of the paper's Table 3, in the same "
    "precision (float64 is these methods' default)",
    "GFLOP: two for each multiplication and addition of the method's cost formula",
)
