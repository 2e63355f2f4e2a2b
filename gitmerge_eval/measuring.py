"""What each method gives on a benchmark's recipe: real repositories, real merges, real notes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory

from gitmerge_eval import building, methods
from gitmerge_eval.errors import GitError
from gitmerge_eval.evaluation import evaluating
from gitmerge_eval.evaluation.note import EvaluationNote
from gitmerge_eval.git import programs
from gitmerge_eval.git.repository import Repository

BASELINES = ("pretrained", "multitask")
INDIVIDUAL = "individual"


@dataclass(frozen=True)
class Measurement:
    """Held-in and generalization averages of one model, in the benchmark's metric."""

    seed: int
    name: str
    """A method, or a baseline."""
    options: str
    heldin: float
    generalization: float | None
    """None for the individual models: each is measured on its own task alone."""


def measure(
    name: str,
    seeds: Sequence[int],
    *,
    options: Mapping[str, Sequence[str]] | None = None,
    chosen: Sequence[str] | None = None,
    progress: Callable[[str, int, int], object] = lambda what, done, total: None,
    say: Callable[[str], None] = lambda line: None,
) -> list[Measurement]:
    """Build the recipe ``name`` for each seed and merge all its constituents by each method.

    ``options`` maps a method to its strategy options; defaults elsewhere. Every number is read
    from the note of a merge commit that ``git merge`` made. Raises GitError where a merge fails.
    """
    found: list[Measurement] = []
    for seed in seeds:
        with TemporaryDirectory(prefix="gitmerge-eval-") as folder:
            built = building.build(name, Path(folder) / "model", seed=seed, progress=progress)
            say(f"seed {seed}: built in {built.seconds:.0f} s")
            repository = Repository(built.directory)
            repository.run("config", "merge-eval.evaluate", "off")
            for method in chosen or tuple(methods.load()):
                extra = list((options or {}).get(method, ()))
                note = _merged(repository, built.constituents, method, extra)
                if not any(m.seed == seed for m in found):
                    found += _baselines(seed, note)
                found.append(_measurement(seed, method, " ".join(extra), note))
                last = found[-1]
                say(f"seed {seed}: {method} {last.heldin:.1f} / {last.generalization:.1f}")
    return found


def averages(measurements: Sequence[Measurement]) -> dict[str, tuple[float, float | None]]:
    """name -> (held-in, generalization), averaged over the seeds."""
    result: dict[str, tuple[float, float | None]] = {}
    for name in dict.fromkeys(m.name for m in measurements):
        own = [m for m in measurements if m.name == name]
        open_cells = [m.generalization for m in own if m.generalization is not None]
        result[name] = (fmean(m.heldin for m in own), fmean(open_cells) if open_cells else None)
    return result


def markdown(measurements: Sequence[Measurement]) -> str:
    """A table with a row for each model and a column for each seed, and their average."""
    seeds = sorted({m.seed for m in measurements})
    lines = [
        "| model | options | " + " | ".join(f"seed {seed}" for seed in seeds) + " | average |",
        "|---" * (len(seeds) + 3) + "|",
    ]
    for name, (heldin, open_cells) in averages(measurements).items():
        own = {m.seed: m for m in measurements if m.name == name}
        cells = [_cell(own[seed].heldin, own[seed].generalization) for seed in seeds]
        options = next(iter(own.values())).options or " "
        lines.append(f"| {name} | {options} | {' | '.join(cells)} | {_cell(heldin, open_cells)} |")
    return "\n".join(lines)


def as_records(measurements: Sequence[Measurement]) -> list[dict[str, object]]:
    """For JSON."""
    return [asdict(measurement) for measurement in measurements]


def _merged(
    repository: Repository, heads: Sequence[str], method: str, options: Sequence[str]
) -> EvaluationNote:
    before = repository.commit("HEAD")
    path = f"{programs.scripts_folder()}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    arguments = [f"--strategy-option={option}" for option in (f"method={method}", *options)]
    done = repository.run("merge", *arguments, *heads, environment={"PATH": path}, check=False)
    if done.status:
        raise GitError(f"'git merge' by {method} failed ({done.status}): {done.stderr}")
    try:
        return evaluating.evaluate(repository, "HEAD")
    finally:
        repository.run("reset", "--quiet", "--hard", before)


def _measurement(seed: int, method: str, options: str, note: EvaluationNote) -> Measurement:
    heldin, open_cells = note.average("held-in"), note.average("generalization")
    assert heldin is not None
    return Measurement(seed, method, options, heldin, open_cells)


def _baselines(seed: int, note: EvaluationNote) -> list[Measurement]:
    found = []
    for role in (*BASELINES, INDIVIDUAL):
        heldin = note.average("held-in", role)
        if heldin is not None:
            open_cells = note.average("generalization", role) if role != INDIVIDUAL else None
            found.append(Measurement(seed, role, "", heldin, open_cells))
    return found


def _cell(heldin: float, open_cells: float | None) -> str:
    return f"{heldin:.1f} / {'' if open_cells is None else f'{open_cells:.1f}'}"
