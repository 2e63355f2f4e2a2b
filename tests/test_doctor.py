"""doctor: a healthy clone is healthy, and each ailment is found and named with its remedy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gitmerge_eval import diagnosing
from gitmerge_eval.diagnosing import OK, PROBLEM, WARNING, diagnose
from gitmerge_eval.git import configuration, hooks, programs, tracking, trailers
from gitmerge_eval.git.repository import Repository

BIN = Path(sys.executable).parent


@pytest.fixture
def ready(repository):
    configuration.install(repository)
    return repository


@pytest.fixture
def home(tmp_path, monkeypatch, git_environment):
    """A home of this test alone."""
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / ".gitconfig").write_bytes((git_environment / ".gitconfig").read_bytes())
    monkeypatch.setenv("HOME", str(folder))
    return folder


def bad(repository):
    return {f.name: f for f in diagnose(repository) if f.status != OK}


def git(*arguments, where):
    subprocess.run(["git", *arguments], cwd=where, check=True, capture_output=True)


def test_a_fresh_installation_is_healthy(ready):
    assert bad(ready) == {}
    names = [finding.name for finding in diagnose(ready)]
    for name in ("git", "git-lfs", "strategy", "torch", "gpu", "configuration", "hooks"):
        assert name in names
    torch = next(finding for finding in diagnose(ready) if finding.name == "torch")
    done = subprocess.run(
        [sys.executable, "-m", "pip", "show", "torch"], capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        assert f"Version: {torch.what.removeprefix('version ')}" in done.stdout


def test_without_a_repository_only_the_machine(repository):
    names = {finding.name for finding in diagnose(None)}
    assert "git" in names
    assert "configuration" not in names


def test_before_init_the_remedy_is_init(repository):
    found = bad(repository)["init"]
    assert (found.status, found.remedy) == (PROBLEM, "run: gitmerge-eval init")


def test_every_finding_that_is_not_ok_has_a_remedy(ready):
    ready.run("config", "--unset", "pull.octopus")
    ready.run("config", "merge-eval.evaluate", "sometimes")
    (hooks.folder(ready) / "pre-push").unlink(missing_ok=True)
    found = bad(ready)
    assert {"pull.octopus", "merge-eval.evaluate"} <= set(found)
    assert all(finding.remedy for finding in found.values())


@pytest.mark.parametrize(
    ("key", "value"),
    [("pull.octopus", "octopus"), ("merge.ff", "true"), ("pull.twohead", "theta"),
     ("filter.theta.required", "false"), ("filter.theta.process", "")],
)  # fmt: skip
def test_a_changed_value_is_named(ready, key, value):
    ready.run("config", "--replace-all", key, value)
    assert bad(ready)[key].status == PROBLEM
    configuration.install(ready)
    assert bad(ready) == {}


def test_a_value_of_higher_priority_is_named_with_its_scope(ready, monkeypatch):
    ready.run("config", "extensions.worktreeConfig", "true")
    ready.run("config", "--worktree", "merge.ff", "only")
    found = bad(ready)["merge.ff"]
    assert found.status == PROBLEM
    assert "'only' by the worktree configuration" in found.what
    ready.run("config", "--worktree", "--unset", "merge.ff")
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "pull.octopus")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "octopus")
    assert "by the command configuration" in bad(ready)["pull.octopus"].what


def test_a_global_git_theta_is_overridden_where_it_matters(home, repository):
    """The real 'git theta install' writes to the global configuration."""
    subprocess.run([BIN / "git-theta", "install"], cwd=home, check=True, capture_output=True)
    assert "git-theta-filter" in (home / ".gitconfig").read_text()
    configuration.install(repository)
    assert bad(repository) == {}
    assert "gitmerge-eval" in repository.text("config", "diff.theta.command")
    assert "gitmerge-eval" in repository.text("config", "filter.theta.smudge")
    assert "gitmerge-eval" in repository.text("config", "merge.theta.driver")


def test_git_theta_put_back_in_our_place(ready, commit):
    commit({"model.safetensors": "{}"})
    command = [BIN / "git-theta", "track", "model.safetensors"]
    subprocess.run(command, cwd=ready.directory, check=True, capture_output=True)
    assert "git-theta's own post-commit, pre-push is back" in bad(ready)["hooks"].what
    ready.run("config", "filter.theta.clean", "git-theta-filter clean %f")
    assert "cannot push merges" in bad(ready)["filter"].what
    configuration.install(ready)
    assert "hooks" not in bad(ready)
    assert "filter" not in bad(ready)


def test_hooks_overwritten_or_outdated(ready, monkeypatch):
    if programs.version_of("git", "version") < programs.CONFIGURED_HOOKS:
        path = hooks.folder(ready) / "prepare-commit-msg"
        path.write_text("#!/bin/sh\n")
        found = bad(ready)["hooks"]
        assert (found.status, found.what.split()[0]) == (PROBLEM, "prepare-commit-msg")
        configuration.install(ready)
    with monkeypatch.context() as patch:
        patch.setattr(programs, "command", lambda name=programs.MAIN: "/elsewhere/gitmerge-eval")
        assert bad(ready)["hooks"].status == WARNING


def test_core_hooks_path_is_mentioned(repository, tmp_path):
    repository.run("config", "core.hooksPath", str(tmp_path / "shared"))
    configuration.install(repository)
    found = {finding.name: finding for finding in diagnose(repository)}["core.hooksPath"]
    assert str(tmp_path / "shared") in found.what
    assert bad(repository) == {}


def test_the_strategy_must_be_on_path(ready, monkeypatch):
    folders = os.environ["PATH"].split(os.pathsep)
    others = [folder for folder in folders if not Path(folder, "git-merge-theta").exists()]
    with monkeypatch.context() as patch:
        patch.setenv("PATH", os.pathsep.join(others))
        found = bad(ready)["strategy"]
        refused = ready.run("merge", "HEAD", "-s", "theta", check=False)
    assert found.status == PROBLEM
    assert "PATH" in found.remedy
    # What Git says is what the finding promises.
    assert "Could not find merge strategy" in refused.stderr
    assert "Could not find merge strategy" in found.what


def test_another_installation_of_the_strategy(ready, monkeypatch, tmp_path):
    other = tmp_path / "git-merge-theta"
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert str(other) in bad(ready)["strategy"].what


def test_programs_that_are_gone(ready):
    for key in ("filter.theta.process", "merge.theta.driver"):
        ready.run("config", key, "'/no where/gitmerge-eval' filter")
    found = [f for f in diagnose(ready) if "is not there" in f.what]
    assert [f.name for f in found] == ["filter.theta.process", "merge.theta.driver"]


def test_git_lfs_missing(repository, monkeypatch, tmp_path):
    for name in ("git", "sh"):
        (tmp_path / name).symlink_to(f"/usr/bin/{name}")
    monkeypatch.setenv("PATH", str(tmp_path))
    found = bad(repository)["git-lfs"]
    assert found.status == PROBLEM
    assert "git-lfs" in found.remedy


def test_branch_options_that_bypass_the_strategy(ready):
    ready.run("config", "branch.main.mergeOptions", "--ff-only")
    assert "--ff-only" in bad(ready)["branch.main.mergeoptions"].what
    ready.run("config", "branch.main.mergeOptions", "-Xmethod=ties")
    assert bad(ready) == {}


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [("method", "tis", "did you mean 'ties'"), ("method", "ties", None), ("density", "2", None),
     ("memory", "plenty", "option 'memory'")],
)  # fmt: skip
def test_defaults_of_merges_that_no_merge_can_have(ready, key, value, said):
    ready.run("config", f"merge-eval.{key}", value)
    found = bad(ready)
    if said is None:  # 'density' is no option of the method that counts
        assert found == {}
    else:
        assert found["merge-eval"].status == PROBLEM
        assert said in found["merge-eval"].what
        ready.run("config", "--unset", f"merge-eval.{key}")
        assert bad(ready) == {}


def test_notes_that_would_be_lost_or_wait_to_be_united(repository, commit, tmp_path):
    commit({"a": "1"})
    git("clone", "-q", str(repository.directory), "clone", where=tmp_path)
    clone = Repository(tmp_path / "clone")
    configuration.install(clone)
    repository.run("notes", "--ref=gitmerge-eval", "add", "-m", "there", "HEAD")
    clone.run("fetch", "--quiet")
    found = bad(clone)["notes"]
    subprocess.run(found.remedy.removeprefix("run: "), shell=True, cwd=clone.directory, check=True)
    assert bad(clone) == {}
    assert "there" in clone.text("log", "-1")
    clone.run("config", "--add", "remote.origin.fetch", "+refs/notes/*:refs/notes/*")
    found = bad(clone)["remote.origin.fetch"]
    assert found.status == WARNING
    subprocess.run(found.remedy, shell=True, cwd=clone.directory, check=True)
    assert bad(clone) == {}


def test_raw_checkpoints_and_linked_work_trees(ready, commit, tmp_path):
    commit({".gitattributes": "*.x filter=unset-theta\n", "m.x": '{"a": 1}\n'})
    (ready.directory / ".gitattributes").write_text("*.x filter=theta\n")
    assert "1 of 1 checkpoints are raw" in bad(ready)["checkpoints"].what
    ready.run("worktree", "add", "--quiet", "-b", "other", str(tmp_path / "other"))
    names = {finding.name for finding in diagnose(Repository(tmp_path / "other"))}
    assert "work tree" in names
    assert tracking.tracked(Repository(tmp_path / "other")) == {}


def test_leftovers_of_a_merge(ready, commit):
    head = commit({"a": "1"})
    journal = ready.path(diagnosing.JOURNAL)
    journal.parent.mkdir(exist_ok=True)
    journal.write_text('{"pid": 4711}')
    assert "process 4711" in bad(ready)["interrupted merge"].what
    journal.unlink()
    state = trailers.MergeState(head=head, remotes=("1" * 40,), trailers=())
    trailers.write_state(ready, state)
    found = {finding.name: finding for finding in diagnose(ready)}["merge state"]
    assert found.status == OK
    ready.path("MERGE_HEAD").write_text(f"{'1' * 40}\n")
    assert "waits to be committed" in bad(ready)["merge state"].what


def test_a_merge_that_is_committed_and_still_under_way(ready, commit):
    """What a Ctrl-C in a post-merge hook leaves."""
    commit({"a": "1"})
    ready.run("branch", "side")
    commit({"b": "1"})
    ready.run("switch", "--quiet", "side")
    side = commit({"c": "1"})
    ready.run("switch", "--quiet", "main")
    ready.run("merge", "--quiet", "--no-edit", "--strategy=ort", "side")
    assert bad(ready) == {}
    ready.path("MERGE_HEAD").write_text(f"{side}\n")
    assert "still merging" in ready.text("status")
    found = bad(ready)["finished merge"]
    subprocess.run(found.remedy.removeprefix("run: "), shell=True, cwd=ready.directory, check=True)
    assert bad(ready) == {}


def test_the_journal_is_where_the_merge_writes_it(ready):
    from gitmerge_eval.git import journal

    assert journal.journal_path(ready) == ready.path(diagnosing.JOURNAL)


def test_the_gpu_is_asked_only_on_request(ready):
    import torch

    code = (
        "import sys; from gitmerge_eval.diagnosing import diagnose; diagnose(None); "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    found = {finding.name: finding for finding in diagnose(None, gpu=True)}["gpu"]
    assert ("torch computes on" in found.what) == torch.cuda.is_available()
