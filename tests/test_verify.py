"""verify: a merge is recomputed from its trailers, and whatever was tampered with is named."""

from __future__ import annotations

import os
import re
import subprocess

import pytest
import torch
from models import MODEL, ModelRepository, base_model, fine_tuned, statistics_for
from small_repositories import copied, opened, settle

from gitmerge_eval import __version__
from gitmerge_eval.checkpoints import checked_objects
from gitmerge_eval.checkpoints.checked_objects import CheckedObjects, stamp
from gitmerge_eval.checkpoints.lfs import ObjectStore
from gitmerge_eval.checkpoints.metadata import Metadata
from gitmerge_eval.errors import GitError, UsageError
from gitmerge_eval.git import configuration, trailers
from gitmerge_eval.verifying import verify

BASE = base_model()


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """main is the TIES merge of a and b; 'solved' is their RegMean merge."""
    made = ModelRepository(tmp_path_factory.mktemp("template") / "model", BASE)
    for number, name in enumerate("ab"):
        made.branch(name, fine_tuned(BASE, number), statistics_for(BASE, number))
    made.run("switch", "--quiet", "--create", "solved")
    made.merge("-Xmethod=regmean", "a", "b")
    made.run("switch", "--quiet", "main")
    made.merge("-Xmethod=ties", "-Xdensity=0.3", "a", "b")
    settle(made)
    return made


@pytest.fixture
def repository(template, tmp_path):
    return copied(template, tmp_path / "model")


def amended(repository, message=None):
    text = message or repository.git.text("log", "-1", "--format=%B")
    # Our own hook would leave the trailers of another model out; who forges runs no hooks.
    unhooked = ("-c", f"core.hooksPath={os.devnull}")
    repository.run(*unhooked, "commit", "--quiet", "--amend", "--all", "-m", text)
    return verify(repository.git, "HEAD")


def problems(found):
    return "\n".join([*found.problems, *(p for f in found.findings for p in f.problems)])


def test_what_was_noted_as_checked_is_checked_again(repository):
    """A disk that changed a byte by itself: the file's stamp is the one that was noted."""
    store = ObjectStore(repository.git)
    record = Metadata.parse(repository.git.blob(repository.git.blob_id("a", MODEL))).groups
    name = min(record)
    file = store.path(record[name].object_id)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    noted = CheckedObjects(repository.git.common_directory / checked_objects.FILE)
    noted.add(record[name].object_id, stamp(file.stat()))
    noted.keep()
    assert store.verified(record[name].object_id, len(data)) == file
    (finding,) = verify(repository.git, "HEAD", fresh=True).findings
    assert finding.verdict == "unknown"
    assert record[name].object_id[:12] in problems(verify(repository.git, "HEAD", fresh=True))


def test_a_merge_that_is_what_it_says(repository):
    before = repository.state()
    objects = sorted((repository.folder / ".git/lfs").rglob("*"))
    found = verify(repository.git, "HEAD")
    assert found.sound
    assert [(f.path, f.verdict, f.groups) for f in found.findings] == [(MODEL, "exact", len(BASE))]
    assert verify(repository.git, "solved").findings[0].verdict == "exact"
    assert repository.state() == before
    assert sorted((repository.folder / ".git/lfs").rglob("*")) == objects


@pytest.mark.parametrize("options", [("slerp",), ("slerp", "t=0.5"), ("slerp", "t=0.3")])
def test_a_merge_in_either_order_of_the_heads(repository, options):
    first, second = repository.git.text("log", "-1", "--format=%P").split()[-2:]
    base = repository.git.text("merge-base", first, second)
    method, *rest = options
    found = []
    for heads in ((first, second), (second, first)):
        repository.run("switch", "--quiet", "--detach", base)
        extra = [f"-X{option}" for option in rest]
        repository.run("merge", "--quiet", "-m", "m", f"-Xmethod={method}", *extra, *heads)
        assert verify(repository.git, "HEAD", fresh=True).findings[0].verdict == "exact"
        found.append(repository.git.blob_id("HEAD", MODEL))
    assert (found[0] == found[1]) is ("t=0.3" not in rest)


def test_another_version_counts_its_digests_for_itself(repository):
    message = repository.git.text("log", "-1", "--format=%B")
    other = re.sub(r"Merge-Spec: [0-9a-f]+", f"Merge-Spec: {'0' * 64}", message)
    assert "Merge-Spec is not the digest" in problems(amended(repository, other))
    older = other.replace(f"gitmerge-eval {__version__}", "gitmerge-eval 0.0.1")
    found = amended(repository, older)
    assert found.sound
    assert found.findings[0].verdict == "exact"


