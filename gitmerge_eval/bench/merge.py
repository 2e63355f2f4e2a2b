"""``bench merge``: a real ``git merge`` of M models against mergekit and against the floor.

The repository has the base on main and a branch for each fine-tuned model; a run is
``git merge -X method=…`` of the first M branches and ends in a commit. mergekit-pytorch reads the
same models from plain safetensors files. Everything that a run left is taken back before the next:
the commit, the work tree, new LFS objects, kept results.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from gitmerge_eval import methods
from gitmerge_eval.bench import machine, peers
from gitmerge_eval.bench.floor import KINDS as FLOORS
from gitmerge_eval.bench.models import Models
from gitmerge_eval.bench.processes import BenchmarkFailed, Summary, Usage, measure
from gitmerge_eval.bench.report import Column, Report, Table, columns_of, measured, ratio
from gitmerge_eval.bench.scratch import FILTERS, Clone, Scratch

AIMS = {"average": 0.6, "task-arithmetic": 0.5, "dare": 0.5, "ties": 0.3}
"""The most that ours may take of mergekit's time."""
MEMORY_BYTES = 700_000_000
MEMORY_GROUPS = 4
"""Peak memory aimed at: this many bytes, and this many times the largest group."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """What is measured."""

    methods: tuple[str, ...]
    models: tuple[int, ...]
    size_bytes: int
    repeat: int = 3
    noise: str = "dense"
    sharded: bool = False
    mergekit: str | None = None
    """The path of mergekit-pytorch; None to measure without it."""
    floor: bool = True
    options: tuple[str, ...] = ()
    """Further strategy options of ours, 'key=value'."""
    folder: Path | None = None


@dataclass
class Runs:
    """All runs so far, by what was run."""

    ours: dict[tuple[int, str], list[Usage]] = field(default_factory=dict)
    mergekit: dict[tuple[int, str], list[Usage]] = field(default_factory=dict)
    floors: dict[tuple[int, str], list[Usage]] = field(default_factory=dict)
    filters: dict[tuple[int, str], int] = field(default_factory=dict)
    """Filters started in a merge and in the ``git status`` after it."""
    distances: dict[tuple[int, str], float] = field(default_factory=dict)
    """The largest difference to mergekit's result, where the formula is the same."""


def run(settings: Settings, say: Say = lambda line: None) -> Report:
    """Measure everything; PrerequisiteError where the disk is too small or a program missing."""
    described = machine.described()
    with Scratch(settings.folder) as scratch:
        models = Models.of(settings.size_bytes, settings.noise, sharded=settings.sharded)
        kinds = tuple(_needed(settings.methods))
        plain = bool(settings.mergekit or settings.floor)
        needed = models.needed_bytes(max(settings.models), kinds, plain=plain)
        machine.required_space(scratch.folder, needed)
        clone = models.build(scratch, max(settings.models), kinds, plain=plain, say=say)
        session = Session(settings, scratch, clone, models)
        for count in settings.models:
            for number in range(1, settings.repeat + 1):
                session.round(count, partial(_numbered, say, number))
    shown = {
        "models": models.described,
        "repeat": settings.repeat,
        "strategy options": " ".join(settings.options) or "defaults",
    }
    bound = MEMORY_BYTES + MEMORY_GROUPS * models.largest_group_bytes
    tables = [_table(settings, session.runs, bound)]
    if settings.floor:
        tables.append(_floor_table(session.runs))
    name = "merge-sharded" if settings.sharded else "merge"
    return Report(name, described, shown, tables, _remarks(settings, bound))


def _numbered(say: Say, number: int, line: str) -> None:
    say(f"round {number}, {line}")


def _needed(chosen: Sequence[str]) -> dict[str, None]:
    """The statistics that the methods need, in order."""
    declared = (methods.get(name) for name in chosen)
    return {kind: None for one in declared for kind in one.statistics(one.options({}))}


