"""The grid of categories and domains as data: pictures, labels and prompts of each cell."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gitmerge_eval.benchmarks.clip.source import Pictures, Source
from gitmerge_eval.errors import UnknownName
from gitmerge_eval.records import Task


@dataclass(frozen=True, eq=False)
class Grid:
    """Cells (category, domain) of pictures, and the model that is trained and tested on them."""

    name: str
    recipe: Mapping[str, Any]
    configuration: Path | str
    """An open_clip model: a configuration file, or a name that open_clip knows."""
    tasks: tuple[Task, ...]
    categories: Mapping[str, Sequence[str]]
    """category -> its classes; a class may be in several."""
    domains: tuple[str, ...]
    source: Source
    seed: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What ``benchmark.toml`` has to say for the same grid."""

    @property
    def held_in(self) -> tuple[str, ...]:
        """The names of the held-in tasks."""
        return tuple(task.name for task in self.tasks if task.status == "held-in")

    @functools.cached_property
    def classes(self) -> tuple[str, ...]:
        """All distinct classes, category by category; a label is a position in here."""
        return tuple(
            dict.fromkeys(name for several in self.categories.values() for name in several)
        )

    @functools.cached_property
    def prompts(self) -> list[list[str]]:
        """For each class its prompts, one for each domain."""
        return [[self.prompt(name, domain) for domain in self.domains] for name in self.classes]

    def prompt(self, name: str, domain: str) -> str:
        """'a painting of a ice cream', by the recipe's template."""
        template: str = self.recipe["prompts"]["template"]
        return template.format_map({"domain": domain, "class": name.replace("_", " ")})

    @functools.lru_cache(maxsize=128)  # noqa: B019 - a grid lives as long as its process
    def cell(self, task: str, split: str) -> Pictures:
        """A task's pictures with their labels."""
        skills = self.task(task).skills
        names = self.categories[skills["category"]]
        return self.source.pictures(names, skills["domain"], split, self.classes)

    def task(self, name: str) -> Task:
        """The task called ``name``; UnknownName suggests near ones."""
        for task in self.tasks:
            if task.name == name:
                return task
        names = [task.name for task in self.tasks]
        raise UnknownName.among(f"task of benchmark '{self.name}'", name, names)

    def fingerprint(self, task: str, split: str) -> str:
        """SHA-256 over the pictures, labels and prompts that a score of this cell depends on."""
        return self.cell(task, split).fingerprint(self.prompts)
