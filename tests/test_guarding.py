"""The pre-receive hook and the workflow of docs/ci, against a bare repository."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from audited_repositories import built, forge, plain_server
from models import MODEL, base_model, fine_tuned
from small_repositories import copied, opened, without_heavy_imports
from workflows import CI, Workflow

ZEROS = "0" * 40


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return built(tmp_path_factory.mktemp("template") / "model")


@pytest.fixture
def repository(template, tmp_path):
    return copied(template, tmp_path / "model")


@pytest.fixture
def server(repository, tmp_path):
    return plain_server(repository, tmp_path / "server.git")


def guard(server):
    """Install the hook."""
    shutil.copy2(CI / "pre-receive", server.directory / "hooks" / "pre-receive")


def as_a_forge(repository):
    """A merge as Git alone makes it, whose trailers nobody wrote: for pushes of it."""
    commit = forge(repository.folder, "left", "right")
    repository.run("update-ref", "refs/heads/pulled", commit)
    repository.run("update-ref", "refs/heads/left", f"{commit}^1")
    return commit


def test_the_hook_refuses_what_a_plain_server_takes(repository, server, monkeypatch, tmp_path):
    commit = as_a_forge(repository)
    repository.run("push", "--quiet", "origin", "pulled")
    assert server.commit("pulled") == commit
    repository.run("push", "--quiet", "origin", ":pulled")
    guard(server)
    for name, value in without_heavy_imports(tmp_path / "broken").items():
        monkeypatch.setenv(name, value)
    done = repository.run("push", "origin", "pulled", status=1)
    assert "remote:   wrong, text-merge: 'model.safetensors' was merged as text" in done.stderr
    assert "pre-receive: refused, see above" in done.stderr
    assert "[remote rejected] pulled -> pulled (pre-receive hook declined)" in done.stderr
    assert not server.succeeds("rev-parse", "--verify", "--quiet", "refs/heads/pulled")
    # Several refs in one push: all or nothing, and the same commit under a tag is no way round.
    repository.run("tag", "-a", "-m", "v1", "v1", "pulled")
    assert "text-merge" in repository.run("push", "origin", "v1", "a", status=1).stderr
    server.run("config", "--add", "merge-eval.allow", commit)
    done = repository.run("push", "origin", "v1")
    assert "accepted, text-merge" in done.stderr


def test_the_hook_lets_everything_else_pass(repository, server, monkeypatch):
    guard(server)
    monkeypatch.setenv("GITMERGE_EVAL_VERIFY", "--objects")
    repository.merge("-Xmethod=ties", "a", "b")
    done = repository.run("push", "origin", "main")
    assert "remote: 1 commit, 1 merge of models: verified" in done.stderr
    assert server.blob_id("main", MODEL) == repository.git.blob_id("main", MODEL)
    repository.run("tag", "a-blob", repository.git.blob_id("a", MODEL))
    done = repository.run("push", "origin", "a-blob", "main:refs/heads/copy", ":refs/heads/right")
    assert "remote: 0 commits, 0 merges of models: verified" in done.stderr
    assert not server.succeeds("rev-parse", "--verify", "--quiet", "refs/heads/right")
    repository.run("push", "--force", "origin", "left:a")
    # A commit whose tensors were not pushed is refused by the server that keeps them.
    repository.run("switch", "--quiet", "b")
    repository.save(fine_tuned(base_model(), 77))
    repository.commit("more")
    done = repository.run("push", "--no-verify", "origin", "b", status=1)
    assert "tensors that are not in this repository's store" in done.stderr
    repository.run("push", "origin", "b")


def test_the_hook_says_when_it_cannot_work(repository, server, monkeypatch):
    guard(server)
    monkeypatch.setenv("GITMERGE_EVAL", "gitmerge-eval-that-is-not-there")
    repository.run("commit", "--quiet", "--allow-empty", "-m", "words")
    done = repository.run("push", "origin", "main", status=1)
    assert "'gitmerge-eval-that-is-not-there' is not installed here" in done.stderr
    monkeypatch.delenv("GITMERGE_EVAL")
    server.run("config", "merge-eval.allow", "main")
    done = repository.run("push", "origin", "main", status=1)
    assert "'merge-eval.allow' is 'main'; give the full id of a commit" in done.stderr
    assert "it cannot be told whether the models are right" in done.stderr


def test_notes_pass_the_hook(repository, server):
    guard(server)
    repository.run("notes", "--ref=gitmerge-eval", "add", "-m", "a table", "main")
    repository.run("push", "origin", "refs/notes/gitmerge-eval")
    assert server.succeeds("rev-parse", "--verify", "--quiet", "refs/notes/gitmerge-eval")


# --- the workflow --------------------------------------------------------------------------------


def checked_out(server, tmp_path, name, revision):
    """What actions/checkout leaves: the whole history, HEAD on no branch, and no filter."""
    clone = tmp_path / name / "work"
    subprocess.run(["git", "clone", "--quiet", server.directory, clone], check=True)
    subprocess.run(["git", "switch", "--quiet", "--detach", revision], cwd=clone, check=True)
    return opened(clone)


def pull_request(server, head, allow=""):
    return Workflow(
        "verify.yml",
        {
            "github.event.pull_request.head.sha": server.commit(head),
            "github.event.pull_request.base.sha": server.commit("main"),
            "github.sha": "the forge's own merge",
            "vars.GITMERGE_EVAL_ALLOW": allow,
        },
    )


def test_the_workflow_verifies_a_pull_request(repository, server, tmp_path):
    repository.run("switch", "--quiet", "--create", "offered")
    repository.merge("-Xmethod=ties", "a", "b")
    repository.run("push", "--quiet", "origin", "offered")
    workflow = pull_request(server, "offered")
    assert workflow.triggers == {"pull_request", "merge_group", "push"}
    assert workflow.content["permissions"] == {"contents": "read"}
    checkout = workflow.checkout()
    assert checkout == {"ref": server.commit("offered"), "fetch-depth": "0"}
    work = checked_out(server, tmp_path, "runner", checkout["ref"])
    done = workflow.run(work.folder)
    assert done.returncode == 0, done.stderr
    assert "model.safetensors: exact, 6 groups" in done.stdout
    assert done.stdout.endswith("3 commits, 1 merge of models: verified\n")


def test_the_workflow_finds_a_forges_merge(repository, server, tmp_path):
    old = server.commit("left")
    commit = forge(server.directory, "left", "right")
    work = checked_out(server, tmp_path, "runner", commit)
    push = {"github.event.before": old, "github.sha": commit}
    done = Workflow("verify.yml", push).run(work.folder)
    assert (done.returncode, "text-merge" in done.stdout) == (1, True)
    done = Workflow("verify.yml", {**push, "vars.GITMERGE_EVAL_ALLOW": commit}).run(work.folder)
    assert (done.returncode, "accepted, text-merge" in done.stdout) == (0, True)
    # A merge queue's merge, before it lands.
    queue = {"github.event.merge_group.base_sha": old, "github.sha": commit}
    done = Workflow("verify.yml", queue).run(work.folder)
    assert (done.returncode, "text-merge" in done.stdout) == (1, True)
    # The first push of a branch, and one whose old end was thrown away by a forced push.
    done = Workflow("verify.yml", {**push, "github.event.before": ZEROS}).run(work.folder)
    assert (done.returncode, "text-merge" in done.stdout) == (1, True)
    done = Workflow("verify.yml", {**push, "github.event.before": "1" * 40}).run(work.folder)
    assert done.returncode == 2
    assert "is not a range of commits in this repository; fetch what is missing" in done.stderr
