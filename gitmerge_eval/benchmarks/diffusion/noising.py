"""The training objective of a latent diffusion model (arXiv 2006.11239, 2112.10752)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def drawn_noise(
    shape: tuple[int, ...], steps: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Gaussian noise of ``shape`` and a time step in [0, ``steps``) for each row."""
    noise = torch.randn(shape, generator=generator)
    return noise, torch.randint(steps, (shape[0],), generator=generator)


def target(scheduler: Any, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
    """What the UNet shall predict: the noise, or v = √ᾱ·ε - √(1-ᾱ)·x (arXiv 2202.00512).

    Raises ValueError for another ``prediction_type``.
    """
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        return noise
    if kind == "v_prediction":
        found: Tensor = scheduler.get_velocity(latents, noise, times)
        return found
    raise ValueError(f"prediction_type is '{kind}'; use 'epsilon' or 'v_prediction'")


def loss(
    unet: Any, scheduler: Any, latents: Tensor, noise: Tensor, times: Tensor, states: Tensor
) -> Tensor:
    """Mean squared error of the prediction on ``latents`` (n, 4, h, w) with text ``states``."""
    noisy = scheduler.add_noise(latents, noise, times)
    predicted = unet(noisy, times, states, return_dict=False)[0]
    return nn.functional.mse_loss(
        predicted.float(), target(scheduler, latents, noise, times).float()
    )
