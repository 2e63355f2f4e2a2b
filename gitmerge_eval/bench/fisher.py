"""``bench fisher``: examples per second of the Fisher diagonal, against a batch-size-1 loop.

On vision transformers of two shapes: the miniature's, and that of ViT-B/32. The floor is one pass
forward and backward over all examples in a batch, which gives no per-example gradients: what the
arithmetic takes at the least.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gitmerge_eval.bench import machine
from gitmerge_eval.bench.report import Column, Report, Table, ratio
from gitmerge_eval.bench.timing import Case, timed, timer_of
from gitmerge_eval.errors import PrerequisiteError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

CLASSES = 345
LARGE = "ViT-B/32's"
SHAPES: Mapping[str, Mapping[str, int]] = {
    "the miniature's": {"image_size": 32, "patch_size": 8, "width": 64, "layers": 4},
    LARGE: {"image_size": 224, "patch_size": 32, "width": 768, "layers": 12},
}
_TEXT = {"context_length": 12, "vocab_size": 100, "width": 64, "heads": 1, "layers": 1}


@dataclass(frozen=True)
class Settings:
    """What is measured."""

    examples: int = 64
    layers: int = 12
    """Of ViT-B/32's shape; fewer where memory or time is short."""
    repeat: int = 3
    device: str = "cpu"
    threads: int | None = None


def run(settings: Settings, say: Callable[[str], None] = lambda line: None) -> Report:
    """Measure both shapes; PrerequisiteError where the device is not there."""
    import torch

    if settings.device == "cuda" and not torch.cuda.is_available():
        raise PrerequisiteError("torch sees no CUDA device here; choose --device cpu")
    if settings.threads:
        torch.set_num_threads(settings.threads)
    timer = timer_of(torch.device(settings.device))
    rows = []
    for name, shape in SHAPES.items():
        layers = settings.layers if name == LARGE else shape["layers"]
        work = Work.of({**shape, "layers": layers}, settings.examples, settings.device)
        cases = [Case(what, function) for what, function in work.ways().items()]
        for number in range(1, settings.repeat + 1):
            for case in cases:
                timed(case, timer)
            say(f"{name} shape: round {number} of {settings.repeat}")
        rows.append(_row(name, layers, settings.examples, cases))
    columns = (
        Column("shape", "vision transformer of the shape"),
        Column("layers", "layers", "count"),
        Column("loop", "loop, examples/s", "s"),
        Column("ours", "ours, examples/s", "s"),
        Column("ratio", "ours / loop", "ratio"),
        Column("floor", "batched pass, examples/s", "s"),
        Column("reachable", "batched pass / loop", "ratio"),
    )
    shown = {
        "examples": settings.examples,
        "repeat": settings.repeat,
        "device": settings.device,
        "threads": torch.get_num_threads(),
    }
    table = Table("Fisher diagonal", columns, rows)
    return Report(f"fisher-{settings.device}", machine.described(), shown, [table])


def _row(name: str, layers: int, examples: int, cases: list[Case]) -> dict[str, Any]:
    loop, ours, floor = (examples / case.median for case in cases)
    return {
        "shape": name,
        "layers": layers,
        "loop": loop,
        "ours": ours,
        "ratio": ratio(ours, loop),
        "floor": floor,
        "reachable": ratio(floor, loop),
    }


@dataclass(frozen=True)
class Work:
    """A model with random weights, pictures, and labels."""

    model: nn.Module
    parameters: Mapping[str, Tensor]
    images: Tensor
    labels: Tensor
    weights: Tensor

    @classmethod
    def of(cls, shape: Mapping[str, int], examples: int, device: str) -> Work:
        """An open_clip model with that vision tower, on made-up pictures."""
        import open_clip
        import torch

        generator = torch.Generator().manual_seed(0)
        model = open_clip.CLIP(embed_dim=64, vision_cfg=dict(shape), text_cfg=_TEXT)
        model.to(device).eval().requires_grad_(False)
        model.visual.requires_grad_(True)
        side = shape["image_size"]
        images = torch.randn((examples, 3, side, side), generator=generator)
        labels = torch.randint(CLASSES, (examples,), generator=generator)
        weights = torch.randn((CLASSES, 64), generator=generator)
        unit = torch.nn.functional.normalize(weights, dim=-1)
        parameters = {n: p for n, p in model.named_parameters() if n.startswith("visual.")}
        return cls(model, parameters, images.to(device), labels.to(device), unit.to(device))

    def ways(self) -> dict[str, Callable[[], object]]:
        """The three that are timed."""
        return {"loop": self.loop, "ours": self.vectorised, "floor": self.batched}

    def _loss(self, images: Tensor, labels: Tensor) -> Tensor:
        from torch.nn import functional

        encode: Any = self.model.encode_image
        logits = 100.0 * encode(images, normalize=True) @ self.weights.T
        return functional.cross_entropy(logits, labels, reduction="sum")

    def loop(self) -> dict[str, Tensor]:
        """Σ g², one example after the other."""
        import torch

        sums = {name: torch.zeros_like(p) for name, p in self.parameters.items()}
        for row in range(len(self.images)):
            value = self._loss(self.images[row : row + 1], self.labels[row : row + 1])
            gradients = torch.autograd.grad(value, list(self.parameters.values()))
            for total, gradient in zip(sums.values(), gradients, strict=True):
                total.addcmul_(gradient, gradient)
        return sums

    def vectorised(self) -> dict[str, Tensor]:
        """Σ g² as the statistic is collected."""
        import torch
        from torch.nn import functional

        from gitmerge_eval.statistics import fisher

        def loss(parameters: Mapping[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
            arguments = (image[None], None)
            found = torch.func.functional_call(self.model, dict(parameters), arguments)[0]
            return functional.cross_entropy(100.0 * found @ self.weights.T, label[None])

        state = fisher.FisherState()
        fisher.update(state, loss, self.parameters, (self.images, self.labels))
        return state.sums

    def batched(self) -> tuple[torch.Tensor, ...]:
        """The gradient of the sum over all examples."""
        import torch

        value = self._loss(self.images, self.labels)
        return torch.autograd.grad(value, list(self.parameters.values()))
