"""The merge driver: cherry-pick, revert, rebase, stash, ``-s ort`` as algebra of task vectors."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from models import MODEL, ModelRepository, base_model, fine_tuned, statistics_for
from small_repositories import copied, settle

from gitmerge_eval import driver
from gitmerge_eval.checkpoints.statistics_index import StatisticEntry, parse, serialize
from gitmerge_eval.merging import options

FLOATING = ("first.weight", "second.weight", "first.bias", "scale")
BASE = base_model()
OURS, THEIRS = fine_tuned(BASE, 1), fine_tuned(BASE, 2)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """main, then 'ours' and 'theirs' fine-tuned from it; HEAD is 'ours'."""
    made = ModelRepository(tmp_path_factory.mktemp("template") / "model", BASE)
    made.branch("ours", OURS)
    made.branch("theirs", THEIRS)
    made.run("switch", "--quiet", "ours")
    settle(made)
    return made


@pytest.fixture
def repository(template, tmp_path):
    return copied(template, tmp_path / "model")


def assert_close_to_one_rounding(tensors, formula):
    """``formula(name -> float64 array)`` for each floating group, rounded to float32 once."""
    for name in FLOATING:
        arrays = [model[name].double().numpy() for model in (BASE, OURS, THEIRS)]
        expected = formula(*arrays)
        unit = np.spacing(np.abs(expected).astype(np.float32)).astype(np.float64)
        error = np.abs(tensors[name].double().numpy() - expected)
        assert (error <= 0.5001 * unit).all(), name
    assert torch.equal(tensors["steps"], BASE["steps"])
    assert torch.equal(tensors["frozen.weight"], BASE["frozen.weight"])


def added(base, ours, theirs):
    return ours + (theirs - base)


def test_cherry_pick_adds_a_task_vector_and_revert_subtracts_it(repository):
    done = repository.run("cherry-pick", "theirs")
    assert f"{MODEL}: task-vector, 4 parameter groups merged" in done.stderr
    picked = repository.tensors("HEAD")
    assert_close_to_one_rounding(picked, added)
    assert repository.run("status", "--porcelain").stdout == ""
    # A later commit, so that the revert has something to subtract from.
    moved = {n: t + 1 if n in FLOATING else t for n, t in picked.items()}
    repository.save(moved)
    repository.commit("trained on")
    repository.run("revert", "--no-edit", "HEAD~1")
    for name in FLOATING:
        before, after, later = (m[name].double() for m in (OURS, picked, moved))
        expected = later - (after - before)
        unit = np.spacing(expected.abs().float().numpy()).astype(np.float64)
        error = (repository.tensors("HEAD")[name].double() - expected).abs().numpy()
        assert (error <= 0.5001 * unit).all(), name


def test_rebase_stash_and_ort_do_the_same(repository):
    repository.run("switch", "--quiet", "--create", "rebased", "theirs")
    repository.run("rebase", "--quiet", "ours")
    assert_close_to_one_rounding(repository.tensors("HEAD"), added)
    blob = repository.git.blob_id("HEAD", MODEL)

    repository.run("switch", "--quiet", "--detach", "ours")
    repository.merge("-s", "ort", "theirs")
    assert repository.git.blob_id("HEAD", MODEL) == blob

    repository.run("switch", "--quiet", "--detach", "main")
    repository.save(THEIRS)
    repository.run("stash")
    repository.run("switch", "--quiet", "--detach", "ours")
    repository.run("stash", "pop")
    repository.run("add", MODEL)
    assert repository.git.blob_id("", MODEL) == blob


def test_method_and_options_come_from_the_configuration(repository):
    repository.run("config", "merge-eval.method", "average")  # of merges, not of the driver
    repository.run("config", "merge-eval.driver.scale", "0.5")
    repository.run("cherry-pick", "theirs")
    assert_close_to_one_rounding(
        repository.tensors("HEAD"), lambda base, a, b: a + 0.5 * (b - base)
    )


@pytest.fixture
def files(repository, tmp_path, monkeypatch):
    """What Git gives the driver: cleaned versions in files; run in this process."""
    monkeypatch.chdir(repository.folder)

    def make(base="main", ours="ours", theirs="theirs"):
        found = []
        for name, revision in (("O", base), ("A", ours), ("B", theirs)):
            data = repository.git.run("cat-file", "blob", f"{revision}:{MODEL}").stdout
            (tmp_path / name).write_bytes(data if revision else b"")
            found.append(str(tmp_path / name))
        return found

    return make


def test_a_configured_method(repository, files):
    repository.run("config", "merge-eval.driver.method", "average")
    base, ours, theirs = files()
    assert driver.main([base, ours, theirs, MODEL]) == 0
    repository.run("update-index", "--cacheinfo", f"100644,{_blob(repository, ours)},{MODEL}")
    assert_close_to_one_rounding(repository.tensors(""), lambda base, a, b: (a + b) / 2)


def _blob(repository, file):
    return repository.git.text("hash-object", "-w", "--no-filters", file)


def test_wrong_input_leaves_ours_and_says_why_and_how_to_go_on(repository, files, capsys, tmp_path):
    base, ours, theirs = files()
    before = (tmp_path / "A").read_bytes()
    cases = [
        (("merge-eval.driver.method", "tise"), "unknown merge method 'tise'; did you mean 'ties'?"),
        (("merge-eval.driver.method", "fisher"), "needs the statistic 'fisher'"),
        (("merge-eval.driver.scale", "much"), "option 'scale' is 'much'"),
    ]
    for (key, value), message in cases:
        repository.run("config", key, value)
        assert driver.main([base, ours, theirs, MODEL]) == 1
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 2
        assert "go on with 'gitmerge-eval resolve'" in error
        repository.run("config", "--unset", key)
    (tmp_path / "B").write_bytes(b"{<<<<<<< ours")
    assert driver.main([base, ours, theirs, MODEL]) == 1
    assert f"'{MODEL}' of 'theirs': not git-theta metadata" in capsys.readouterr().err
    assert driver.main([base, ours, str(tmp_path / "absent"), MODEL]) == 1
    assert capsys.readouterr().err.count("\n") == 2
    assert driver.main([]) == 1
    assert "takes four arguments" in capsys.readouterr().err
    assert (tmp_path / "A").read_bytes() == before


def picked_scale(repository, *options, status=0):
    """``git -c … cherry-pick theirs`` on 'ours', and what became of one group."""
    given = [word for option in options for word in ("-c", f"merge-eval.{option}")]
    done = repository.run(*given, "cherry-pick", "theirs", status=status)
    found = repository.tensors("HEAD")["scale"]
    repository.run("reset", "--hard", "--quiet", "HEAD" if status else "HEAD~1")
    return done.stderr, found


def test_every_option_of_one_command_is_checked(repository, monkeypatch):
    whole = OURS["scale"] + (THEIRS["scale"] - BASE["scale"])
    # What merges do with their defaults: what they do not know belongs to another method.
    assert options.parse([], {"sclae": "0.5"}).given == {}
    cases = [
        ("driver.sclae=0.5", "unknown merge-eval.driver option 'sclae'; did you mean 'scale'?"),
        ("driver.density=0.5", "'task-vector' has no option 'density'; it belongs to ties,"),
        ("driver.base=main", "option 'base' cannot be chosen here"),
        ("driver.rank=4", "option 'rank' is for adapters"),
        ("driver.scale=inf", "option 'scale' is 'inf'"),
        ("driver.scale", "option 'scale' is ''"),
        ("driver.method=task-vektor", "did you mean 'task-vector'?"),
        ("driver.accumulate=float16", "not one of auto, float32, float64"),
    ]  # fmt: skip
    for option, message in cases:
        error, found = picked_scale(repository, option, status=1)
        assert message in error, option
        assert torch.equal(found, OURS["scale"])
    # In a file, an option may be for another method; one that no method has may not.
    repository.run("config", "merge-eval.driver.density", "0.5")
    repository.run("config", "merge-eval.driver.method", "average")
    error, found = picked_scale(repository, "driver.method=task-vector")
    assert torch.allclose(found, whole)
    assert "gitmerge-eval: merge-eval" not in error
    repository.run("config", "merge-eval.driver.densty", "0.5")
    assert "did you mean" in picked_scale(repository, status=1)[0]


def test_an_option_for_merges_is_not_taken_for_the_drivers_in_silence(repository):
    error, found = picked_scale(repository, "scale=0.5")
    assert torch.allclose(found, OURS["scale"] + (THEIRS["scale"] - BASE["scale"]))  # not half
    assert "'merge-eval.scale' is for merges; the driver's is 'merge-eval.driver.scale'" in error
    assert "is for merges" not in picked_scale(repository, "evaluate=off")[0]


def test_statistics_of_a_commit_that_is_no_head(repository):
    """Git does not say which commit the driver's files are of."""
    for name, seed, model in (("ours", 1, OURS), ("theirs", 2, THEIRS)):
        repository.run("switch", "--quiet", name)
        repository.add_statistics({"fisher": statistics_for(model, seed)["fisher"]})
        repository.commit("statistics")
    repository.run("switch", "--quiet", "theirs")
    (repository.folder / "later.txt").write_text("later\n")
    repository.commit("later")
    repository.run("switch", "--quiet", "ours")
    given = ("-c", "merge-eval.driver.method=fisher")
    done = repository.run(*given, "cherry-pick", "theirs~2", status=None)
    assert done.returncode == 0, done.stderr
    ours, theirs = (statistics_for(m, s)["fisher"]["scale"] for m, s in ((OURS, 1), (THEIRS, 2)))
    expected = (ours * OURS["scale"].numpy() + theirs * THEIRS["scale"].numpy()) / (ours + theirs)
    assert np.allclose(repository.tensors("HEAD")["scale"].numpy(), expected, rtol=1e-6)
    # The file that is there now is of the model before, and a merge that needs it says so.
    wanted = (
        f"the statistics of '{MODEL}' (fisher) are of another version now; before a merge that "
        "needs them, compute them anew: gitmerge-eval stats fisher"
    )
    assert wanted in done.stderr
    error = repository.merge("-X", "method=fisher", "main", "theirs", status=2).stderr
    assert "was computed on another version" in error
    # Taken back while nothing has moved, they are right again.
    repository.run("revert", "--no-edit", "HEAD")
    done = repository.merge("-X", "method=fisher", "theirs", status=None)
    assert done.returncode == 0, done.stderr


