"""The grid of categories and domains for generation: prompts, and pictures to train on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from gitmerge_eval.benchmarks.diffusion.training import Examples
from gitmerge_eval.errors import UnknownName
from gitmerge_eval.records import Task


class Source(Protocol):
    """Where the real pictures come from."""

    def count(self, name: str, domain: str, split: str) -> int:
        """How many pictures of a class there are in a domain and split."""

    def picture(self, name: str, domain: str, split: str, number: int) -> Tensor:
        """One of them: uint8, (side, side, 3)."""

    def fingerprint(self, names: Sequence[str], domain: str, split: str) -> str:
        """A digest of all pictures of some classes."""


@dataclass(frozen=True, eq=False)
class Grid:
    """Cells (category, domain), each with a prompt for every class of the category."""

    name: str
    recipe: Mapping[str, Any]
    tasks: tuple[Task, ...]
    categories: Mapping[str, tuple[str, ...]]
    """category -> its classes."""
    source: Source
    seed: int

    @property
    def held_in(self) -> tuple[str, ...]:
        """The names of the held-in tasks."""
        return tuple(task.name for task in self.tasks if task.status == "held-in")

    def task(self, name: str) -> Task:
        """The task called ``name``; UnknownName suggests near ones."""
        for task in self.tasks:
            if task.name == name:
                return task
        names = [task.name for task in self.tasks]
        raise UnknownName.among(f"task of benchmark '{self.name}'", name, names)

    def classes(self, task: str) -> tuple[str, ...]:
        """The classes of a task."""
        return self.categories[self.task(task).skills["category"]]

    def prompt(self, name: str, domain: str) -> str:
        """'a painting of a ice cream', by the recipe's template."""
        template: str = self.recipe["prompts"]["template"]
        return template.format_map({"domain": domain, "class": name.replace("_", " ")})

    def prompts(self, task: str) -> list[str]:
        """The prompt of each class of a task."""
        domain = self.task(task).skills["domain"]
        return [self.prompt(name, domain) for name in self.classes(task)]

    def examples(self, tasks: Sequence[str], split: str) -> Examples:
        """The real pictures of some tasks with their prompts, class by class."""
        rows = [
            (name, skills["domain"], number)
            for task in tasks
            for skills in [self.task(task).skills]
            for name in self.classes(task)
            for number in range(self.source.count(name, skills["domain"], split))
        ]

        def picture(row: int) -> Tensor:
            name, domain, number = rows[row]
            return self.source.picture(name, domain, split, number)

        return Examples([self.prompt(name, domain) for name, domain, _ in rows], picture)

    def fingerprint(self, task: str, split: str) -> str:
        """A digest of the pictures of a cell, on which its features and statistics depend."""
        return self.source.fingerprint(self.classes(task), self.task(task).skills["domain"], split)
