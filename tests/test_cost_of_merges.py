"""What a merge costs: counted by plan, measured by git merge, told by note and report."""

from __future__ import annotations

import json
import math
import os
import subprocess
import time
from dataclasses import asdict, replace

import pytest
import torch
from evaluated_repositories import MODELS, PLAIN, SKILLS
from models import MODEL, ModelRepository, statistics_for
from reported_repositories import results, run
from small_repositories import copied, settle

from gitmerge_eval import dryrun
from gitmerge_eval.costs import Cost
from gitmerge_eval.evaluation import evaluating, gathering, merge_costs, reporting
from gitmerge_eval.evaluation.declarations import BenchmarkDeclaration, ConstituentDeclaration
from gitmerge_eval.evaluation.gathering import Comparison
from gitmerge_eval.git import notes
from gitmerge_eval.report import comparing

TOKENS = 40
"""What the made-up statistics say that they were made of."""
HEADS = ("fruit-quickdraw", "bird-real")


@pytest.fixture(scope="module")
def one_layer(tmp_path_factory):
    """d = 4 inputs, k = 3 outputs; a and b with statistics, c without."""
    base = {"layer.weight": torch.arange(12.0).reshape(3, 4)}
    made = ModelRepository(tmp_path_factory.mktemp("layer") / "model", base)
    for number, name in enumerate("abc", 1):
        tuned = {"layer.weight": base["layer.weight"] + number}
        made.branch(name, tuned, statistics_for(base, number) if name != "c" else None)
    return made


@pytest.mark.parametrize(
    ("method", "merging", "statistics"),
    [
        ("average", 2 * 12, 0),
        ("task-arithmetic", 5 * 12, 0),
        ("dare", 13 * 12, 0),
        ("ties", 9 * 12, 2 * 20 * 12 + math.floor(2 * 12 * math.log(20))),
        ("fisher", 5 * 12, 4 * 2 * TOKENS * 16 * 3),
        ("regmean", 4 * 16 * 3 + 4 * 12, 2 * TOKENS * 16 * 3),
        ("mats", (2 + 10) * 16 * 3 + (4 + 50 - 2) * 12, 4 * 2 * TOKENS * 16 * 3),
    ],
)
def test_a_plan_counts_one_layer_as_table_3_does(one_layer, method, merging, statistics):
    given = [("method", method), *([("iterations", "10")] if method == "mats" else [])]
    (model,) = dryrun.preview(one_layer.git, ["a", "b"], given).checkpoints
    assert (model.merging_flops, model.statistics_flops) == (merging, statistics)
    wants = method in ("fisher", "regmean", "mats")
    assert model.statistics_tokens == (dict.fromkeys(model.constituents, TOKENS) if wants else {})
    if method != "mats":  # which has 20 steps unless told otherwise
        counts = {"merging_flops": merging, "statistics_flops": statistics}
        assert model.costs[method] == counts


