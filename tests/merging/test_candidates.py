"""Candidates of a sweep: the files that separate merges would make, without a trace in Git."""

import os

import pytest
import safetensors.torch
import torch
from models import MODEL, ModelRepository, base_model, fine_tuned, statistics_for

from gitmerge_eval.errors import NumericalError
from gitmerge_eval.git.heads import resolve
from gitmerge_eval.merging import candidates, deciding
from gitmerge_eval.merging import options as merge_options
from gitmerge_eval.merging.devices import Resources
from gitmerge_eval.merging.flops import statistics_flops
from gitmerge_eval.merging.planning import layer_shape

BRANCHES = ("a", "b", "c")
FAMILIES = [
    ("task-arithmetic", "scale", ("0.1", "0.4", "1.0")),
    ("dare", "drop-rate", ("0.0", "0.5", "0.9")),
    ("ties", "scale", ("0.1", "1.0")),
    ("dare-ties", "scale", ("0.3", "1.0")),
    ("regmean", "off-diagonal", ("0.0", "0.9", "1.0")),
    ("mats", "iterations", ("1", "5", "20")),
]


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=["f32", "bf16"])
def repository(request, tmp_path_factory):
    base = base_model(request.param)
    base["tied.weight"] = base["first.weight"].clone()
    made = ModelRepository(tmp_path_factory.mktemp("models") / "repository", base)
    for number, name in enumerate(BRANCHES):
        tensors = fine_tuned(base, number)
        tensors["tied.weight"] = tensors["first.weight"].clone()
        made.branch(name, tensors, statistics_for(tensors, number))
    return made


def plan(repository, method, *options):
    heads = resolve(repository.git, BRANCHES)
    paths = deciding.touched(repository.git, heads)
    items = [("method", method), *(tuple(option.split("=")) for option in options)]
    chosen = merge_options.parse(items)
    (made,) = deciding.decide(repository.git, heads, chosen, paths).plans
    return made


def traces(repository):
    folder = repository.folder / ".git"
    files = [os.path.join(root, name) for root, _, names in os.walk(folder) for name in names]
    return {file for file in files if "/objects/" in file or "/refs/" in file}


@pytest.mark.parametrize(("method", "option", "values"), FAMILIES)
def test_one_pass_makes_the_files_of_separate_merges(repository, tmp_path, method, option, values):
    plans = [plan(repository, method, f"{option}={value}") for value in values]
    before = traces(repository)
    parameter, small = option.replace("-", "_"), Resources(memory="1M")
    found, cost = candidates.compute_candidates(
        plans, parameter, repository.git, tmp_path, resources=small
    )
    assert traces(repository) == before
    assert repository.git.text("status", "--porcelain") == ""
    for one, ours in zip(plans, found, strict=True):
        alone, _ = candidates.compute_alone(one, repository.git, tmp_path / "alone")
        if method == "regmean":
            a, b = (safetensors.torch.load_file(f.file) for f in (ours, alone))
            for name in b:
                torch.testing.assert_close(a[name], b[name], rtol=1e-6, atol=1e-6)
        else:
            assert ours.file.read_bytes() == alone.file.read_bytes()
    assert cost.seconds > 0
    assert cost.read_bytes == plans[0].read_bytes


def test_even_votes_are_settled_as_in_a_merge(tmp_path):
    """A group that asks for its majority sign after some tiles is merged once more."""
    base = {"wide.weight": torch.zeros(700, 800)}
    made = ModelRepository(tmp_path / "repository", base)
    for number, name in enumerate(BRANCHES[:2]):
        moved = torch.ones(700, 800)
        moved[350:] *= (-1) ** number
        made.branch(name, {"wide.weight": moved})
    heads = resolve(made.git, BRANCHES[:2])
    paths = deciding.touched(made.git, heads)
    plans = [
        deciding.decide(
            made.git,
            heads,
            merge_options.parse([("method", "ties"), ("density", "1.0"), ("scale", scale)]),
            paths,
        ).plans[0]
        for scale in ("0.5", "1.0")
    ]
    found, _ = candidates.compute_candidates(plans, "scale", made.git, tmp_path)
    for one, ours in zip(plans, found, strict=True):
        alone, _ = candidates.compute_alone(one, made.git, tmp_path / "alone")
        assert ours.file.read_bytes() == alone.file.read_bytes()


@pytest.mark.parametrize("method", ["average", "fisher", "slerp"])
def test_one_plan_needs_no_family(repository, tmp_path, method):
    one = plan(repository, method)
    (found,), _ = candidates.compute_candidates([one], None, repository.git, tmp_path)
    alone, _ = candidates.compute_alone(one, repository.git, tmp_path / "alone")
    assert found.file.read_bytes() == alone.file.read_bytes()
    assert (found.blob, len(alone.blob)) == ("", 40)


def test_the_blob_is_the_one_of_the_real_merge(repository, tmp_path):
    alone, _ = candidates.compute_alone(
        plan(repository, "mats", "iterations=5"), repository.git, tmp_path
    )
    before = repository.git.commit("HEAD")
    repository.merge("-X", "method=mats", "-X", "iterations=5", *BRANCHES)
    try:
        assert repository.git.blob_id("HEAD", MODEL) == alone.blob
    finally:
        repository.git.run("reset", "-q", "--hard", before)


def test_a_failure_leaves_no_file(repository, tmp_path):
    plans = [plan(repository, "task-arithmetic", f"scale={value}") for value in ("1", "1e39")]
    with pytest.raises(NumericalError, match="do not fit"):
        candidates.compute_candidates(plans, "scale", repository.git, tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_statistics_cost_what_table_3_says(repository):
    made = plan(repository, "regmean")
    expected = sum(
        3 * 40 * layer.inputs**2 * layer.outputs
        for group in made.computed
        for layer in [layer_shape(group, 3)]
    )
    assert statistics_flops(made) == expected
    assert statistics_flops(plan(repository, "average")) == 0
