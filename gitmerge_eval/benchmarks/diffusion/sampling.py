"""Pictures made from prompts: the same seed, prompt and number give the same picture."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gitmerge_eval.benchmarks.diffusion import pipeline as diffusion


@dataclass(frozen=True)
class Sampling:
    """How a picture is made."""

    steps: int
    """Of DDIM."""
    guidance: float
    """Of classifier-free guidance; 1 is none."""
    batch: int
    """Pictures at a time."""


def start(prompt: str, number: int, seed: int, shape: tuple[int, ...]) -> Tensor:
    """The noise that picture ``number`` of a prompt is made from."""
    key = hashlib.sha256(f"{seed}/{number}/{prompt}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(key[:7], "big"))
    return torch.randn(shape, generator=generator)


@torch.no_grad()
def pictures(
    pipeline: Any, requests: Sequence[tuple[str, int]], sampling: Sampling, *, seed: int
) -> Tensor:
    """One picture for each (prompt, number): uint8, (n, side, side, 3)."""
    unet = pipeline.unet
    side = unet.config.sample_size
    shape = (unet.config.in_channels, side, side)
    made = []
    for begin in range(0, len(requests), sampling.batch):
        several = requests[begin : begin + sampling.batch]
        noise = torch.stack([start(prompt, number, seed, shape) for prompt, number in several])
        found = pipeline(
            prompt=[prompt for prompt, _ in several],
            latents=noise.to(unet.device, unet.dtype),
            num_inference_steps=sampling.steps,
            guidance_scale=sampling.guidance,
            output_type="pt",
        ).images
        made.append(diffusion.as_pictures(found * 2 - 1))
    return torch.cat(made)
