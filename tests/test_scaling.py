"""More and more models: nested samples of tiny merges, their averages by hand."""

import itertools
import statistics
from math import sqrt

import pytest
from evaluated_repositories import MODELS, PLAIN, score
from test_sweeping import command, template  # noqa: F401

from gitmerge_eval import scaling, sweeping
from gitmerge_eval.benchmarks import cross_lingual
from gitmerge_eval.errors import InvalidOption, MissingStatistic, PrerequisiteError
from gitmerge_eval.evaluation.evaluating import results_path
from gitmerge_eval.evaluation.runs import open_runs

HEADS = ("fruit-quickdraw", "bird-real", "tool-sketch")
UNAVAILABLE = {"tool-real"}


@pytest.fixture
def evaluated(template, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.syspath_prepend(str(PLAIN))
    monkeypatch.setenv("PYTHONPATH", str(PLAIN))
    found = template.copy(tmp_path / "repository")
    monkeypatch.setenv("PLAIN_LOG", str(found.log))
    return found


def scale(evaluated, heads=HEADS, **settings):
    return scaling.scale(evaluated.repository, heads, scaling.Settings(device="cpu", **settings))


def spanned(names):
    categories, domains = zip(*(name.split("-") for name in names), strict=True)
    cells = (f"{c}-{d}" for c in set(categories) for d in set(domains))
    return [cell for cell in cells if cell not in {*names, *UNAVAILABLE}]


def averaged(names):
    return [statistics.fmean(values) for values in zip(*(MODELS[n] for n in names), strict=True)]


def test_samples_are_nested_and_every_order_is_as_likely():
    orders = scaling.nested(HEADS, 6000, seed=1)
    assert scaling.nested(HEADS[::-1], 6000, seed=1) == orders
    assert scaling.nested(HEADS, 5, seed=2) != orders[:5]
    counts = [orders.count(order) for order in itertools.permutations(HEADS)]
    assert sum(counts) == 6000
    # A standard deviation is 29.
    assert all(abs(count - 1000) < 130 for count in counts)


def test_averages_over_samples_are_those_by_hand(evaluated):
    found = scale(evaluated, methods=("average",), samples=4, seed=3)
    assert len(found.samples) == 4
    for point in found.points:
        # Orders that begin with the same ones are one merge.
        samples = sorted({tuple(sorted(order[: point.models])) for order in found.samples})
        held_in = [
            statistics.fmean(score(averaged(names), task) for task in names) for names in samples
        ]
        others = [
            statistics.fmean(score(averaged(names), task) for task in spanned(names))
            for names in samples
        ]
        for spread, expected in ((point.heldin, held_in), (point.generalization, others)):
            deviation = statistics.stdev(expected) if len(expected) > 1 else 0.0
            assert spread.samples == len(samples)
            assert spread.mean == pytest.approx(statistics.fmean(expected), rel=1e-6)
            assert spread.deviation == pytest.approx(deviation, abs=1e-4)
            assert spread.error == pytest.approx(spread.deviation / sqrt(len(samples)))
    assert found.points[-1].heldin.samples == 1  # all of them, four times
    assert [(p.method, p.models) for p in found.points] == [("average", 2), ("average", 3)]


def test_every_run_has_its_sample_its_baselines_and_its_own_constituents(evaluated):
    found = scale(evaluated, methods=("average", "task-arithmetic"), samples=2)
    for run in found.runs:
        names = set(found.samples[run.sample][: run.models])
        assert {name for name, _ in run.constituents} == names
        held_in = [s for s in run.scores["test"] if s.status == "held-in"]
        assert {s.task for s in held_in} == names
        assert all(s.individual == score(MODELS[s.task], s.task) for s in held_in)
        assert all(s.pretrained == score(MODELS["main"], s.task) for s in run.scores["test"])
    with open_runs(results_path(evaluated.repository)) as runs:
        assert len(runs.find(source="scale", study=found.digest)) == 2 * 2 * 2


def test_nothing_is_computed_twice(evaluated):
    first = scale(evaluated, methods=("average",), samples=20)
    # Three pairs and one of all three.
    assert first.computed == 4
    scored = len(evaluated.computed)
    assert scale(evaluated, methods=("average",), samples=20).computed == 0
    assert len(evaluated.computed) == scored
    swept = sweeping.sweep(
        evaluated.repository,
        HEADS,
        sweeping.Settings(methods=("average",), select="none", device="cpu"),
    )
    assert swept.computed == 0
    assert len(evaluated.computed) == scored


def test_what_a_sweep_chose_is_not_computed_again(evaluated):
    settings = sweeping.Settings(methods=("average",), device="cpu")
    sweeping.sweep(evaluated.repository, HEADS[:2], settings)
    assert scale(evaluated, HEADS[:2], methods=("average",), samples=2).computed == 0


def test_one_model_is_refused_and_a_merge_is_taken_apart(evaluated):
    with pytest.raises(PrerequisiteError, match="'bird-real', cannot be merged; name more"):
        scale(evaluated, ("bird-real",))
    evaluated.repository.run("config", "merge-eval.evaluate", "off")
    found = sweeping.sweep(
        evaluated.repository,
        HEADS[:2],
        sweeping.Settings(methods=("average",), device="cpu"),
    )
    sweeping.merge_winner(evaluated.repository, HEADS[:2], found)
    found = scale(evaluated, HEADS[2:], methods=("average",), samples=1)
    assert {run.models for run in found.runs} == {2, 3}
    assert {name for run in found.runs for name, _ in run.constituents} == set(HEADS)
    evaluated.repository.run("config", "merge-eval.constituents", "heads")
    with pytest.raises(PrerequisiteError, match=r"'main' has no task of its own.*constituents"):
        scale(evaluated, HEADS[2:])


def test_the_options_of_a_sweep(evaluated):
    with pytest.raises(InvalidOption, match="sweep"):
        scale(evaluated, options="swept", samples=1)
    settings = sweeping.Settings(methods=("task-arithmetic",), device="cpu")
    swept = sweeping.sweep(evaluated.repository, HEADS, settings)
    found = scale(evaluated, options="swept", samples=1)
    assert {run.options["scale"] for run in found.runs} == {swept.winner.options["scale"]}
    assert found.skipped["ties"].startswith("no sweep")


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"options": "best"}, InvalidOption, "default, swept"),
        ({"methods": ("mats",)}, MissingStatistic, "stats gram"),
    ],
)
def test_what_is_wrong_is_said(evaluated, settings, error, message):
    with pytest.raises(error, match=message):
        scale(evaluated, **settings)


def test_the_papers_numbers_of_samples(monkeypatch):
    from gitmerge_eval import benchmarks

    vision = benchmarks.get("domainnet-classification-mini")
    assert scaling.default_samples(vision) == 20
    assert scaling.default_samples(cross_lingual.BENCHMARK) == 5


def test_a_table_for_people(evaluated):
    done = command(evaluated, "scale", "--methods", "average", "--samples", "2", *HEADS)
    assert done.returncode == 0, done.stderr
    assert "mean ± standard error" in done.stdout
    assert "merges computed now" in done.stdout
