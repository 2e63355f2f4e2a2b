"""Every verb of Git's that merges files adds and subtracts task vectors, and says nothing false."""

from __future__ import annotations

import subprocess

import pytest
import torch
from models import MODEL, ModelRepository, base_model, fine_tuned
from small_repositories import copied, settle

BASE = base_model()
OURS, THEIRS = fine_tuned(BASE, 1), fine_tuned(BASE, 2)
STEPS = [fine_tuned(BASE, 3)]
STEPS += [fine_tuned(STEPS[0], 4), fine_tuned(fine_tuned(STEPS[0], 4), 5)]
EDITOR = "sed -i -e '2s/pick/fixup/' -e '3s/pick/squash/'"


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """'ours' and 'theirs' fine-tuned from main, and 'long' in three steps; HEAD is 'ours'."""
    made = ModelRepository(tmp_path_factory.mktemp("template") / "model", BASE)
    made.branch("ours", OURS)
    made.branch("theirs", THEIRS)
    made.branch("long", STEPS[0])
    made.run("switch", "--quiet", "long")
    for model in STEPS[1:]:
        made.save(model)
        made.commit("another step")
    made.run("switch", "--quiet", "ours")
    settle(made)
    return made


@pytest.fixture
def repository(template, tmp_path):
    return copied(template, tmp_path / "model")


def assert_moved(found, start, old, new, roundings):
    """``found`` is ``start`` + (``new`` - ``old``) but for so many roundings to float32."""
    for name in ("first.weight", "second.weight", "first.bias", "scale"):
        terms = [start[name].double(), new[name].double(), -old[name].double()]
        allowed = roundings * 2.0**-24 * torch.stack([t.abs() for t in terms]).sum(0) + 1e-12
        assert ((found[name].double() - sum(terms)).abs() <= allowed).all(), name


@pytest.mark.parametrize(
    "arguments",
    [
        ("rebase", "--quiet", "ours"),
        ("rebase", "--quiet", "--apply", "ours"),
        ("-c", f"sequence.editor={EDITOR}", "rebase", "-i", "ours"),
    ],
    ids=["merge", "apply", "fixup and squash"],
)  # fmt: skip
def test_a_branch_in_steps_is_rebased(repository, arguments):
    repository.run("switch", "--quiet", "long")
    repository.run(*arguments)
    assert_moved(repository.tensors("HEAD"), OURS, BASE, STEPS[2], 3)
    assert repository.run("status", "--porcelain").stdout == ""
    count = repository.git.text("rev-list", "--count", "ours..HEAD")
    assert count == ("1" if "-i" in arguments else "3")


def test_a_part_of_a_branch_onto_another_and_several_picked_at_once(repository):
    repository.run("switch", "--quiet", "--detach", "long")
    repository.run("rebase", "--quiet", "--onto", "theirs", "long~2")
    assert_moved(repository.tensors("HEAD"), THEIRS, STEPS[0], STEPS[2], 2)
    repository.run("switch", "--quiet", "--detach", "ours")
    repository.run("cherry-pick", "long~2..long")
    assert_moved(repository.tensors("HEAD"), OURS, STEPS[0], STEPS[2], 2)
    repository.run("switch", "--quiet", "--detach", "ours")
    repository.run("cherry-pick", "--no-commit", "long~1", "long")
    assert repository.run("status", "--porcelain").stdout == f"M  {MODEL}\n"
    assert_moved(repository.tensors(), OURS, STEPS[0], STEPS[2], 2)


def test_patches_with_three_way_and_a_switch_with_a_local_change(repository, tmp_path):
    expected = {
        name: (OURS[name].double() + THEIRS[name].double() - BASE[name].double()).float()
        for name in ("first.weight", "scale")
    }

    def assert_added(found):
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())

    patch = tmp_path / "theirs.patch"
    with patch.open("wb") as file:
        subprocess.run(
            ["git", "format-patch", "-1", "theirs", "--stdout", "--no-ext-diff"],
            cwd=repository.folder, stdout=file, check=True,
        )  # fmt: skip
    repository.run("apply", "--3way", str(patch))
    assert_added(repository.tensors())
    repository.run("reset", "--hard", "--quiet")
    repository.run("am", "--3way", str(patch))
    assert_added(repository.tensors("HEAD"))
    repository.run("reset", "--hard", "--quiet", "HEAD~1")
    repository.run("switch", "--quiet", "main")
    repository.save(THEIRS)
    repository.run("checkout", "--merge", "--quiet", "ours")
    assert_added(repository.tensors())
    assert repository.run("status", "--porcelain").stdout == f" M {MODEL}\n"


def test_a_stash_on_top_of_a_local_change_is_gits_own_refusal(repository):
    repository.save(fine_tuned(OURS, 6))
    (repository.folder / "untracked.txt").write_text("mine\n")
    repository.run("stash", "--include-untracked")
    dirty = fine_tuned(OURS, 7)
    repository.save(dirty)
    done = repository.run("stash", "pop", status=1)
    assert "would be overwritten by merge" in done.stderr
    assert all(torch.equal(tensor, dirty[n]) for n, tensor in repository.tensors().items())
    repository.run("checkout", "--quiet", "--", MODEL)
    (repository.folder / "untracked.txt").unlink()  # Git has put that back already
    repository.run("stash", "pop")
    assert torch.equal(repository.tensors()["scale"], fine_tuned(OURS, 6)["scale"])
    assert (repository.folder / "untracked.txt").exists()


def test_trailers_that_a_cherry_pick_copied_do_not_count(repository):
    repository.merge("-X", "method=ties", "--no-edit", "theirs")
    assert "Merge-Method: ties" in repository.git.text("log", "-1", "--format=%B")
    repository.run("switch", "--quiet", "long")

    def verify(status):
        done = subprocess.run(
            ["gitmerge-eval", "verify", "HEAD"],
            cwd=repository.folder,
            capture_output=True,
            text=True,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    # Without our hook the copy claims a merge that it is not.
    repository.run("-c", "core.hooksPath=nowhere", "cherry-pick", "-m", "1", "ours")
    assert "Merge-Method: ties" in repository.git.text("log", "-1", "--format=%B")
    assert "the trailers were copied" in verify(1)
    repository.run("reset", "--hard", "--quiet", "HEAD~1")
    done = repository.run("cherry-pick", "-m", "1", "-x", "ours")
    assert "left out the trailers Merge-*" in done.stderr
    message = repository.git.text("log", "-1", "--format=%B")
    assert message.startswith("Merge branch 'theirs' into ours\n\n(cherry picked from commit")
    assert "Merge-" not in message
    assert "is not a merge of checkpoints" in verify(2)
    # Where the copy is the very model of the merge, its record is true, and stays.
    repository.run("switch", "--quiet", "--detach", "ours~1")
    repository.run("cherry-pick", "-m", "1", "ours")
    assert "Merge-Method: ties" in repository.git.text("log", "-1", "--format=%B")
    assert "exact" in verify(0)
    # A merge that is taken back has no trailers; an amended message keeps its own.
    repository.run("switch", "--quiet", "ours")
    repository.run("commit", "--amend", "--no-edit")
    assert "Merge-Method: ties" in repository.git.text("log", "-1", "--format=%B")
    repository.run("revert", "--no-edit", "-m", "1", "HEAD")
    assert "Merge-" not in repository.git.text("log", "-1", "--format=%B")
    assert all(torch.equal(t, OURS[n]) for n, t in repository.tensors("HEAD").items())
