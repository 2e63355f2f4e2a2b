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
from gitmerge_eval.errors import UnknownName
from gitmerge_eval.records import StatisticFile
from gitmerge_eval.statistics import fisher, gram

if TYPE_CHECKING:
    from gitmerge_eval.benchmarks.diffusion.grid import Grid

Progress = Callable[[int, int], object]
"""``progress(done, total)`` examples."""
OPTIONS: dict[str, dict[str, Any]] = {"fisher": {"examples": None}, "gram": {"examples": None}}
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
    if kind not in OPTIONS:
        raise UnknownName.among(f"statistic that benchmark '{grid.name}' collects", kind, OPTIONS)
    for option in options or {}:
        if option not in OPTIONS[kind]:
            raise UnknownName.among(f"option of statistic '{kind}'", option, OPTIONS[kind])
    chosen = OPTIONS[kind] | dict(options or {})
    split = str(grid.recipe["statistics"]["split"])
    folder = pipeline_folder or checkpoint.parent / diffusion.FOLDER
    pipeline = diffusion.load(folder, device)
    pipeline.unet = lora.with_changes(pipeline.unet, checkpoint)
    examples = grid.examples([task], split)
    rows = _thinned(len(examples), chosen["examples"])
    found = batches(pipeline, examples, rows, grid.seed)

    def report(done: int) -> None:
        if progress:
            progress(done, len(rows))

    tokens = 0
    if kind == "fisher":
        tensors = fisher_diagonal(pipeline, found, report)
        layout: dict[str, dict[str, Any]] = {name: {"key": name} for name in tensors}
    else:
        state = gram_matrices(pipeline, found, report)
        tensors, layout = gram.compute(state)
        tokens = max(state.tokens.values())
    return StatisticFile(
        kind=kind,
        tensors={name: tensor.cpu().contiguous() for name, tensor in tensors.items()},
        layout=layout,
        examples=len(rows),
        tokens=tokens,
        data=f"{grid.name}/{task}:{split}",
        fingerprint=grid.fingerprint(task, split),
        options=chosen,
    )


def _thinned(count: int, examples: int | None) -> list[int]:
    """At most ``examples`` rows, spread evenly over the classes."""
    if examples is None or examples >= count:
        return list(range(count))
    return [number * count // examples for number in range(examples)]
