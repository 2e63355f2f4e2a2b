"""Trials: merges that are computed, scored and recorded, but for those that are known already."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

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
from gitmerge_eval.merging.devices import DEFAULT_RESOURCES, Resources
from gitmerge_eval.merging.flops import statistics_flops
from gitmerge_eval.merging.planning import CheckpointPlan
from gitmerge_eval.merging.provenance import trailer_options
from gitmerge_eval.studies.executor import (
    HERE,
    Executor,
    Finished,
    Pass,
    Statuses,
    Trial,
    Where,
    started,
)
from gitmerge_eval.studies.planner import Planner


@dataclass(frozen=True)
class Family:
    """Trials that differ in ``parameter``, for which their method shares work."""

    trials: tuple[Trial, ...]
    parameter: str | None = None


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
    executor: Executor
    device: str
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
        self.remarks += self.runs.remarks
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
        self.executor.score(self._baselines, scorer, self._tell)
        self.remarks += [r for r in scorer.remarks if r not in self.remarks]

    def runs_of(self, families: Iterable[Family], split: str) -> list[Run]:
        """The runs of all trials, in their order: those that are not known are computed by shared
        passes, as many at a time as the disk has room for, and scored."""
        asked: list[tuple[int, str]] = []
        found: dict[tuple[int, str], Run] = {}
        waiting: list[Trial] = []

        def keep(trial: Trial, run: Run) -> None:
            found[trial.sample, trial.spec] = run
            self._finish(trial, run)

        def passes() -> Iterator[Pass]:
            under_way: set[str] = set()
            for family in families:
                missing = []
                for trial in family.trials:
                    asked.append((trial.sample, trial.spec))
                    if run := self._finished(trial, split):
                        keep(trial, run)
                    elif trial.spec in under_way:
                        waiting.append(trial)  # another sample's, that is being computed
                    else:
                        under_way.add(trial.spec)
                        missing.append(trial)
                while missing:
                    count = self._room_for(missing[0].plan)
                    yield Pass(tuple(missing[:count]), family.parameter)
                    missing = missing[count:]

        scorer = self._scorer(split)
        for done in self.executor.run(passes(), self._model, scorer, self._tell):
            run = self._run(done.trial, done.model.identity, self._cost(done))
            self.computed += 1
            keep(done.trial, self._with_scores(run, scorer, done.model, split, done.trial.statuses))
        for trial in waiting:
            run_now = self._finished(trial, split)
            assert run_now is not None, "its twin was scored on the same tasks"
            keep(trial, run_now)
        return [found[key] for key in asked]

    def chosen(self, pairs: Sequence[tuple[Trial, Run]], split: str) -> list[Run]:
        """Each run with the scores of the merge that ``git merge`` would make of its trial, by its
        own blob, and with what that merge costs."""
        scorer = self._scorer(split)
        runs = {trial.spec: run for trial, run in pairs}
        missing = []
        for trial, run in pairs:
            if run.chosen and not is_nameless(run.checkpoint):
                model = self._model(trial, run.checkpoint.partition("+")[0])
                if not scorer.missing([model]):
                    known = self._with_scores(run, scorer, model, split, trial.statuses)
                    runs[trial.spec] = known
                    continue
            missing.append(Pass((trial,), exact=True))
        for done in self.executor.run(missing, self._model, scorer, self._tell):
            best = replace(
                runs[done.trial.spec],
                checkpoint=done.model.identity,
                chosen=True,
                cost=self._cost(done),
            )
            runs[done.trial.spec] = self._with_scores(
                best, scorer, done.model, split, done.trial.statuses
            )
        return list(runs.values())

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

    def _finished(self, trial: Trial, split: str) -> Run | None:
        """The run of a trial whose scores are all known for the data of today, else None."""
        spec, scorer = trial.spec, self._scorer(split)
        if spec not in self._costs:
            return None
        # A sweep's choice was scored by the blob of the merge that it would be.
        names = dict.fromkeys([identity_of(spec), self._costs[spec].checkpoint.partition("+")[0]])
        models = [self._model(trial, name) for name in names]
        model = next((model for model in models if not scorer.missing([model])), None)
        if model is None:
            return None
        known = self._known.get((trial.sample, spec))
        run = known or self._run(trial, model.identity, self._costs[spec].cost)
        return self._with_scores(run, scorer, model, split, trial.statuses)

    def _run(self, trial: Trial, identity: str, cost: Cost) -> Run:
        plan, benchmark = trial.plan, self.subject.benchmark
        chosen = self.planner.options(plan.method.name, trial.given)
        return Run(
            spec=plan.spec.digest,
            path=plan.spec.path,
            method=plan.method.name,
            options=trailer_options(
                chosen.method, plan.options, plan.spec.accumulate, plan.rank or 0
            ),
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

    def _cost(self, done: Finished) -> Cost:
        plan, cost = done.trial.plan, done.cost
        return Cost(
            seconds=cost.seconds / done.shared,
            shared=done.shared,
            peak_memory_bytes=cost.peak_memory_bytes,
            read_bytes=cost.read_bytes,
            written_bytes=plan.written_bytes,
            flops=plan.merging_flops,
            statistics_flops=statistics_flops(plan),
            device=cost.device,
            reused_groups=cost.reused_groups,
        )

    def _model(self, trial: Trial, name: str) -> Model:
        tasks = tuple(task for tasks in trial.statuses.values() for task in tasks)
        label = " ".join(
            [trial.plan.method.name, *(f"{name}={value}" for name, value in trial.given.items())]
        )
        return replace(self._merged, label=label, blob=name, tasks=tasks)

    def _scorer(self, split: str) -> Scorer:
        if split not in self._scorers:
            self._scorers[split] = Scorer(
                self.repository, self.subject, split, self.device, self.results, self.room, False
            )
        return self._scorers[split]

    def _room_for(self, plan: CheckpointPlan) -> int:
        """How many candidates fit into half of what the disk has left; one at least."""
        free = self.executor.free_bytes()
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
    where: Where = HERE,
    watch: Watch = lambda step: None,
) -> Iterator[Study]:
    """A study whose working folder goes with the block; what is known of it is found again.

    Raises EvaluationError where the cache of scores cannot be opened, or no executor be started.
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
        started(where, planner.subject, repository, folder, resources) as executor,
    ):
        yield Study(planner, source, digest, results, runs, room, executor, device, watch)
