"""Merge more and more models: the use case behind ``gitmerge-eval scale`` (arXiv 2409.18314, 6).

For every number M of constituents, from 2 to all, each method merges samples of M of them. The
samples are nested: a sample of M is that of M-1 and one more. What is known from an earlier scaling
or sweep is not computed again.
"""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import sqrt
from typing import Any

from gitmerge_eval import methods
from gitmerge_eval.errors import InvalidOption, PrerequisiteError
from gitmerge_eval.evaluation.evaluating import results_path
from gitmerge_eval.evaluation.runs import Run, open_runs
from gitmerge_eval.git.repository import Repository
from gitmerge_eval.merging.devices import DEFAULT_RESOURCES, Resources
from gitmerge_eval.merging.options import text_of
from gitmerge_eval.records import NUMERIC_VERSION, Benchmark, canonical_json
from gitmerge_eval.studies.executor import HERE, Trial, Where
from gitmerge_eval.studies.planner import Planner
from gitmerge_eval.studies.trials import Family, Study, Watch, study

OPTIONS = ("default", "swept")
"""A method's own defaults, or the options that the latest sweep of these constituents chose."""
VISION_SAMPLES, LANGUAGE_SAMPLES = 20, 5
"""The paper's numbers of samples."""


@dataclass(frozen=True)
class Settings:
    """What is merged, and how often."""

    methods: tuple[str, ...] = ()
    """None of them: all that these heads can be merged by."""
    samples: int | None = None
    """None: the paper's number."""
    seed: int = 0
    options: str = "default"
    checkpoint: str | None = None
    device: str = "auto"
    resources: Resources = DEFAULT_RESOURCES
    where: Where = HERE


@dataclass(frozen=True)
class Spread:
    """An average over samples, and how far it may be from the one over all samples that there are.

    >>> spread = Spread.of([1.0, 3.0])
    >>> spread.mean, round(spread.deviation, 3), round(spread.error, 3)
    (2.0, 1.414, 1.0)
    """

    mean: float
    deviation: float
    """The samples' standard deviation, with n-1; 0 for one sample."""
    error: float
    """The standard error of the mean: deviation / √n."""
    samples: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """The spread of the values; None where there are none."""
        if not values:
            return None
        deviation = statistics.stdev(values) if len(values) > 1 else 0.0
        return cls(statistics.fmean(values), deviation, deviation / sqrt(len(values)), len(values))


@dataclass(frozen=True)
class Point:
    """One method, or one baseline, at one number of constituents."""

    method: str
    models: int
    heldin: Spread | None
    generalization: Spread | None


@dataclass(frozen=True)
class Scaling:
    """What a scaling found."""

    digest: str
    benchmark: str
    metric: str
    path: str
    samples: tuple[tuple[str, ...], ...]
    """Orders of the constituents: the first M of each are a sample of M."""
    points: tuple[Point, ...]
    runs: tuple[Run, ...]
    skipped: Mapping[str, str] = field(default_factory=dict)
    computed: int = 0
    remarks: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "scaling": self.digest,
            "benchmark": self.benchmark,
            "metric": self.metric,
            "path": self.path,
            "samples": [list(order) for order in self.samples],
            "points": [asdict(point) for point in self.points],
            "runs": [run.as_dict() for run in self.runs],
            "skipped": dict(self.skipped),
            "computed": self.computed,
            "remarks": list(self.remarks),
        }


def scale(
    repository: Repository,
    revisions: Sequence[str],
    settings: Settings | None = None,
    watch: Watch = lambda step: None,
) -> Scaling:
    """Merge nested samples of ``revisions`` and average their scores on test data.

    Raises UsageError for a wrong option, PrerequisiteError where a method that was named cannot be
    used, and what merging and evaluating raise.
    """
    settings = settings or Settings()
    planner = Planner(repository, revisions, settings.checkpoint)
    _check(planner)
    samples = settings.samples or default_samples(planner.subject.benchmark)
    orders = nested([name for name, _ in planner.constituents], samples, settings.seed)
    given, skipped = _options(planner, settings)
    digest = _digest(planner, given, orders)
    with study(
        planner, "scale", digest,
        device=settings.device, resources=settings.resources, where=settings.where, watch=watch,
    ) as under_way:  # fmt: skip
        runs = tuple(_runs(under_way, given, orders))
        return Scaling(
            digest=digest,
            benchmark=planner.subject.benchmark.name,
            metric=planner.subject.benchmark.metric,
            path=planner.subject.path,
            samples=orders,
            points=tuple(points(runs)),
            runs=runs,
            skipped=skipped,
            computed=under_way.computed,
            remarks=tuple(under_way.remarks),
        )


