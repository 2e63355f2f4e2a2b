"""A real sweep, a real scaling and the merge of the winner, as report and advice show them."""

from __future__ import annotations

import pytest
from evaluated_repositories import PLAIN, Evaluated

from gitmerge_eval import advising, reporting, scaling, sweeping
from gitmerge_eval.evaluation import evaluating, exchange, gathering
from gitmerge_eval.evaluation.evidence import SAME
from gitmerge_eval.git import configuration, tracking

HEADS = ("fruit-quickdraw", "bird-real", "tool-sketch")
METHODS = ("average", "task-arithmetic", "ties")


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(PLAIN))
        patch.setenv("PYTHONPATH", str(PLAIN))
        made = Evaluated.make(tmp_path_factory.mktemp("studied") / "repository")
        repository = made.repository
        configuration.install(repository)
        tracking.track(repository, "*.safetensors")
        repository.run("config", "merge-eval.evaluate", "off")
        made.put("tracked", {})
        for name in HEADS:
            repository.run("switch", "-q", name)
            repository.run("rebase", "-q", "main")
        repository.run("switch", "-q", "main")
        swept = sweeping.sweep(repository, HEADS, sweeping.Settings(methods=METHODS, device="cpu"))
        scaling.scale(repository, HEADS, scaling.Settings(methods=METHODS, samples=2, device="cpu"))
        made.advice = advising.advise(repository, HEADS)
        made.merged = sweeping.merge_winner(repository, HEADS, swept)
        evaluating.evaluate(repository, device="cpu")
        made.swept = swept
        yield made


@pytest.fixture(scope="module")
def tables(studied):
    found = reporting.report(studied.repository)
    return {s.name: s.tables[0].records() for s in found.sections if s.tables}


def test_the_page_has_the_sweeps_choices_with_their_test_scores(studied, tables):
    shown = {row["model"]: row for row in tables["scores"]}
    for method, run in studied.swept.chosen.items():
        assert shown[method]["held-in"] == run.average("held-in")
        assert shown[method]["generalization"] == run.average("generalization")
        assert shown[method]["of individual"] == run.normalised("held-in")
    assert {"pretrained", "individual", "multitask"} < set(shown)


def test_every_value_is_shown_with_its_validation_score(studied, tables):
    swept = {
        (r.method, r.options["scale"]): r.average("held-in", "validation")
        for r in studied.swept.candidates
        if r.method in ("task-arithmetic", "ties")
    }
    shown = {
        (row["method"], row["value"]): row["held-in"]
        for row in tables["hyperparameters"]
        if row["option"] == "scale" and row["split"] == "validation"
    }
    assert shown == swept
    assert sum(row["chosen"] == "chosen" for row in tables["hyperparameters"]) == 2


def test_the_merge_of_the_winner_is_the_same_comparison(studied, tables):
    (row,) = tables["history"]
    winner = studied.swept.winner
    assert row["commit"] == studied.merged[:10]
    assert row["method"].endswith(", chosen by a sweep")
    assert row["held-in"] == pytest.approx(winner.average("held-in"), abs=1e-4)
    assert row["traces"][0]["spec"] == winner.spec
    main = gathering.gather(studied.repository).comparisons()[0]
    assert {r.source for r in main.of(winner.method)} >= {"merge", "sweep"}


def test_costs_and_numbers_of_models_are_there(tables):
    assert {row["method"] for row in tables["cost"]} == set(METHODS)
    assert all(row["merging"] > 0 and row["seconds"] > 0 for row in tables["cost"])
    assert {(row["method"], row["models"]) for row in tables["models"]} == {
        (method, count) for method in METHODS for count in (2, 3)
    }


def test_the_advice_was_from_the_sweep_and_put_its_best_first(studied):
    (advice,) = studied.advice
    found = {one.method: one for one in advice.methods}
    assert all(found[method].evidence.scope == SAME for method in METHODS)
    assert {one.method for one in advice.methods[:3]} == set(METHODS)


def test_another_machine_knows_it_all_after_an_import(studied, tmp_path):
    path = tmp_path / "results.sqlite"
    lines = list(exchange.export(evaluating.results_path(studied.repository)))
    assert exchange.take(path, lines).added == len(lines)
    assert list(exchange.export(path)) == lines