def test_groups_in_conflict_are_listed(repository, capsys):
    repository.run("switch", "--quiet", "--create", "wider", "main")
    repository.save({**BASE, "scale": torch.zeros(2)})
    repository.commit("wider")
    repository.run("switch", "--quiet", "ours")
    done = repository.run("cherry-pick", "wider", status=1)
    assert "scale: 'theirs' has float32[2], the base has float32[]" in done.stderr
    stages = repository.git.text("ls-files", "--unmerged").splitlines()
    wanted = [
        f"100644 {repository.git.blob_id(revision, MODEL)} {number}\t{MODEL}"
        for number, revision in enumerate(("main", "ours", "wider"), start=1)
    ]
    assert stages == wanted
    assert torch.equal(repository.tensors()["scale"], OURS["scale"])
    repository.run("cherry-pick", "--abort")
    assert repository.run("status", "--porcelain").stdout == ""


def test_statistics_are_kept_and_their_indexes_united(repository, tmp_path, monkeypatch):
    monkeypatch.chdir(repository.folder)
    entry = StatisticEntry("gram.safetensors", "c" * 40, "data", "f" * 64, 1, 1)
    other = StatisticEntry("fisher.safetensors", "d" * 40, "data", "f" * 64, 1, 1)
    (tmp_path / "O").write_bytes(b"")
    (tmp_path / "A").write_bytes(serialize({"m": {"gram": entry}}))
    (tmp_path / "B").write_bytes(serialize({"m": {"gram": other, "fisher": other}}))
    arguments = [str(tmp_path / name) for name in "OAB"]
    assert driver.main([*arguments, "statistics/index.json"]) == 0
    assert parse((tmp_path / "A").read_bytes()) == {"m": {"gram": entry, "fisher": other}}
    assert json.loads((tmp_path / "B").read_bytes())["m"].keys() == {"gram", "fisher"}
    (tmp_path / "A").write_bytes(b"ours")
    assert driver.main([*arguments, "statistics/gram.safetensors"]) == 0
    assert (tmp_path / "A").read_bytes() == b"ours"
