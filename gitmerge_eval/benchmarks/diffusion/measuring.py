"""Fisher and Gram statistics of an adapter: of ΔW, by the names of the weights that it changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gitmerge_eval.benchmarks.diffusion import lora, noising
from gitmerge_eval.benchmarks.diffusion import pipeline as diffusion
from gitmerge_eval.benchmarks.diffusion.training import Examples, Latents
from gitmerge_eval.benchmarks.learning.loop import Progress, reproducible
from gitmerge_eval.benchmarks.learning.measuring import (
    Options,
    fisher_file,
    gram_file,
    statistic_options,
    thinned,
)
from gitmerge_eval.records import StatisticFile
from gitmerge_eval.statistics import fisher, gram

if TYPE_CHECKING:
    from gitmerge_eval.benchmarks.diffusion.grid import Grid

OPTIONS: Options = {"fisher": {"examples": None}, "gram": {"examples": None}}
"""kind -> its options with their defaults; ``examples`` limits how many are used."""
POSITIONS = 1024
"""Of latents in one forward pass: what is in memory at a time, with a gradient for each example."""
Batch = tuple[Tensor, Tensor, Tensor, Tensor]
"""Latents (n, 4, h, w), noise of that shape, time steps (n,), text states (n, tokens, width)."""


def batches(pipeline: Any, examples: Examples, rows: list[int], seed: int) -> Iterator[Batch]:
    """The examples with one drawn noise and time step each, as training sees them."""
    generator = torch.Generator().manual_seed(seed)
    latents = Latents(pipeline.vae, examples)
    steps = pipeline.scheduler.config.num_train_timesteps
    device = pipeline.unet.device
    many = max(1, POSITIONS // pipeline.unet.config.sample_size**2)
    for start in range(0, len(rows), many):
        chosen = rows[start : start + many]
        drawn = latents.drawn(chosen, generator)
        noise, times = noising.drawn_noise(tuple(drawn.shape), steps, generator)
        states = diffusion.embedded(pipeline, [examples.prompts[row] for row in chosen])
        yield drawn.to(device), noise.to(device), times.to(device), states


def fisher_diagonal(
    pipeline: Any, found: Iterator[Batch], progress: Callable[[int], object]
) -> dict[str, Tensor]:
    """The mean over examples of the squared gradient of the training loss by each ΔW.

    The loss is -log p(target | noisy latent, prompt) up to scale under a Gaussian.
    """
    unet, scheduler = pipeline.unet, pipeline.scheduler

    def predict(parameters: Mapping[str, Tensor]) -> Callable[..., Any]:
        return lambda *args, **how: torch.func.functional_call(unet, dict(parameters), args, how)

    def loss(
        parameters: Mapping[str, Tensor],
        latent: Tensor,
        noise: Tensor,
        time: Tensor,
        state: Tensor,
    ) -> Tensor:
        one = (latent[None], noise[None], time[None], state[None])
        return noising.loss(predict(parameters), scheduler, *one)

    state = fisher.FisherState()
    for batch in found:
        fisher.update(state, loss, lora.weights(unet), batch)
        progress(state.examples)
    return fisher.compute(state)


def gram_matrices(
    pipeline: Any, found: Iterator[Batch], progress: Callable[[int], object]
) -> gram.GramState:
    """Sums of outer products of what each adapted layer sees.

    Self-attention sees the latent's positions; cross-attention's to_k and to_v see all tokens of
    the padded prompt, since Stable Diffusion attends to all of them.
    """
    done = 0
    with gram.recording(lora.weights(pipeline.unet), dtype=torch.float64) as recorder:
        for latents, noise, times, states in found:
            pipeline.unet(pipeline.scheduler.add_noise(latents, noise, times), times, states)
            done += len(latents)
            progress(done)
    return recorder.state


def collect(
    grid: Grid,
    kind: str,
    checkpoint: Path,
    task: str,
    *,
    pipeline_folder: Path | None = None,
    options: Mapping[str, Any] | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> StatisticFile:
    """The statistic of an adapter on its task's training pictures.

    The pipeline lies beside the ``checkpoint`` unless ``pipeline_folder`` names another place.
    Raises UnknownName for a kind that is none of OPTIONS, and for unknown options.
    """
    chosen = statistic_options(grid.name, kind, options, OPTIONS)
    examples = grid.examples([task], str(grid.recipe["statistics"]["split"]))
    rows: list[int] = thinned(len(examples), chosen["examples"]).tolist()

    def report(done: int) -> None:
        if progress:
            progress(done, len(rows))

    with reproducible(grid.seed):  # on several threads convolutions add up in another order
        pipeline = diffusion.load(pipeline_folder or checkpoint.parent / diffusion.FOLDER, device)
        pipeline.unet = lora.with_changes(pipeline.unet, checkpoint)
        found = batches(pipeline, examples, rows, grid.seed)
        if kind == "fisher":
            tensors = fisher_diagonal(pipeline, found, report)
            return fisher_file(grid, task, tensors, examples=len(rows), tokens=0, options=chosen)
        state = gram_matrices(pipeline, found, report)
    return gram_file(grid, task, state, examples=len(rows), options=chosen)
