"""What becomes of statistics in a merge: combined where that is exact, else dropped and said."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from models import MODEL, ModelRepository, base_model, fine_tuned, statistics_for
from small_repositories import copied, settle

from gitmerge_eval import collecting
from gitmerge_eval.git import trailers
from gitmerge_eval.records import StatisticFile
from gitmerge_eval.statistics.trimmed import trim

BASE = base_model()
HEADS = ("b0", "b1")


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    made = ModelRepository(tmp_path_factory.mktemp("template") / "model", BASE)
    for number, name in enumerate(HEADS):
        made.branch(name, fine_tuned(BASE, number), statistics_for(BASE, number))
    settle(made)
    return made


@pytest.fixture
def repository(template, tmp_path):
    return copied(template, tmp_path / "model")


def stored(repository, kind):
    import safetensors.numpy

    path = f"HEAD:statistics/{kind}.safetensors"
    data = repository.git.run("cat-file", "--filters", path).stdout
    assert (repository.folder / f"statistics/{kind}.safetensors").read_bytes() == data
    return safetensors.numpy.load(data)


def index(repository):
    return json.loads(repository.git.text("show", "HEAD:statistics/index.json"))[MODEL]


@pytest.mark.parametrize(("method", "kept"), [("regmean", "gram"), ("fisher", "fisher")])
def test_sums_where_they_are_the_statistics_of_the_merge(repository, method, kept):
    done = repository.merge(f"-Xmethod={method}", *HEADS)
    other = ({"gram", "fisher"} - {kept}).pop()
    dropped = f"the branches keep theirs: {other} (no exact combination under"
    assert dropped in done.stdout + done.stderr
    entry = index(repository)
    assert entry.keys() == {kept}
    assert entry[kept]["checkpoint"] == repository.git.blob_id("HEAD", MODEL)
    assert (entry[kept]["examples"], entry[kept]["tokens"]) == (80, 80)
    assert repository.git.blob_id("HEAD", f"statistics/{other}.safetensors") is None
    assert not (repository.folder / f"statistics/{other}.safetensors").exists()
    parts = [statistics_for(BASE, number)[kept] for number in range(2)]
    found = stored(repository, kept)
    assert found.keys() == parts[0].keys()
    for name, value in found.items():
        total = sum(part[name].astype(np.float64) for part in parts)
        if kept == "gram":  # stored as its upper triangle or in a like form: compare the sums
            from gitmerge_eval.statistics.gram import unpack_symmetric

            value = unpack_symmetric(torch.from_numpy(value)).numpy()
        np.testing.assert_array_equal(value, total.astype(np.float32))
    assert repository.run("status", "--porcelain").stdout == ""


def test_none_under_a_method_that_changes_their_meaning(repository):
    done = repository.merge("-Xmethod=average", *HEADS)
    dropped = "the branches keep theirs: fisher, gram (no exact combination under 'average')"
    assert dropped in done.stdout + done.stderr
    files = repository.git.text("ls-tree", "-r", "--name-only", "HEAD").splitlines()
    assert not [path for path in files if path.startswith("statistics/")]
    assert not (repository.folder / "statistics").exists()
    assert repository.run("status", "--porcelain").stdout == ""


def test_trimmed_task_vectors_spare_ties_work_and_change_nothing(repository):
    before = repository.git.text("rev-parse", "HEAD")
    repository.merge("-Xmethod=ties", "-Xdensity=0.4", *HEADS)
    without = repository.tensors("HEAD")
    specs = trailers.read(repository.git, "HEAD").specs
    repository.run("reset", "--quiet", "--hard", before)
    for name in HEADS:
        repository.run("switch", "--quiet", name)
        base, own = repository.tensors("main"), repository.tensors(name)
        vectors = trim(lambda base=base, own=own: ((n, base[n], own[n]) for n in base), 0.4)
        options = {"density": 0.4, "base": repository.git.blob_id("main", MODEL)}
        layout = {group: {"key": group} for group in vectors}
        file = StatisticFile("trimmed", vectors, layout, 0, 0, "", "", options)
        blob = repository.git.blob_id("HEAD", MODEL)
        collecting.write_statistics(repository.git, MODEL, blob, [file])
        repository.commit("trimmed")
    repository.run("switch", "--quiet", "main")
    done = repository.merge("-Xmethod=ties", "-Xdensity=0.4", *HEADS)
    record = trailers.read(repository.git, "HEAD")
    assert record is not None, done.stderr
    assert record.specs != specs  # the statistics were used
    for name, tensor in repository.tensors("HEAD").items():
        assert torch.equal(tensor, without[name]), name


def test_statistics_of_models_that_are_not_merged_stay(repository):
    """One head only changed the model; another added a file that no index names."""
    repository.run("switch", "--quiet", "--create", "loose", "main")
    repository.save({"x": torch.ones(2)}, "statistics/loose.safetensors")
    repository.commit("loose")
    repository.run("switch", "--quiet", "main")
    repository.merge("loose", "b0")
    assert repository.git.blob_id("HEAD", MODEL) == repository.git.blob_id("b0", MODEL)
    assert index(repository).keys() == {"gram", "fisher"}
    for path in ("statistics/gram.safetensors", "statistics/fisher.safetensors"):
        assert repository.git.blob_id("HEAD", path) == repository.git.blob_id("b0", path)
    loose = "statistics/loose.safetensors"
    assert repository.git.blob_id("HEAD", loose) == repository.git.blob_id("loose", loose)
    assert (repository.folder / loose).exists()
    assert repository.run("status", "--porcelain").stdout == ""
