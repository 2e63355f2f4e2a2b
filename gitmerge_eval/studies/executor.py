"""Who computes and scores what a study tries: this process, or the workers of a cluster.

A study knows which merges it needs and what they score; an executor knows where that is worked out.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from gitmerge_eval.errors import InvalidOption
from gitmerge_eval.evaluation.evaluating import Progress, Scorer
from gitmerge_eval.evaluation.runs import identity_of
from gitmerge_eval.evaluation.subjects import Model, Subject
from gitmerge_eval.git.repository import Repository
from gitmerge_eval.merging import candidates
from gitmerge_eval.merging.candidates import CandidateFile, PassCost
from gitmerge_eval.merging.devices import Resources
from gitmerge_eval.merging.planning import CheckpointPlan

Statuses = Mapping[str, Sequence[str]]
"""'held-in' and 'generalization' -> the tasks to score."""
Tell = Callable[[str, str], None]
"""``tell(method, what is being done)``."""


@dataclass(frozen=True)
class Trial:
    """One merge to try."""

    plan: CheckpointPlan
    given: Mapping[str, str]
    """The options that were asked for, as text."""
    constituents: tuple[tuple[str, str], ...]
    """(name, identity), in the order of the heads."""
    statuses: Statuses
    sample: int = 0

    @property
    def spec(self) -> str:
        """The digest of its MergeSpec."""
        return self.plan.spec.digest


@dataclass(frozen=True)
class Pass:
    """Trials that are computed together."""

    trials: tuple[Trial, ...]
    parameter: str | None = None
    """The hyperparameter in which they differ, and for which the method shares work."""
    exact: bool = False
    """Whether the one trial is computed as ``git merge`` would, and its blob's name wanted."""

    @property
    def method(self) -> str:
        """The method's name."""
        return self.trials[0].plan.method.name

    def name_of(self, trial: Trial, blob: str) -> str:
        """What the scores of a computed trial belong to."""
        return blob if self.exact else identity_of(trial.spec)


@dataclass(frozen=True)
class Finished:
    """A trial that was computed and scored: its scores are the scorer's."""

    trial: Trial
    model: Model
    cost: PassCost
    shared: int
    """How many trials were computed in that pass."""


ModelOf = Callable[[Trial, str], Model]
"""``model_of(trial, name)``: the model to score."""


@dataclass(frozen=True)
class Where:
    """Which executor, and how it is reached."""

    executor: str = "local"
    address: str = ""
    """Of a Ray cluster; none: one of its own, of this machine's CPUs and GPUs."""
    repository: str = ""
    """The folder of a clone on nodes that do not see this one; made where it is missing."""


EXECUTORS = ("local", "ray")
HERE = Where()


class Executor(Protocol):
    """Where a study's work is done."""

    def free_bytes(self) -> int:
        """The disk space that there is for candidates."""

    def run(
        self, passes: Iterable[Pass], model_of: ModelOf, scorer: Scorer, tell: Tell
    ) -> Iterator[Finished]:
        """Compute every trial and score it on those of its tasks that no cache knows; each is
        yielded when that is done and its file gone. ``passes`` are taken as there is room."""

    def score(self, models: Sequence[Model], scorer: Scorer, tell: Tell) -> None:
        """Score models that the repository has; one that cannot be read becomes a remark."""


@dataclass
class Local:
    """This process, one pass after the other."""

    repository: Repository
    folder: Path
    resources: Resources

    def free_bytes(self) -> int:
        """As :class:`Executor` says."""
        return shutil.disk_usage(self.folder).free

    def run(
        self, passes: Iterable[Pass], model_of: ModelOf, scorer: Scorer, tell: Tell
    ) -> Iterator[Finished]:
        """As :class:`Executor` says."""
        for one in passes:

            def shown(step: Progress, method: str = one.method) -> None:
                tell(method, f"{step.model} on {step.task}")

            tell(one.method, "merging")
            files, cost = computed(
                [trial.plan for trial in one.trials],
                one.parameter,
                exact=one.exact,
                repository=self.repository,
                folder=self.folder,
                resources=self.resources,
            )
            for trial, file in zip(one.trials, files, strict=True):
                model = replace(model_of(trial, one.name_of(trial, file.blob)), file=file.file)
                scorer.score([model], shown)
                shutil.rmtree(file.file.parent)
                yield Finished(trial, model, cost, len(one.trials))

    def score(self, models: Sequence[Model], scorer: Scorer, tell: Tell) -> None:
        """As :class:`Executor` says."""
        scorer.score(models, lambda step: tell("", f"{step.model} on {step.task}"))


def computed(
    plans: Sequence[CheckpointPlan],
    parameter: str | None,
    *,
    exact: bool,
    repository: Repository,
    folder: Path,
    resources: Resources,
) -> tuple[list[CandidateFile], PassCost]:
    """The candidates of one pass, with all that belongs beside them laid out there."""
    if exact:
        (plan,) = plans
        alone, cost = candidates.compute_alone(plan, repository, folder, resources=resources)
        files = [alone]
    else:
        files, cost = candidates.compute_candidates(
            plans, parameter, repository, folder, resources=resources
        )
    for file in files:
        for name, content in file.plain.items():
            (file.file.parent / name).write_bytes(content)
    return files, cost


@contextmanager
def started(
    where: Where, subject: Subject, repository: Repository, folder: Path, resources: Resources
) -> Iterator[Executor]:
    """The executor, ready to work in ``folder``; it ends with the block.

    Raises InvalidOption for one that there is not, and EvaluationError where its package, its
    cluster, or the repository on one of its nodes is missing.
    """
    if where.executor not in EXECUTORS:
        raise InvalidOption(
            f"option 'executor' is '{where.executor}', which is not one of {', '.join(EXECUTORS)}"
        )
    if where.executor == "local":
        yield Local(repository, folder, resources)
        return
    from gitmerge_eval.studies import cluster, connecting

    with connecting.connected(where.address) as ray:
        site = connecting.site(repository, folder, where.repository)
        executor = cluster.Cluster(ray, site, subject, resources)
        try:
            yield executor
        finally:
            executor.leave()
