"""The hooks' entry point under the real Git: trailers, states, and the tensors of a push."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from gitmerge_eval import hook, pushing
from gitmerge_eval.checkpoints.metadata import Metadata
from gitmerge_eval.costs import Cost
from gitmerge_eval.errors import GitError
from gitmerge_eval.git import configuration, tracking, trailers
from gitmerge_eval.git.repository import Repository

PROGRAM = Path(sys.executable).parent / "gitmerge-eval"


@pytest.fixture
def ready(repository):
    """A repository with our hooks, and no evaluation."""
    configuration.install(repository)
    repository.run("config", "merge-eval.evaluate", "off")
    return repository


def diverge(repository, commit):
    """main and side with a commit each; the state of their merge, not yet stored."""
    commit({"a": "1\n"})
    repository.run("branch", "side")
    head = commit({"b": "1\n"})
    repository.run("switch", "--quiet", "side")
    side = commit({"c": "1\n", "b": "2\n"})
    repository.run("switch", "--quiet", "main")
    record = trailers.MergeTrailers("ties", {"scale": 0.5}, constituents=((side, "side"),))
    costs = {"d" * 64: {"seconds": 1.5}}
    return record, trailers.MergeState(head, (side,), record.lines(), costs=costs)


def merge(repository, *options):
    # Not by our strategy, which would leave a state of its own.
    return repository.run("merge", "--no-edit", "--strategy=ort", *options, "side", check=False)


def test_a_merge_gets_its_trailers_and_the_state_goes(ready, commit):
    record, state = diverge(ready, commit)
    trailers.write_state(ready, state)
    assert merge(ready, "-Xours").status == 0
    assert trailers.read(ready, "HEAD") == record
    assert ready.text("log", "-1", "--format=%s") == "Merge branch 'side'"
    assert trailers.read_state(ready) is None


def test_somebody_elses_merge_gets_none(ready, commit):
    _, state = diverge(ready, commit)
    trailers.write_state(ready, dataclasses.replace(state, remotes=("e" * 40,)))
    assert merge(ready, "-Xours").status == 0
    assert trailers.read(ready, "HEAD") is None
    assert trailers.read_state(ready) is None


def test_a_conflict_concluded_by_hand_is_still_the_merge(ready, commit):
    record, state = diverge(ready, commit)
    trailers.write_state(ready, state)
    assert merge(ready).status == 1
    (ready.directory / "b").write_text("3\n")
    ready.run("add", "b")
    ready.run("commit", "--quiet", "--no-edit")
    assert trailers.read(ready, "HEAD") == record
    assert trailers.read_state(ready) is None


def test_no_commit_then_another_message(ready, commit):
    record, state = diverge(ready, commit)
    trailers.write_state(ready, state)
    merge(ready, "-Xours", "--no-commit")
    assert trailers.read_state(ready) == state
    ready.run("commit", "--quiet", "-m", "my own words")
    assert trailers.read(ready, "HEAD") == record
    assert ready.text("log", "-1", "--format=%s") == "my own words"


def test_a_squash_carries_them_too(ready, commit):
    record, state = diverge(ready, commit)
    trailers.write_state(ready, state)
    # Git refuses --squash alone where merge.ff is false, whoever set it.
    assert merge(ready, "-Xours", "--ff", "--squash").status == 0
    assert trailers.read_state(ready) == dataclasses.replace(state, squash=True)
    ready.run("commit", "--quiet", "--no-edit")
    assert len(ready.text("rev-parse", "HEAD^@").split()) == 1
    assert trailers.read(ready, "HEAD") == record
    assert trailers.read_state(ready) is None


def test_an_aborted_merge_leaves_nothing_on_the_next_commit(ready, commit):
    _, state = diverge(ready, commit)
    trailers.write_state(ready, state)
    merge(ready)
    ready.run("merge", "--abort")
    commit({"d": "1\n"}, to=ready)
    assert trailers.read(ready, "HEAD") is None
    assert trailers.read_state(ready) is None


def test_after_a_merge_of_ours_it_is_evaluated(ready, commit, monkeypatch):
    from gitmerge_eval.evaluation import evaluating, job, merge_costs

    _, state = diverge(ready, commit)
    merge(ready, "-Xours", "--no-commit")
    trailers.write_state(ready, state)
    ready.run("commit", "--quiet", "--no-edit")
    seen = []
    monkeypatch.setattr(job, "after_merge", seen.append)
    monkeypatch.chdir(ready.directory)
    trailers.write_state(ready, state)
    assert hook.main(["post-merge", "0"]) == 0
    assert [one.directory for one in seen] == [ready.directory]
    assert trailers.read_state(ready) is None
    ready.run("checkout", "--quiet", "HEAD~1")
    assert hook.main(["post-merge", "0"]) == 0
    assert len(seen) == 1
    assert state.costs == {"d" * 64: {"seconds": 1.5}}
    assert merge_costs.find(evaluating.results_path(ready), "d" * 64) == Cost(seconds=1.5)


@pytest.mark.parametrize("event", ["prepare-commit-msg", "post-merge", "post-commit", "pre-push"])
def test_outside_a_repository_only_a_push_fails(event, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert hook.main([event, "argument"]) == (1 if event == "pre-push" else 0)
    assert "not in the work tree" in capsys.readouterr().err


def test_an_unknown_event_is_not_our_business(ready, monkeypatch):
    monkeypatch.chdir(ready.directory)
    assert hook.main(["post-rewrite"]) == 0
    assert hook.main([]) == 0


def test_the_entry_point_imports_nothing_heavy():
    code = (
        "import sys, gitmerge_eval.hook; "
        "print([m for m in ('typer', 'rich', 'torch', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def seconds_to_commit(repository, times=20):
    start = time.perf_counter()
    for _ in range(times):
        repository.run("commit", "--quiet", "--allow-empty", "-m", "ordinary")
    return (time.perf_counter() - start) / times


def test_an_ordinary_commit_hardly_notices(repository, commit):
    commit({"a": "1\n"})
    bare = seconds_to_commit(repository)
    configuration.install(repository)
    assert seconds_to_commit(repository) - bare < 0.15


def save(repository, name="model.safetensors", **tensors):
    save_file({k: np.asarray(v, dtype=np.float32) for k, v in tensors.items()},
              repository.directory / name)  # fmt: skip


def add_and_commit(repository, message="a change"):
    repository.run("add", "-A")
    repository.run("commit", "--quiet", "-m", message)
    return repository.text("rev-parse", "HEAD")


@pytest.fixture
def bare(tmp_path):
    subprocess.run(["git", "init", "-q", "--bare", tmp_path / "bare ü.git"], check=True)
    return tmp_path / "bare ü.git"


@pytest.fixture
def model(ready):
    """A repository with one checkpoint of two groups."""
    tracking.track(ready, "*.safetensors")
    save(ready, a=np.arange(6).reshape(2, 3), b=[1.5])
    add_and_commit(ready, "pretrained")
    return ready


def objects(folder):
    return {path.name for path in (Path(folder) / "lfs" / "objects").glob("*/*/*")}


def test_a_pushed_merge_can_be_cloned(model, bare, tmp_path):
    model.run("switch", "--quiet", "-c", "side")
    save(model, a=np.ones((2, 3)), b=[1.5])
    add_and_commit(model, "fine-tuned")
    model.run("switch", "--quiet", "main")
    model.run("merge", "--quiet", "--no-ff", "--no-edit", "--strategy=ort", "side")
    model.run("remote", "add", "origin", str(bare))
    model.run("push", "--quiet", "origin", "main")
    assert objects(bare) == objects(model.git_directory)

    subprocess.run(["git", "clone", "-q", bare, tmp_path / "clone"], check=True)
    clone = Repository(tmp_path / "clone")
    assert (clone.directory / "model.safetensors").read_bytes()[:1] == b"{"
    changes = configuration.install(clone)
    assert any("checked out 'model.safetensors'" in line for line in changes.made)
    loaded = load_file(clone.directory / "model.safetensors")
    np.testing.assert_array_equal(loaded["a"], np.ones((2, 3), dtype=np.float32))
    np.testing.assert_array_equal(loaded["b"], np.array([1.5], dtype=np.float32))
    assert clone.text("status", "--porcelain") == ""
    assert not configuration.install(clone)

    # What was fetched, and not made here, can be pushed on; and so can a change on top of it.
    save(clone, a=np.ones((2, 3)), b=[2.5])
    add_and_commit(clone, "more")
    clone.run("push", "--quiet", "origin", "HEAD:refs/heads/more")
    assert len(objects(bare)) == 4


def test_only_what_the_remote_lacks_is_looked_at(model, bare):
    model.run("remote", "add", "origin", str(bare))
    first = model.text("rev-parse", "HEAD")
    model.run("push", "--quiet", "origin", "main")
    save(model, a=np.zeros((2, 3)), b=[1.5])
    second = add_and_commit(model)
    update = pushing.Update(second, first)
    assert pushing.metadata_blobs(model, "origin", [update]) == [
        model.blob_id(second, "model.safetensors")
    ]
    assert pushing.metadata_blobs(model, str(bare), [update]) == [
        model.blob_id(second, "model.safetensors")
    ]
    both = pushing.metadata_blobs(model, str(bare), [pushing.Update(second, "0" * 40)])
    assert len(both) == 2
    names = {g.object_id for blob in both for g in Metadata.parse(model.blob(blob)).groups.values()}
    assert pushing.lfs_objects(model, both) == names
    assert len(names) == 3


def test_a_renamed_and_then_deleted_checkpoint_is_sent_too(model, bare):
    model.run("mv", "model.safetensors", "renamed.safetensors")
    add_and_commit(model)
    model.run("rm", "--quiet", "renamed.safetensors")
    add_and_commit(model)
    model.run("push", "--quiet", str(bare), "main")
    assert len(objects(bare)) == 2


def test_commits_without_checkpoints_and_deletions_send_nothing(ready, commit, bare):
    commit({"a": "1\n", ".gitattributes": "*.safetensors filter=theta\n"})
    ready.run("push", "--quiet", str(bare), "main", "main:side")
    ready.run("push", "--quiet", str(bare), ":side")
    assert objects(bare) == set()
    lines = [f"(delete) {'0' * 40} refs/heads/side {'1' * 40}", ""]
    assert pushing.updates(lines) == []


def test_a_checkpoint_committed_unfiltered_is_no_obstacle(ready, commit, bare):
    commit({"model.safetensors": b"\x08\0\0\0\0\0\0\0{}      "})
    commit({".gitattributes": "*.safetensors filter=theta\n"})
    ready.run("push", "--quiet", str(bare), "main")


def test_a_tensor_that_is_nowhere_stops_the_push(model, bare):
    victim = next((model.git_directory / "lfs" / "objects").glob("*/*/*"))
    victim.unlink()
    with pytest.raises(GitError, match="push"):
        model.run("push", "--quiet", str(bare), "main")
    assert subprocess.run(["git", "-C", bare, "rev-parse", "-q", "--verify", "main"]).returncode


def test_a_clone_without_a_tensor_can_push_what_the_remote_has(model, bare, tmp_path):
    """The remote has the old tensors; this clone never fetched them."""
    model.run("push", "--quiet", str(bare), "main")
    save(model, a=np.zeros((2, 3)), b=[1.5])
    add_and_commit(model)
    kept = Metadata.parse(model.blob(model.blob_id("HEAD", "model.safetensors"))).groups["b"]
    for path in (model.git_directory / "lfs" / "objects").glob(f"*/*/{kept.object_id}"):
        path.unlink()
    model.run("push", "--quiet", str(bare), "main")
    assert len(objects(bare)) == 3