def test_a_plan_compares_the_methods_that_could_be_used(one_layer):
    (model,) = dryrun.preview(one_layer.git, ["a", "c"], [("method", "average")]).checkpoints
    assert {name for name, lacking in model.applicable.items() if not lacking} == set(model.costs)
    assert "regmean" not in model.costs
    done = subprocess.run(
        ["gitmerge-eval", "plan", "-Xmethod=regmean", "a", "b"],
        cwd=one_layer.folder, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "3,840 FLOPs, on 40 tokens of a (" in done.stdout
    assert "regmean: yes, 240 FLOPs, statistics 3,840 FLOPs" in done.stdout
    assert any(line.strip().endswith("average: yes, 24 FLOPs") for line in done.stdout.split("\n"))


def skills(name):
    values = zip(SKILLS, MODELS[name], strict=True)
    return {skill: torch.tensor([float(value)]) for skill, value in values}


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """Models of the benchmark 'plain' in a repository with the real strategy, filter and hooks."""
    made = ModelRepository(tmp_path_factory.mktemp("template") / "model")
    made.save(skills("main"))
    (made.folder / "benchmark.toml").write_text(BenchmarkDeclaration("plain", {"seed": 3}).toml())
    made.commit("base model")
    for number, name in enumerate(HEADS):
        own = ConstituentDeclaration(name, "plain", name, MODEL)
        fisher = {"fisher": statistics_for(skills("main"), number)["fisher"]}
        made.branch(name, skills(name), fisher, files={own.path: own.toml()})
    made.git.run("config", "merge-eval.device", "cpu")
    settle(made)
    return made


@pytest.fixture
def repository(template, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.fspath(PLAIN))
    monkeypatch.syspath_prepend(os.fspath(PLAIN))
    return copied(template, tmp_path / "model")


def merged(repository, message="merge"):
    """The cost in the note of a real merge."""
    repository.merge("-Xmethod=fisher", "-m", message, *HEADS)
    (note,) = evaluating.show(repository.git)
    return note.cost


def evaluated(repository, **settings):
    """The cost in the note after another evaluation."""
    evaluating.evaluate(repository.git, **settings)
    return evaluating.show(repository.git)[-1].cost


def forget(repository):
    """Make it a clone in which nothing was merged or evaluated."""
    evaluating.results_path(repository.git).unlink()


def record(repository):
    text = notes.read(repository.git, repository.git.commit("HEAD"))
    (found,) = notes.records(text)
    return found


def test_the_note_of_a_merge_says_what_the_merge_took(repository):
    cost = merged(repository)
    assert 0 < cost.seconds < 60
    assert (cost.shared, cost.device, cost.reused_groups) == (1, "cpu", 0)
    # Six groups of one number: d = k = 1.
    assert cost.flops == 6 * 5
    assert cost.statistics_flops == 6 * 4 * 2 * TOKENS
    assert cost.written_bytes == 6 * 4
    assert cost.read_bytes > 0
    assert record(repository)["cost"] == asdict(cost)
    text = notes.read(repository.git, repository.git.commit("HEAD"))
    (line,) = (line for line in text.splitlines() if line.startswith("merging: "))
    assert line == f"merging: {reporting.cost_text(cost)}"
    assert len(line) <= 78
    (result,) = gathering.gather(repository.git).results
    assert (result.source, result.cost) == ("merge", cost)


def test_what_was_reused_is_said_and_a_note_keeps_its_cost_when_it_is_written_again(repository):
    start = repository.git.commit("HEAD")
    merged(repository)
    repository.git.run("reset", "--quiet", "--hard", start)
    cost = merged(repository, "once more")
    assert cost.reused_groups == 6
    assert cost.flops == 6 * 5
    text = notes.read(repository.git, repository.git.commit("HEAD"))
    assert "6 groups known from an earlier merge" in " ".join(text.split())
    assert evaluated(repository) == cost
    assert evaluated(repository, split="validation") == cost
    repository.git.run("update-ref", "-d", notes.REF)
    assert evaluated(repository) == cost


def test_in_another_clone_only_the_note_knows_the_cost(repository):
    cost = merged(repository)
    forget(repository)
    assert evaluated(repository) == cost
    repository.git.run("update-ref", "-d", notes.REF)
    assert evaluating.evaluate(repository.git).cost is None
    assert "cost" not in record(repository)


@pytest.mark.parametrize("how", ["off", "--no-commit", "--squash"])
def test_a_merge_that_is_evaluated_later_has_its_cost(repository, how):
    if how == "off":
        repository.git.run("config", "merge-eval.evaluate", "off")
        repository.merge("-Xmethod=fisher", *HEADS)
    else:
        ff = ["--ff"] if how == "--squash" else []
        repository.merge("-Xmethod=fisher", how, *ff, *HEADS)
        repository.git.run("commit", "--quiet", "--no-edit")
    assert evaluating.show(repository.git) == ()
    cost = evaluating.evaluate(repository.git).cost
    assert cost.flops == 6 * 5
    assert 0 < cost.seconds < 60


def test_costs_that_cannot_be_kept_leave_the_merge_as_it_is(repository):
    path = evaluating.results_path(repository.git)
    path.mkdir(parents=True)
    done = repository.merge("-Xmethod=fisher", *HEADS)
    assert "the merge's cost is not kept" in done.stderr
    assert not repository.git.succeeds("rev-parse", "--verify", "--quiet", "MERGE_HEAD")


def test_in_the_background_the_note_has_the_cost_too(repository):
    repository.git.run("config", "merge-eval.evaluate", "background")
    repository.merge("-Xmethod=average", *HEADS)
    folder = repository.git.git_directory / "gitmerge-eval" / "jobs"
    (state,) = folder.glob("*.json")
    deadline = time.monotonic() + 60
    while "summary" not in json.loads(state.read_text()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
    (note,) = evaluating.show(repository.git)
    assert note.cost.flops == 2 * 6


def test_a_cost_that_is_nobodys_is_not_taken_over(repository):
    merged(repository)
    forget(repository)
    head = repository.git.commit("HEAD")
    for wrong in ("free", {"seconds": "0"}, {"flops": -1}, {"seconds": math.inf}, [1]):
        notes.write(repository.git, head, "a table", {**record(repository), "cost": wrong})
        assert evaluating.evaluate(repository.git).cost is None
    path = evaluating.results_path(repository.git)
    merge_costs.keep(path, {"f" * 64: {"seconds": 1.0}, record(repository)["spec"]: {"flops": -1}})
    assert evaluating.evaluate(repository.git).cost is None
    assert merge_costs.find(path, "f" * 64) == Cost(seconds=1.0)


def test_a_method_is_drawn_with_the_cost_of_a_merge_that_reused_nothing():
    own = run("ties")
    known, fresh = replace(own.cost, seconds=0.001, reused_groups=5), Cost(2.0, flops=7)
    (reused, computed) = results([replace(own, cost=known), replace(own, cost=fresh)])
    section = comparing.cost(Comparison((reused, computed)))
    assert section.tables[0].records()[0]["seconds"] == 2.0
    alone = comparing.cost(Comparison((reused,)))
    assert alone.tables[0].records()[0]["groups reused"] == 5
    assert {panel.x_label for panel in alone.panels} == {"FLOPs, merging and statistics"}
