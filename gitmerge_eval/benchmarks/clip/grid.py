"""The grid of categories and domains as data: pictures, labels and prompts of each cell."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gitmerge_eval.benchmarks import pictures
from gitmerge_eval.errors import InvalidOption, UnknownName
from gitmerge_eval.records import Task

SPLITS = ("pretrain", "train", "validation", "test")


@dataclass(frozen=True, eq=False)
class Grid:
    """Cells (category, domain) of drawn pictures under one seed."""

    name: str
    recipe: Mapping[str, Any]
    folder: Path
    tasks: tuple[Task, ...]
    seed: int

    @property
    def configuration(self) -> Path:
        """The open_clip model configuration."""
        return self.folder / str(self.recipe["model"])

    @property
    def held_in(self) -> tuple[str, ...]:
        """The names of the held-in tasks."""
        return tuple(task.name for task in self.tasks if task.status == "held-in")

    @functools.cached_property
    def classes(self) -> tuple[str, ...]:
        """All classes, category by category; a label is a position in here."""
        categories = self.recipe["skills"]["category"]
        return tuple(name for category in categories for name in pictures.CATEGORIES[category])

    @functools.cached_property
    def prompts(self) -> list[list[str]]:
        """For each class its prompts, one for each domain."""
        return [
            [self.prompt(name, domain) for domain in self.recipe["skills"]["domain"]]
            for name in self.classes
        ]

    def category(self, name: str) -> str:
        """The category that a class belongs to."""
        return next(c for c, classes in pictures.CATEGORIES.items() if name in classes)

    def prompt(self, name: str, domain: str) -> str:
        """'a painting of a ice cream', by the recipe's template."""
        template: str = self.recipe["prompts"]["template"]
        return template.format_map({"domain": domain, "class": name.replace("_", " ")})

    def pictures(self, name: str, domain: str, split: str) -> Tensor:
        """All pictures of a class in a domain: uint8, shape (n, side, side, 3)."""
        settings = self.recipe["pictures"]
        if split not in SPLITS:
            raise UnknownName.among(f"split of benchmark '{self.name}'", split, SPLITS)
        drawn = [
            pictures.picture(
                name,
                domain,
                index,
                seed=self.seed,
                split=split,
                side=settings["side"],
                jitter_amount=settings["jitter"],
            )
            for index in range(settings[split])
        ]
        return torch.from_numpy(np.stack(drawn))

    @functools.lru_cache(maxsize=128)  # noqa: B019 - a grid lives as long as its process
    def cell(self, task: str, split: str) -> tuple[Tensor, Tensor]:
        """A task's pictures, uint8 (n, side, side, 3), and labels (n,)."""
        skills = self.task(task).skills
        names = tuple(pictures.CATEGORIES[skills["category"]])
        images = [self.pictures(name, skills["domain"], split) for name in names]
        labels = [self.classes.index(name) for name in names]
        counts = torch.tensor([len(several) for several in images])
        return torch.cat(images), torch.tensor(labels).repeat_interleave(counts)

    def task(self, name: str) -> Task:
        """The task called ``name``; UnknownName suggests near ones."""
        for task in self.tasks:
            if task.name == name:
                return task
        names = [task.name for task in self.tasks]
        raise UnknownName.among(f"task of benchmark '{self.name}'", name, names)

    def fingerprint(self, task: str, split: str) -> str:
        """SHA-256 over the pictures, labels and prompts that a score of this cell depends on."""
        images, labels = self.cell(task, split)
        digest = hashlib.sha256(repr((tuple(images.shape), self.prompts)).encode())
        digest.update(images.numpy().tobytes())
        digest.update(labels.numpy().astype("<i8").tobytes())
        return digest.hexdigest()


def seed_of(settings: Mapping[str, Any]) -> int:
    """The seed in a repository's ``benchmark.toml``, 0 where it has none."""
    for key in settings:
        if key not in ("name", "seed"):
            raise UnknownName.among("setting of a benchmark", key, ("name", "seed"))
    seed = settings.get("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise InvalidOption(
            f"the benchmark's 'seed' is {seed!r}, which is not a whole number from 0"
        )
    return seed
