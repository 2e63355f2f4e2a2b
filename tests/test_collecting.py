"""Statistics beside a checkpoint: bound to it, trimmed against the base, merged by the driver."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from models import MODEL, ModelRepository, base_model, fine_tuned, statistics_for

from gitmerge_eval import collecting
from gitmerge_eval.checkpoints import statistics_index
from gitmerge_eval.errors import InvalidOption, MissingBase, UnknownName, UsageError

DECLARATION = (
    'name = "{0}"\nbenchmark = "domainnet-classification-mini"\ntask = "{0}"\n'
    f'checkpoint = "{MODEL}"\n'
)


@pytest.fixture
def model(tmp_path):
    repository = ModelRepository(tmp_path / "model", base_model())
    repository.run("switch", "--quiet", "--create", "bird-real")
    repository.save(fine_tuned(base_model(), 1))
    (repository.folder / "constituents").mkdir()
    (repository.folder / "constituents/bird-real.toml").write_text(DECLARATION.format("bird-real"))
    return repository


def test_trimmed_is_bound_to_the_blob_that_the_next_commit_has(model):
    done = collecting.collect(model.git, ["trimmed"], options={"density": 0.25})
    model.commit("fine-tuned")
    assert model.git.blob_id("HEAD", MODEL) == done.blob
    index = statistics_index.parse((model.folder / "statistics/index.json").read_bytes())
    entry = index[MODEL]["trimmed"]
    assert entry.checkpoint == done.blob
    assert entry.options == {"density": 0.25, "base": model.git.blob_id("main", MODEL)}
    assert set(done.files) <= set(model.git.text("ls-files").splitlines())


def test_trimmed_keeps_the_largest_elements_over_all_changed_groups(model):
    import safetensors.torch

    collecting.collect(model.git, ["trimmed"], options={"density": 0.25})
    found = safetensors.torch.load_file(model.folder / "statistics/trimmed.safetensors")
    base, own = base_model(), fine_tuned(base_model(), 1)
    vectors = {
        name: (own[name].double() - base[name].double()).numpy()
        for name in base
        if base[name].is_floating_point() and not torch.equal(base[name], own[name])
    }
    every = np.sort(np.concatenate([np.abs(v).ravel() for v in vectors.values()]))
    least = every[-int(0.25 * every.size)]
    assert found.keys() == vectors.keys()
    for name, vector in vectors.items():
        expected = np.where(np.abs(vector) >= least * (1 - 1e-9), vector, 0)
        np.testing.assert_allclose(found[name].double().numpy(), expected, rtol=1e-5, atol=0)


def test_unknown_statistic_and_missing_declarations_are_named(model):
    with pytest.raises(UnknownName, match="did you mean 'fisher'"):
        collecting.collect(model.git, ["fischer"])
    with pytest.raises(UnknownName, match="bird-reel"):
        collecting.collect(model.git, ["trimmed"], constituent="bird-reel")
    (model.folder / "constituents/bird-real.toml").unlink()
    with pytest.raises(UsageError, match=r"constituents/<name>\.toml"):
        collecting.collect(model.git, ["gram"])
    done = collecting.collect(model.git, ["trimmed"])  # which needs no data
    assert done.checkpoint == MODEL


def test_options_are_checked_and_a_base_that_is_no_other_model_is_refused(model):
    with pytest.raises(UnknownName, match="did you mean 'density'"):
        collecting.collect(model.git, ["trimmed"], options={"densty": 0.3})
    for density in (7, 0, "abc"):
        with pytest.raises(InvalidOption, match="density"):
            collecting.collect(model.git, ["trimmed"], options={"density": density})
    model.commit("fine-tuned")
    with pytest.raises(MissingBase, match="the same as in"):
        collecting.collect(model.git, ["trimmed"], base="bird-real")
    assert not (model.folder / "statistics").exists()


def test_base_without_the_checkpoint_is_named(model):
    empty = model.git.run(
        "commit-tree", "-m", "nothing", "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
    ).text
    with pytest.raises(MissingBase, match="--base"):
        collecting.collect(model.git, ["trimmed"], base=empty)
    assert not (model.folder / "statistics").exists()


def test_indexes_of_two_branches_never_conflict_as_text(tmp_path):
    base = base_model()
    repository = ModelRepository(tmp_path / "model", base)
    for number in range(2):
        model = fine_tuned(base, number)
        repository.branch(f"b{number}", model, statistics_for(base, number))
    repository.run("switch", "--quiet", "b0")
    done = repository.run("cherry-pick", "b1")
    assert "CONFLICT" not in done.stdout
    index = json.loads((repository.folder / "statistics/index.json").read_text())
    assert index[MODEL].keys() == {"fisher", "gram"}
    assert "<<<<" not in (repository.folder / ".gitattributes").read_text()
