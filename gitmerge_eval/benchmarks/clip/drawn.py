"""Drawn pictures as a source: the miniature's."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gitmerge_eval.benchmarks import pictures
from gitmerge_eval.benchmarks.clip import model as clip
from gitmerge_eval.errors import UnknownName

SPLITS = ("pretrain", "train", "validation", "test")


@dataclass(frozen=True, eq=False)
class DrawnPictures:
    """Small pictures that are held as bytes."""

    images: Tensor
    """uint8, shape (n, side, side, 3)."""
    labels: Tensor

    def inputs(self, rows: Tensor) -> Tensor:
        """As of :class:`~gitmerge_eval.benchmarks.clip.source.Pictures`."""
        return clip.normalised(self.images[rows])

    def fingerprint(self, prompts: Sequence[Sequence[str]]) -> str:
        """SHA-256 over the pictures' bytes, the labels and the prompts."""
        digest = hashlib.sha256(repr((tuple(self.images.shape), prompts)).encode())
        digest.update(self.images.numpy().tobytes())
        digest.update(self.labels.numpy().astype("<i8").tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class DrawnSource:
    """Pictures drawn under one seed; ``settings`` is the recipe's section ``pictures``."""

    name: str
    settings: Mapping[str, Any]
    seed: int

    def pictures(
        self, names: Sequence[str], domain: str, split: str, classes: Sequence[str]
    ) -> DrawnPictures:
        """As of :class:`~gitmerge_eval.benchmarks.clip.source.Source`."""
        if split not in SPLITS:
            raise UnknownName.among(f"split of benchmark '{self.name}'", split, SPLITS)
        count = self.settings[split]
        drawn = [
            pictures.picture(
                name,
                domain,
                index,
                seed=self.seed,
                split=split,
                side=self.settings["side"],
                jitter_amount=self.settings["jitter"],
            )
            for name in names
            for index in range(count)
        ]
        labels = torch.tensor([classes.index(name) for name in names])
        return DrawnPictures(torch.from_numpy(np.stack(drawn)), labels.repeat_interleave(count))
