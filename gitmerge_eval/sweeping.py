"""Try every method over a grid of options, and choose: the use case behind ``gitmerge-eval sweep``.

Candidates are files in the git directory, scored and thrown away; none becomes a commit. What is
known of a sweep is found again when it is repeated, so that a killed one goes on where it was.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gitmerge_eval import methods
from gitmerge_eval.errors import GitError, InvalidOption, PrerequisiteError
from gitmerge_eval.evaluation.runs import Run
from gitmerge_eval.git import programs, trailers
from gitmerge_eval.git.repository import Repository
from gitmerge_eval.merging.devices import DEFAULT_RESOURCES, Resources
from gitmerge_eval.merging.merge import check_state
from gitmerge_eval.merging.options import text_of
from gitmerge_eval.records import NUMERIC_VERSION, canonical_json
from gitmerge_eval.studies.executor import HERE, Statuses, Trial, Where
from gitmerge_eval.studies.grid import Grid, grid
from gitmerge_eval.studies.planner import Planner
from gitmerge_eval.studies.trials import Family, Study, Watch, study

HELD_IN = "heldin-validation"
CRITERIA = {HELD_IN: "held-in", "generalization": "generalization", "none": ""}
"""What the choice is made by -> the tasks whose average on validation data decides."""


@dataclass(frozen=True)
class Settings:
    """What is tried, and how the best is chosen."""

    methods: tuple[str, ...] = ()
    """None of them: all that these heads can be merged by."""
    select: str = HELD_IN
    grid: tuple[str, ...] = ()
    """``method.option=v1,v2``: own values in the place of the paper's."""
    brief: bool = False
    """Whether candidates are scored on the tasks that decide alone."""
    checkpoint: str | None = None
    device: str = "auto"
    resources: Resources = DEFAULT_RESOURCES
    where: Where = HERE


@dataclass(frozen=True)
class Sweep:
    """What a sweep found."""

    digest: str
    benchmark: str
    metric: str
    select: str
    path: str
    candidates: tuple[Run, ...]
    chosen: Mapping[str, Run] = field(default_factory=dict)
    """method -> its best candidate, with the scores of the merge itself on test data."""
    winner: Run | None = None
    skipped: Mapping[str, str] = field(default_factory=dict)
    """method -> why it cannot merge these heads."""
    computed: int = 0
    """Candidates that were not known from before."""
    remarks: tuple[str, ...] = ()

    def score(self, run: Run) -> float | None:
        """What the choice looks at: an average on validation data."""
        return run.average(CRITERIA[self.select], "validation") if self.select != "none" else None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "sweep": self.digest,
            "benchmark": self.benchmark,
            "metric": self.metric,
            "select": self.select,
            "path": self.path,
            "candidates": [_described(run) for run in self.candidates],
            "chosen": {method: _described(run) for method, run in self.chosen.items()},
            "winner": _described(self.winner) if self.winner else None,
            "skipped": dict(self.skipped),
            "computed": self.computed,
            "remarks": list(self.remarks),
        }


def sweep(
    repository: Repository,
    revisions: Sequence[str],
    settings: Settings | None = None,
    watch: Watch = lambda step: None,
) -> Sweep:
    """Merge ``revisions`` into HEAD by every method and option of the grid, and score the results.

    Each method's best candidate, by its average on validation data, is scored on test data, with
    the baselines. Without a choice (select 'none') all are scored on test data. Raises UsageError
    for a wrong option, PrerequisiteError where a method that was named cannot be used, and what
    merging and evaluating raise.
    """
    settings = settings or Settings()
    if settings.select not in CRITERIA:
        raise InvalidOption(
            f"option 'select' is '{settings.select}', which is not one of {', '.join(CRITERIA)}"
        )
    planner = Planner(repository, revisions, settings.checkpoint)
    names, skipped = _usable(planner, settings.methods)
    own = [text for text in settings.grid if text.partition(".")[0] not in skipped]
    options = grid(names, own)
    digest = _digest(planner, options, settings)
    with study(
        planner,
        "sweep",
        digest,
        device=settings.device,
        resources=settings.resources,
        where=settings.where,
        watch=watch,
    ) as under_way:
        under_way.total = sum(options.size(name) for name in options.axes)
        found = _Sweeping(under_way, options, settings).run()
        return Sweep(
            digest=digest,
            benchmark=planner.subject.benchmark.name,
            metric=planner.subject.benchmark.metric,
            select=settings.select,
            path=planner.subject.path,
            candidates=found.candidates,
            chosen=found.chosen,
            winner=found.winner,
            skipped=skipped,
            computed=under_way.computed,
            remarks=tuple(under_way.remarks),
        )


@dataclass(frozen=True)
class _Found:
    candidates: tuple[Run, ...]
    chosen: Mapping[str, Run]
    winner: Run | None


