"""A declaration as a Benchmark; imports no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gitmerge_eval import benchmarks
from gitmerge_eval.benchmarks.declared import causal_family, clip_family, text_family
from gitmerge_eval.benchmarks.declared.cells import axes_of, tasks_of
from gitmerge_eval.benchmarks.declared.clip_family import Declared
from gitmerge_eval.benchmarks.declared.table import Table
from gitmerge_eval.checkpoints.lora import CONFIGURATION, FILE
from gitmerge_eval.records import Benchmark, canonical_json

FAMILIES = {
    "open_clip": clip_family,
    "transformers": text_family,
    "causal-lm": causal_family,
}
KEYS = ("name", "title", "family", "metric", "axes", "tasks", "data", "prompts", "settings")
TRAINING_KEYS = ("fine_tuning", "multitask", "stopping", "statistics")
VERSION = 1
"""Raised when the same declaration and data may score differently."""


def benchmark(
    values: Mapping[str, Any], where: str, folder: Path | None, harness: Path | None = None
) -> Benchmark:
    """The benchmark that a ``benchmark.toml`` with a 'family' declares.

    ``folder`` is the user's data folder, None where none is configured: what needs data then says
    so. ``harness`` is the folder with the user's own tasks for lm-eval, which are code.
    Raises EvaluationError for whatever is wrong in the declaration.
    """
    table = Table(values, where)
    chosen = table.text("family")
    if chosen not in FAMILIES:
        raise table.unknown("family", chosen, FAMILIES)
    family = FAMILIES[chosen]
    table.check_keys((*KEYS, *TRAINING_KEYS, *family.KEYS))
    name = table.text("name")
    if name in benchmarks.names():
        raise table.error(
            f"'name' is '{name}', which is an installed benchmark; give yours another name"
        )
    axes = axes_of(table.table("axes", needed=True))
    metric = _metric(table, axes, family.metrics(table))
    tasks = tasks_of(table.table("tasks", needed=True), axes, metric)
    functions = family.functions(table, Declared(name, axes, tasks, folder, harness))
    places: dict[str, Any] = {}
    if "base" in values:
        places = {"checkpoint": FILE, "companions": (CONFIGURATION,)}
    metrics = tuple(dict.fromkeys(task.metric for task in tasks))
    return Benchmark(
        name=name,
        title=table.text("title", name),
        axes=axes,
        tasks=tasks,
        metric="; ".join(metrics),
        evaluator_version=f"declared {VERSION} {_digest(values)}{functions.evaluator}",
        evaluate=functions.evaluate,
        fingerprint=functions.fingerprint,
        collect=functions.collect,
        train=functions.train if "fine_tuning" in values else None,
        reference="benchmark.toml",
        family=chosen,
        **places,
    )


def _metric(
    table: Table, axes: Mapping[str, Sequence[str]], known: Sequence[str] | None
) -> Callable[[Mapping[str, str]], str]:
    def metric(skills: Mapping[str, str]) -> str:
        found = text_family.by_axis(table, "metric", axes, skills)
        if known is not None and found not in known:
            raise table.unknown("metric", found, known)
        if not isinstance(found, str) or not found:
            raise table.error(f"'metric' is {found!r}; give the name of a metric")
        return found

    return metric


def _digest(values: Mapping[str, Any]) -> str:
    """Of all that a score may depend on: the title and the training are no part of it."""
    left_out = ("title", "settings", *TRAINING_KEYS)
    counted = {key: value for key, value in values.items() if key not in left_out}
    return hashlib.sha256(canonical_json(counted).encode()).hexdigest()[:16]
