"""Cherry-pick adds a task vector and revert takes it away: exactly, whatever HEAD did meanwhile."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from models import MODEL, ModelRepository, base_model, fine_tuned
from small_repositories import copied, settle

from gitmerge_eval import driver
from gitmerge_eval.errors import NumericalError
from gitmerge_eval.merging import task_vector, threeway
from gitmerge_eval.merging.task_vector import add_task_vector, add_whole_numbers
from gitmerge_eval.records import ParameterGroup

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def with_integers(model, steps, count, mask):
    return {
        **model,
        "steps": torch.tensor(steps, dtype=torch.int64),
        "count": torch.tensor(count, dtype=torch.uint8),
        "mask": torch.tensor(mask),
    }


def group(base, ours, theirs):
    return ParameterGroup("w", [ours, theirs], ("a", "b"), (True, True), base=base)


# --- the kernel ----------------------------------------------------------------------------------


def sides(seed=0):
    """Three float32 vectors, as float64, whose magnitudes have nothing to do with each other; in
    half of the elements ours is the base's, or near it."""
    random = np.random.default_rng(seed)
    shape = (3, 4000)
    values = random.normal(size=shape) * 10.0 ** random.integers(-30, 30, size=shape)
    values[1, :1000] = values[0, :1000]
    values[1, 1000:2000] = values[0, 1000:2000] * random.uniform(0.5, 2, 1000)
    return values.astype(np.float32).astype(np.float64)


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_the_sum_is_rounded_once(library):
    base, ours, theirs = sides()
    expected = np.array([math.fsum(t) for t in zip(ours, theirs, -base, strict=True)])
    # The formula as it stands loses what is small beside what cancels.
    plainly = (ours + 1.0 * (theirs - base)).astype(np.float32)
    assert (plainly != expected.astype(np.float32)).any()
    assert 1.0 + (1e-20 - 1.0) == 0.0
    if library == "torch":
        base, ours, theirs = (torch.from_numpy(side) for side in (base, ours, theirs))
    got = np.asarray(add_task_vector(group(base, ours, theirs), scale=1.0))
    assert np.array_equal(got.astype(np.float32), expected.astype(np.float32))


def test_scale_is_the_factor_of_their_task_vector():
    base, ours, theirs = np.random.default_rng(1).normal(size=(3, 1000))
    got = add_task_vector(group(base, ours, theirs), scale=0.3)
    assert np.allclose(got, ours + 0.3 * (theirs - base), rtol=1e-15, atol=1e-15)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "uint32", "int64", "uint64"])
def test_integers_are_added_exactly_or_refused(dtype):
    random = np.random.default_rng(2)
    base, vector, move = random.integers(0, 40, size=(3, 50))
    values = [x.astype(dtype) for x in (base, base + move, base + vector)]
    assert np.array_equal(add_whole_numbers(*values), (base + move + vector).astype(dtype))
    top = np.array([np.iinfo(dtype).max], dtype)
    low = np.array([0], dtype)
    # An array's own sum wraps around without a word.
    with np.errstate(over="ignore"):
        assert (top + (top - low) != int(top[0]) * 2).all()
    with pytest.raises(NumericalError, match=f"does not fit {dtype}"):
        add_whole_numbers(low, top, top)
    assert add_whole_numbers(top, top, low) == 0  # no sum on the way is too large


def test_booleans_are_whoever_changed_them():
    every = np.array([[i & 4, i & 2, i & 1] for i in range(8)], bool).T
    base, ours, theirs = every
    majority = np.array([0, 1, 1, 1, 0, 0, 0, 1], bool)
    assert not np.array_equal(ours ^ theirs ^ base, majority)  # the sum modulo 2 undoes agreement
    assert np.array_equal(add_whole_numbers(base, ours, theirs), majority)


# --- through Git ---------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=DTYPES, ids=str)
def template(request, tmp_path_factory):
    """main, and 'ours' and 'theirs' from it, which changed integers and booleans too."""
    base = base_model(request.param)
    models = {
        "main": with_integers(base, [1, 2, 3], [10, 20], [True, False, True]),
        "ours": with_integers(fine_tuned(base, 1), [5, 2, 3], [10, 25], [True, True, True]),
        "theirs": with_integers(fine_tuned(base, 2), [1, 9, 3], [7, 20], [False, False, True]),
    }
    made = ModelRepository(tmp_path_factory.mktemp("template") / "model", models["main"])
    for name in ("ours", "theirs"):
        made.branch(name, models[name])
    made.run("switch", "--quiet", "ours")
    settle(made)
    return made, models


