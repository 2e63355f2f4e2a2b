"""``gitmerge-eval compare`` against sums written out in float64."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from evaluated_repositories import PLAIN, Evaluated
from models import MODEL, ModelRepository, base_model, fine_tuned
from small_repositories import copied, settle

from gitmerge_eval import cli
from gitmerge_eval.checkpoints.lfs import ObjectStore
from gitmerge_eval.checkpoints.metadata import Metadata
from gitmerge_eval.errors import GitError, MissingObject, UnknownName, UsageError
from gitmerge_eval.evaluation import evaluating
from gitmerge_eval.inspecting import comparison, contributions
from gitmerge_eval.inspecting.contributions import WHOLE

MOVED = ("first.bias", "first.weight", "scale", "second.weight")


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    base = base_model()
    made = ModelRepository(tmp_path_factory.mktemp("compared") / "models", base)
    made.branch("fruit", fine_tuned(base, 1))
    made.branch("bird", fine_tuned(base, 2))
    settle(made)
    return made


@pytest.fixture
def made(template, tmp_path):
    return copied(template, tmp_path / "models")


@pytest.fixture
def run(capsys, monkeypatch):
    def command(folder, *arguments):
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["gitmerge-eval", *arguments])
        return cli.main(), *capsys.readouterr()

    return command


def flat(tensors, groups) -> np.ndarray:
    return np.concatenate([tensors[name].double().numpy().ravel() for name in groups])


def test_figures_are_what_the_sums_written_out_give(made):
    found = comparison.compare(made.git, "fruit", "bird")
    assert found.base == made.git.commit("main")
    (model,) = found.models
    assert model.states == {"equal": 2, "changed": 4}
    p, a, b = (made.tensors(revision) for revision in ("main", "fruit", "bird"))
    parts = {
        WHOLE: MOVED, "first": ("first.bias", "first.weight"), "second": ("second.weight",),
        "(top)": ("scale",),
    }  # fmt: skip
    assert set(model.modules) == set(parts)
    assert set(model.groups) == set(MOVED)
    each = {**{m: (model.modules[m], g) for m, g in parts.items()},
            **{g: (model.groups[g], (g,)) for g in MOVED}}  # fmt: skip
    for difference, groups in each.values():
        x, y, origin = (flat(tensors, groups) for tensors in (a, b, p))
        s, t = x - origin, y - origin
        norm = np.linalg.norm
        assert difference.elements == len(x)
        assert difference.norm_a == pytest.approx(norm(x), rel=1e-12)
        assert difference.norm_b == pytest.approx(norm(y), rel=1e-12)
        assert difference.relative == pytest.approx(norm(y - x) / norm(x), rel=1e-12)
        assert difference.cosine == pytest.approx(x @ y / norm(x) / norm(y), rel=1e-12)
        assert difference.largest == np.abs(y - x).max()
        assert difference.task_cosine == pytest.approx(s @ t / norm(s) / norm(t), rel=1e-11)
        assert difference.sign_conflict == np.count_nonzero(s * t < 0) / np.count_nonzero(s * t)


def test_equal_groups_are_not_read(made):
    store = ObjectStore(made.git)
    metadata = Metadata.parse(made.git.blob(made.git.blob_id("fruit", MODEL)))
    for name in ("frozen.weight", "steps"):
        store.path(metadata.groups[name].object_id).unlink()
    assert comparison.compare(made.git, "fruit", "bird").models[0].states["equal"] == 2


def test_the_base_may_be_named_or_missing(made, run):
    named = comparison.compare(made.git, "fruit", "bird", base="bird")
    assert named.models[0].modules[WHOLE].task_cosine is None
    ancestor = comparison.compare(made.git, "main", "bird")
    assert ancestor.base is None
    assert ancestor.models[0].modules[WHOLE].sign_conflict is None
    assert "one is an ancestor of the other" in ancestor.remarks[0]
    made.git.run("switch", "--quiet", "--orphan", "alone")
    made.git.run("checkout", "main", "--", ".gitattributes")
    made.save(fine_tuned(base_model(), 3))
    made.commit("no common ancestor")
    unrelated = comparison.compare(made.git, "alone", "bird")
    assert "no common ancestor" in unrelated.remarks[0]
    found = comparison.compare(made.git, "alone", "bird", base="main")
    assert found.models[0].modules[WHOLE].task_cosine is not None


def test_a_merge_is_compared_with_its_constituent_from_the_merges_base(made):
    made.merge("--strategy-option=method=average", "fruit", "bird")
    found = comparison.compare(made.git, "main", "bird")
    assert found.base == made.git.commit("main^1")
    a, b, p = (flat(made.tensors(r), MOVED) for r in ("main", "bird", "main^1"))
    cosine = (a - p) @ (b - p) / np.linalg.norm(a - p) / np.linalg.norm(b - p)
    assert found.models[0].modules[WHOLE].task_cosine == pytest.approx(cosine, rel=1e-11)


def test_what_cannot_be_measured_is_listed(made, run):
    changed = fine_tuned(base_model(), 1)
    changed["second.weight"] = torch.ones(4, 7)
    changed["first.bias"] = changed["first.bias"].half()
    changed["steps"] = torch.tensor([3, 4])
    changed["head.weight"] = torch.ones(2)
    del changed["scale"]
    made.git.run("switch", "--quiet", "bird")
    made.save(changed)
    made.commit("another shape")
    (model,) = comparison.compare(made.git, "fruit", "bird").models
    assert {(o.name, o.state, o.described) for o in model.others} == {
        ("first.bias", "reshaped", "float32[6] → float16[6]"),
        ("head.weight", "added", "float32[2]"),
        ("scale", "removed", "float32[]"),
        ("second.weight", "reshaped", "float32[4, 6] → float32[4, 7]"),
        ("steps", "changed", "int64[2]"),
    }
    status, out, _ = run(made.folder, "compare", "fruit", "bird", "--groups")
    assert status == 0
    assert "  reshaped: second.weight float32[4, 6] → float32[4, 7]" in out
    made.save(base_model(), "other.safetensors")
    made.commit("a second model")
    models = {m.path: m for m in comparison.compare(made.git, "fruit", "bird").models}
    assert models["other.safetensors"].remark == "'fruit' does not have it"
    assert [m.path for m in comparison.compare(
        made.git, "fruit", "bird", checkpoint=MODEL).models] == [MODEL]  # fmt: skip
    with pytest.raises(UnknownName, match=r"did you mean 'other.safetensors'"):
        comparison.compare(made.git, "fruit", "bird", checkpoint="othr.safetensors")


def test_the_terminal_and_json(made, run):
    status, out, _ = run(made.folder, "compare", "fruit", "bird", "--groups")
    assert status == 0
    assert "parameter groups: " in out
    assert "second.weight" in out
    assert "no task that both were scored on" in out
    status, out, _ = run(made.folder, "compare", "fruit", "bird", "--json")
    assert status == 0
    found = json.loads(out)
    assert found["models"][0]["states"] == {"equal": 2, "changed": 4}
    assert set(found["models"][0]["groups"]) == set(MOVED)
    for arguments in (("fruit", "birt"), ("nothing", "bird")):
        status, _, err = run(made.folder, "compare", *arguments)
        assert status == 2
        assert "is not a commit" in err


def test_nothing_to_compare_says_so(repository, commit):
    commit({"a.txt": "a"})
    with pytest.raises(UsageError, match="gitmerge-eval track"):
        comparison.compare(repository, "HEAD", "HEAD")
    with pytest.raises(GitError):
        comparison.compare(repository, "HEAD", "HEAD^")


def test_scores_of_both_with_their_status(tmp_path, monkeypatch, run):
    monkeypatch.syspath_prepend(str(PLAIN))
    monkeypatch.setenv("PLAIN_BENCHMARK_LOG", str(tmp_path / "evaluations.log"))
    made = Evaluated.make(tmp_path / "models")
    (made.repository.directory / ".gitattributes").write_text("*.safetensors filter=theta\n")
    made.put("main", {})
    first = made.merge()
    evaluating.evaluate(made.repository, first)
    second = made.merge(values=(71, 74, 30, 64, 66, 33))
    evaluating.evaluate(made.repository, second)
    status, out, _ = run(made.repository.directory, "compare", first, second, "--json")
    assert status == 0
    rows = {row["task"]: row for row in json.loads(out)["scores"]}
    assert {t: (r["status"], r["difference"]) for t, r in rows.items()} == {
        "fruit-quickdraw": ("held-in", 0.5), "bird-real": ("held-in", 1.0),
        "fruit-real": ("generalization", 0.5), "bird-quickdraw": ("generalization", 1.0),
    }  # fmt: skip
    assert [row["status"] for row in json.loads(out)["scores"]][:2] == ["held-in"] * 2
    # A constituent has no note: its scores are those that the merge's evaluation kept.
    status, out, _ = run(made.repository.directory, "compare", second, "bird-real")
    assert status == 0
    assert "bird-real" in out
    assert "+20.00" in out  # 90, and 70 in the merge


def test_adapters_are_compared_by_their_products(tmp_path):
    made = ModelRepository(tmp_path / "adapters")
    file, weights = "adapter_model.safetensors", {}
    generator = torch.Generator().manual_seed(2)
    for name in ("fruit", "bird"):
        a, b = torch.randn(2, 5, generator=generator), torch.randn(6, 2, generator=generator)
        weights[name] = 4 / 2 * (b.double() @ a.double()).numpy().ravel()
        made.git.run("switch", "--quiet", "--create", name, "main")
        prefix = "base_model.model.q.lora_"
        made.save({f"{prefix}A.weight": a, f"{prefix}B.weight": b}, file)
        settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q"]}
        (made.folder / "adapter_config.json").write_text(json.dumps(settings))
        made.commit(name)
        made.git.run("switch", "--quiet", "main")
    (model,) = comparison.compare(made.git, "fruit", "bird", checkpoint=file).models
    (difference,) = model.groups.values()
    first, second = weights["fruit"], weights["bird"]
    norms = np.linalg.norm(first), np.linalg.norm(second)
    assert (difference.norm_a, difference.norm_b) == pytest.approx(norms, rel=1e-12)
    # The base has no adapter, which is no change: task vectors are the adapters themselves.
    assert difference.task_cosine == pytest.approx(first @ second / norms[0] / norms[1], rel=1e-11)
    (found,) = contributions.of_heads(made.git, ["fruit", "bird"])
    assert [share.norm for share in found.modules[WHOLE]] == pytest.approx(norms, rel=1e-12)


def test_missing_tensors_are_named(made):
    metadata = Metadata.parse(made.git.blob(made.git.blob_id("fruit", MODEL)))
    ObjectStore(made.git).path(metadata.groups["first.weight"].object_id).unlink()
    with pytest.raises(MissingObject, match=r"first.weight.*'fruit'"):
        comparison.compare(made.git, "fruit", "bird")
