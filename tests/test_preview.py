"""preview: a merge that is made away from everything, evaluated, and offered as a comment."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from evaluated_repositories import MODELS, PLAIN, Evaluated, model, score
from workflows import Workflow

from gitmerge_eval import cli, previewing
from gitmerge_eval.errors import GitError, UsageError
from gitmerge_eval.git import configuration
from gitmerge_eval.git.repository import Repository
from gitmerge_eval.report import preview as report

HEADS = ("fruit-quickdraw", "bird-real")
AVERAGE = tuple((a + b) / 2 for a, b in zip(*(MODELS[head] for head in HEADS), strict=True))


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return Evaluated.tracked(tmp_path_factory.mktemp("template") / "repository")


@pytest.fixture
def evaluated(template, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(PLAIN))
    monkeypatch.setenv("PYTHONPATH", str(PLAIN))
    return template.copy(tmp_path / "repository")


def state(repository):
    """Everything that belongs to the user."""
    return (
        repository.text("for-each-ref"),
        repository.text("rev-parse", "HEAD"),
        repository.text("reflog", "show", "--all"),
        repository.run("ls-files", "--stage").stdout,
        repository.text("status", "--porcelain", "--ignored"),
        {p.name: p.read_bytes() for p in repository.directory.iterdir() if p.is_file()},
        repository.text("worktree", "list"),
        sorted(p.name for p in repository.git_directory.glob("gitmerge-eval/run-*")),
        (repository.git_directory / "gitmerge-eval" / "state").exists(),
    )


def previewed(evaluated, *heads, **how):
    how.setdefault("options", ["method=average"])
    return previewing.preview(evaluated.repository, heads or HEADS, device="cpu", **how)


def test_the_merge_is_made_evaluated_and_gone(evaluated):
    repository = evaluated.repository
    (repository.directory / "notes.txt").write_text("not committed")
    (repository.directory / "benchmark.toml").write_text("changed, and not committed")
    repository.run("add", "notes.txt")
    before = state(repository)
    found = previewed(evaluated)
    assert state(repository) == before
    assert found.possible
    expected = {task: score(AVERAGE, task) for task in (*HEADS, "fruit-real", "bird-quickdraw")}
    assert found.note is not None
    assert {s.task: s.merged for s in found.note.scores} == pytest.approx(expected)
    assert found.note.method == "average"
    assert found.note.cost is not None
    assert found.before is not None
    assert {s.task: s.merged for s in found.before.scores} == pytest.approx(
        {task: score(MODELS["main"], task) for task in expected}
    )
    assert (found.audit.commits, found.audit.sound) == (3, True)
    # No note, no branch: the commit is there until git gc, and nothing names it.
    assert repository.run("notes", "--ref=gitmerge-eval", "list", check=False).text == ""
    assert repository.text("branch", "--all", "--contains", found.made.commit) == ""


def test_the_comment_says_what_a_reviewer_asks(evaluated):
    text = report.comment(previewed(evaluated))
    lines = text.splitlines()
    assert lines[:2] == [report.MARKER, "## Merging fruit-quickdraw, bird-real into main"]
    held_in = sum(score(AVERAGE, task) for task in HEADS) / 2
    now = sum(score(MODELS["main"], task) for task in HEADS) / 2
    individual = sum(score(MODELS[head], head) for head in HEADS) / 2
    effect = f"- held-in {held_in:.2f} skill, {held_in - now:.2f} above main as it is now"
    assert effect in lines
    assert f"| the merge | {held_in:.2f} | {held_in / individual:.3f} |" in text
    assert f"| main as it is now | {now:.2f} |" in text
    assert "| method | average |" in text
    assert "| cost | " in text
    assert "Automatic merge" not in text
    assert "3 commits that the merge would bring: nothing is wrong." in text
    assert text.count("<details>") == text.count("</details>") == 1


def test_a_merge_of_ones_own_may_be_under_way(evaluated):
    repository = evaluated.repository
    repository.run("merge", "-q", "--no-commit", "-Xmethod=ties", *HEADS)
    files = [repository.path(n) for n in ("MERGE_HEAD", "MERGE_MSG", "gitmerge-eval/state")]
    under_way = [file.read_text() for file in files]
    before = state(repository)
    assert previewed(evaluated, "tool-sketch", options=["method=ties"]).possible
    assert state(repository) == before
    assert [file.read_text() for file in files] == under_way
    repository.run("commit", "-q", "--no-edit")
    assert "Merge-Method: ties" in repository.text("log", "-1", "--format=%B")


def test_the_branch_that_it_would_go_into_may_be_any(evaluated):
    repository = evaluated.repository
    repository.run("switch", "-q", "--detach", "tool-sketch")
    before = state(repository)
    found = previewed(evaluated, "fruit-quickdraw", into="bird-real")
    assert state(repository) == before
    assert [name for _, name in found.made.record.constituents] == ["HEAD", "fruit-quickdraw"]
    assert {s.task: s.merged for s in found.note.scores if s.status == "held-in"} == pytest.approx(
        {task: score(AVERAGE, task) for task in HEADS}
    )
    # A baseline is the model that is there now: the branch itself, on its own task.
    assert {s.task: s.merged for s in found.before.scores}["bird-real"] == score(
        MODELS["bird-real"], "bird-real"
    )


def test_a_conflict_and_a_refusal_are_told(evaluated):
    repository = evaluated.repository
    for name in HEADS:
        repository.run("switch", "-q", name)
        evaluated.put(name, {"words.txt": f"by {name}\n"})
    repository.run("switch", "-q", "main")
    before = state(repository)
    found = previewed(evaluated, "bird-real", into="fruit-quickdraw")
    assert (found.made.outcome, found.made.conflicts) == ("conflict", ("words.txt",))
    text = report.comment(found)
    assert "The merge has conflicts." in text
    assert "| conflict | words.txt |" in text
    assert "CONFLICT (add/add): Merge conflict in words.txt" in text
    refused = previewed(evaluated, options=["method=fisher"])
    assert refused.made.outcome == "refused"
    assert "'fisher' needs the statistic 'fisher'" in report.comment(refused).replace("\\", "")
    assert "The merge is refused." in report.comment(refused)
    wrong = previewed(evaluated, options=["method=tise"])
    assert "did you mean 'ties'?" in report.comment(wrong)
    nothing = previewed(evaluated, "main")
    assert (nothing.made.outcome, nothing.possible) == ("nothing", False)
    assert state(repository) == before


def test_what_verify_finds_is_told(evaluated):
    repository = evaluated.repository
    repository.run("switch", "-q", "bird-real")
    merge = repository.text(
        *("commit-tree", f"{_spoilt(evaluated)}^{{tree}}"),
        *("-p", "bird-real", "-p", "fruit-quickdraw", "-m", "Merge pull request <b>@all</b> | 7"),
    )
    repository.run("update-ref", "refs/heads/offered", merge)
    repository.run("switch", "-q", "main")
    found = previewed(evaluated, "offered")
    assert [f.kind for f in found.audit.findings] == ["no-trailer"]
    text = report.comment(found)
    assert "no-trailer" in text
    assert "<b>" not in text
    assert "Merge pull request &lt;b&gt;@\u200ball&lt;/b&gt; \\| 7" in text


def _spoilt(evaluated):
    """A commit whose model is nobody's."""
    data = model(evaluated.repository, (1, 2, 3, 4, 5, 6))
    repository = evaluated.repository
    blob = repository.write_blob(data)
    listing = repository.text("ls-tree", "-r", "bird-real")
    old = repository.blob_id("bird-real", "model.safetensors")
    with_other = [line.split("\t") for line in listing.replace(old, blob).splitlines()]
    index = "".join(f"{meta}\t{path}\0" for meta, path in with_other)
    environment = {"GIT_INDEX_FILE": str(repository.git_directory / "spoilt")}
    repository.run("update-index", "-z", "--index-info", stdin=index, environment=environment)
    tree = repository.run("write-tree", environment=environment).text
    return repository.text("commit-tree", tree, "-p", "bird-real", "-m", "spoilt")


