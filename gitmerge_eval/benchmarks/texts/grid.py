"""The grid of tasks and languages as data: examples, tokenizer and model of each cell."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gitmerge_eval.benchmarks.texts import examples
from gitmerge_eval.benchmarks.texts.examples import SPLITS, Example, Source
from gitmerge_eval.benchmarks.texts.tokens import Tokens
from gitmerge_eval.errors import EvaluationError, UnknownName
from gitmerge_eval.records import Task

if TYPE_CHECKING:
    from gitmerge_eval.benchmarks.texts.family import Family


@dataclass(frozen=True, eq=False)
class Grid:
    """Cells (task, language) of texts from one source."""

    name: str
    recipe: Mapping[str, Any]
    folder: Path
    tasks: tuple[Task, ...]
    source: Source
    make_tokens: Callable[[], Tokens]
    family: Family[Any]
    base: Callable[[], Path] | None = None
    """Gives the folder of a published base; None where the recipe pretrains one."""

    @property
    def seed(self) -> int:
        """What the trainings' randomness is drawn from."""
        return int(str(self.source.settings.get("seed", 0)))

    @property
    def configuration(self) -> Path:
        """The model configuration in transformers' format."""
        return self.folder / str(self.recipe["model"])

    @functools.cached_property
    def tokens(self) -> Tokens:
        """The tokenizer."""
        return self.make_tokens()

    @property
    def held_in(self) -> tuple[str, ...]:
        """The names of the held-in tasks."""
        return tuple(task.name for task in self.tasks if task.status == "held-in")

    def task(self, name: str) -> Task:
        """The task called ``name``.

        Raises UnknownName, which suggests near ones, and EvaluationError for one without data.
        """
        for task in self.tasks:
            if task.name == name:
                if task.status == "unavailable":
                    raise EvaluationError(
                        f"the task '{name}' of benchmark '{self.name}' is unavailable: there are "
                        "no data for it"
                    )
                return task
        names = [task.name for task in self.tasks]
        raise UnknownName.among(f"task of benchmark '{self.name}'", name, names)

    @functools.lru_cache(maxsize=256)  # noqa: B019 - a grid lives as long as its process
    def cell(self, task: str, split: str) -> tuple[Example, ...]:
        """All examples of a task in a split; EvaluationError where there is none."""
        if split not in SPLITS:
            raise UnknownName.among(f"split of benchmark '{self.name}'", split, SPLITS)
        found = self.source.examples(self.task(task), split)
        if not found:
            raise EvaluationError(
                f"the task '{task}' of benchmark '{self.name}' has no examples in the split "
                f"'{split}'"
            )
        return found

    def fingerprint(self, task: str, split: str) -> str:
        """A digest of all texts that a score of this cell depends on."""
        return examples.fingerprint(self.cell(task, split))