@dataclass
class _Sweeping:
    """One sweep under way."""

    study: Study
    grid: Grid
    settings: Settings

    def run(self) -> _Found:
        """Every candidate, then the best ones."""
        found: dict[str, list[tuple[Trial, Run]]] = {}
        best: dict[str, tuple[Trial, Run]] = {}
        if self.settings.select == "none":
            self.study.score_baselines("test")
        while waiting := [method for method in self.grid.axes if method not in found]:
            # What takes over a value comes after the method that it takes it from.
            ready = [m for m in waiting if self.grid.takes_from(m).isdisjoint(waiting)]
            found |= self._candidates(ready, {name: pair[0].given for name, pair in best.items()})
            if self.settings.select != "none":
                for method in ready:
                    best[method] = max(found[method], key=lambda pair: self._score(pair[1]))
        chosen = self._on_test_data({method: best[method] for method in self.grid.axes if best})
        winner = max(chosen.values(), key=self._score, default=None)
        by_spec = {run.spec: run for run in chosen.values()}
        candidates = [run for method in self.grid.axes for _, run in found[method]]
        return _Found(tuple(by_spec.get(run.spec, run) for run in candidates), chosen, winner)

    def _candidates(
        self, methods: Sequence[str], best: Mapping[str, Mapping[str, str]]
    ) -> dict[str, list[tuple[Trial, Run]]]:
        """method -> its candidates, in the order of the grid."""
        planner, tried = self.study.planner, list[Trial]()

        def families() -> Iterator[Family]:
            for method in methods:
                for family in self.grid.families(method, best):
                    trials = tuple(
                        Trial(planner.plan(method, given), given, planner.constituents, self._tasks)
                        for given in family.given
                    )
                    tried.extend(trials)
                    yield Family(trials, family.parameter)

        split = "test" if self.settings.select == "none" else "validation"
        runs = self.study.runs_of(families(), split)
        found: dict[str, list[tuple[Trial, Run]]] = {method: [] for method in methods}
        for trial, run in zip(tried, runs, strict=True):
            found[run.method].append((trial, run))
        return found

    @property
    def _tasks(self) -> Statuses:
        """What candidates are scored on."""
        subject, wanted = self.study.subject, CRITERIA[self.settings.select]
        every = {"held-in": subject.held_in, "generalization": subject.generalization}
        if self.settings.brief and wanted:
            return {wanted: every[wanted]}
        return every

    def _on_test_data(self, best: Mapping[str, tuple[Trial, Run]]) -> dict[str, Run]:
        if not best:
            return {}
        self.study.score_baselines("test")
        subject = self.study.subject
        every = {"held-in": subject.held_in, "generalization": subject.generalization}
        pairs = [(replace(trial, statuses=every), run) for trial, run in best.values()]
        return dict(zip(best, self.study.chosen(pairs, "test"), strict=True))

    def _score(self, run: Run) -> float:
        """The first of equals wins: the smallest value, the simplest method."""
        found = run.average(CRITERIA[self.settings.select], "validation")
        if found is None:
            raise InvalidOption(
                "these constituents span no task of generalization to choose by; use "
                f"--select {HELD_IN}"
            )
        return found


def merge_winner(repository: Repository, revisions: Sequence[str], found: Sweep) -> str:
    """Make the winner the merge commit by ``git merge``, its trailers naming the sweep; its id.

    Raises GitError where the merge fails, or is not the merge that the sweep chose.
    """
    winner = found.winner
    if winner is None:
        raise InvalidOption("a sweep without a choice has no winner; leave out --select none")
    given = {name: value for name, value in winner.options.items() if name != "accumulate"}
    options = [f"method={winner.method}", *(f"{n}={text_of(v)}" for n, v in given.items())]
    score, count = found.score(winner), len(found.candidates)
    candidates = "candidate" if count == 1 else "candidates"
    told = f"{found.digest} {found.select} {score:.4f} of {count} {candidates}"
    environment = {
        trailers.SWEEP_VARIABLE: told,
        "PATH": f"{programs.scripts_folder()}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
    }
    arguments = ["merge", "--no-edit", *(f"--strategy-option={option}" for option in options)]
    done = repository.run(*arguments, *revisions, environment=environment, check=False)
    if done.status:
        raise GitError(f"'git merge' of the winner failed ({done.status}): {done.stderr}")
    record = trailers.read(repository, "HEAD")
    if record is None or (winner.spec, winner.path) not in record.specs:
        raise GitError(
            "the merge was made, but not of what the sweep chose: the heads have moved meanwhile; "
            "take it back with 'git reset --merge HEAD^' and repeat the sweep"
        )
    return repository.commit("HEAD")


def check_mergeable(repository: Repository, revisions: Sequence[str]) -> None:
    """MergeRefused where ``git merge`` would be refused, before hours are spent on a sweep."""
    check_state(repository, Planner(repository, revisions).paths)


def _usable(planner: Planner, named: Sequence[str]) -> tuple[tuple[str, ...], dict[str, str]]:
    """The methods whose prerequisites are met; why not the others, unless they were named."""
    usable, skipped = [], {}
    for name in named or methods.load():
        try:
            planner.plan(name, {})
            usable.append(name)
        except PrerequisiteError as error:
            if named:
                raise
            skipped[name] = str(error)
    return tuple(usable), skipped


def _digest(planner: Planner, options: Grid, settings: Settings) -> str:
    """The SHA-256 over all that makes two sweeps the same one, but for the data's bytes."""
    content = {
        **planner.identity,
        "grid": options.as_dict(),
        "select": settings.select,
        "numeric_version": NUMERIC_VERSION,
    }
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def _described(run: Run) -> dict[str, Any]:
    """A run for JSON, with its averages."""
    averages = {
        split: {status: run.average(status, split) for status in ("held-in", "generalization")}
        for split in run.scores
    }
    return {**run.as_dict(), "averages": averages}
