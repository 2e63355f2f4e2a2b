"""Optimiser and learning rate of a training, as numbers of a recipe."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from gitmerge_eval.errors import InvalidOption

DECAYS = ("cosine", "linear", "constant")
OPTIMISERS = ("adamw", "adam")


@dataclass(frozen=True)
class Schedule:
    """AdamW, or Adam, with a linear warm-up and a decay of the learning rate to zero.

    Raises InvalidOption for numbers that make no training.
    """

    steps: int
    batch: int
    """Examples of a step; with ``accumulate`` they come in as many parts."""
    rate: float
    weight_decay: float = 0.0
    """Of matrices; biases and normalisations have none."""
    warm_up: int = 0
    epsilon: float = 1e-8
    """Large against the gradients' size, AdamW's steps are near those of momentum SGD."""
    decay: str = "cosine"
    optimiser: str = "adamw"
    accumulate: int = 1
    """Parts whose gradients are added up before a step."""
    clip: float = 0.0
    """The largest norm of all gradients together; 0: any."""

    def __post_init__(self) -> None:
        for name, value, known in (
            ("decay", self.decay, DECAYS), ("optimiser", self.optimiser, OPTIMISERS),
        ):  # fmt: skip
            if value not in known:
                raise InvalidOption(
                    f"a schedule's '{name}' is '{value}'; choose one of {', '.join(known)}"
                )
        if self.batch % self.accumulate:
            raise InvalidOption(
                f"a batch of {self.batch} examples cannot be cut into {self.accumulate} equal parts"
            )

    def factor(self, step: int) -> float:
        """The learning rate at ``step`` as a fraction of ``rate``."""
        if step < self.warm_up:
            return (step + 1) / self.warm_up
        if self.decay == "constant":
            return 1.0
        share = (step - self.warm_up) / max(1, self.steps - self.warm_up)
        return 1 - share if self.decay == "linear" else 0.5 * (1 + math.cos(math.pi * share))

    @property
    def part(self) -> int:
        """Examples that are in memory at a time."""
        return self.batch // self.accumulate

    def make(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimiser for these parameters."""
        trained = list(parameters)
        kind = torch.optim.AdamW if self.optimiser == "adamw" else torch.optim.Adam
        return kind(
            [
                {
                    "params": [p for p in trained if p.dim() > 1],
                    "weight_decay": self.weight_decay,
                },
                {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
            ],
            lr=self.rate,
            eps=self.epsilon,
        )
