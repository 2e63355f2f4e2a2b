"""Our methods in stock git-theta's own merge driver, driven by its menu."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from git_theta.utils import NoResult
from models import MODEL

from gitmerge_eval import methods
from gitmerge_eval.checkpoints.checkpoint import store_array
from gitmerge_eval.checkpoints.lfs import ObjectStore
from gitmerge_eval.merging.task_vector import TASK_VECTOR

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

GROUP = "git_theta.plugins.merges"
DECLARED = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"][
    "entry-points"
][GROUP]
BASE = {
    "a": torch.tensor([1.0, 2.0, 3.0, 4.0]),
    "b": torch.zeros(3),
    "c": torch.ones(2),
    "d": torch.ones(1),
}
OURS = {**BASE, "a": torch.tensor([1.5, 2.0, 2.0, 4.0]), "b": torch.tensor([0.5, -1.0, 2.0])}
THEIRS = {**BASE, "a": torch.tensor([1.0, 3.0, 3.5, 0.0]), "d": torch.ones(2)}


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Stock git-theta's programs of this Python, and our entry points as pyproject says."""
    folder = tmp_path_factory.mktemp("environment")
    found = folder / "declared-1.dist-info"
    found.mkdir()
    (found / "METADATA").write_text("Metadata-Version: 2.1\nName: declared\nVersion: 1\n")
    lines = "".join(f"{name} = {target}\n" for name, target in DECLARED.items())
    (found / "entry_points.txt").write_text(f"[{GROUP}]\n{lines}")
    for name in ("filter", "merge"):
        script = folder / f"git-theta-{name}"
        script.write_text(
            f'#!/bin/sh\nexec {sys.executable} -m git_theta.scripts.git_theta_{name} "$@"\n'
        )
        script.chmod(0o755)
    return {
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(folder),
        "PYTHONWARNINGS": "ignore",
        "GIT_THETA_CHECKPOINT_TYPE": "safetensors",
        "PROMPT_TOOLKIT_NO_CPR": "1",
        "TMPDIR": str(folder),
    }


@pytest.fixture(scope="module")
def stock(environment, tmp_path_factory):
    """As stock git-theta sets it up: its filter and its driver, and nothing of ours."""
    folder = tmp_path_factory.mktemp("stock") / "model"
    subprocess.run(["git", "init", "--quiet", str(folder)], check=True)
    made = Stock(folder, environment)
    (folder / ".gitattributes").write_text(f"{MODEL} filter=theta merge=theta diff=theta\n")
    # Committed through our filter, which writes the same format much faster.
    made.configure("gitmerge-eval filter")
    made.commit(BASE, "base")
    made.run("switch", "--quiet", "--create", "theirs")
    made.commit(THEIRS, "theirs")
    made.run("switch", "--quiet", "--create", "ours", "main")
    made.commit(OURS, "ours")
    made.configure("git-theta-filter")
    made.run("config", "merge.theta.driver", "git-theta-merge %O %A %B %P")
    return made