@pytest.fixture
def repository(template, tmp_path):
    return copied(template[0], tmp_path / "model")


def spacing(tensor):
    """The distance to the next larger number of the dtype."""
    exponent = torch.frexp(tensor.double().abs()).exponent
    lowest = torch.finfo(tensor.dtype).smallest_normal
    power = torch.ldexp(torch.ones_like(exponent, dtype=torch.float64), exponent - 1)
    return power.clamp(min=lowest) * torch.finfo(tensor.dtype).eps


def assert_one_rounding(found, *terms, by_way_of=None):
    """``found`` is the sum of the terms (sign, model): integers exactly, others to half a spacing
    there and, where it was rounded once before, half a spacing of that."""
    steps = [found, *([by_way_of] if by_way_of else [])]
    for name, tensor in found.items():
        parts = [sign * model[name].double() for sign, model in terms]
        if not tensor.is_floating_point():
            assert torch.equal(tensor.double() % 256, sum(parts) % 256), name
            continue
        allowed = sum(spacing(model[name]) / 2 for model in steps)
        assert ((tensor.double() - sum(parts)).abs() <= allowed).all(), name


def test_cherry_pick_then_revert_gives_the_original_back(repository, template):
    _, models = template
    ours = models["ours"]
    blob = repository.git.blob_id("HEAD", MODEL)
    repository.run("cherry-pick", "theirs")
    picked = repository.tensors("HEAD")
    assert_one_rounding(picked, (1, ours), (1, models["theirs"]), (-1, models["main"]))
    assert picked["steps"].tolist() == [5, 9, 3]
    assert picked["count"].tolist() == [7, 25]
    assert picked["mask"].tolist() == [False, True, True]
    # At once: bit for bit.
    repository.run("revert", "--no-edit", "HEAD")
    assert repository.git.blob_id("HEAD", MODEL) == blob
    repository.run("reset", "--hard", "--quiet", "HEAD~1")

    # HEAD moves on, in every group; both are then taken back, the older one first.
    moved = with_integers(fine_tuned(picked, 3), [8, 9, 4], [9, 25], [False, True, False])
    repository.save(moved)
    repository.commit("trained on")
    repository.run("revert", "--no-edit", "HEAD~1")
    between = repository.tensors("HEAD")
    assert_one_rounding(between, (1, moved), (1, ours), (-1, picked))
    assert between["steps"].tolist() == [8, 2, 4]
    repository.run("revert", "--no-edit", "HEAD~1")
    assert_one_rounding(repository.tensors("HEAD"), (1, ours), by_way_of=between)
    for name in ("steps", "count", "mask", "frozen.weight"):
        assert torch.equal(repository.tensors("HEAD")[name], ours[name]), name
    assert repository.run("status", "--porcelain").stdout == ""


def test_a_revert_after_ordinary_commits_is_exact(repository, template):
    """A group that only the revert changes is the old tensor itself, whatever others did."""
    _, models = template
    repository.run("cherry-pick", "theirs")
    picked = repository.tensors("HEAD")
    repository.save({**picked, "frozen.weight": picked["frozen.weight"] + 1})
    repository.commit("another group")
    repository.run("revert", "--no-edit", "HEAD~1")
    found = repository.tensors("HEAD")
    for name, tensor in models["ours"].items():
        expected = tensor + 1 if name == "frozen.weight" else tensor
        assert torch.equal(found[name], expected), name


# --- what would go wrong -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """float32 only, with metadata of safetensors' own."""
    base = base_model()
    made = ModelRepository(tmp_path_factory.mktemp("plain") / "model", base)
    made.branch("ours", fine_tuned(base, 1))
    made.branch("theirs", fine_tuned(base, 2))
    made.run("switch", "--quiet", "ours")
    settle(made)
    return made, base


