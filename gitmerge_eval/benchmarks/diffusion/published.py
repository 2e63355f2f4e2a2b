"""The paper's size: DomainNet's own pictures, published weights, and pytorch-fid's features."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from gitmerge_eval.benchmarks.clip import model as clip
from gitmerge_eval.benchmarks.clip.weights import pretrained
from gitmerge_eval.benchmarks.diffusion import pipeline as diffusion
from gitmerge_eval.benchmarks.diffusion.building import build_adapters
from gitmerge_eval.benchmarks.diffusion.grid import Grid
from gitmerge_eval.benchmarks.diffusion.judging import BATCH, OpenClip
from gitmerge_eval.benchmarks.domainnet.reading import DomainNet
from gitmerge_eval.benchmarks.learning.building import TaskProgress
from gitmerge_eval.errors import EvaluationError

if TYPE_CHECKING:
    import datasets

    from gitmerge_eval.benchmarks import BuiltModels

INCEPTION = "pt_inception-2015-12-05-6726825d.pth"
"""pytorch-fid's weights, by the name that they are published and cached under."""


@dataclass(frozen=True, eq=False)
class PublishedPictures:
    """Files that are decoded when they are asked for, scaled and cut to a square."""

    data: datasets.Dataset
    """With the columns image and label."""
    classes: Sequence[str]
    side: int
    origin: str
    """A digest of the files."""

    @property
    def names(self) -> Sequence[str]:
        """As of :class:`~gitmerge_eval.benchmarks.diffusion.grid.Pictures`."""
        return [self.classes[label] for label in self.data["label"]]

    def picture(self, row: int) -> Tensor:
        """As above: the centre square, scaled; EvaluationError for a file that is no picture."""
        try:
            image = self.data[row]["image"]
        except (OSError, ValueError) as error:
            raise EvaluationError(f"a picture of DomainNet cannot be read: {error}") from error
        square = ImageOps.fit(image, (self.side, self.side), Image.Resampling.LANCZOS)
        return torch.from_numpy(np.asarray(square).copy())

    def fingerprint(self) -> str:
        """SHA-256 over the files' paths and sizes, and the side."""
        return hashlib.sha256(f"{self.origin} {self.side}".encode()).hexdigest()


@dataclass(frozen=True)
class PublishedSource:
    """DomainNet as it is published."""

    domainnet: DomainNet
    side: int

    def cell(self, names: Sequence[str], domain: str, split: str) -> PublishedPictures:
        """As of :class:`~gitmerge_eval.benchmarks.diffusion.grid.Source`."""
        data = self.domainnet.dataset(domain, names, split, list(names))
        origin = self.domainnet.fingerprint(domain, names, split)
        return PublishedPictures(data, tuple(names), self.side, origin)


@dataclass(frozen=True)
class PublishedJudge:
    """open_clip's published weights for the CLIP score, pytorch-fid's Inception for features."""

    clip: OpenClip
    inception: nn.Module

    def cosines(self, pictures: Tensor, prompts: Sequence[str]) -> Tensor:
        """As of :class:`~gitmerge_eval.benchmarks.diffusion.judging.Judge`."""
        return self.clip.cosines(pictures, prompts)

    @torch.no_grad()
    def features(self, pictures: Tensor) -> Tensor:
        """Inception's activations, averaged over positions, as pytorch-fid does."""
        device = next(self.inception.parameters()).device
        parts = []
        for batch in torch.split(pictures, BATCH):
            seen = batch.permute(0, 3, 1, 2).to(device, torch.float32) / 255
            parts.append(self.inception(seen)[0].mean((2, 3)).cpu())
        return torch.cat(parts)


def judge(model: Path | str, weights: str | None, dimensions: int, device: str) -> PublishedJudge:
    """The judge with published weights.

    ``weights`` is a file or a tag of open_clip for ``model``, a name or a configuration file;
    ``dimensions`` of Inception's features is 64, 192, 768 or 2048. Raises EvaluationError
    where any weights are missing.
    """
    judging: Any = clip.create(model)
    judging.load_state_dict(pretrained(model, weights))
    size = judging.visual.image_size
    side = size[0] if isinstance(size, tuple) else size
    seen = OpenClip(judging.to(device).eval().requires_grad_(False), model, side)
    return PublishedJudge(seen, inception(dimensions).to(device))


def inception(dimensions: int) -> Any:
    """pytorch-fid's Inception up to the block with that many features; never downloads."""
    try:
        from pytorch_fid.inception import FID_WEIGHTS_URL, InceptionV3
    except ModuleNotFoundError as error:
        raise EvaluationError(
            "FID needs the package 'pytorch-fid'; install the extra: "
            "pip install 'gitmerge-eval[diffusion]'"
        ) from error
    file = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION
    if not file.is_file():
        raise EvaluationError(
            f"the features of FID need '{file}'; download it from {FID_WEIGHTS_URL} (95 MB)"
        )
    block = InceptionV3.BLOCK_INDEX_BY_DIM[dimensions]
    return InceptionV3([block]).eval().requires_grad_(False)


def build(
    grid: Grid,
    directory: Path,
    *,
    device: str = "auto",
    precision: str | None = None,
    progress: TaskProgress | None = None,
) -> BuiltModels:
    """All adapters of the weights that the setting ``weights`` names, on the GPU if there is one.

    Raises EvaluationError where there are none.
    """
    named = grid.settings.get("weights")
    if not named:
        raise EvaluationError(
            "the weights of Stable Diffusion 2.1 are not named; set 'weights' to a folder in "
            "diffusers' layout, such as a download of stable-diffusion-2-1"
        )
    grid.examples(grid.held_in, "train")  # what is missing is said before anything is trained
    pipeline = directory / "base" / diffusion.FOLDER
    diffusion.save(diffusion.load(Path(str(named)).expanduser()), pipeline)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    kept = precision or ("bfloat16" if device != "cpu" else "float32")
    models = build_adapters(
        grid, pipeline, directory, device=device, precision=kept, progress=progress
    )
    # The repository has the weights now, and their folder is of this machine alone.
    known = {name: value for name, value in grid.settings.items() if name != "weights"}
    return replace(models, settings=known)