class Session:
    """The repository, and one round of runs after the other in it."""

    def __init__(self, settings: Settings, scratch: Scratch, clone: Clone, models: Models) -> None:
        self.runs = Runs()
        self._settings, self._scratch, self._clone = settings, scratch, clone
        self._models, self._mergekit = models, settings.mergekit
        self._start = clone.quietly("rev-parse", "HEAD")
        self._objects = _files(_objects(clone))
        self._saved = scratch.folder / "saved"
        if _state(clone).exists():
            shutil.copytree(_state(clone), self._saved)
        self._output = scratch.folder / "output"

    def round(self, count: int, say: Say) -> None:
        """Every floor, every method of ours and of mergekit, once each, in turn."""
        if self._settings.floor:
            for kind in FLOORS if self._models.averaged_by_numpy else FLOORS[:1]:
                usage = self._floor(kind, count)
                self.runs.floors.setdefault((count, kind), []).append(usage)
                say(f"M = {count}, floor {kind}: {usage.seconds:.2f} s")
        for method in self._settings.methods:
            usage = self._ours(method, count)
            self.runs.ours.setdefault((count, method), []).append(usage)
            say(f"M = {count}, {method}: {usage.seconds:.2f} s")
            their = self._theirs(method, count)
            if their is not None:
                self.runs.mergekit.setdefault((count, method), []).append(their)
                say(f"M = {count}, {method}, mergekit: {their.seconds:.2f} s")
            self.take_back()

    def _ours(self, method: str, count: int) -> Usage:
        return self.merge(method, count, self._settings.options)

    def merge(self, method: str, count: int, given: Sequence[str] = ()) -> Usage:
        """A ``git merge`` of the first ``count`` branches; ``given`` are further options."""
        options = [f"method={method}", *given]
        words = [word for option in options for word in ("-X", option)]
        usage = self._clone.git("merge", "--quiet", *words, *self._models.branches(count))
        parents = self._clone.quietly("log", "-1", "--format=%P").split()
        if len(parents) != count + 1:
            raise BenchmarkFailed(f"'git merge' of {count} models by {method} made no merge commit")
        status = self._clone.git("status", "--short")
        if status.output.strip():
            raise BenchmarkFailed(f"after a merge by {method} 'git status' says: {status.output}")
        started = usage.started(*FILTERS) + status.started(*FILTERS)
        key = (count, method)
        self.runs.filters[key] = max(started, self.runs.filters.get(key, 0))
        return usage

    def _theirs(self, method: str, count: int) -> Usage | None:
        if self._mergekit is None:
            return None
        files = [self._models.file(number) for number in range(1, count + 1)]
        configuration = peers.configuration(method, files, self._models.file(0))
        if configuration is None:
            return None
        config = self._scratch.folder / "mergekit.yaml"
        config.write_text(configuration)
        usage = measure(
            [self._mergekit, config, self._fresh_output()],
            folder=self._scratch.folder,
            environment=self._scratch.environment("mergekit"),
        )
        if method in peers.SAME_FORMULA and (count, method) not in self.runs.distances:
            self.runs.distances[count, method] = self._models.distance(
                self._clone.folder, self._output
            )
        shutil.rmtree(self._output)
        return usage

    def _floor(self, kind: str, count: int) -> Usage:
        inputs = [self._models.folder(number) for number in range(1, count + 1)]
        usage = measure(
            [
                sys.executable,
                "-m",
                "gitmerge_eval.bench.floor",
                kind,
                self._fresh_output(),
                *inputs,
            ],
            folder=self._scratch.folder,
            environment=self._scratch.environment("floor"),
        )
        shutil.rmtree(self._output)
        return usage

    def _fresh_output(self) -> Path:
        if self._output.exists():
            shutil.rmtree(self._output)
        self._output.mkdir()
        return self._output

    def take_back(self) -> None:
        """The repository as it was: no merge may profit from what an earlier one left."""
        clone = self._clone
        clone.quietly("reset", "--quiet", "--hard", self._start)
        for path in _files(_objects(clone)) - self._objects:
            path.unlink()
        shutil.rmtree(_state(clone), ignore_errors=True)
        if self._saved.exists():
            shutil.copytree(self._saved, _state(clone))
        # The index learns the times of the file that 'reset' wrote.
        clone.quietly("status", "--short")


def _objects(clone: Clone) -> Path:
    return clone.folder / ".git" / "lfs" / "objects"


def _state(clone: Clone) -> Path:
    """What the tool keeps in a repository: records, kept results."""
    return clone.folder / ".git" / "gitmerge-eval"


def _files(folder: Path) -> set[Path]:
    return {Path(parent) / name for parent, _, names in os.walk(folder) for name in names}


def _table(settings: Settings, runs: Runs, bound: int) -> Table:
    rows = []
    for (count, method), usages in runs.ours.items():
        key = (count, method)
        row: dict[str, Any] = {"models": count, "method": method, "aim": AIMS.get(method)}
        row |= columns_of("ours", Summary.of(usages))
        row |= {"filters": runs.filters[key], "bound_bytes": bound}
        row["difference"] = runs.distances.get(key)
        if key in runs.mergekit:
            row |= columns_of("mergekit", Summary.of(runs.mergekit[key]))
        row["ratio"] = ratio(row["ours_seconds"], row.get("mergekit_seconds"))
        row["cpu_ratio"] = ratio(row["ours_cpu_seconds"], row.get("mergekit_cpu_seconds"))
        if (count, FLOORS[0]) in runs.floors:
            least = Summary.of(runs.floors[count, FLOORS[0]]).seconds
            row |= {"floor_seconds": least, "floor_ratio": ratio(row["ours_seconds"], least)}
            row["mergekit_floor_ratio"] = ratio(row.get("mergekit_seconds"), least)
        rows.append(row)
    columns = [
        Column("models", "M", "count"),
        Column("method", "method"),
        *measured("ours", "ours"),
        Column("filters", "filters", "count"),
    ]
    if settings.floor:
        columns.append(Column("floor_ratio", "ours / floor", "ratio"))
    if settings.mergekit is not None:
        columns += [
            *measured("mergekit", "mergekit"),
            Column("ratio", "ours / mergekit", "ratio"),
            Column("aim", "aim", "ratio"),
            Column("difference", "largest difference", "small"),
        ]
    return Table("git merge of M models", columns, rows)


def _floor_table(runs: Runs) -> Table:
    rows = [
        {"models": count, "program": _FLOOR_NAMES[kind], **columns_of("floor", Summary.of(usages))}
        for (count, kind), usages in runs.floors.items()
    ]
    columns = [
        Column("models", "M", "count"),
        Column("program", "program"),
        *measured("floor", "floor"),
    ]
    return Table("floor", columns, rows)


_FLOOR_NAMES: Mapping[str, str] = {
    "torch": "safetensors: read the inputs, write one",
    "numpy": "mapped memory: the average, written",
}


def _remarks(settings: Settings, bound: int) -> list[str]:
    found = [
        f"peak memory aimed at: {bound / 1e6:.0f} MB (700 MB and four times the largest group), "
        "for any number of models",
        "filters: how many times Git started a checkpoint filter in the merge and in the "
        "'git status' after it",
    ]
    if settings.floor:
        found.append(
            "floor: a process that reads the inputs and writes the output by plain safetensors, "
            "'import torch' included; aimed at: twice its time for the average of 24 models"
        )
    if settings.mergekit is not None:
        found += [
            f"{method}: {peers.DIFFERENCES[method]}"
            for method in settings.methods
            if method in peers.DIFFERENCES
        ]
    return found