@pytest.fixture
def merged(plain, tmp_path, monkeypatch):
    """Runs the driver on three models and gives what became of ours."""
    repository = copied(plain[0], tmp_path / "model")
    monkeypatch.chdir(repository.folder)

    def merge(*models, status=0, header=({}, {}, {})):
        import safetensors.torch

        files = []
        for name, model, own in zip("OAB", models, header, strict=True):
            safetensors.torch.save_file(model, repository.folder / MODEL, {"format": "pt"} | own)
            repository.run("add", MODEL)
            blob = repository.git.run("cat-file", "blob", f":{MODEL}").stdout
            (tmp_path / name).write_bytes(blob)
            files.append(str(tmp_path / name))
        assert driver.main([*files, MODEL]) == status
        blob = repository.git.write_blob((tmp_path / "A").read_bytes())
        repository.run("update-index", "--cacheinfo", f"100644,{blob},{MODEL}")
        return repository.tensors("")

    merge.repository = repository
    return merge


def test_the_same_change_on_both_sides_counts_once(merged, plain, monkeypatch):
    _, base = plain
    tuned = fine_tuned(base, 2)
    ours = {**tuned, "frozen.weight": base["frozen.weight"] + 1}  # and something of its own
    with monkeypatch.context() as patch:
        patch.setattr(task_vector, "settled", lambda plan, store: plan)
        doubled = merged(base, ours, tuned)["first.weight"]
        assert torch.allclose(doubled, 2 * tuned["first.weight"] - base["first.weight"])
    assert torch.equal(merged(base, ours, tuned)["first.weight"], tuned["first.weight"])


def test_a_layer_that_one_side_reshaped_comes_back_by_revert(merged, plain, monkeypatch):
    _, base = plain
    wider = {**base, "second.weight": torch.ones(7, 6)}
    moved = {**wider, "first.weight": base["first.weight"] + 1}
    with monkeypatch.context() as patch:
        patch.setattr(task_vector, "settled", lambda plan, store: plan)
        merged(wider, moved, base, status=1)
    reverted = merged(wider, moved, base)
    assert torch.equal(reverted["second.weight"], base["second.weight"])
    assert torch.equal(reverted["first.weight"], moved["first.weight"])


def test_integers_that_both_changed_are_not_silently_ours(merged, plain, monkeypatch, capsys):
    _, base = plain
    ours, theirs = ({**base, "steps": torch.tensor(s)} for s in ([5, 2], [3, 9]))
    with monkeypatch.context() as patch:
        patch.setattr(task_vector, "settled", lambda plan, store: plan)
        assert merged(base, ours, theirs)["steps"].tolist() == [5, 2]
    capsys.readouterr()
    assert merged(base, ours, theirs)["steps"].tolist() == [7, 9]
    assert "'steps' was changed on both sides: int64 added as integers" in capsys.readouterr().err
    merged.repository.run("config", "merge-eval.driver.scale", "0.5")
    assert merged(base, ours, theirs)["steps"].tolist() == [5, 2]
    assert "'steps' was changed on both sides: int64 stays ours" in capsys.readouterr().err
    merged.repository.run("config", "--unset", "merge-eval.driver.scale")
    top = {**base, "steps": torch.tensor([2**63 - 1, 2])}
    merged(base, top, {**base, "steps": torch.tensor([9, 2])}, status=1)
    assert "  steps: ours + (theirs - base) does not fit int64" in capsys.readouterr().err


def test_our_own_metadata_survives(merged, plain, monkeypatch):
    _, base = plain
    models = (base, fine_tuned(base, 1), fine_tuned(base, 2))
    header = ({"run": "0", "old": "x"}, {"run": "1", "old": "x", "by": "us"}, {"run": "2"})

    def metadata():
        from gitmerge_eval.checkpoints.metadata import Metadata

        data = merged.repository.git.run("cat-file", "blob", f":{MODEL}").stdout
        return dict(Metadata.parse(data).header)

    with monkeypatch.context() as patch:
        patch.setattr(threeway, "_merged_header", lambda sides: None)
        merged(*models, header=header)
        assert metadata() == {"format": "pt", "old": "x", "run": "0"}  # the base's
    merged(*models, header=header)
    assert metadata() == {"format": "pt", "run": "1", "by": "us"}
