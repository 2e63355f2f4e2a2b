"""Trials: merges that are computed, scored and recorded, but for those that are known already."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from gitmerge_eval.costs import Cost
from gitmerge_eval.evaluation import summaries
from gitmerge_eval.evaluation.evaluating import FOLDER, Scorer, results_path
from gitmerge_eval.evaluation.results import Results, open_results
from gitmerge_eval.evaluation.runs import Run, Runs, identity_of, is_nameless, open_runs
from gitmerge_eval.evaluation.subjects import Model, Subject, models_of
from gitmerge_eval.evaluation.workspace import Workspace, workspace
from gitmerge_eval.git import scratch
from gitmerge_eval.git.repository import Repository
from gitmerge_eval.merging import candidates
from gitmerge_eval.merging.candidates import CandidateFile, PassCost
from gitmerge_eval.merging.devices import DEFAULT_RESOURCES, Resources
from gitmerge_eval.merging.flops import statistics_flops
from gitmerge_eval.merging.merge import trailer_options
from gitmerge_eval.merging.planning import CheckpointPlan
from gitmerge_eval.studies.planner import Planner

Statuses = Mapping[str, Sequence[str]]
"""'held-in' and 'generalization' -> the tasks to score."""


@dataclass(frozen=True)
class Trial:
    """One merge to try."""

    plan: CheckpointPlan
    given: Mapping[str, str]
    """The options that were asked for, as text."""
    constituents: tuple[tuple[str, str], ...]
    """(name, identity), in the order of the heads."""
    sample: int = 0


@dataclass(frozen=True)
class Step:
    """How far a study is."""

    method: str
    doing: str
    """'merging', or what is being scored on what."""
    run: Run | None = None
    """A trial that was just finished, or was known."""
    total: int = 0
    done: int = 0
    remaining_seconds: float | None = None
    """None as long as nothing was computed."""


Watch = Callable[[Step], None]


@dataclass
class Study:
    """A sweep or a scaling under way; made by :func:`study`."""

    planner: Planner
    source: str
    digest: str
    results: Results
    runs: Runs
    room: Workspace
    folder: Path
    device: str
    resources: Resources = DEFAULT_RESOURCES
    watch: Watch = lambda step: None
    total: int = 0
    """Trials in all, as far as is known."""
    done: int = 0
    computed: int = 0
    """Trials that were computed or scored, and not known already."""
    started: float = field(default_factory=time.monotonic)
    _scorers: dict[str, Scorer] = field(default_factory=dict)
    _known: dict[tuple[int, str], Run] = field(default_factory=dict)
    _costs: dict[str, Run] = field(default_factory=dict)
    _baselines: tuple[Model, ...] = ()
    remarks: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for run in self.runs.find():
            self._costs[run.spec] = run
            if (run.source, run.study) == (self.source, self.digest):
                self._known[run.sample, run.spec] = run
        models, remarks = models_of(self.repository, self.subject)
        self._merged, *baselines = models
        self._baselines = tuple(baselines)
        self.remarks += [*self.planner.remarks, *remarks]

    @property
    def repository(self) -> Repository:
        """Where the models are."""
        return self.planner.repository

    @property
    def subject(self) -> Subject:
        """The merge of all constituents: benchmark and tasks."""
        return self.planner.subject

    def score_baselines(self, split: str) -> None:
        """The pretrained, individual and multitask models on their tasks."""
        scorer = self._scorer(split)
        scorer.score(self._baselines, lambda step: self._tell("", f"{step.model} on {step.task}"))
        self.remarks += [r for r in scorer.remarks if r not in self.remarks]

    def family(
        self, trials: Sequence[Trial], parameter: str | None, split: str, statuses: Statuses
    ) -> list[Run]:
        """The runs of trials that differ in ``parameter``: those that are not known are computed
        by shared passes, as many at a time as the disk has room for, and scored."""
        found: dict[str, Run] = {}
        missing = []
        for trial in trials:
            if run := self._finished(trial, split, statuses):
                found[trial.plan.spec.digest] = run
                self._finish(trial, run)
            else:
                missing.append(trial)
        while missing:
            count = self._room_for(missing[0].plan)
            batch, missing = missing[:count], missing[count:]
            for trial, run in self._computed(batch, parameter, split, statuses):
                found[trial.plan.spec.digest] = run
                self.computed += 1
                self._finish(trial, run)
        return [found[trial.plan.spec.digest] for trial in trials]

    def alone(self, trial: Trial, run: Run, split: str, statuses: Statuses) -> Run:
        """``run`` with the scores of the merge that ``git merge`` would make of the trial, by its
        own blob, and with what that merge costs."""
        scorer = self._scorer(split)
        if run.chosen and not is_nameless(run.checkpoint):
            model = self._model(trial, statuses, blob=run.checkpoint.partition("+")[0])
            if not scorer.missing([model]):
                return self._with_scores(run, scorer, model, split, statuses)
        self._tell(trial.plan.method.name, "merging")
        file, cost = candidates.compute_alone(
            trial.plan, self.repository, self.folder, resources=self.resources
        )
        model = self._model(trial, statuses, blob=file.blob, file=file.file)
        chosen = replace(
            run, checkpoint=model.identity, chosen=True, cost=self._cost(trial, file, cost, 1)
        )
        return self._scored(chosen, trial, file, model, split, statuses)

    def _computed(
        self, trials: Sequence[Trial], parameter: str | None, split: str, statuses: Statuses
    ) -> Iterator[tuple[Trial, Run]]:
        first = trials[0].plan
        self._tell(first.method.name, "merging")
        files, cost = candidates.compute_candidates(
            [trial.plan for trial in trials],
            parameter,
            self.repository,
            self.folder,
            resources=self.resources,
        )
        for trial, file in zip(trials, files, strict=True):
            name = identity_of(trial.plan.spec.digest)
            model = self._model(trial, statuses, blob=name, file=file.file)
            run = self._run(trial, model.identity, self._cost(trial, file, cost, len(trials)))
            yield trial, self._scored(run, trial, file, model, split, statuses)

    def _scored(
        self,
        run: Run,
        trial: Trial,
        file: CandidateFile,
        model: Model,
        split: str,
        statuses: Statuses,
    ) -> Run:
        """``run`` with the model's scores, recorded; the file is removed."""
        for name, content in file.plain.items():
            (file.file.parent / name).write_bytes(content)
        scorer = self._scorer(split)
        scorer.score(
            [model], lambda step: self._tell(trial.plan.method.name, f"{step.model} on {step.task}")
        )
        shutil.rmtree(file.file.parent)
        return self._with_scores(run, scorer, model, split, statuses)

    def _with_scores(
        self, run: Run, scorer: Scorer, model: Model, split: str, statuses: Statuses
    ) -> Run:
        table = scorer.table(model.identity, self._baselines, statuses)
        seconds = sum(scorer.scores[model.identity, score.task].seconds for score in table)
        seconds = run.evaluation_seconds or seconds
        scores = {**run.scores, split: table}
        complete = replace(run, scores=scores, evaluation_seconds=seconds)
        if complete != self._known.get((run.sample, run.spec)):
            self.runs.store([complete])
            self._known[run.sample, run.spec] = complete
        self._costs[run.spec] = complete
        return complete

    def _finished(self, trial: Trial, split: str, statuses: Statuses) -> Run | None:
        """The run of a trial whose scores are all known for the data of today, else None."""
        spec = trial.plan.spec.digest
        model = self._model(trial, statuses, blob=identity_of(spec))
        scorer = self._scorer(split)
        if scorer.missing([model]) or spec not in self._costs:
            return None
        known = self._known.get((trial.sample, spec))
        run = known or self._run(trial, model.identity, self._costs[spec].cost)
        return self._with_scores(run, scorer, model, split, statuses)

    def _run(self, trial: Trial, identity: str, cost: Cost) -> Run:
        plan, benchmark = trial.plan, self.subject.benchmark
        chosen = self.planner.options(plan.method.name, trial.given)
        return Run(
            spec=plan.spec.digest,
            path=plan.spec.path,
            method=plan.method.name,
            options=trailer_options(plan.options, plan.spec.accumulate, chosen, plan.rank or 0),
            constituents=trial.constituents,
            base=plan.spec.base,
            checkpoint=identity,
            benchmark=benchmark.name,
            settings=dict(self.subject.declaration.settings),
            evaluator_version=benchmark.evaluator_version,
            metric=benchmark.metric,
            scores={},
            cost=cost,
            source=self.source,
            study=self.digest,
            sample=trial.sample,
        )

    def _cost(self, trial: Trial, file: CandidateFile, cost: PassCost, shared: int) -> Cost:
        plan = trial.plan
        return Cost(
            seconds=cost.seconds / shared,
            shared=shared,
            peak_memory_bytes=cost.peak_memory_bytes,
            read_bytes=cost.read_bytes,
            written_bytes=plan.written_bytes,
            flops=plan.merging_flops,
            statistics_flops=statistics_flops(plan),
            device=cost.device,
            reused_groups=file.reused_groups,
        )

    def _model(
        self, trial: Trial, statuses: Statuses, *, blob: str, file: Path | None = None
    ) -> Model:
        tasks = tuple(task for tasks in statuses.values() for task in tasks)
        label = " ".join(
            [trial.plan.method.name, *(f"{name}={value}" for name, value in trial.given.items())]
        )
        return replace(self._merged, label=label, blob=blob, tasks=tasks, file=file)

    def _scorer(self, split: str) -> Scorer:
        if split not in self._scorers:
            self._scorers[split] = Scorer(
                self.repository, self.subject, split, self.device, self.results, self.room, False
            )
        return self._scorers[split]

    def _room_for(self, plan: CheckpointPlan) -> int:
        """How many candidates fit into half of what the disk has left; one at least."""
        free = shutil.disk_usage(self.folder).free
        return max(1, int(free // 2 // max(candidates.result_bytes(plan), 1)))

    def _finish(self, trial: Trial, run: Run) -> None:
        self.done += 1
        self._tell(trial.plan.method.name, "", run)

    def _tell(self, method: str, doing: str, run: Run | None = None) -> None:
        left = max(self.total - self.done, 0)
        remaining = None
        if self.computed:
            remaining = (time.monotonic() - self.started) / self.computed * left
        self.watch(Step(method, doing, run, self.total, self.done, remaining))


@contextmanager
def study(
    planner: Planner,
    source: str,
    digest: str,
    *,
    device: str = "auto",
    resources: Resources = DEFAULT_RESOURCES,
    watch: Watch = lambda step: None,
) -> Iterator[Study]:
    """A study whose working folder goes with the block; what is known of it is found again.

    Raises EvaluationError where the cache of scores cannot be opened.
    """
    repository = planner.repository
    scratch.sweep(repository)
    own = repository.common_directory / FOLDER
    with (
        summaries.in_use(own),
        open_results(results_path(repository)) as results,
        open_runs(results_path(repository)) as runs,
        workspace(repository, own / "evaluated") as room,
        scratch.scratch_folder(repository) as folder,
    ):
        yield Study(planner, source, digest, results, runs, room, folder, device, resources, watch)
