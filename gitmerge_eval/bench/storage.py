"""``bench storage``: what Git's everyday commands cost on a checkpoint, against stock git-theta.

Each tool has a repository of its own, set up by its own commands: ``gitmerge-eval init`` and
``track`` here, ``git theta install`` and ``git theta track`` (0.2.0) there. A round makes a fresh
repository and goes through a day's work in it; rounds of the two tools alternate.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gitmerge_eval.bench import machine, synthetic
from gitmerge_eval.bench.processes import Summary, Usage, measure
from gitmerge_eval.bench.report import Column, Report, Table, columns_of, measured, ratio
from gitmerge_eval.bench.scratch import FILTERS, Clone, Scratch
from gitmerge_eval.bench.synthetic import MODEL, Float32Model

OURS, STOCK = "gitmerge-eval", "git-theta"
FIRST, AGAIN = "checkout, the first after a commit", "checkout, there and back"
AIMS = {"add": 1 / 6, FIRST: 1 / 6, AGAIN: 1 / 6}
"""The most that ours may take of stock's time."""
ZEROS = "git checkout, its filter sends zeros"
_SWITCHES = ("all", "main") * 2
"""Checkouts vary more than the rest: it depends on how fast the system finds fresh memory."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Step:
    """One measured command: what it is called, what it took, and how often a filter was started."""

    name: str
    usage: Usage
    filters: int


@dataclass(frozen=True)
class Settings:
    """What is measured."""

    size_bytes: int
    repeat: int = 3
    stock: bool = True
    noise: str = "dense"
    folder: Path | None = None


def run(settings: Settings, say: Say = lambda line: None) -> Report:
    """Measure everything; PrerequisiteError where the disk is too small or a program missing."""
    model = Float32Model(synthetic.tower_of(settings.size_bytes), noise=settings.noise)
    described = machine.described()
    tools = (OURS, STOCK) if settings.stock else (OURS,)
    with Scratch(settings.folder) as scratch:
        machine.required_space(scratch.folder, 12 * model.bytes)
        files = _written(scratch.folder, model)
        steps: dict[str, dict[str, list[Step]]] = {tool: {} for tool in tools}
        floors: dict[str, list[Usage]] = {}
        _warm_up(scratch, tools)
        for number in range(1, settings.repeat + 1):
            for name, usage in _floors(scratch, files["base"]):
                floors.setdefault(name, []).append(usage)
            for tool in tools:
                for step in day(scratch, tool, files):
                    if step.name == ZEROS:
                        floors.setdefault(step.name, []).append(step.usage)
                    else:
                        steps[tool].setdefault(step.name, []).append(step)
                    say(f"round {number}, {tool}: {step.name} {step.usage.seconds:.2f} s")
    tables = [_table(steps, settings.stock), _floor_table(floors, steps)]
    shown = {
        "checkpoint": f"{len(model.shapes)} groups, {model.bytes / 1e6:.0f} MB float32",
        "fine-tuning": settings.noise,
        "repeat": settings.repeat,
    }
    return Report("storage", described, shown, tables, _REMARKS)


def day(scratch: Scratch, tool: str, files: dict[str, Path]) -> Iterator[Step]:
    """A round in a fresh repository of ``tool``."""
    clone = prepared(scratch, tool)

    def step(name: str, *command: str) -> Step:
        usage = clone.git(*command)
        return Step(name, usage, usage.started(*FILTERS))

    _put(files["base"], clone)
    yield step("add", "add", MODEL)
    yield step("status after add", "status", "--short")
    yield step("commit", "commit", "--quiet", "-m", "base")
    yield step("status after commit", "status", "--short")
    os.utime(clone.folder / MODEL)
    yield step("add again, unchanged", "add", MODEL)
    clone.git("switch", "--quiet", "--create", "one")
    _put(files["one"], clone)
    yield step("add, one group changed", "add", MODEL)
    clone.git("commit", "--quiet", "-m", "one group")
    clone.git("switch", "--quiet", "--create", "all")
    _put(files["all"], clone)
    yield step("add, all groups changed", "add", MODEL)
    clone.git("commit", "--quiet", "-m", "all groups")
    yield step(FIRST, "checkout", "--quiet", "main")
    for branch in _SWITCHES:
        yield step(AGAIN, "checkout", "--quiet", branch)
    yield step("status after checkout", "status", "--short")
    yield step("diff --stat of two branches", "diff", "--stat", "one", "all")
    yield step("log --stat", "log", "--stat", "--oneline", "all")
    if tool == OURS:
        size = (clone.folder / MODEL).stat().st_size
        zeros = f"filter.theta.process='{sys.executable}' -m gitmerge_eval.bench.zeros {size}"
        for branch in _SWITCHES:
            yield step(ZEROS, "-c", zeros, "checkout", "--quiet", "--force", branch)
    shutil.rmtree(clone.folder)


def prepared(scratch: Scratch, tool: str) -> Clone:
    """A fresh repository that is set up for ``tool``, with its attributes committed."""
    stock = tool == STOCK
    more = {"GIT_THETA_CHECKPOINT_TYPE": "safetensors"} if stock else {}
    clone = scratch.repository(f"repository-{tool}", scratch.environment(tool, **more))
    if stock:
        clone.run("git-theta", "install")
        clone.run("git-theta", "track", MODEL)
    else:
        clone.run("gitmerge-eval", "init")
        clone.run("gitmerge-eval", "track", MODEL)
    clone.git("commit", "--quiet", "-m", "attributes")
    return clone


def _put(file: Path, clone: Clone) -> None:
    shutil.copyfile(file, clone.folder / MODEL)


def _written(folder: Path, model: Float32Model) -> dict[str, Path]:
    """The three files: the base, one group changed (the largest), all groups changed."""
    largest = max(model.shapes, key=lambda name: model.base(name).size)
    files = {name: folder / f"{name}.safetensors" for name in ("base", "one", "all")}
    model.write(files["base"])
    model.write(files["one"], 1, only=frozenset({largest}))
    model.write(files["all"], 2)
    return files


def _warm_up(scratch: Scratch, tools: tuple[str, ...]) -> None:
    """A round with a small checkpoint, so that compilers' caches and the page cache are filled."""
    folder = scratch.folder / "small"
    folder.mkdir()
    files = _written(folder, Float32Model(synthetic.vision_tower(24, 1)))
    for tool in tools:
        for _ in day(scratch, tool, files):
            pass


