"""The grid of categories and domains for generation: prompts, and pictures to train on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from gitmerge_eval.benchmarks.diffusion.judging import Judge
from gitmerge_eval.benchmarks.diffusion.training import Examples
from gitmerge_eval.errors import UnknownName
from gitmerge_eval.records import Task


class Pictures(Protocol):
    """The real pictures of one cell and split, in a fixed order."""

    @property
    def names(self) -> Sequence[str]:
        """The class of each."""

    def picture(self, row: int) -> Tensor:
        """One of them, read now: uint8, (side, side, 3)."""

    def fingerprint(self) -> str:
        """A digest of all of them."""


class Source(Protocol):
    """Where the real pictures come from."""

    def cell(self, names: Sequence[str], domain: str, split: str) -> Pictures:
        """Those of the classes ``names`` in a domain, class by class.

        Raises UnknownName for a split that there is not, EvaluationError for missing files.
        """


@dataclass(frozen=True, eq=False)
class Grid:
    """Cells (category, domain), each with a prompt for every class of the category."""

    name: str
    recipe: Mapping[str, Any]
    tasks: tuple[Task, ...]
    categories: Mapping[str, tuple[str, ...]]
    """category -> its classes."""
    source: Source
    judge: Callable[[Path, str], Judge]
    """``judge(folder, device)``: what judges pictures; ``folder`` is the checkpoint's."""
    seed: int
    settings: Mapping[str, Any]
    """What ``benchmark.toml`` must say for the same pictures and the same judge."""

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
        """The real pictures of some tasks with their prompts, task by task."""
        cells = [(self.task(task).skills["domain"], self._cell(task, split)) for task in tasks]
        rows = [(cell, row) for _, cell in cells for row in range(len(cell.names))]
        prompts = [self.prompt(name, domain) for domain, cell in cells for name in cell.names]

        def picture(number: int) -> Tensor:
            cell, row = rows[number]
            return cell.picture(row)

        return Examples(prompts, picture)

    def _cell(self, task: str, split: str) -> Pictures:
        return self.source.cell(self.classes(task), self.task(task).skills["domain"], split)

    def fingerprint(self, task: str, split: str) -> str:
        """A digest of the pictures of a cell, on which its features and statistics depend."""
        return self._cell(task, split).fingerprint()
