"""A repository whose results are made up: every method, a sweep, a scaling, merges with notes.

The scores are plain formulas, so that a test can say what a page must show.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import pytest
from evaluated_repositories import PLAIN, Evaluated
from plain.plain_benchmark import BENCHMARK

from gitmerge_eval import methods
from gitmerge_eval.costs import Cost
from gitmerge_eval.evaluation import evaluating
from gitmerge_eval.evaluation.gathering import Result, note_of
from gitmerge_eval.evaluation.note import TaskScore
from gitmerge_eval.evaluation.runs import Run, open_runs

HEADS = ("fruit-quickdraw", "bird-real", "tool-sketch")
SWEPT = {"task-arithmetic": "scale", "ties": "scale", "regmean": "off-diagonal"}
SAMPLES = 3


def digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def checkpoint(head: str) -> str:
    """The object id that a constituent's checkpoint would have."""
    return digest(head)[:40]


def score(method: str, task: str, shift: float = 0.0) -> float:
    """What a merge by ``method`` scores on a task: higher for methods that come later."""
    place = list(methods.load()).index(method)
    return 40.0 + 4 * place * (1 if task in HEADS else -0.3) + len(task) + shift


def scores(method: str, heads: tuple[str, ...], shift: float = 0.0) -> tuple[TaskScore, ...]:
    tasks = [*heads, *(task.name for task in BENCHMARK.generalization(heads))]
    return tuple(
        TaskScore(
            task,
            "held-in" if task in heads else "generalization",
            score(method, task, shift),
            30.0 + len(task),
            90.0 if task in heads else None,
            80.0 if task in heads else 35.0,
            digest("data", task),
        )
        for task in tasks
    )


def run(method: str, heads: tuple[str, ...] = HEADS, shift: float = 0.0, **changes: object) -> Run:
    """A run with default options; ``option`` and ``value`` change one."""
    own = methods.get(method)
    options = {p.option: p.default for p in own.hyperparameters}
    if "option" in changes:
        options[str(changes.pop("option"))] = changes.pop("value")
    place = list(methods.load()).index(method)
    fields = {
        "spec": digest(method, sorted(heads), options),
        "path": "model.safetensors",
        "method": method,
        "options": options,
        "constituents": tuple((head, checkpoint(head)) for head in heads),
        "base": "b" * 40,
        "checkpoint": f"merge:{digest(method, sorted(heads), options)}",
        "benchmark": "plain",
        "settings": {"seed": 3},
        "evaluator_version": "1",
        "metric": "skill",
        "scores": {"test": scores(method, heads, shift)},
        "cost": Cost(0.02 * 2**place, 10, 2**20, 1000, 2000, 10 ** (6 + place), 10**place),
        "study": digest("sweep"),
        "recorded": f"2026-11-01T10:00:{place:02d}+00:00",
    }
    return Run(**{**fields, **changes})


def made_up() -> list[Run]:
    """A sweep of three methods, one run of each other, and a scaling of all."""
    found = []
    for method in methods.load():
        if method in SWEPT:
            for step in range(1, 11):
                shift = 5 - abs(step - 4)
                found.append(
                    run(method, shift=shift, option=SWEPT[method], value=step / 10,
                        chosen=step == 4)
                )  # fmt: skip
        else:
            found.append(run(method, chosen=True))
        for sample in range(SAMPLES):
            for count in (2, 3):
                heads = (HEADS * 2)[sample : sample + count]
                found.append(
                    run(method, heads, 3.0 + sample * (count < 3), source="scale", sample=sample,
                        study=digest("scale"))
                )  # fmt: skip
    return found


def results(runs: Iterable[Run]) -> list[Result]:
    """Runs as they are gathered."""
    return [
        Result(
            r.source, r.study, note_of(r, "test"), tuple(sorted(b for _, b in r.constituents)),
            r.cost, r.sample, r.chosen, r.recorded,
        )
        for r in runs
    ]  # fmt: skip


def reported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Evaluated:
    """An evaluated repository with two merges, their notes, and :func:`made_up` runs."""
    monkeypatch.syspath_prepend(str(PLAIN))
    made = Evaluated.make(folder)
    monkeypatch.chdir(folder)
    for values, method in (((70, 72, 30, 64, 66, 33), "mats"), ((60, 61, 35, 55, 50, 40), "ties")):
        made.merge(values=values, method=method, options={}, specs=((digest(method), MODEL),))
        evaluating.evaluate(made.repository)
    with open_runs(evaluating.results_path(made.repository)) as table:
        table.store(made_up())
    return made


MODEL = "model.safetensors"