def test_a_tampered_weight_is_named(repository):
    tensors = repository.tensors()
    tensors["second.weight"][1, 2] += 1e-3
    repository.save(tensors)
    found = amended(repository)
    assert not found.sound
    assert not found.undecided
    assert "its trailer Merge-Model says" in problems(found)
    assert "group 'second.weight' is not what ties gives: relative difference" in problems(found)
    assert "group 'first.weight'" not in problems(found)


def test_a_tolerance_only_where_a_system_was_solved(repository):
    repository.run("switch", "--quiet", "solved")
    solved = repository.tensors()

    def changed(name, factor):
        repository.save({**solved, name: solved[name] * factor})
        return amended(repository).findings[0]

    repository.save(solved)
    nudged = changed("first.weight", 1 + 2e-5)
    assert (nudged.verdict, nudged.problems) == ("within-tolerance", ())
    assert changed("first.weight", 1 + 1e-3).verdict == "wrong"
    # What was not computed has no tolerance.
    assert changed("frozen.weight", 1 + 2e-5).verdict == "wrong"


def test_trailers_that_were_edited_or_copied(repository):
    message = repository.git.text("log", "-1", "--format=%B")
    found = amended(repository, message.replace('"density":0.3', '"density":0.4'))
    assert "its trailer Merge-Spec is not the digest" in problems(found)
    assert "is not what ties gives" in problems(found)
    spec = trailers.read(repository.git, "HEAD").specs[0][0]
    found = amended(repository, message.replace(spec, "0" * 64))
    assert "its trailer Merge-Spec is not the digest" in problems(found)
    assert "is not what" not in problems(found)
    found = amended(repository, message.replace("Merge-Method: ties", "Merge-Method: tise"))
    assert "unknown merge method 'tise'; did you mean 'ties'?" in problems(found)

    repository.run("switch", "--quiet", "a")
    repository.save(fine_tuned(BASE, 7))
    found = amended(repository, message)
    assert f"'{MODEL}' is" in problems(found)
    assert "the model was changed after the merge, or the trailers were copied" in problems(found)
    assert not found.sound


def test_what_is_no_merge_of_ours(repository):
    with pytest.raises(UsageError, match="'a' is not a merge of checkpoints"):
        verify(repository.git, "a")
    with pytest.raises(GitError, match="'nothing' is not a commit"):
        verify(repository.git, "nothing")
    repository.run("switch", "--quiet", "--create", "by-hand", "a")
    repository.merge("-s", "ours", "b")
    with pytest.raises(UsageError, match="no checkpoint was merged in it"):
        verify(repository.git, "HEAD")
    repository.save(fine_tuned(BASE, 9))
    found = amended(repository)
    assert not found.sound
    assert "differs from all parents, and no trailer says how" in problems(found)


def test_what_is_needed_is_not_here(repository, tmp_path):
    """A squash whose branches were deleted, cloned: the constituents cannot be had."""
    repository.run("switch", "--quiet", "--create", "flat", "main~1")
    repository.merge("--ff", "--squash", "-Xmethod=average", "a", "b")
    repository.run("commit", "--quiet", "--no-edit")
    assert verify(repository.git, "HEAD").sound
    clone = tmp_path / "clone"
    arguments = ("--quiet", "--no-local", "--single-branch", "--branch", "flat")
    subprocess.run(["git", "clone", *arguments, repository.folder, clone], check=True)
    here = opened(clone)
    configuration.install(here.git)
    found = verify(here.git, "HEAD")
    assert (found.sound, found.undecided) == (False, True)
    assert found.findings[0].verdict == "unknown"
    assert "the constituent 'a', commit" in problems(found)
    assert "is not in this clone; fetch it" in problems(found)


def test_an_initial_revision_is_pinned(repository):
    """MaTS from a revision: the branch that named it may move on."""
    repository.run("switch", "--quiet", "--create", "started", "main~1")
    repository.run("branch", "start", "solved")
    repository.merge("-Xmethod=mats", "-Xinit=start", "-Xiterations=2", "a", "b")
    pinned = trailers.read(repository.git, "HEAD").options["init"]
    assert pinned == repository.git.commit("solved")
    repository.run("branch", "--force", "start", "a")
    found = verify(repository.git, "HEAD")
    assert found.sound, problems(found)


def test_a_merge_of_merges_is_verified_too(repository):
    repository.run("branch", "root", "main~1")
    repository.branch("c", fine_tuned(BASE, 5), start="root")
    repository.run("switch", "--quiet", "main")
    repository.merge("-Xmethod=task-arithmetic", "-Xscale=0.3", "c")
    record = trailers.read(repository.git, "HEAD")
    assert [name for _, name in record.constituents] == ["a", "b", "c"]
    assert verify(repository.git, "HEAD").sound
    assert torch.isfinite(repository.tensors("HEAD")["scale"])
