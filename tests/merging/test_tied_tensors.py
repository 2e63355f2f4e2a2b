"""Tensors under two names stay one tensor, whatever the method."""

import numpy as np
import pytest
import torch
from models import ModelRepository, statistics_for

from gitmerge_eval.checkpoints.metadata import GroupRecord, Metadata
from gitmerge_eval.merging.planning import GroupPlan
from gitmerge_eval.merging.sources import Source
from gitmerge_eval.merging.tying import tie


def model(seed):
    generator = torch.Generator().manual_seed(seed)
    tied = torch.randn((6, 5), generator=generator)
    return {"embed.weight": tied, "head.weight": tied.clone(), "norm": torch.randn(5)}


@pytest.fixture
def repository(tmp_path):
    made = ModelRepository(tmp_path / "model", model(0))
    for seed, name in ((1, "one"), (2, "two")):
        tensors = model(seed)
        grams = statistics_for(tensors, seed)["gram"]
        # Of the layer alone: an embedding has no Gram matrix.
        made.branch(name, tensors, {"gram": {"head.weight": grams["head.weight"]}})
    return made


def test_they_are_equal_after_methods_that_treat_names_differently(repository):
    # DARE's mask depends on the group's name, TIES counts every element once.
    done = repository.merge("-Xmethod=dare", "-Xdrop-rate=0.5", "-Xscale=1", "one", "two")
    assert "1 tied" in done.stderr
    merged = repository.tensors()
    assert torch.equal(merged["embed.weight"], merged["head.weight"])
    parents = [model(1)["head.weight"], model(2)["head.weight"]]
    assert not any(torch.equal(merged["head.weight"], parent) for parent in parents)
    assert repository.git.text("status", "--porcelain") == ""

    repository.git.run("reset", "--quiet", "--hard", "HEAD^")
    repository.merge("-Xmethod=regmean", "-Xoff-diagonal=1", "one", "two")
    merged = repository.tensors()
    grams = [statistics_for(model(seed), seed)["gram"]["head.weight"] for seed in (1, 2)]
    right = sum(
        model(seed)["head.weight"].double().numpy() @ gram.astype(np.float64)
        for seed, gram in zip((1, 2), grams, strict=True)
    )
    total = sum(gram.astype(np.float64) for gram in grams)
    expected = np.linalg.solve(total, right.T).T
    for name in ("embed.weight", "head.weight"):
        np.testing.assert_allclose(merged[name], expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(merged["embed.weight"], merged["head.weight"])


def source(**objects):
    groups = {
        name: GroupRecord(name, (2, 3), "float32", (), digit * 64, 1)
        for name, digit in objects.items()
    }
    return Source("x", "", "m", "0" * 40, Metadata(groups))


def tied(sources, known=lambda name: True):
    groups = [GroupPlan(n, "merged", r) for n, r in sources[0].metadata.groups.items()]
    return {group.name: group.tied_to for group in tie(groups, sources, known) if group.tied_to}


def test_only_what_is_equal_everywhere_is_tied():
    base = source(a="1", b="1", c="1", d="4")
    one = source(a="2", b="2", c="2", d="5")
    assert tied([base, one, source(a="3", b="3", c="6", d="3")]) == {"b": "a"}
    assert tied([base, one, source(a="3", b="4", c="6", d="7")]) == {}


def test_the_one_with_statistics_is_computed():
    sources = [source(a="1", b="1"), source(a="2", b="2")]
    assert tied(sources, lambda name: name == "b") == {"a": "b"}
