"""``bench sweep``: ten option values at once against one ``git merge`` of the same method.

Evaluation apart: the sweep ends when ten checkpoint files are there, the merge with a commit. MaTS'
merge makes as many steps as the longest of the sweep.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gitmerge_eval import methods
from gitmerge_eval.bench import machine, sweep_pass
from gitmerge_eval.bench.merge import Session
from gitmerge_eval.bench.merge import Settings as MergeSettings
from gitmerge_eval.bench.models import Models
from gitmerge_eval.bench.processes import Summary, Usage, measure
from gitmerge_eval.bench.report import Column, Report, Table, columns_of, measured, ratio
from gitmerge_eval.bench.scratch import Scratch

AIMS = {"task-arithmetic": 1.5, "ties": 1.5, "mats": 1.5, "regmean": 3.0}
"""The most that a sweep of ten values may take, in times of one merge."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """What is measured."""

    methods: tuple[str, ...] = tuple(AIMS)
    models: int = 5
    size_bytes: int = 351_000_000
    repeat: int = 3
    noise: str = "dense"
    folder: Path | None = None


@dataclass
class _Runs:
    merges: dict[str, list[Usage]] = field(default_factory=dict)
    sweeps: dict[str, list[Usage]] = field(default_factory=dict)


def run(settings: Settings, say: Say = lambda line: None) -> Report:
    """Measure everything; PrerequisiteError where the disk is too small."""
    described, runs = machine.described(), _Runs()
    declared = [methods.get(name) for name in settings.methods]
    kinds = tuple({kind: None for one in declared for kind in one.statistics(one.options({}))})
    with Scratch(settings.folder) as scratch:
        models = Models.of(settings.size_bytes, settings.noise, sharded=False)
        needed = models.needed_bytes(settings.models, kinds, plain=False)
        machine.required_space(scratch.folder, needed + sweep_pass.VALUES * models.bytes)
        clone = models.build(scratch, settings.models, kinds, plain=False, say=say)
        branches = models.branches(settings.models)
        merging = MergeSettings(settings.methods, (settings.models,), settings.size_bytes)
        session = Session(merging, scratch, clone, models)
        for number in range(1, settings.repeat + 1):
            for name in settings.methods:
                _, given = sweep_pass.given(name)
                usage = session.merge(name, settings.models, _texts(given[-1]))
                runs.merges.setdefault(name, []).append(usage)
                session.take_back()
                say(f"round {number}, one merge by {name}: {usage.seconds:.2f} s")
                usage = _swept(scratch, clone.folder, name, branches)
                runs.sweeps.setdefault(name, []).append(usage)
                say(f"round {number}, a sweep of {name}: {usage.seconds:.2f} s")
    shown = {
        "models": f"{settings.models}, {models.described}",
        "values": sweep_pass.VALUES,
        "repeat": settings.repeat,
    }
    return Report("sweep", described, shown, [_table(settings, runs)], _REMARKS)


def _texts(given: dict[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in given.items()]


def _swept(scratch: Scratch, folder: Path, method: str, branches: list[str]) -> Usage:
    output = scratch.folder / "candidates"
    output.mkdir()
    try:
        return measure(
            [sys.executable, "-m", "gitmerge_eval.bench.sweep_pass", method, output, *branches],
            folder=folder,
            environment=scratch.environment("gitmerge-eval"),
        )
    finally:
        shutil.rmtree(output)


def _table(settings: Settings, runs: _Runs) -> Table:
    rows = []
    for name in settings.methods:
        row: dict[str, Any] = {"method": name, "aim": AIMS.get(name)}
        row["swept"] = sweep_pass.given(name)[0].replace("_", "-")
        row |= columns_of("merge", Summary.of(runs.merges[name]))
        row |= columns_of("sweep", Summary.of(runs.sweeps[name]))
        row["ratio"] = ratio(row["sweep_seconds"], row["merge_seconds"])
        row["cpu_ratio"] = ratio(row["sweep_cpu_seconds"], row["merge_cpu_seconds"])
        rows.append(row)
    columns = [
        Column("method", "method"),
        Column("swept", "option"),
        *measured("merge", "one merge"),
        *measured("sweep", "sweep"),
        Column("ratio", "sweep / merge", "ratio"),
        Column("cpu_ratio", "of CPU time", "ratio"),
        Column("aim", "aim", "ratio"),
    ]
    return Table("ten values against one merge", columns, rows)


_REMARKS = (
    "one merge: 'git merge' with the last of the ten values, from its start to the commit, with "
    "the statistics that it carries along and the work-tree file",
    "sweep: a process that plans the ten merges and writes ten checkpoint files; nothing is "
    "evaluated",
)
