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


@dataclass(frozen=True, eq=False)
class DrawnSource:
    """Pictures drawn under one seed; ``settings`` is the recipe's section ``pictures``."""

    benchmark: str
    settings: Mapping[str, Any]
    seed: int

    def count(self, name: str, domain: str, split: str) -> int:
        """As many of each class, by split."""
        if split not in SPLITS:
            raise UnknownName.among(f"split of benchmark '{self.benchmark}'", split, SPLITS)
        return int(self.settings[split])

    @functools.lru_cache(maxsize=8192)  # noqa: B019 - a source lives as long as its process
    def picture(self, name: str, domain: str, split: str, number: int) -> Tensor:
        """As of :class:`~gitmerge_eval.benchmarks.diffusion.grid.Source`."""
        drawn = pictures.picture(
            name,
            domain,
            number,
            seed=self.seed,
            split=split,
            side=self.settings["side"],
            jitter_amount=self.settings["jitter"],
        )
        return torch.from_numpy(drawn.copy())

    def fingerprint(self, names: Sequence[str], domain: str, split: str) -> str:
        """SHA-256 over names and bytes."""
        digest = hashlib.sha256(repr((tuple(names), domain)).encode())
        for name in names:
            for number in range(self.count(name, domain, split)):
                digest.update(self.picture(name, domain, split, number).numpy().tobytes())
        return digest.hexdigest()
