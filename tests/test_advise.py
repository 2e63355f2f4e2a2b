"""advise: what can be used, what is known of it, in which order, and how thin it is."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import pytest
from evaluated_repositories import PLAIN
from models import ModelRepository, base_model, fine_tuned, statistics_for
from reported_repositories import HEADS, checkpoint, results, run

from gitmerge_eval import advising, cli, methods
from gitmerge_eval.advising import Budget
from gitmerge_eval.errors import InvalidOption, MergeRefused
from gitmerge_eval.evaluation import evaluating
from gitmerge_eval.evaluation.evidence import OTHER, PUBLISHED, SAME, evidence
from gitmerge_eval.evaluation.gathering import Gathered
from gitmerge_eval.evaluation.published import Published, open_published
from gitmerge_eval.evaluation.runs import open_runs

BASE = base_model()
MODELS = tuple(map(checkpoint, HEADS))
PAIRS = ((HEADS[0], HEADS[1]), (HEADS[1], HEADS[2]), (HEADS[0], HEADS[2]))


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    made = ModelRepository(tmp_path_factory.mktemp("advise") / "model", BASE)
    (made.folder / "benchmark.toml").write_text('name = "plain"\n\n[settings]\nseed = 3\n')
    made.commit("benchmark")
    for number, name in enumerate(HEADS):
        declared = (
            f'name = "{name}"\nbenchmark = "plain"\ntask = "{name}"\n'
            'checkpoint = "model.safetensors"\n'
        )
        statistics = statistics_for(BASE, number) if name != "tool-sketch" else None
        made.branch(
            name,
            fine_tuned(BASE, number),
            statistics,
            files={f"constituents/{name}.toml": declared},
        )
    made.branch("wide", {**BASE, "scale": BASE["scale"].repeat(2)})
    return made


@pytest.fixture
def repository(template, monkeypatch):
    monkeypatch.syspath_prepend(str(PLAIN))
    monkeypatch.chdir(template.folder)
    yield template.git
    evaluating.results_path(template.git).unlink(missing_ok=True)


def remember(repository, runs=(), rows=()):
    path = evaluating.results_path(repository)
    with open_runs(path) as table:
        table.store(list(runs))
    with open_published(path) as published:
        published.store(list(rows))


def own_run(repository, method, heads=HEADS[:2]):
    """A run of the very models that the branches have."""
    blobs = tuple((head, repository.blob_id(head, "model.safetensors")) for head in heads)
    return run(method, heads, constituents=blobs)


def advise(repository, *heads, **how):
    (advice,) = advising.advise(repository, heads, **how)
    return advice, {one.method: one for one in advice.methods}


def gathered(runs, rows=()):
    return Gathered(tuple(results(runs)), tuple(rows), ())


# --- evidence ------------------------------------------------------------------------------------


def test_the_place_is_the_share_of_methods_beaten_with_one_comparison_in_the_middle():
    # mats is best held-in and worst in generalization; average the other way round.
    found = evidence(gathered([run(m) for m in ("average", "ties", "mats")]), "plain", MODELS)
    assert {m: e.place for m, e in found.items()} == pytest.approx(
        {"average": (0.5 + 0.5) / 2, "ties": (0.5 + 0.5) / 2, "mats": (0.5 + 0.5) / 2}
    )
    runs = gathered([run(m) for m in ("average", "ties", "mats")])
    held_in = evidence(runs, "plain", MODELS, "held-in")
    assert {m: e.place for m, e in held_in.items()} == pytest.approx(
        {"average": 0.25, "ties": 0.5, "mats": 0.75}
    )
    general = evidence(runs, "plain", MODELS, "generalization")
    assert {m: e.place for m, e in general.items()} == pytest.approx(
        {"average": 0.75, "ties": 0.5, "mats": 0.25}
    )
    assert all((e.comparisons, e.is_thin, e.others) == (1, True, 2) for e in held_in.values())


def test_more_comparisons_of_others_move_the_place_towards_the_share():
    runs = [run(method, pair) for pair in PAIRS for method in ("average", "mats")]
    found = evidence(gathered(runs), "plain", MODELS, "held-in")
    assert (found["mats"].scope, found["mats"].comparisons) == (OTHER, 3)
    assert found["mats"].place == pytest.approx((3 + 0.5) / 4)
    assert not found["mats"].is_thin
    ratios = [run("mats", pair).normalised("held-in") for pair in PAIRS]
    assert found["mats"].held_in == pytest.approx(sum(ratios) / 3)


def test_the_nearest_evidence_counts_alone():
    other = [run(method, PAIRS[0]) for method in ("average", "mats", "ties")]
    rows = [Published("a paper", "MaTS", 10.0, 10.0), Published("a paper", "DARE", 20.0, 20.0)]
    found = evidence(
        gathered([run("average"), run("mats"), *other], rows), "plain", MODELS, "held-in"
    )
    scopes = {method: known.scope for method, known in found.items()}
    assert scopes == {"average": SAME, "mats": SAME, "ties": OTHER, "dare": PUBLISHED}


def test_a_method_alone_and_another_benchmark_are_no_evidence():
    assert evidence(gathered([run("mats")]), "plain", MODELS) == {}
    other = [replace(run(m), benchmark="another") for m in ("mats", "ties")]
    assert evidence(gathered(other), "plain", MODELS) == {}


# --- advice --------------------------------------------------------------------------------------


def test_without_results_the_order_is_that_of_costs_and_says_so(repository):
    advice, found = advise(repository, *HEADS[:2])
    assert advice.constituents == HEADS[:2]
    assert advice.benchmark == "plain"
    assert [one.rank for one in advice.methods] == list(range(1, 10))
    flops = [one.merging_flops for one in advice.methods]
    assert flops == sorted(flops)
    assert all(one.reasons[0].startswith("n = 0: neither measured here") for one in advice.methods)
    assert "nothing has been measured here" in advice.remarks[0]
    assert found["mats"].reasons[1] == "needs pretrained model, gram"


def test_what_was_measured_goes_first_and_says_how_thin_it_is(repository):
    remember(repository, [own_run(repository, m) for m in ("average", "mats")])
    advice, found = advise(repository, *HEADS[:2], goal="held-in")
    assert [one.method for one in advice.methods[:2]] == ["mats", "average"]
    mats = run("mats", HEADS[:2])
    assert found["mats"].reasons[0] == (
        f"n = 1, thin: held-in {mats.normalised('held-in'):.3f} of individual, generalization "
        f"{mats.normalised('generalization'):.3f} of pretrained (beside 1 other method, on the "
        "same constituents)"
    )
    assert "the evidence is thin (fewer than 3 comparisons) for mats, average" in advice.remarks[0]
    advice, _ = advise(repository, *HEADS[:2], goal="generalization")
    assert [one.method for one in advice.methods[:2]] == ["average", "mats"]


def test_published_numbers_go_after_ones_own_and_before_nothing(repository):
    rows = [Published("a paper", "TIES", 60.0, 40.0), Published("a paper", "DARE", 50.0, 30.0)]
    remember(repository, [own_run(repository, m) for m in ("average", "mats")], rows)
    advice, found = advise(repository, *HEADS[:2])
    assert [one.method for one in advice.methods[2:4]] == ["ties", "dare"]
    assert found["ties"].reasons[0] == (
        "n = 1, thin: held-in 60.00, generalization 40.00 (beside 1 other method, on published "
        "numbers)"
    )


def test_what_lacks_a_statistic_comes_last_with_the_remedy(repository):
    remember(repository, [run(m) for m in methods.load()])
    advice, found = advise(repository, *HEADS)
    assert [one.method for one in advice.methods[-3:]] != []
    unusable = {one.method for one in advice.methods if one.rank is None}
    assert unusable == {"fisher", "regmean", "mats"}
    assert {one.method for one in advice.methods[-3:]} == unusable
    assert found["mats"].obstacles == (
        "lacks gram of tool-sketch ('gitmerge-eval stats gram' on it)",
    )
    _, found = advise(repository, *HEADS, budget=Budget(data=False))
    assert found["mats"].obstacles == ("lacks gram of tool-sketch (and there are no data)",)
    assert found["ties"].reasons[-1] == "left at the default without data: scale λ"


def test_what_is_over_the_budget_is_not_advised(repository):
    _, every = advise(repository, *HEADS[:2])
    limit = every["ties"].merging_flops
    _, found = advise(repository, *HEADS[:2], budget=Budget(flops=limit))
    for method, one in found.items():
        over = every[method].merging_flops > limit
        assert (one.rank is None) == over
        assert bool(one.obstacles) == over
    with pytest.raises(InvalidOption, match="memory"):
        advise(repository, *HEADS[:2], budget=Budget(memory="little"))
    with pytest.raises(InvalidOption, match="the goal 'fame' is none of"):
        advise(repository, *HEADS[:2], goal="fame")


def test_where_nothing_says_what_is_evaluated_the_advice_goes_by_needs_alone(repository):
    repository.run("switch", "-q", "--detach", "main~1")
    try:
        advice, _ = advise(repository, *HEADS[:2])
    finally:
        repository.run("switch", "-q", "main")
    assert advice.benchmark is None
    assert advice.remarks[0].startswith("no results can be of this merge: HEAD has no benchmark")
    assert all(one.evidence is None for one in advice.methods)


def test_heads_that_conflict_are_refused_whatever_the_method(repository):
    with pytest.raises(MergeRefused, match="scale: 'wide' has"):
        advise(repository, HEADS[0], "wide")
    repository.run("switch", "-q", HEADS[0])
    try:
        with pytest.raises(MergeRefused, match="these heads conflict, whatever the method"):
            advise(repository, "wide")
    finally:
        repository.run("switch", "-q", "main")


def test_the_command_prints_a_table_and_json_and_touches_nothing(
    repository, template, capsys, monkeypatch
):
    remember(repository, [own_run(repository, m) for m in ("average", "mats")])
    before = template.state()

    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["gitmerge-eval", "advise", *arguments])
        status = cli.main()
        return status, *capsys.readouterr()

    status, out, err = command(*HEADS[:2])
    assert status == 0
    assert "n = 1, thin" in out
    assert "note: the evidence is thin" in err
    status, out, _ = command(*HEADS[:2], "--goal", "held-in", "--json")
    (document,) = json.loads(out)
    assert (status, document["methods"][0]["method"]) == (0, "mats")
    assert document["methods"][0]["evidence"]["comparisons"] == 1
    assert command(*HEADS[:2], "--flops", "1")[0] == 1
    assert template.state() == before