def _floors(scratch: Scratch, file: Path) -> Iterator[tuple[str, Usage]]:
    environment = scratch.environment("floor")
    copy = scratch.folder / "copy"
    for command in (("cp", file, copy), ("sha256sum", file)):
        yield str(command[0]), measure(command, folder=scratch.folder, environment=environment)
    copy.unlink()


def _table(steps: dict[str, dict[str, list[Step]]], with_stock: bool) -> Table:
    rows = []
    for name in steps[OURS]:
        row: dict[str, Any] = {"command": name, "aim": AIMS.get(name)}
        for tool, prefix in ((OURS, "ours"), (STOCK, "stock")):
            found = steps.get(tool, {}).get(name)
            if found:
                row |= columns_of(prefix, Summary.of([s.usage for s in found]))
                row[f"{prefix}_filters"] = max(s.filters for s in found)
        row["ratio"] = ratio(row["ours_seconds"], row.get("stock_seconds"))
        rows.append(row)
    columns = [Column("command", "command"), *_columns("ours", "ours")]
    if with_stock:
        columns += [
            *_columns("stock", "git-theta"),
            Column("ratio", "ours / git-theta", "ratio"),
            Column("aim", "aim", "ratio"),
        ]
    return Table("git on a checkpoint", columns, rows)


def _columns(prefix: str, heading: str) -> list[Column]:
    return [*measured(prefix, heading), Column(f"{prefix}_filters", "filters", "count")]


def _floor_table(floors: dict[str, list[Usage]], steps: dict[str, dict[str, list[Step]]]) -> Table:
    def median_of(name: str) -> float:
        return Summary.of([step.usage for step in steps[OURS][name]]).seconds

    rows = []
    for name, usages in floors.items():
        summary = Summary.of(usages)
        row = {"program": name, **columns_of("floor", summary)}
        row["add"] = ratio(median_of("add"), summary.seconds)
        row["checkout"] = ratio(median_of(AGAIN), summary.seconds)
        rows.append(row)
    columns = [
        Column("program", "program"),
        Column("floor_seconds", "s", "s"),
        Column("floor_cpu_seconds", "CPU s", "s"),
        Column("add", "our add / it", "ratio"),
        Column("checkout", "our checkout / it", "ratio"),
    ]
    return Table("floor", columns, rows)


_REMARKS = (
    "filters: how many times Git started a checkpoint filter in the command; 0: nothing was read",
    "peak: largest sum of the resident sets of all processes of the command, mapped files included",
)
