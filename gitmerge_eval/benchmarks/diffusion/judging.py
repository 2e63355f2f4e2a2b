"""What generated pictures are judged by: CLIP score and features for the Fréchet distance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from gitmerge_eval.benchmarks.clip import model as clip

BATCH = 64


class Judge(Protocol):
    """Models that look at pictures, uint8 (n, side, side, 3)."""

    def cosines(self, pictures: Tensor, prompts: Sequence[str]) -> Tensor:
        """CLIP's cosine of each picture and its prompt, (n,)."""

    def features(self, pictures: Tensor) -> Tensor:
        """What the Fréchet distance compares, (n, d)."""


def clip_score(cosines: Tensor) -> float:
    """max(0, mean of 100·cos(E_I, E_T)) (Hessel et al. 2021, arXiv 2104.08718), as torchmetrics."""
    return max(0.0, float(100 * cosines.double().mean()))


@dataclass(frozen=True)
class OpenClip:
    """An open_clip model: its cosines, and its picture embeddings as features."""

    model: nn.Module
    configuration: Path | str
    side: int
    """Of the pictures that it sees."""

    @classmethod
    def load(cls, checkpoint: Path, configuration: Path, device: str) -> OpenClip:
        """The model in a file; EvaluationError where it cannot be read."""
        model: Any = clip.load(checkpoint, configuration, device)
        size = model.visual.image_size
        return cls(model, configuration, size[0] if isinstance(size, tuple) else size)

    def cosines(self, pictures: Tensor, prompts: Sequence[str]) -> Tensor:
        """As of :class:`Judge`; each distinct prompt is encoded once."""
        texts = sorted(set(prompts))
        encode: Callable[..., Tensor] = self.model.encode_text  # type: ignore[assignment]
        with torch.no_grad():
            ids = clip.tokens(texts, self.configuration).to(self._device)
            embedded = encode(ids, normalize=True)
        rows = torch.tensor([texts.index(prompt) for prompt in prompts])
        seen = nn.functional.normalize(self.features(pictures), dim=-1)
        return (seen * embedded[rows].cpu()).sum(-1)

    @torch.no_grad()
    def features(self, pictures: Tensor) -> Tensor:
        """The picture embeddings, not normalised."""
        encode: Callable[..., Tensor] = self.model.encode_image  # type: ignore[assignment]
        parts = [clip.normalised(_resized(p, self.side)) for p in torch.split(pictures, BATCH)]
        return torch.cat([encode(part.to(self._device)).float().cpu() for part in parts])

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device


def _resized(pictures: Tensor, side: int) -> Tensor:
    """uint8 pictures of another side, bicubic with antialiasing as open_clip's preprocessing."""
    if pictures.shape[1] == side:
        return pictures
    found = nn.functional.interpolate(
        pictures.permute(0, 3, 1, 2).float(), (side, side), mode="bicubic", antialias=True
    )
    return found.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
