"""verify over a range: statistics of other checkpoints, old ones, sums, and hostile indexes."""

from __future__ import annotations

import json

import pytest
import safetensors.torch
from audited_repositories import BASE, amended, built, found, kinds
from models import MODEL, fine_tuned, statistics_for
from small_repositories import copied

INDEX = "statistics/index.json"


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return built(tmp_path_factory.mktemp("template") / "model")


@pytest.fixture
def repository(template, tmp_path):
    return copied(template, tmp_path / "model")


def rebound(repository, checkpoint):
    """The index of statistics with every entry bound to ``checkpoint``."""
    file = repository.folder / INDEX
    index = json.loads(file.read_text())
    for kinds_of in index.values():
        for entry in kinds_of.values():
            entry["checkpoint"] = checkpoint
    file.write_text(json.dumps(index))


def test_statistics_of_another_checkpoint(repository):
    repository.run("switch", "--quiet", "left")
    repository.run("checkout", "a", "--", "statistics", ".gitattributes")
    repository.run("commit", "--quiet", "-m", "statistics")
    result = found(repository, "HEAD^!")
    assert kinds(result) == [("statistic", "wrong")] * 2
    assert "is of another checkpoint" in result.findings[0].problem
    assert [f.path for f in result.findings] == [
        "statistics/fisher.safetensors",
        "statistics/gram.safetensors",
    ]


def test_statistics_that_are_said_to_be_ones_own(repository):
    repository.run("switch", "--quiet", "left")
    repository.run("checkout", "a", "--", "statistics", ".gitattributes")
    rebound(repository, repository.git.blob_id("HEAD", MODEL))
    repository.run("commit", "--quiet", "--all", "-m", "statistics")
    # A merge that needs them takes them.
    repository.run("switch", "--quiet", "--create", "deceived", "main")
    repository.merge("-Xmethod=fisher", "left", "b")
    result = found(repository, "left^!")
    assert kinds(result) == [("statistic", "wrong")] * 2
    assert "the very same file belongs to the checkpoint" in result.findings[0].problem
    assert "(a: fine-tuned)" in result.findings[0].problem
    assert found(repository, "left^!", allowed=["left"]).sound


def test_statistics_that_are_old_or_added_up_are_no_fault(repository):
    repository.run("switch", "--quiet", "a")
    repository.save(fine_tuned(BASE, 11))
    repository.commit("further")
    repository.add_statistics(statistics_for(BASE, 12))
    rebound(repository, repository.git.blob_id("HEAD^", MODEL))
    repository.commit("statistics of the model before")
    result = found(repository, "main..HEAD")
    assert (result.sound, set(kinds(result))) == (True, {("stale-statistic", "remark")})
    repository.run("reset", "--quiet", "--hard", "HEAD~2")
    repository.run("switch", "--quiet", "main")
    repository.merge("-Xmethod=regmean", "a", "b")
    result = found(repository, "HEAD~1..HEAD", recompute=True)
    assert (result.sound, kinds(result)) == (True, [])


def test_statistics_that_a_rebase_brought_along_can_be_put_right(repository):
    repository.run("switch", "--quiet", "--create", "moved", "main")
    repository.save(fine_tuned(BASE, 21))
    repository.commit("main goes on")
    repository.run("switch", "--quiet", "a")
    repository.run("rebase", "--quiet", "moved")
    result = found(repository, "moved..HEAD")
    assert set(kinds(result)) == {("statistic", "wrong")}
    assert "a rebase or a cherry-pick brings it along" in result.findings[0].problem
    repository.add_statistics(statistics_for(BASE, 22))
    repository.commit("statistics of the rebased model")
    result = found(repository, "moved..HEAD")
    assert (result.sound, set(kinds(result))) == (True, {("stale-statistic", "remark")})
    # As long as nobody looks at the commits alone.
    assert not found(repository, "moved..HEAD^").sound


def test_a_sum_of_statistics_that_was_tampered_with(repository):
    """The merge of a merge would lean to where the sum says."""
    repository.merge("-Xmethod=regmean", "a", "b")
    repository.run("checkout", "a", "--", "statistics/gram.safetensors")
    amended(repository)
    # The file is a's, and said to be of the merge.
    assert kinds(found(repository, "HEAD^!")) == [("statistic", "wrong")]
    tensors = safetensors.torch.load_file(repository.folder / "statistics/gram.safetensors")
    tensors = {name: 2 * tensor for name, tensor in tensors.items()}
    repository.save(tensors, "statistics/gram.safetensors")
    amended(repository)
    assert found(repository, "HEAD^!").sound
    result = found(repository, "HEAD^!", recompute=True)
    assert kinds(result) == [("not-the-merge", "wrong")]
    assert "statistic 'gram' is not the sum of the constituents'" in result.findings[0].problem


def test_an_index_of_statistics_from_anybody(repository):
    repository.run("switch", "--quiet", "a")
    index = json.loads((repository.folder / INDEX).read_text())
    fields = index[MODEL]["gram"]
    for hostile in ({"path": 5}, {"checkpoint": "--batch"}, {"layout": []}, {"path": "../../x"}):
        content = {MODEL: {"gram": {**fields, **hostile}}}
        (repository.folder / INDEX).write_text(json.dumps(content))
        repository.run("commit", "--quiet", "--all", "--amend", "--no-edit")
        expected = [] if hostile.get("path") == "../../x" else [("damaged", "wrong")]
        assert kinds(found(repository, "HEAD^!")) == expected, hostile
