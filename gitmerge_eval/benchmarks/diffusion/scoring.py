"""Pictures of an adapter on cells of the grid: CLIP score, Fréchet distance, sheets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file
from torch import Tensor

from gitmerge_eval.benchmarks.diffusion import frechet, lora, sampling
from gitmerge_eval.benchmarks.diffusion import pipeline as diffusion
from gitmerge_eval.benchmarks.diffusion.judging import Judge, clip_score
from gitmerge_eval.errors import EvaluationError

if TYPE_CHECKING:
    from gitmerge_eval.benchmarks.diffusion.grid import Grid

TaskProgress = Callable[[str, int, int], object]
"""``progress(task, done, total)`` pictures."""
FEATURES, PICTURES = "features.safetensors", "pictures.png"
"""What is kept of a task: features of made and of real pictures, and some of the made ones."""
SHOWN = 12
"""Pictures of a task on a sheet."""
LARGEST = 128
"""The side of a picture there; larger ones are made smaller."""
_LABEL = 20


def evaluate(
    grid: Grid,
    checkpoint: Path,
    tasks: Sequence[str],
    *,
    split: str = "test",
    device: str = "cpu",
    outputs: Mapping[str, Path] | None = None,
    progress: TaskProgress | None = None,
) -> dict[str, float]:
    """CLIP score by task, over pictures that the adapted pipeline makes from the task's prompts.

    The pipeline lies beside the ``checkpoint``. The recipe says how many pictures a class gets in a
    held-in task and in another. In ``outputs`` of a task are kept a row of the pictures, and the
    features of all of them and of the real ones of ``split``. Raises EvaluationError for files that
    cannot be read.
    """
    for task in tasks:
        grid.task(task)
    pipeline = diffusion.load(checkpoint.parent / diffusion.FOLDER, device)
    pipeline.unet = lora.with_changes(pipeline.unet, checkpoint)
    judging = grid.judge(checkpoint.parent, device)
    numbers = dict(grid.recipe["sampling"])
    counts = {status: numbers.pop(status) for status in ("held-in", "generalization")}
    how = sampling.Sampling(**numbers)
    scores = {}
    for task in tasks:
        requests = [
            (prompt, number)
            for number in range(counts[grid.task(task).status])
            for prompt in grid.prompts(task)
        ]
        if progress:
            progress(task, 0, len(requests))
        made = sampling.pictures(pipeline, requests, how, seed=grid.seed)
        scores[task] = clip_score(judging.cosines(made, [prompt for prompt, _ in requests]))
        if outputs:
            _keep(grid, judging, task, split, made, outputs[task])
        if progress:
            progress(task, len(requests), len(requests))
    return scores


def _keep(grid: Grid, judge: Judge, task: str, split: str, made: Tensor, folder: Path) -> None:
    examples = grid.examples([task], split)
    parts = [
        judge.features(torch.stack([examples.picture(row) for row in rows.tolist()]))
        for rows in torch.split(torch.arange(len(examples)), 64)
    ]
    features = {"made": judge.features(made), "real": torch.cat(parts)}
    save_file({name: t.float().contiguous() for name, t in features.items()}, folder / FEATURES)
    row = Image.fromarray(np.concatenate(list(made[:SHOWN].numpy()), axis=1))
    row.thumbnail((SHOWN * LARGEST, LARGEST))
    row.save(folder / PICTURES)


def summarise(
    outputs: Mapping[str, Mapping[str, Path]], *, sheet: Path | None = None
) -> dict[str, float]:
    """'FID <status>' for each status: all made pictures of its tasks against all real ones.

    ``outputs``: status -> task -> the folder that :func:`evaluate` filled. At ``sheet`` a PNG with
    a row of pictures for each task. Raises EvaluationError where a status has fewer than two
    pictures.
    """
    figures = {}
    for status, folders in outputs.items():
        kept = [load_file(folder / FEATURES) for folder in folders.values()]
        made, real = (torch.cat([one[name] for one in kept]) for name in ("made", "real"))
        if min(len(made), len(real)) < 2:
            raise EvaluationError(
                f"a Fréchet distance needs two pictures at least, and the {status} tasks have "
                f"{len(made)} made and {len(real)} real ones"
            )
        first, second = (frechet.fitted(t.double().numpy()) for t in (made, real))
        figures[f"FID {status}"] = frechet.distance(first, second)
    if sheet:
        rows = {task: folder for folders in outputs.values() for task, folder in folders.items()}
        _draw({task: Image.open(folder / PICTURES) for task, folder in rows.items()}, sheet)
    return figures


def _draw(rows: Mapping[str, Image.Image], sheet: Path) -> None:
    """One row below the other, each under its task's name; small pictures are enlarged."""
    factor = max(1, 64 // min(row.height for row in rows.values()))
    large = {
        task: row.resize((factor * row.width, factor * row.height), Image.Resampling.NEAREST)
        for task, row in rows.items()
    }
    width = max(row.width for row in large.values())
    height = sum(row.height + _LABEL for row in large.values())
    canvas = Image.new("RGB", (width, height), "white")
    pen, top = ImageDraw.Draw(canvas), 0
    for task, row in large.items():
        pen.text((4, top + 4), task, fill="black")
        canvas.paste(row, (0, top + _LABEL))
        top += row.height + _LABEL
    canvas.save(sheet, format="PNG")
