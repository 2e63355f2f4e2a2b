"""``git rebase --rebase-merges``: merges of models keep method and options, and true trailers."""

from __future__ import annotations

import pytest
import torch
from models import MODEL, ModelRepository, base_model, fine_tuned, statistics_for
from small_repositories import copied, settle

from gitmerge_eval.git import trailers
from gitmerge_eval.git.replay import STRATEGY
from gitmerge_eval.verifying import verify

BASE = base_model()
THETA = tuple(STRATEGY.split()[2:])


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """Branches a, b, c from main, and 'moved': main with one more text commit."""
    made = ModelRepository(tmp_path_factory.mktemp("template") / "model", BASE)
    for number, name in enumerate("abc"):
        statistics = statistics_for(BASE, number)
        made.branch(name, fine_tuned(BASE, number), statistics, files={f"{name}.txt": "new\n"})
    made.branch("moved", files={"later.txt": "later\n"})
    settle(made)
    return made


@pytest.fixture
def repository(template, tmp_path):
    return copied(template, tmp_path / "model")


def blob(repository, revision="HEAD"):
    return repository.git.blob_id(revision, MODEL)


def made(repository, branch, start, *heads, method="ties", options=("-Xscale=0.7",)):
    repository.run("switch", "--quiet", "--create", branch, start)
    repository.merge(f"-Xmethod={method}", *options, *heads)
    return blob(repository)


def check(repository, model, names, old):
    """HEAD is the merge that it was, of the new commits."""
    assert blob(repository) == model
    record = trailers.read(repository.git, "HEAD")
    assert [name for _, name in record.constituents] == names
    history = repository.git.text("rev-list", "HEAD").split()
    assert all(commit in history for commit, _ in record.constituents)
    assert not {commit for commit, _ in record.constituents} & old
    message = repository.git.text("log", "-1", "--format=%B")
    assert message.count("Merge-Method:") == message.count(f"{trailers.MODEL}:") == 1
    found = verify(repository.git, "HEAD", fresh=True)
    assert found.sound, found


@pytest.mark.parametrize("arguments", [("--rebase-merges",), THETA])
def test_a_merge_of_two(repository, arguments):
    model = made(repository, "two", "a", "b")
    old = {commit for commit, _ in trailers.read(repository.git, "HEAD").constituents}
    done = repository.run("rebase", *arguments, "moved")
    assert "by 'ties', with the options of" in done.stderr
    check(repository, model, ["two", "b"], old)
    assert trailers.read(repository.git, "HEAD").options["scale"] == 0.7
    # One more is the merge of all three.
    repository.merge("-Xmethod=ties", "-Xscale=0.7", "c")
    joint = blob(repository)
    assert joint == made(repository, "together", "main", "a", "b", "c")


def test_without_trailers_it_is_something_else(repository):
    """What went wrong before: the driver's algebra of task vectors, under the old trailers."""
    model = made(repository, "two", "a", "b")
    repository.run("commit", "--quiet", "--amend", "-m", "no trailers")
    done = repository.run("rebase", "--rebase-merges", "moved")
    assert "task-vector" in done.stderr
    assert blob(repository) != model
    assert trailers.read(repository.git, "HEAD") is None


def test_a_merge_of_many_by_the_strategy(repository):
    model = made(repository, "many", "main", "a", "b", "c", method="regmean", options=())
    old = {commit for commit, _ in trailers.read(repository.git, "HEAD").constituents}
    repository.run("rebase", *THETA, "moved")
    check(repository, model, ["a", "b", "c"], old)
    files = repository.git.text("ls-tree", "-r", "--name-only", "HEAD").split()
    assert "statistics/gram.safetensors" in files


def test_merges_of_merges(repository):
    made(repository, "deep", "a", "b")
    repository.merge("-Xmethod=ties", "-Xscale=0.7", "c")
    model = blob(repository)
    old = {commit for commit, _ in trailers.read(repository.git, "HEAD").constituents}
    repository.run("rebase", *THETA, "moved")
    check(repository, model, ["deep", "b", "c"], old)


def test_many_by_gits_own_octopus(repository):
    """It never asks us: it stops at models that several branches changed, nothing is lost."""
    model = made(repository, "many", "main", "a", "b")
    before = repository.state()
    done = repository.run("rebase", "--rebase-merges", "moved", status=1)
    assert "Automatic merge failed" in done.stdout + done.stderr
    repository.run("rebase", "--abort")
    assert repository.state() == before
    assert blob(repository) == model


def test_what_the_octopus_merges_as_text_has_no_trailers_of_ours(repository):
    repository.run("switch", "--quiet", "main")
    for name, group in (("far", "first.bias"), ("near", "steps")):
        changed = {**BASE, group: BASE[group] + torch.ones_like(BASE[group])}
        repository.branch(name, changed)
    model = made(repository, "many", "main", "far", "near", method="average", options=())
    done = repository.run("rebase", "--rebase-merges", "moved", status=None)
    if done.returncode:  # where the two groups are side by side in the file
        repository.run("rebase", "--abort")
        pytest.skip("Git's octopus saw a conflict")
    assert blob(repository) != model
    assert "its trailers were taken out" in done.stderr
    assert trailers.read(repository.git, "HEAD") is None


def test_an_explicit_method_wins(repository):
    made(repository, "two", "a", "b")
    repository.run("rebase", *THETA, "-Xmethod=average", "moved")
    assert trailers.read(repository.git, "HEAD").method == "average"


def test_with_another_method_the_names_stay(repository):
    made(repository, "two", "a", "b", "c")
    repository.run("rebase", *THETA, "-Xmethod=average", "moved")
    record = trailers.read(repository.git, "HEAD")
    assert record.method == "average"
    assert [name for _, name in record.constituents] == ["two", "b", "c"]


def test_a_base_that_was_asked_for_is_kept(repository):
    repository.run("switch", "--quiet", "--create", "origin", "main")
    repository.save(fine_tuned(BASE, 30))
    base = repository.commit("another base")
    model = made(repository, "two", "a", "b", options=(f"-Xbase={base}",))
    repository.run("rebase", *THETA, "moved")
    assert blob(repository) == model
    assert trailers.read(repository.git, "HEAD").bases == (base,)
