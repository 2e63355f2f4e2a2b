"""The made-up layer of ``bench layer``: constituents, base and statistics, on the device."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from gitmerge_eval.records import ParameterGroup

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_DEVIATION = 0.02
_STEP = 1e-3
_KEPT = 0.2


def made_up(
    kinds: Iterable[str],
    *,
    inputs: int,
    outputs: int,
    models: int,
    device: torch.device,
    dtype: torch.dtype,
) -> ParameterGroup:
    """A layer of shape (outputs, inputs) with the statistics ``kinds``: fisher, gram, trimmed.

    The base is normal with deviation 0.02, the constituents are up to normal steps of 0.001 away.
    """
    import torch

    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device, dtype=dtype)

    base = normal(outputs, inputs) * _DEVIATION
    steps = [normal(outputs, inputs) * _STEP for _ in range(models)]
    made = {
        "fisher": lambda step: normal(outputs, inputs).square(),
        "gram": lambda step: _gram(normal(inputs, 16)),
        "trimmed": _trimmed,
    }
    return ParameterGroup(
        name="layer",
        constituents=tuple(base + step for step in steps),
        identities=tuple(f"{number:040x}" for number in range(models)),
        changed=(True,) * models,
        base=base,
        statistics={kind: tuple(made[kind](step) for step in steps) for kind in kinds},
    )


def _gram(directions: Tensor) -> Tensor:
    """d×d: a spectrum that falls from 10 to 0.01, and as many strong directions as given."""
    import torch

    count = directions.shape[0]
    falling = 10.0 / torch.arange(1, count + 1, dtype=directions.dtype, device=directions.device)
    return directions @ directions.T + torch.diag(falling + 0.01)


def _trimmed(vector: Tensor) -> Tensor:
    """The task vector with a fifth of its elements, the largest."""
    least = vector.abs().flatten().kthvalue(int((1 - _KEPT) * vector.numel())).values
    return vector.where(vector.abs() > least, vector.new_zeros(()))
