"""``benchmark train``: real Git, a real model, interrupted, killed, refused."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from evaluated_repositories import PLAIN
from safetensors.torch import load_file
from typer.testing import CliRunner

from gitmerge_eval import benchmarks, building, training
from gitmerge_eval.benchmarks import domainnet_classification_mini as mini
from gitmerge_eval.benchmarks import read_recipe, recipe_folder
from gitmerge_eval.checkpoints import statistics_index
from gitmerge_eval.cli.application import application
from gitmerge_eval.errors import EvaluationError, UnknownName, UsageError
from gitmerge_eval.evaluation.declarations import constituents_at
from gitmerge_eval.git.repository import Repository

MODEL = "model.safetensors"


def small_recipe():
    """Two categories, two domains, a few steps, and a look at validation every second one."""
    recipe = copy.deepcopy(dict(read_recipe(mini.NAME)))
    recipe["skills"] = {"category": ["bird", "fruit"], "domain": ["quickdraw", "real"]}
    recipe["held_in"] = {"bird": "real", "fruit": "quickdraw"}
    recipe["pictures"] |= {"pretrain": 3, "train": 6, "validation": 2, "test": 2}
    recipe["pretraining"] |= {"steps": 2, "batch": 8, "warm_up": 1}
    for section in ("fine_tuning", "multitask"):
        recipe[section] |= {"steps": 6, "batch": 8, "warm_up": 1}
    recipe["stopping"] = {"every": 2, "patience": 5}
    return recipe


SMALL = mini.benchmark(small_recipe(), recipe_folder(mini.NAME))


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmarks, "get", lambda name: SMALL)
        return building.build(mini.NAME, tmp_path_factory.mktemp("built") / "models", seed=3)


@pytest.fixture
def repository(template, tmp_path, monkeypatch):
    """A copy with 'main' alone."""
    monkeypatch.setattr(benchmarks, "get", lambda name: SMALL)
    folder = tmp_path / "models"
    subprocess.run(["cp", "-a", str(template.directory), str(folder)], check=True)
    repository = Repository(folder)
    for branch in ("bird-real", "fruit-quickdraw", "multitask"):
        repository.run("branch", "-D", branch)
    repository.run("config", "user.name", "Somebody")
    repository.run("config", "user.email", "somebody@example.org")
    return repository


def unchanged(repository):
    """What must be the same before and after, the object store aside."""
    return (
        repository.text("for-each-ref"),
        repository.text("symbolic-ref", "HEAD"),
        repository.text("status", "--porcelain"),
        repository.text("worktree", "list"),
        (repository.directory / MODEL).read_bytes(),
    )


class Killed(KeyboardInterrupt):
    pass


def interrupting(at):
    def progress(what, done, total):
        if done == at:
            raise Killed

    return progress


def test_a_trained_branch_is_the_one_that_building_makes(repository, template):
    before = unchanged(repository)
    done = training.train(repository, ["bird-real"], kinds=["fisher", "gram", "trimmed"])
    assert done.branch == "bird-real"
    assert done.base == template.commits["main"]
    after = unchanged(repository)
    assert after[1:] == before[1:]
    assert repository.commit("bird-real") == done.commit
    assert repository.text("rev-parse", "bird-real^") == template.commits["main"]
    own = template.commits["bird-real"]
    assert repository.blob_id(done.commit, MODEL) == repository.blob_id(own, MODEL)
    (declaration,) = constituents_at(repository, done.commit).values()
    assert (declaration.name, declaration.task) == ("bird-real", "bird-real")
    index = statistics_index.parse(
        repository.blob(repository.blob_id(done.commit, "statistics/index.json"))
    )
    blob = repository.blob_id(done.commit, MODEL)
    assert {kind: e.checkpoint for kind, e in index[MODEL].items()} == dict.fromkeys(
        ("fisher", "gram", "trimmed"), blob
    )
    assert repository.text("log", "-1", "--format=%an: %s", done.commit) == (
        "Somebody: bird-real: fine-tuned on its training split"
    )
    assert not list((repository.common_directory / training.FOLDER).glob("bird-real"))


def test_the_trained_branches_merge_by_the_literal_command(repository):
    for task in ("bird-real", "fruit-quickdraw"):
        training.train(repository, [task], kinds=["gram"])
    repository.run("config", "merge-eval.evaluate", "off")
    before = load_file(repository.directory / MODEL)
    status = repository.run_attached(
        "merge", "--quiet", "--strategy-option=method=regmean", "bird-real", "fruit-quickdraw",
        environment={"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
    )  # fmt: skip
    assert status == 0
    after = load_file(repository.directory / MODEL)
    assert not (before["visual.proj"] == after["visual.proj"]).all()
    assert "Merge-Method: regmean" in repository.text("log", "-1", "--format=%B")


def test_an_interrupt_leaves_everything_as_it_was_and_the_same_command_goes_on(
    repository, template
):
    before = unchanged(repository)
    with pytest.raises(Killed):
        training.train(repository, ["bird-real"], progress=interrupting(5))
    assert unchanged(repository) == before
    steps = []
    done = training.train(
        repository, ["bird-real"], progress=lambda what, step, total: steps.append(step)
    )
    assert steps == [5, 6]  # saved at the look after step 4
    own = repository.blob_id(template.commits["bird-real"], MODEL)
    assert repository.blob_id(done.commit, MODEL) == own


def test_a_kill_while_statistics_are_computed_does_not_lose_the_model(repository):
    def progress(what, done, total):
        if "gram" in what:
            raise Killed

    before = unchanged(repository)
    with pytest.raises(Killed):
        training.train(repository, ["bird-real"], kinds=["gram"], progress=progress)
    assert unchanged(repository) == before
    seen = set()
    training.train(
        repository, ["bird-real"], kinds=["gram"], progress=lambda what, *_: seen.add(what)
    )
    assert seen == {"gram of model.safetensors"}


def test_a_killed_process_leaves_a_repository_that_goes_on(repository, template):
    before = unchanged(repository)
    program = textwrap.dedent(
        """
        import os, signal, sys
        from test_training import SMALL
        from gitmerge_eval import benchmarks, training
        from gitmerge_eval.git.repository import Repository

        benchmarks.get = lambda name: SMALL

        def progress(what, done, total):
            if done == 3:
                os.kill(os.getpid(), signal.SIGKILL)

        training.train(Repository(sys.argv[1]), ["bird-real"], progress=progress)
        """
    )
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", program, str(repository.directory)],
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == -signal.SIGKILL
    assert unchanged(repository)[:3] == before[:3]
    assert unchanged(repository)[4] == before[4]
    steps = []
    again = training.train(
        repository, ["bird-real"], progress=lambda what, step, total: steps.append(step)
    )
    assert steps[0] == 3  # saved at the look after step 2
    own = repository.blob_id(template.commits["bird-real"], MODEL)
    assert repository.blob_id(again.commit, MODEL) == own
    assert unchanged(repository)[1:] == before[1:]


def test_several_tasks_make_the_multitask_model(repository, template):
    done = training.train(repository, ["multitask"])
    assert done.branch == "multitask"
    assert set(done.tasks) == {"bird-real", "fruit-quickdraw"}
    own = repository.blob_id(template.commits["multitask"], MODEL)
    assert repository.blob_id("multitask", MODEL) == own
    assert constituents_at(repository, "multitask") == {}
    other = training.train(repository, ["fruit-quickdraw", "fruit-real"], branch="fruit/all")
    assert other.branch == "fruit/all"
    assert repository.blob_id("fruit/all", MODEL) != own


def test_a_generalization_task_can_be_trained_as_a_baseline(repository):
    done = training.train(repository, ["fruit-real"], branch="baselines/fruit-real")
    (declaration,) = constituents_at(repository, done.commit).values()
    assert (declaration.name, declaration.task) == ("fruit-real", "fruit-real")


def test_a_training_that_goes_on_from_another_branch_drops_its_stale_statistics(repository):
    training.train(repository, ["bird-real"], kinds=["gram"])
    done = training.train(repository, ["fruit-real"], base="bird-real")
    assert repository.blob_id(done.commit, "statistics/gram.safetensors") is None
    assert repository.blob_id(done.commit, "statistics/index.json") is None
    assert done.base == repository.commit("bird-real")


# --- refusals ------------------------------------------------------------------------------------


def refused(repository, match, tasks=("bird-real",), error=UsageError, **how):
    before = unchanged(repository)
    with pytest.raises(error, match=match) as caught:
        training.train(repository, tasks, **how)
    assert "\n" not in str(caught.value)
    assert unchanged(repository) == before


def test_what_cannot_be_trained_is_refused_before_anything_happens(repository):
    refused(repository, "did you mean 'bird-real'", tasks=["bird-reel"], error=UnknownName)
    refused(repository, "did you mean 'fisher'", kinds=["fischer"], error=UnknownName)
    refused(repository, "no task is named", tasks=[])
    refused(repository, "leave out --statistics", tasks=["multitask"], kinds=["gram"])
    refused(repository, "not a name for a branch", branch="two words")
    repository.run("branch", "bird-real", "main")
    refused(repository, "exists; name another with --branch")
    repository.run("branch", "-D", "bird-real")
    (repository.directory / "README.md").write_text("changed")
    refused(repository, "'README.md' has changes that are not committed")


@pytest.mark.parametrize("variable", ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"])
def test_variables_that_name_a_place_are_refused(repository, monkeypatch, variable):
    place = {"GIT_DIR": ".git", "GIT_WORK_TREE": ".", "GIT_INDEX_FILE": ".git/index"}[variable]
    monkeypatch.setenv(variable, str(repository.directory / place))
    with pytest.raises(UsageError, match=f"the variable {variable} is set"):
        training.train(repository, ["bird-real"])


def test_a_base_without_model_or_benchmark_is_refused(repository):
    repository.run("rm", "--quiet", MODEL)
    repository.run("commit", "--quiet", "-m", "no model")
    with pytest.raises(UsageError, match=r"has no 'model\.safetensors' to start from"):
        training.train(repository, ["bird-real"])
    repository.run("rm", "--quiet", "benchmark.toml")
    repository.run("commit", "--quiet", "-m", "no benchmark")
    with pytest.raises(UsageError, match=r"has no benchmark\.toml"):
        training.train(repository, ["bird-real"])


def test_an_interrupted_training_is_not_mixed_with_another(repository):
    with pytest.raises(Killed):
        training.train(repository, ["bird-real"], branch="mine", progress=interrupting(4))
    with pytest.raises(UsageError, match="begin anew with --restart"):
        training.train(repository, ["fruit-quickdraw"], branch="mine")
    steps = []
    training.train(
        repository, ["fruit-quickdraw"], branch="mine", restart=True,
        progress=lambda what, step, total: steps.append(step),
    )  # fmt: skip
    assert steps[0] == 1


def test_two_processes_do_not_train_one_branch(repository):
    def progress(what, done, total):
        with pytest.raises(UsageError, match="another process trains"):
            training.train(repository, ["bird-real"])

    training.train(repository, ["bird-real"], progress=progress)


def test_a_benchmark_without_training_is_said(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(PLAIN))
    monkeypatch.setenv("PYTHONPATH", str(PLAIN))
    built = building.build("plain", tmp_path / "plain")
    repository = Repository(built.directory)
    with pytest.raises(EvaluationError, match="has no training of its own"):
        training.train(repository, ["fruit-real"])


def test_what_a_benchmark_raises_becomes_one_line(repository, monkeypatch):
    def fail(*arguments, **how):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(training.benchmarks, "get", lambda name: _with_train(fail))
    refused(repository, "could not train on bird-real: RuntimeError: out of memory",
            error=EvaluationError)  # fmt: skip


def _with_train(function):
    from dataclasses import replace

    return replace(SMALL, train=function)


def test_the_command(repository, monkeypatch):
    monkeypatch.chdir(repository.directory)
    shown = CliRunner().invoke(
        application,
        ["benchmark", "train", "bird-real", "--branch", "mine", "--statistics", "gram", "--json"],
    )
    assert shown.exit_code == 0, shown.output
    report = json.loads(shown.stdout)
    assert report["commit"] == repository.commit("mine")
    assert report["statistics"] == ["gram"]
