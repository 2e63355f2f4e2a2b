"""``gitmerge-eval push-tensors``: what a push without its hook has left behind."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from models import MODEL, ModelRepository, base_model, fine_tuned
from small_repositories import copied, settle

from gitmerge_eval import cli, pushing
from gitmerge_eval.checkpoints.lfs import ObjectStore
from gitmerge_eval.errors import UnknownName, UsageError
from gitmerge_eval.git.repository import Repository

BASE = base_model()


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    made = ModelRepository(tmp_path_factory.mktemp("template") / "model", BASE)
    made.branch("tuned", fine_tuned(BASE, 1))
    settle(made)
    return made


@pytest.fixture
def repository(template, tmp_path):
    made = copied(template, tmp_path / "model")
    subprocess.run(["git", "init", "--quiet", "--bare", tmp_path / "server.git"], check=True)
    made.run("remote", "add", "origin", str(tmp_path / "server.git"))
    return made


def objects(repository, *revisions):
    blobs = [repository.git.blob_id(revision, MODEL) for revision in revisions]
    return pushing.lfs_objects(repository.git, blobs)


def test_what_a_push_without_hooks_left_behind(repository, tmp_path):
    server = ObjectStore(Repository(tmp_path / "server.git"))
    repository.run("push", "--quiet", "--no-verify", "--all", "origin")
    every = objects(repository, "main", "tuned")
    assert set(server.missing(every)) == every
    # The hook looks at what is new to the remote only.
    repository.run("push", "--quiet", "origin", "tuned:refs/heads/another")
    assert set(server.missing(every)) == every
    sent = pushing.push_every_tensor(repository.git, "")
    assert (sent.remote, sent.tensors, sent.missing) == ("origin", len(every), 0)
    assert not list(server.missing(every))


def test_tensors_that_are_not_here_are_counted(repository, monkeypatch, capsys):
    store = ObjectStore(repository.git)
    only_tuned = objects(repository, "tuned") - objects(repository, "main")
    for name in only_tuned:
        store.path(name).unlink()
    monkeypatch.chdir(repository.folder)
    monkeypatch.setattr(sys, "argv", ["gitmerge-eval", "push-tensors", "--json"])
    assert cli.main() == 0
    told = json.loads(capsys.readouterr().out)
    here = len(objects(repository, "main"))
    assert told == {"remote": "origin", "tensors": here, "missing": len(only_tuned)}


def test_remotes_that_are_not_there(repository):
    with pytest.raises(UnknownName, match="did you mean 'origin'"):
        pushing.push_every_tensor(repository.git, "orgin")
    repository.run("remote", "remove", "origin")
    with pytest.raises(UsageError, match="no remote"):
        pushing.push_every_tensor(repository.git, "")
