"""The family 'causal-lm': decoder-only models, scored on the user's rows or by lm-eval's tasks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gitmerge_eval.benchmarks.declared import places, text_family
from gitmerge_eval.benchmarks.declared.clip_family import Declared
from gitmerge_eval.benchmarks.declared.table import Table
from gitmerge_eval.benchmarks.declared.text_family import Identified, SourceOf, by_axis
from gitmerge_eval.benchmarks.learning.functions import Functions
from gitmerge_eval.benchmarks.texts.declaring import need
from gitmerge_eval.benchmarks.texts.examples import Example
from gitmerge_eval.records import Task

if TYPE_CHECKING:
    from gitmerge_eval.benchmarks.causal.harness import Harness
    from gitmerge_eval.benchmarks.texts.family import Family

KEYS = (*text_family.KEYS, "base", "lm_eval")
HARNESS_KEYS = ("task", "shots", "limit", "percent")


def metrics(table: Table) -> tuple[str, ...] | None:
    """The metrics that tasks may have; None for any, where lm-eval knows them."""
    return None if "lm_eval" in table.values else text_family.metrics(table)


def functions(table: Table, of: Declared) -> Functions:
    """The benchmark's functions; the declaration is checked now, the data when they are read."""
    base = _base(table) if "base" in table.values else None

    def family() -> Family[Any]:
        from gitmerge_eval.benchmarks.causal.family import FAMILY

        if base is None:
            return FAMILY
        from gitmerge_eval.benchmarks.causal import adapters

        return adapters.family(places.located(of.folder, base))

    if "lm_eval" not in table.values:
        return text_family.functions(table, of, family, base=base)
    if table.table("stopping").values:
        raise table.error(
            "there is [stopping], and lm-eval's scores are not looked at in training; leave it out"
        )
    if "folder" not in table.table("tokenizer", needed=True).values:
        raise table.error("lm-eval needs a tokenizer of transformers; name it by 'folder'")
    harness = _harness(table, of)
    source: SourceOf = lambda seed: _TrainingDocs(harness, {"seed": seed})  # noqa: E731
    if "data" in table.values:
        source = text_family.source_of(table, of, scored=False)
    made = text_family.functions(table, of, family, source=source, base=base)
    return _Harnessed(made.grid, made.files, harness)


def _base(table: Table) -> str:
    """The folder, below the data folder, of the model that the branches' adapters change."""
    base = table.text("base")
    places.check_path(base, table, "base", ())
    if "fine_tuning" in table.values:
        raise table.error(
            "there is [fine_tuning] beside 'base', and adapters are not trained here; train them "
            "with PEFT, and leave it out"
        )
    return base


def _harness(table: Table, of: Declared) -> Callable[[], Harness]:
    own = table.table("lm_eval")
    own.check_keys(HARNESS_KEYS)
    names = {task.name: (_name(own, of, task), task.metric) for task in of.tasks}
    shots = own.number("shots", None, int, 0) if "shots" in own.values else None
    limit = own.number("limit", None, int, 1) if "limit" in own.values else None
    percent = own.values.get("percent", False)
    if not isinstance(percent, bool):
        raise own.error(f"'percent' is {percent!r}; write true or false")
    batch = table.table("evaluation").number("batch", 8, int, 1)

    @functools.cache
    def harness() -> Harness:
        need("lm_eval", "accelerate", extra="lm-eval")
        from gitmerge_eval.benchmarks.causal.harness import Asked, Harness, Settings

        asked = {task: Asked(name, metric) for task, (name, metric) in names.items()}
        return Harness(asked, Settings(shots, limit, batch, percent), of.harness)

    return harness


def _name(own: Table, of: Declared, task: Task) -> str:
    template = by_axis(own, "task", of.axes, task.skills)
    if not isinstance(template, str) or not template:
        raise own.error(f"'task' of {task.name} is {template!r}; name a task of lm-eval")
    places.check_template(template, own, "task", of.axes)
    name = places.filled(template, task.skills)
    places.check_name(name, own, "a task of lm-eval")
    return name


@dataclass(frozen=True)
class _TrainingDocs:
    """The training examples of lm-eval's tasks, as a Source."""

    harness: Callable[[], Harness]
    settings: Mapping[str, object]

    def examples(self, task: Task, split: str) -> tuple[Example, ...]:
        return self.harness().examples(task.name) if split == "train" else ()

    def corpus(self) -> tuple[str, ...]:
        return ()


class _Harnessed(Identified):
    """Scores by lm-eval; training and statistics as of any text model."""

    def __init__(
        self,
        grid: Callable[[Mapping[str, Any]], Any],
        files: Callable[[], Sequence[Path]],
        harness: Callable[[], Harness],
    ) -> None:
        super().__init__(grid, files)
        self._harness = harness

    @property
    def evaluator(self) -> str:
        """lm-eval, and which one: the same task may score differently in another."""
        try:
            return f" lm-eval {version('lm_eval')}"
        except PackageNotFoundError:
            return " lm-eval"

    def evaluate(
        self,
        checkpoint: Path,
        tasks: Sequence[str],
        *,
        settings: Mapping[str, Any] | None = None,
        split: str = "test",
        device: str = "cpu",
        **how: Any,
    ) -> Mapping[str, float]:
        """As :attr:`Benchmark.evaluate`."""
        grid = self.grid(settings)
        for task in tasks:
            grid.task(task)
        model = grid.family.load(checkpoint.absolute(), grid.configuration, device)
        return self._harness().evaluate(model, grid.tokens.published, tasks, split=split, **how)

    def cell_fingerprint(self, task: str, split: str, settings: Mapping[str, Any] | None) -> str:
        """Of what lm-eval reads, where it is lm-eval that does."""
        if split == "train":
            return super().cell_fingerprint(task, split, settings)
        self.grid(settings).task(task)
        return self._harness().fingerprint(task, split)