def test_a_merge_that_cannot_be_evaluated_is_still_previewed(evaluated, monkeypatch):
    monkeypatch.setenv("PLAIN_FAIL", "no data here")
    found = previewed(evaluated)
    assert (found.possible, found.note) == (True, None)
    assert "not evaluated: " in report.comment(found)
    assert "RuntimeError: no data here" in report.comment(found)
    monkeypatch.delenv("PLAIN_FAIL")
    evaluated.repository.run("rm", "-q", "benchmark.toml")
    evaluated.repository.run("commit", "-q", "-m", "no benchmark")
    found = previewed(evaluated)
    assert "has no benchmark.toml" in report.comment(found).replace("\\", "")


def test_a_repository_that_is_not_set_up(evaluated, monkeypatch):
    with pytest.raises(GitError, match="'nothing' is not a commit"):
        previewed(evaluated, "nothing")
    with pytest.raises(UsageError, match="'--exec=x' is no branch"):
        previewed(evaluated, "--exec=x")
    monkeypatch.setenv("GIT_INDEX_FILE", "elsewhere")
    with pytest.raises(UsageError, match="GIT_INDEX_FILE is set, and a preview has"):
        previewed(evaluated)
    monkeypatch.delenv("GIT_INDEX_FILE")
    configuration.uninstall(evaluated.repository)
    with pytest.raises(UsageError, match="run 'gitmerge-eval init' first"):
        previewed(evaluated)


