"""Sweeps over a repository whose models are a handful of numbers: real merges, real scores."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from evaluated_repositories import MODELS, PLAIN, SKILLS, Evaluated, score

from gitmerge_eval import sweeping
from gitmerge_eval.errors import InvalidOption, MissingStatistic, UnknownName
from gitmerge_eval.evaluation import evaluating
from gitmerge_eval.evaluation.evaluating import results_path
from gitmerge_eval.evaluation.runs import open_runs
from gitmerge_eval.git import trailers

HEADS = ("fruit-quickdraw", "bird-real")
HELD_IN, SPANNED = HEADS, ("fruit-real", "bird-quickdraw")
TENTHS = [n / 10 for n in range(1, 11)]


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return Evaluated.tracked(tmp_path_factory.mktemp("template") / "repository")


@pytest.fixture
def evaluated(template, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(PLAIN))
    monkeypatch.setenv("PYTHONPATH", str(PLAIN))
    found = template.copy(tmp_path / "repository")
    monkeypatch.setenv("PLAIN_LOG", str(found.log))
    return found


def sweep(evaluated, heads=HEADS, watch=lambda step: None, **settings):
    return sweeping.sweep(
        evaluated.repository, heads, sweeping.Settings(device="cpu", **settings), watch
    )


def added(scale, heads=HEADS):
    """Task arithmetic by hand."""
    base = MODELS["main"]
    return tuple(b + scale * sum(MODELS[h][i] - b for h in heads) for i, b in enumerate(base))


def mean(values, tasks):
    return sum(score(values, task) for task in tasks) / len(tasks)


def test_the_best_scale_is_the_one_that_scores_best(evaluated):
    found = sweep(evaluated, methods=("task-arithmetic",))
    assert [run.options["scale"] for run in found.candidates] == TENTHS
    for run, scale in zip(found.candidates, TENTHS, strict=True):
        assert run.average("held-in", "validation") == pytest.approx(mean(added(scale), HELD_IN))
        spanned = run.average("generalization", "validation")
        assert spanned == pytest.approx(mean(added(scale), SPANNED))
    best = max(TENTHS, key=lambda scale: mean(added(scale), HELD_IN))
    assert found.winner == found.chosen["task-arithmetic"]
    assert found.winner.options["scale"] == best
    assert found.winner.average("held-in") == pytest.approx(mean(added(best), HELD_IN))
    individual = sum(score(MODELS[task], task) for task in HELD_IN) / 2
    assert found.winner.average("held-in", model="individual") == individual
    assert found.winner.average("held-in", model="multitask") is not None
    assert found.winner.normalised("generalization") == pytest.approx(
        mean(added(best), SPANNED) / mean(MODELS["main"], SPANNED)
    )
    assert found.skipped == {}
    assert found.remarks == ()


def test_nothing_is_committed_and_nothing_left_behind(evaluated):
    def state():
        git = evaluated.repository.directory / ".git"
        files = {
            os.path.join(root, name)
            for root, _, names in os.walk(git)
            for name in names
            if "/objects/" in os.path.join(root, name)
        }
        text = evaluated.repository.text
        return text("for-each-ref"), text("status", "--porcelain"), text("notes", "list"), files

    before = state()
    sweep(evaluated, methods=("task-arithmetic", "average"))
    assert state() == before
    left = evaluated.repository.common_directory / "gitmerge-eval"
    assert {path.name.partition(".")[0] for path in left.iterdir()} <= {
        "results", "groups", "objects", "evaluated", "evaluations", "installed",
    }  # fmt: skip
    assert list((left / "evaluated").iterdir()) == []


def test_dare_takes_over_the_best_scale(evaluated):
    found = sweep(evaluated, methods=("dare", "task-arithmetic"))
    best = found.chosen["task-arithmetic"].options["scale"]
    own = [run for run in found.candidates if run.method == "dare"]
    assert [run.options["drop-rate"] for run in own] == [n / 10 for n in range(10)]
    assert {run.options["scale"] for run in own} == {best}
    alone = sweep(evaluated, methods=("dare",))
    assert {run.options["scale"] for run in alone.candidates} == {0.4}


def test_a_repeated_sweep_computes_nothing(evaluated):
    first = sweep(evaluated, methods=("task-arithmetic", "average"))
    scored = len(evaluated.computed)
    again = sweep(evaluated, methods=("task-arithmetic", "average"))
    assert (first.computed, again.computed) == (11, 0)
    assert len(evaluated.computed) == scored
    assert [r.scores for r in again.candidates] == [r.scores for r in first.candidates]
    assert again.winner.spec == first.winner.spec
    more = sweep(evaluated, methods=("task-arithmetic",), grid=("task-arithmetic.scale=0.4,0.45",))
    assert more.computed == 1


def test_what_a_sweep_measured_is_in_the_table(evaluated):
    found = sweep(evaluated, methods=("task-arithmetic",))
    with open_runs(results_path(evaluated.repository)) as runs:
        known = runs.find(source="sweep", study=found.digest)
    assert {run.spec for run in known} == {run.spec for run in found.candidates}
    (chosen,) = [run for run in known if run.chosen]
    assert chosen.spec == found.winner.spec
    assert len(chosen.checkpoint) == 40
    assert {name for name, _ in chosen.constituents} == set(HEADS)
    for run in known:
        assert run.cost.flops == (2 * 2 + 1) * len(SKILLS)
        assert run.cost.shared == (1 if run.chosen else 10)
        assert run.cost.seconds > 0
        assert all(s.fingerprint for scores in run.scores.values() for s in scores)


def test_brief_scores_candidates_on_what_decides(evaluated):
    found = sweep(evaluated, methods=("task-arithmetic",), brief=True)
    losing = next(run for run in found.candidates if not run.chosen)
    assert [s.task for s in losing.scores["validation"]] == list(HELD_IN)
    assert len(found.winner.scores["test"]) == 4


def test_the_choice_may_be_by_generalization_or_none(evaluated):
    found = sweep(evaluated, methods=("task-arithmetic",), select="generalization")
    best = max(TENTHS, key=lambda scale: mean(added(scale), SPANNED))
    assert found.winner.options["scale"] == best
    none = sweep(evaluated, methods=("task-arithmetic",), select="none")
    assert (none.chosen, none.winner) == ({}, None)
    assert all(list(run.scores) == ["test"] for run in none.candidates)
    assert none.candidates[0].normalised("held-in") is not None


def test_a_grid_of_ones_own(evaluated):
    found = sweep(
        evaluated,
        methods=("ties", "slerp"),
        grid=("ties.density=0.5,0.2", "ties.scale=1.0,0.5,0.7", "slerp.t=0.3,0.5"),
    )
    tried = [(r.options["density"], r.options["scale"]) for r in found.candidates[2:]]
    assert tried == [(d, s) for d in (0.2, 0.5) for s in (0.5, 0.7, 1.0)]
    assert [run.options["t"] for run in found.candidates[:2]] == [0.3, 0.5]


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"methods": ("tise",)}, UnknownName, "ties"),
        ({"grid": ("ties.scael=1",)}, UnknownName, "scale"),
        ({"grid": ("ties=1",)}, InvalidOption, r"<method>\.<option>"),
        ({"grid": ("dare.drop-rate=2",)}, InvalidOption, "drop-rate"),
        ({"methods": ("average",), "grid": ("ties.scale=1",)}, InvalidOption, "not among"),
        ({"select": "luck"}, InvalidOption, "heldin-validation"),
        ({"methods": ("fisher",)}, MissingStatistic, "stats fisher"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_computed(evaluated, settings, error, message):
    with pytest.raises(error, match=message):
        sweep(evaluated, **settings)
    assert evaluated.computed == []


def test_methods_that_lack_something_are_left_out_of_all(evaluated):
    found = sweep(evaluated, grid=("mats.iterations=1",))
    assert set(found.skipped) == {"fisher", "regmean", "mats"}
    assert "stats gram" in found.skipped["regmean"]
    assert {run.method for run in found.candidates} == {
        "average", "slerp", "task-arithmetic", "dare", "ties", "dare-ties",
    }  # fmt: skip


def command(evaluated, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "gitmerge_eval", *arguments],
        cwd=evaluated.repository.directory,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


def test_the_winner_becomes_the_merge_commit_and_its_scores_are_known(evaluated):
    done = command(
        evaluated, "sweep", "--methods", "average,task-arithmetic", "--merge", "--json", *HEADS
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    record = trailers.read(evaluated.repository, "HEAD")
    winner = found["winner"]
    assert record.method == winner["method"]
    assert record.options["scale"] == winner["options"]["scale"]
    digest, criterion, value, *rest = record.sweep.split()
    assert (digest, criterion) == (found["sweep"], "heldin-validation")
    assert float(value) == pytest.approx(winner["averages"]["validation"]["held-in"], abs=1e-4)
    assert rest == ["of", "11", "candidates"]
    assert found["merge"] == evaluated.repository.commit("HEAD")
    scored = len(evaluated.computed)
    note = evaluating.evaluate(evaluated.repository, "HEAD", device="cpu")
    assert len(evaluated.computed) == scored
    assert note.average("held-in") == winner["averages"]["test"]["held-in"]
    assert command(evaluated, "verify", "HEAD").returncode == 0


def test_merge_is_refused_at_once_where_git_would_refuse(evaluated):
    (evaluated.repository.directory / "benchmark.toml").write_text("name = 'plain'\n")
    evaluated.repository.run("add", "benchmark.toml")
    done = command(evaluated, "sweep", "--methods", "average", "--merge", *HEADS)
    assert done.returncode == 2
    assert "staged changes" in done.stderr
    assert evaluated.computed == []


def test_a_table_for_people(evaluated):
    done = command(evaluated, "sweep", "--methods", "average,task-arithmetic", *HEADS)
    assert done.returncode == 0, done.stderr
    assert "task-arithmetic *" in done.stdout
    assert "the best of 11 candidates by heldin-validation" in done.stdout
    assert all(line.startswith("gitmerge-eval: sweep: ") for line in done.stderr.splitlines())


def test_where_there_is_no_terminal_lines_on_stderr_say_how_far_it_is(evaluated):
    arguments = ["sweep", "--methods", "average,task-arithmetic", "--brief", "--json", *HEADS]
    done = command(evaluated, *arguments, PLAIN_SECONDS="0.15")
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) >= 2
    assert all(line.startswith("gitmerge-eval: sweep: ") for line in lines)
    assert " of 11, about " in done.stderr
    assert json.loads(done.stdout)["computed"] == 11


@pytest.mark.parametrize("finished", [1, 4, 12])
def test_a_killed_sweep_goes_on_where_it_was(evaluated, finished):
    """SIGKILL while a candidate is scored: no finished one is computed or scored again."""
    arguments = ["sweep", "--methods", "task-arithmetic,average", "--brief", "--json", *HEADS]
    process = subprocess.Popen(
        [sys.executable, "-m", "gitmerge_eval", *arguments],
        cwd=evaluated.repository.directory,
        env={**os.environ, "PLAIN_SECONDS": "0.1"},
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while len(evaluated.lines) < 2 * finished and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with open_runs(results_path(evaluated.repository)) as runs:
        recorded = len(runs.find(source="sweep"))
    before = [Path(line.split()[0]).parent for line in evaluated.lines]
    done = command(evaluated, *arguments)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["computed"] == 11 - recorded
    assert recorded >= min(finished, 11) - 1
    models = [line.split()[0] for line in evaluated.lines]
    # Both tasks of each candidate were scored once, but for the one that the kill hit.
    validation = [line for line in evaluated.lines if " validation " in line]
    assert 22 <= len(validation) <= 24
    assert len(models) > len(before)
    folder = evaluated.repository.common_directory / "gitmerge-eval"
    assert list(folder.glob("run-*")) == []