class Stock:
    def __init__(self, folder, environment):
        self.folder, self.environment = folder, {**os.environ, **environment}

    def run(self, *arguments, answers="", status=0):
        done = subprocess.run(
            ["git", *arguments], cwd=self.folder, env=self.environment, input=answers,
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert status in (None, done.returncode), f"{done.stdout}\n{done.stderr}"
        return done

    def configure(self, program):
        for verb in ("clean", "smudge"):
            self.run("config", f"filter.theta.{verb}", f"{program} {verb} %f")
        self.run("config", "filter.theta.required", "true")

    def commit(self, model, message):
        safetensors.torch.save_file(model, self.folder / MODEL)
        self.run("add", "--all")
        self.run("commit", "--quiet", "-m", message)

    def merge(self, *answers):
        """``git merge theirs`` with these answers to git-theta's questions; the merged model."""
        done = self.run(
            "merge", "theirs", "-m", "merged", answers="".join(f"{a}\n" for a in answers)
        )
        return done, safetensors.torch.load_file(self.folder / MODEL)


def test_git_theta_offers_our_methods_and_stores_what_they_give(stock):
    # The group 'a' by task arithmetic, at the second attempt; 'b', which we alone changed, by ours;
    # of 'd', which has two shapes, git-theta asks again until a side is taken.
    done, found = stock.merge("ta", "0.5", "tv", "1", "mean", "tt")
    shown = done.stdout + done.stderr
    for name in ("task-arithmetic", "ties-per-group", "average: Simple averaging (gitmerge-eval)"):
        assert name in shown
    assert "gitmerge-eval: d: 'theirs' has float32[2], the base has float32[1]" in shown
    expected = BASE["a"] + 0.5 * ((OURS["a"] - BASE["a"]) + (THEIRS["a"] - BASE["a"]))
    # The work tree's file is what git-theta's own smudge makes of what is committed.
    assert torch.equal(found["a"], expected)
    assert torch.equal(found["b"], OURS["b"])
    assert torch.equal(found["c"], BASE["c"])
    assert torch.equal(found["d"], THEIRS["d"])


# --- one call ------------------------------------------------------------------------------------


@pytest.fixture
def call(repository, monkeypatch):
    """Calls a plugin as git-theta does; the value that git-theta reads from what it gave."""
    monkeypatch.chdir(repository.directory)
    from git_theta import merges
    from git_theta.merges.average import Average

    from gitmerge_eval import theta_merges

    store = ObjectStore(repository)

    def merge(name, sides, **arguments):
        target = DECLARED[f"gitmerge-eval-{name}"].partition(":")[2]
        plugin = getattr(theta_merges, target)
        assert issubclass(plugin, merges.Merge)
        asked = {argument.name: argument for argument in plugin.merge_arguments()}
        assert asked.keys() == arguments.keys()
        for argument, value in arguments.items():
            assert asked[argument].validator(str(value)), argument
        given = [
            None if side is None else theta_merges._parameter(store_array("w", side, store))
            for side in sides
        ]
        base, ours, theirs = given
        found = plugin()(("w",), ours, theirs, base, *[{}] * 6, MODEL, **arguments)
        if found is NoResult:
            return NoResult
        return np.asarray(Average().read_parameter(found, ("w",), MODEL))

    return merge


def rounded(array):
    return np.asarray(array, np.float32)


def test_values_are_those_of_the_methods(call):
    random = np.random.default_rng(0)
    base, ours, theirs = (random.normal(size=(4, 3)).astype(np.float32) for _ in range(3))
    o, a, b = (x.astype(np.float64) for x in (base, ours, theirs))
    # git-theta's own average divides by the number of weights that add up to one already.
    from git_theta.merges.average import Average

    assert np.allclose(Average().average(0.5 * a, 0.5 * b), (a + b) / 4)
    assert np.array_equal(call("average", (base, ours, theirs)), rounded((a + b) / 2))
    vectors = (a - o) + (b - o)
    got = call("task-arithmetic", (base, ours, theirs), scale=0.3)
    assert np.allclose(got, o + 0.3 * vectors, rtol=1e-6)
    assert np.array_equal(call("task-vector", (base, ours, theirs), scale=1.0), rounded(a + b - o))
    got = call("dare", (base, ours, theirs), scale=0.3, drop_rate=0.0, seed=1)
    assert np.allclose(got, o + 0.3 * vectors, rtol=1e-6)
    cosine = (a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b)
    angle = np.arccos(cosine)
    expected = (np.sin(0.75 * angle) * a + np.sin(0.25 * angle) * b) / np.sin(angle)
    assert np.allclose(call("slerp", (base, ours, theirs), t=0.25), expected, rtol=1e-6)
    # With everything kept: where the signs agree the mean, else whoever's is larger.
    x, y = a - o, b - o
    agreed = np.where(x * y > 0, (x + y) / 2, np.where(abs(x) > abs(y), x, y))
    got = call("ties", (base, ours, theirs), scale=1.0, density=1.0)
    assert np.allclose(got, o + agreed, rtol=1e-5)
    got = call("dare-ties", (base, ours, theirs), scale=1.0, drop_rate=0.0, density=1.0, seed=0)
    assert np.allclose(got, o + agreed, rtol=1e-5)


def test_what_cannot_be_merged_is_asked_again(call, capsys):
    base, one, other = np.zeros(3, np.float32), np.ones(3, np.float32), np.full(3, 2, np.float32)
    assert call("average", (base, None, other)) is NoResult
    assert "w: one side has deleted the group" in capsys.readouterr().err
    assert call("average", (base, one, np.ones(4, np.float32))) is NoResult
    assert "w: 'theirs' has float32[4]" in capsys.readouterr().err
    assert call("average", (base, one, np.full(3, np.nan, np.float32))) is NoResult
    assert "NaN" in capsys.readouterr().err


def test_all_methods_that_need_no_statistics_are_offered():
    possible = {name for name, m in methods.load().items() if not m.statistics(m.options({}))}
    offered = {name.removeprefix("gitmerge-eval-") for name in DECLARED}
    assert offered == possible | {TASK_VECTOR.name}