# --- the workflow --------------------------------------------------------------------------------


@pytest.fixture
def programs(tmp_path):
    """A folder with the stand-in for gh."""
    folder = tmp_path / "programs"
    folder.mkdir()
    script = Path(__file__).parent / "stand_in_gh.py"
    (folder / "gh").write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}" "$@"\n')
    (folder / "gh").chmod(0o755)
    return folder


@pytest.fixture
def server(evaluated, tmp_path):
    """A bare repository with the branches, and one of them offered as pull request 7."""
    folder = tmp_path / "server.git"
    subprocess.run(["git", "init", "--quiet", "--bare", folder], check=True)
    repository = evaluated.repository
    repository.run("remote", "add", "origin", str(folder))
    repository.run("push", "-q", "--all", "origin")
    repository.run("push", "-q", "origin", "fruit-quickdraw:refs/pull/7/head")
    return Repository(folder)


def pull_request(base, **changes):
    known = {
        "github.event.pull_request.number": "7",
        "github.event.pull_request.base.ref": base,
        "github.event.pull_request.head.repo.full_name": "us/models",
        "github.repository": "us/models",
        "github.token": "a token",
    }
    return Workflow("merge-preview.yml", {**known, **changes})


def runner(server, tmp_path, name, base):
    work = tmp_path / name / "work"
    subprocess.run(["git", "clone", "-q", "--branch", base, server.directory, work], check=True)
    subprocess.run(["git", "config", "merge-eval.device", "cpu"], cwd=work, check=True)
    return work


def test_the_workflow_writes_one_comment_and_updates_it(
    evaluated, server, programs, tmp_path, monkeypatch
):
    comments = tmp_path / "comments.json"
    monkeypatch.setenv("STAND_IN_COMMENTS", str(comments))
    others = [
        {"id": 1, "user": {"login": "somebody"}, "body": f"{report.MARKER}\nan imitation"},
        {"id": 2, "user": {"login": "github-actions[bot]"}, "body": "another workflow's"},
    ]
    comments.write_text(json.dumps(others))
    workflow = pull_request("bird-real")
    assert workflow.content["permissions"] == {"contents": "read", "pull-requests": "write"}
    assert workflow.triggers == {"pull_request"}
    assert workflow.checkout()["ref"] == "bird-real"
    done = workflow.run(runner(server, tmp_path, "first", "bird-real"), programs)
    assert done.returncode == 0, done.stderr
    known = json.loads(comments.read_text())
    assert known[:2] == others
    assert [comment["id"] for comment in known] == [1, 2, 3]
    assert known[2]["body"].startswith(f"{report.MARKER}\n## Merging pull/7 into bird-real\n")
    assert "| method | average |" in known[2]["body"]
    summary = (tmp_path / "first" / "summary.md").read_text()
    assert summary == known[2]["body"]
    # The next push to the pull request cannot be merged: the same comment says so.
    repository = evaluated.repository
    for name, ref in (("bird-real", "bird-real"), ("fruit-quickdraw", "refs/pull/7/head")):
        repository.run("switch", "-q", name)
        evaluated.put(name, {"words.txt": f"by {name}\n"})
        repository.run("push", "-q", "origin", f"{name}:{ref}")
    done = workflow.run(runner(server, tmp_path, "second", "bird-real"), programs)
    assert done.returncode == 1
    known = json.loads(comments.read_text())
    assert [comment["id"] for comment in known] == [1, 2, 3]
    assert "| conflict | words.txt |" in known[2]["body"]


def test_the_workflow_of_a_fork_writes_no_comment(server, programs, tmp_path, monkeypatch):
    comments = tmp_path / "comments.json"
    monkeypatch.setenv("STAND_IN_COMMENTS", str(comments))
    fork = {"github.event.pull_request.head.repo.full_name": "them/models"}
    workflow = pull_request("bird-real", **fork, **{"vars.GITMERGE_EVAL_METHOD": "ties"})
    work = runner(server, tmp_path, "fork", "bird-real")
    assert workflow.run(work, programs).returncode == 0
    assert not comments.exists()
    assert "| method | ties |" in (tmp_path / "fork" / "summary.md").read_text()


def test_the_command_line(evaluated, monkeypatch, capsys):
    monkeypatch.chdir(evaluated.repository.directory)
    monkeypatch.setattr(sys, "argv", ["gitmerge-eval", "preview", *HEADS, "-X", "method=ties"])
    assert cli.main() == 0
    assert capsys.readouterr().out.startswith(f"{report.MARKER}\n")
    monkeypatch.setattr(sys, "argv", ["gitmerge-eval", "preview", "main", "--json"])
    assert cli.main() == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["outcome"], found["evaluation"]) == ("nothing", None)
