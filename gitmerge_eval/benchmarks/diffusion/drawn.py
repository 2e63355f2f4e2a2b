"""Drawn pictures as the source of a grid: the miniature's."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gitmerge_eval.benchmarks import pictures
from gitmerge_eval.errors import UnknownName

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class DrawnPictures:
    """Small pictures that are held as bytes."""

    names: Sequence[str]
    images: Tensor
    """uint8, (n, side, side, 3)."""

    def picture(self, row: int) -> Tensor:
        """As of :class:`~gitmerge_eval.benchmarks.diffusion.grid.Pictures`."""
        return self.images[row]

    def fingerprint(self) -> str:
        """SHA-256 over names and bytes."""
        digest = hashlib.sha256(repr((tuple(self.names), tuple(self.images.shape))).encode())
        digest.update(self.images.numpy().tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class DrawnSource:
    """Pictures drawn under one seed; ``settings`` is the recipe's section ``pictures``."""

    benchmark: str
    settings: Mapping[str, Any]
    seed: int

    @functools.lru_cache(maxsize=128)  # noqa: B019 - a source lives as long as its process
    def cell(self, names: Sequence[str], domain: str, split: str) -> DrawnPictures:
        """As of :class:`~gitmerge_eval.benchmarks.diffusion.grid.Source`."""
        if split not in SPLITS:
            raise UnknownName.among(f"split of benchmark '{self.benchmark}'", split, SPLITS)
        wanted = [(name, index) for name in names for index in range(self.settings[split])]
        drawn = [
            pictures.picture(
                name,
                domain,
                index,
                seed=self.seed,
                split=split,
                side=self.settings["side"],
                jitter_amount=self.settings["jitter"],
            ).copy()
            for name, index in wanted
        ]
        images = torch.stack([torch.from_numpy(one) for one in drawn])
        return DrawnPictures([name for name, _ in wanted], images)
