"""Training of a pipeline's parts, and of an adapter of its UNet."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gitmerge_eval.benchmarks.diffusion import lora, noising
from gitmerge_eval.benchmarks.diffusion import pipeline as diffusion
from gitmerge_eval.benchmarks.learning.loop import Progress, Stopping, optimise, reproducible
from gitmerge_eval.benchmarks.learning.schedule import Schedule
from gitmerge_eval.errors import EvaluationError

KEPT = 4096
"""Pictures whose posteriors stay in memory: 1.2 GB of Stable Diffusion's at 768 × 768."""


@dataclass(frozen=True)
class Examples:
    """Pictures with their prompts; a picture is read when it is asked for."""

    prompts: Sequence[str]
    picture: Callable[[int], Tensor]
    """uint8, (side, side, 3)."""

    def __len__(self) -> int:
        return len(self.prompts)


class Latents:
    """The autoencoder's posteriors of pictures, and latents drawn from them.

    The first KEPT pictures are encoded once, others whenever they are asked for.
    """

    def __init__(self, vae: Any, examples: Examples) -> None:
        self._vae = vae
        self._examples = examples
        self._known: dict[int, Tensor] = {}

    def drawn(self, rows: Sequence[int], generator: torch.Generator) -> Tensor:
        """z = s·(μ + σ·ε) of these pictures, (n, 4, h, w), with the autoencoder's scale s."""
        mean, deviation = torch.stack([self._posterior(row) for row in rows]).chunk(2, 1)
        noise = torch.randn(mean.shape, generator=generator)
        found: Tensor = (mean + deviation * noise) * self._vae.config.scaling_factor
        return found

    @torch.no_grad()
    def _posterior(self, row: int) -> Tensor:
        """Mean and deviation, one above the other."""
        if row in self._known:
            return self._known[row]
        parameter = next(self._vae.parameters())
        picture = diffusion.as_input(self._examples.picture(row)[None])
        posterior = self._vae.encode(picture.to(parameter.device, parameter.dtype)).latent_dist
        found = torch.cat([posterior.mean[0], posterior.std[0]]).float().cpu()
        if len(self._known) < KEPT:
            self._known[row] = found
        return found


def train_autoencoder(
    vae: Any,
    pictures: Tensor,
    schedule: Schedule,
    *,
    seed: int,
    kl_weight: float,
    progress: Progress | None = None,
) -> None:
    """Train by mean squared error and ``kl_weight`` · KL(q(z|x) || N(0, 1)) on uint8 ``pictures``.

    Afterwards latents are scaled to unit variance by the configuration's ``scaling_factor``.
    """
    with reproducible(seed) as generator:
        vae.train().requires_grad_(True)

        def loss(step: int) -> Tensor:
            rows = torch.randint(len(pictures), (schedule.batch,), generator=generator)
            seen = diffusion.as_input(pictures[rows])
            posterior = vae.encode(seen).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=generator)
            decoded = vae.decode(posterior.mean + posterior.std * noise).sample
            penalty = posterior.kl().mean() / decoded[0].numel()
            value: Tensor = nn.functional.mse_loss(decoded, seen) + kl_weight * penalty
            return value

        optimise(vae, schedule, loss, progress=progress)
        vae.eval().requires_grad_(False)
        with torch.no_grad():
            spread = vae.encode(diffusion.as_input(pictures[:512])).latent_dist.mean.std()
        vae.register_to_config(scaling_factor=round(1 / float(spread), 5))


def pretrain(
    pipeline: Any,
    examples: Examples,
    schedule: Schedule,
    *,
    seed: int,
    without_prompt: float,
    prompt: Callable[[int, int, torch.Generator], str],
    progress: Progress | None = None,
) -> None:
    """Train UNet and text encoder together; with probability ``without_prompt`` a prompt is empty.

    ``prompt(step, row, generator)`` is the prompt of a picture at a step: its own, or another.
    """
    with reproducible(seed) as generator:
        both = nn.ModuleDict({"unet": pipeline.unet, "text_encoder": pipeline.text_encoder})
        both.train().requires_grad_(True)
        latents = Latents(pipeline.vae, examples)

        def loss(step: int) -> Tensor:
            rows = torch.randint(len(examples), (schedule.batch,), generator=generator).tolist()
            empty = torch.rand(len(rows), generator=generator) < without_prompt
            texts = [
                "" if nothing else prompt(step, row, generator)
                for row, nothing in zip(rows, empty.tolist(), strict=True)
            ]
            ids = diffusion.token_ids(pipeline, texts)
            states = diffusion.hidden_states(pipeline.text_encoder, ids)
            return _denoising(
                pipeline.unet, pipeline.scheduler, latents.drawn(rows, generator), states, generator
            )

        optimise(both, schedule, loss, progress=progress)
        both.eval().requires_grad_(False)


def fine_tune(
    pipeline: Any,
    examples: Examples,
    schedule: Schedule,
    start: Path,
    *,
    seed: int,
    precision: str = "float32",
    stopping: Stopping | None = None,
    state: Path | None = None,
    progress: Progress | None = None,
) -> Any:
    """The pipeline's UNet with the adapter in the file ``start``, trained on ``examples``.

    Nothing but the adapter changes. On the CPU the same seed gives the same bytes. With
    ``stopping`` and ``state`` a training that was interrupted goes on where it was last saved.
    Raises EvaluationError without examples.
    """
    if not len(examples):
        raise EvaluationError("there is no picture to train on; name a split that has some")
    device = pipeline.unet.device
    with _seeded(seed, device) as generator:
        unet = lora.trainable(pipeline.unet, start)
        unet.train()
        latents = Latents(pipeline.vae, examples)
        states = _states(pipeline, examples)

        def loss(step: int) -> Tensor:
            rows = torch.randint(len(examples), (schedule.part,), generator=generator).tolist()
            chosen = torch.stack([states[examples.prompts[row]] for row in rows])
            drawn = latents.drawn(rows, generator)
            return _denoising(unet, pipeline.scheduler, drawn, chosen, generator)

        optimise(
            unet,
            schedule,
            loss,
            generator=generator,
            stopping=stopping,
            precision=precision,
            state=state,
            progress=progress,
        )
        return unet.eval()


def _states(pipeline: Any, examples: Examples) -> dict[str, Tensor]:
    """prompt -> the text encoder's states, each once."""
    texts = sorted(set(examples.prompts))
    return dict(zip(texts, diffusion.embedded(pipeline, texts), strict=True))


def _denoising(
    unet: Any, scheduler: Any, latents: Tensor, states: Tensor, generator: torch.Generator
) -> Tensor:
    steps = scheduler.config.num_train_timesteps
    noise, times = noising.drawn_noise(tuple(latents.shape), steps, generator)
    device = states.device
    return noising.loss(
        unet, scheduler, latents.to(device), noise.to(device), times.to(device), states
    )


@contextlib.contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[torch.Generator]:
    """Reproducible to the byte on the CPU; a GPU draws the same numbers and rounds as it likes."""
    if device.type == "cpu":
        with reproducible(seed) as generator:
            yield generator
        return
    with torch.random.fork_rng(devices=[device]):
        torch.manual_seed(seed)
        yield torch.Generator().manual_seed(seed)
