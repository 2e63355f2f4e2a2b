"""plan: what a merge would do and cost, against numbers written out here; nothing is touched."""

from __future__ import annotations

import json
import os
import subprocess

import pytest
import torch
from models import MODEL, ModelRepository, base_model, fine_tuned, statistics_for
from small_repositories import LINES, copied, settle, without_heavy_imports

from gitmerge_eval import dryrun
from gitmerge_eval.checkpoints.lfs import ObjectStore
from gitmerge_eval.checkpoints.metadata import Metadata
from gitmerge_eval.errors import GitError, MergeRefused, UnknownName
from gitmerge_eval.methods import load

BASE = base_model()
LAYERS = [(5, 6), (6, 4)]
"""d×k of the two linear layers; a vector and a scalar are n×1."""
VECTORS = [6, 1]


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    made = ModelRepository(tmp_path_factory.mktemp("template") / "model", BASE, text=LINES)
    for number, name in enumerate("abc"):
        statistics = statistics_for(BASE, number) if name != "c" else None
        made.branch(name, fine_tuned(BASE, number), statistics)
    made.branch("wide", {**BASE, "scale": torch.zeros(2)})
    made.branch("text", files={"notes.txt": "changed\n"})
    settle(made)
    return made


@pytest.fixture
def repository(template, tmp_path):
    return copied(template, tmp_path / "model")


def preview(repository, *heads, **options):
    before = repository.state()
    found = dryrun.preview(
        repository.git, heads, [(k.replace("_", "-"), v) for k, v in options.items()]
    )
    assert repository.state() == before
    return found


def records(repository, revision, path=MODEL):
    blob = repository.git.run("cat-file", "blob", f"{revision}:{path}").stdout
    return Metadata.parse(blob).groups


def test_states_constituents_and_costs(repository):
    found = preview(repository, "a", "b", method="average")
    (model,) = found.checkpoints
    assert (found.heads, found.head_is_constituent, found.feasible) == (("a", "b"), False, True)
    assert (model.path, model.outcome, model.method) == (MODEL, "merged", "average")
    assert model.states == {"merged": 4, "identical": 2}
    assert model.base == repository.git.commit("main")
    names = {f"{n} ({repository.git.commit(n)[:10]})" for n in "ab"}
    assert set(model.constituents) == names
    elements = sum(d * k for d, k in LAYERS) + sum(VECTORS)
    assert model.merging_flops == 2 * elements
    assert model.written_bytes == 4 * elements
    merged = ("first.weight", "second.weight", "first.bias", "scale")
    objects = {
        r.object_id: r.size for revision in ("a", "b") for n, r in
        records(repository, revision).items() if n in merged
    }  # fmt: skip
    assert model.read_bytes == sum(objects.values())
    # Two constituents, base, result and one more of the largest group, in float64.
    assert model.peak_bytes == 2 * 30 * 4  # of the largest group, whatever the number of models
    assert model.device == "cpu"


def test_costs_follow_method_and_options(repository):
    def flops(method, **options):
        return preview(repository, "a", "b", method=method, **options).checkpoints[0].merging_flops

    layers = [*LAYERS, *((n, 1) for n in VECTORS)]
    sizes = sum(d * k for d, k in layers)
    assert flops("task-arithmetic") == 5 * sizes
    assert flops("dare") == 13 * sizes
    assert flops("ties") == 9 * sizes
    assert flops("fisher") == 5 * sizes
    regmean = flops("regmean")
    assert regmean == sum(4 * d * d * k + 4 * d * k for d, k in layers)
    assert flops("mats", iterations="20") == sum(22 * d * d * k + 102 * d * k for d, k in layers)


def test_a_plan_tells_what_the_merge_then_does(repository):
    found = preview(repository, "a", "b", "c", method="ties", density="0.5")
    repository.merge("-Xmethod=ties", "-Xdensity=0.5", "a", "b", "c")
    done = repository.git.text("log", "-1", "--format=%(trailers:key=Merge-Constituent,valueonly)")
    assert {line.split()[0][:10] for line in done.splitlines() if line} == {
        text.partition("(")[2].rstrip(")") for text in found.checkpoints[0].constituents
    }


def test_what_is_missing_is_said_with_what_else_could_be_used(repository):
    found = preview(repository, "a", "c", method="regmean")
    (model,) = found.checkpoints
    assert (found.feasible, model.outcome, model.method) == (False, "refused", "regmean")
    assert (
        "'regmean' needs the statistic 'gram', which branch 'c' does not have" in model.problems[0]
    )
    assert model.applicable.keys() == set(load())
    assert model.applicable["ties"] == ()
    assert model.applicable["regmean"] == ("gram of c",)
    assert preview(repository, "a", "b").checkpoints[0].applicable["regmean"] == ()


def test_conflicts_and_merges_that_are_gits_alone(repository):
    many = preview(repository, "a", "wide")
    assert not many.feasible
    assert "scale: 'wide' has float32[2]" in many.checkpoints[0].problems[0]
    repository.run("switch", "--quiet", "a")
    one = preview(repository, "wide")
    assert (one.feasible, one.checkpoints[0].outcome) == (False, "conflict")
    repository.run("switch", "--quiet", "main")
    text = preview(repository, "text")
    assert (text.feasible, text.checkpoints) == (True, ())
    assert text.notes == ("no checkpoint differs between these heads: Git merges alone",)
    taken = preview(repository, "a", "text")
    assert [(c.path, c.outcome, c.constituents) for c in taken.checkpoints] == [
        (MODEL, "taken", ("a",))
    ]


def test_wrong_arguments(repository):
    with pytest.raises(UnknownName, match="unknown strategy option 'scal'; did you mean 'scale'"):
        preview(repository, "a", method="ties", scal="1")
    with pytest.raises(GitError, match="'nothing' is not a commit"):
        preview(repository, "nothing")
    with pytest.raises(MergeRefused, match="main: already merged into HEAD"):
        preview(repository, "main")


def test_the_command(repository, tmp_path):
    def plan(*arguments):
        return subprocess.run(
            ["gitmerge-eval", "plan", *arguments],
            cwd=repository.folder,
            # A dry run opens no tensor: torch is not needed.
            env={**os.environ, **without_heavy_imports(tmp_path / "broken")},
            capture_output=True, text=True,
        )  # fmt: skip

    done = plan(
        "--json", "-X", "method=mats", "-Xdevice=cpu", "--strategy-option=iterations=50", "a", "b"
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["feasible"] is True
    assert document["checkpoints"][0]["method"] == "mats"
    assert document["checkpoints"][0]["states"] == {"merged": 4, "identical": 2}
    done = plan("-Xmethod=fisher", "a", "c")
    assert done.returncode == 1
    for text in (MODEL, "refused", "needs the statistic 'fisher'", "FLOPs"):
        assert text in done.stdout
    done = plan("-Xmethod=tise", "a")
    assert done.returncode == 2
    assert done.stderr.startswith("gitmerge-eval: unknown merge method 'tise'")
    assert done.stderr.count("\n") == 1


def test_tensors_that_are_not_here(repository):
    (model,) = preview(repository, "a", "b", method="average").checkpoints
    assert model.absent_bytes == 0
    gone = [*records(repository, "a").values()][:2]
    for record in gone:
        ObjectStore(repository.git).path(record.object_id).unlink()
    (model,) = preview(repository, "a", "b", method="average").checkpoints
    assert model.absent_bytes == sum(record.size for record in gone)
    assert model.outcome == "merged"