def nested(names: Sequence[str], samples: int, seed: int) -> tuple[tuple[str, ...], ...]:
    """``samples`` orders of the names, each as likely as any other: the first M of one are its
    sample of M. Functions of the seed and the names alone.

    >>> nested(["a", "b", "c"], 2, 0) == nested(["c", "b", "a"], 2, 0)
    True
    """

    def place(sample: int, name: str) -> str:
        return hashlib.sha256(canonical_json([seed, sample, name]).encode()).hexdigest()

    return tuple(
        tuple(sorted(names, key=lambda name, sample=sample: place(sample, name)))  # type: ignore[misc]
        for sample in range(samples)
    )


def default_samples(benchmark: Benchmark) -> int:
    """20 for vision, 5 for benchmarks with languages, as the paper."""
    return LANGUAGE_SAMPLES if "language" in benchmark.axes else VISION_SAMPLES


def points(runs: Sequence[Run]) -> Iterator[Point]:
    """The averages for each method and number of constituents, in that order; samples that drew
    the same constituents are one merge and count once."""
    pairs = dict.fromkeys((run.method, run.models) for run in runs)
    for method, models in sorted(pairs, key=lambda pair: (_order(pair[0]), pair[1])):
        drawn = [run for run in runs if (run.method, run.models) == (method, models)]
        own = {frozenset(run.constituents): run for run in drawn}.values()
        heldin, spanned = (
            [value for run in own if (value := run.average(status)) is not None]
            for status in ("held-in", "generalization")
        )
        yield Point(method, models, Spread.of(heldin), Spread.of(spanned))


def _check(planner: Planner) -> None:
    """PrerequisiteError where samples cannot be drawn and scored."""
    names = [name for name, _ in planner.constituents]
    if len(names) < 2:
        raise PrerequisiteError(f"samples of one model, '{names[0]}', cannot be merged; name more")
    for name in names:
        if name not in planner.tasks:
            raise PrerequisiteError(
                f"'{name}' has no task of its own, as a merge of several models has none, so that "
                "samples with it cannot be scored; merge its constituents instead, without "
                "merge-eval.constituents"
            )


def _order(method: str) -> int:
    return list(methods.load()).index(method)


def _runs(
    study: Study, given: Mapping[str, Mapping[str, str]], orders: Sequence[Sequence[str]]
) -> list[Run]:
    """Every method on every sample, small ones first; the baselines are scored before."""
    study.score_baselines("test")
    names = [name for name, _ in study.planner.constituents]
    study.total = len(given) * len(orders) * (len(names) - 1)
    trials = (
        _trial(study, method, options, order[:models], sample)
        for models in range(2, len(names) + 1)
        for sample, order in enumerate(orders)
        for method, options in given.items()
    )
    return study.runs_of((Family((trial,)) for trial in trials), "test")


def _trial(
    study: Study, method: str, given: Mapping[str, str], names: Sequence[str], sample: int
) -> Trial:
    planner = study.planner
    taking_part = tuple(pair for pair in planner.constituents if pair[0] in names)
    held_in = tuple(dict.fromkeys(planner.tasks[name] for name, _ in taking_part))
    spanned = study.subject.benchmark.generalization(held_in)
    statuses = {"held-in": held_in, "generalization": tuple(task.name for task in spanned)}
    return Trial(planner.plan(method, given, names), given, taking_part, statuses, sample)


def _options(
    planner: Planner, settings: Settings
) -> tuple[dict[str, Mapping[str, str]], dict[str, str]]:
    """method -> the options to merge with; why not the methods that cannot be used."""
    if settings.options not in OPTIONS:
        raise InvalidOption(
            f"option 'options' is '{settings.options}', which is not one of {', '.join(OPTIONS)}"
        )
    swept = _swept(planner) if settings.options == "swept" else {}
    given, skipped = {}, {}
    for name in settings.methods or methods.load():
        if settings.options == "swept" and name not in swept:
            skipped[name] = "no sweep of these constituents has chosen its options"
            continue
        try:
            planner.plan(name, swept.get(name, {}))
            given[name] = swept.get(name, {})
        except PrerequisiteError as error:
            if settings.methods:
                raise
            skipped[name] = str(error)
    if not given:
        raise InvalidOption("no method is left to merge with: run 'gitmerge-eval sweep' first")
    return given, skipped


def _swept(planner: Planner) -> dict[str, Mapping[str, str]]:
    """method -> what the latest sweep of these very constituents chose."""
    wanted = sorted(planner.constituents)
    with open_runs(results_path(planner.repository)) as runs:
        chosen = [run for run in runs.find(source="sweep") if run.chosen]
    return {
        run.method: {n: text_of(v) for n, v in run.options.items() if n != "accumulate"}
        for run in chosen
        if sorted(run.constituents) == wanted and run.path == planner.subject.path
    }


def _digest(
    planner: Planner, given: Mapping[str, Mapping[str, str]], orders: Sequence[Sequence[str]]
) -> str:
    """The SHA-256 over all that makes two scalings the same one, but for the data's bytes."""
    content = {
        **planner.identity,
        "methods": {method: dict(options) for method, options in given.items()},
        "orders": [list(order) for order in orders],
        "numeric_version": NUMERIC_VERSION,
    }
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()
