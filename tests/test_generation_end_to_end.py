"""Diffusion adapters from an empty folder to merge commits with their notes, by literal Git."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from evaluated_repositories import PLAIN
from PIL import Image

from gitmerge_eval import building
from gitmerge_eval.evaluation import evaluating
from gitmerge_eval.git import trailers
from gitmerge_eval.git.repository import Repository
from gitmerge_eval.merging import planning
from gitmerge_eval.merging.sources import open_source

HEADS = ("bird-real", "fruit-quickdraw")
TASKS = (*HEADS, "bird-quickdraw", "fruit-real")
ADAPTER = "adapter_model.safetensors"


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    monkeypatch.syspath_prepend(str(PLAIN))
    path = os.pathsep.join(filter(None, (str(PLAIN), os.environ.get("PYTHONPATH"))))
    monkeypatch.setenv("PYTHONPATH", path)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(PLAIN))
        return building.build("small-generation", tmp_path_factory.mktemp("built") / "repository")


@pytest.fixture
def repository(built):
    found = Repository(built.directory)
    found.run("switch", "--quiet", "main")
    found.run("reset", "--quiet", "--hard", built.commits["main"])
    return found


def merge(repository, method, *heads):
    done = subprocess.run(
        ["git", "merge", f"--strategy-option=method={method}", *heads],
        cwd=repository.directory,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "held-in" in done.stderr, done.stderr
    return evaluating.show(repository)[-1]


def test_main_has_the_frozen_pipeline_and_an_adapter_that_changes_nothing(built, repository):
    tracked = set(repository.text("ls-files").split())
    assert {ADAPTER, "adapter_config.json", "judge.safetensors"} <= tracked
    unet = "pipeline/unet/diffusion_pytorch_model.safetensors"
    assert {unet, "pipeline/model_index.json", "pipeline/tokenizer/tokenizer.json"} <= tracked
    for branch in (*HEADS, "multitask"):
        changed = repository.text("diff", "--name-only", "main", branch).split()
        own = {f"constituents/{branch}.toml", "statistics/index.json"}
        own |= {f"statistics/adapter_model.{kind}.safetensors" for kind in ("fisher", "gram")}
        assert set(changed) == {ADAPTER} | (own if branch != "multitask" else set())
    assert built.constituents == HEADS


@pytest.mark.parametrize("method", ["average", "regmean"])
def test_git_merge_gives_a_commit_with_scores_figures_and_a_sheet(built, repository, method):
    note = merge(repository, method, *HEADS)
    record = trailers.read(repository, "HEAD")
    assert record.method == method
    assert [name for _, name in record.constituents] == list(HEADS)
    assert [score.task for score in note.scores] == list(TASKS)
    assert note.metric == "CLIP score"
    for score in note.scores:
        assert all(0 <= getattr(score, m) <= 100 for m in ("merged", "pretrained", "multitask"))
        assert (score.individual is None) == (score.status == "generalization")
    assert set(note.figures) == {"FID held-in", "FID generalization"}
    assert set(note.figures["FID held-in"]) == {"merged", "pretrained", "individual", "multitask"}
    assert set(note.figures["FID generalization"]) == {"merged", "pretrained", "multitask"}
    assert all(value > 0 for values in note.figures.values() for value in values.values())
    with Image.open(repository.common_directory / note.sheet) as sheet:
        assert sheet.format == "PNG"
    assert repository.text("status", "--porcelain") == ""
    verified = subprocess.run(["gitmerge-eval", "verify"], cwd=built.directory)
    assert verified.returncode == 0


def test_the_merged_adapter_is_the_average_of_the_changes(built, repository, tmp_path):
    from gitmerge_eval.benchmarks.diffusion import lora
    from gitmerge_eval.benchmarks.diffusion import pipeline as diffusion

    merge(repository, "average", *HEADS)
    changes = {}
    for name in ("main", *HEADS):
        tree = tmp_path / name
        repository.run(
            "worktree", "add", "-q", "--detach", str(tree), name if name != "main" else "HEAD"
        )
        pipeline = diffusion.load(tree / "pipeline")
        before = {n: w.clone() for n, w in lora.weights(pipeline.unet).items()}
        after = lora.weights(lora.with_changes(pipeline.unet, tree / ADAPTER))
        changes[name] = {n: after[n].detach() - w for n, w in before.items()}
        repository.run("worktree", "remove", "--force", str(tree))
    assert len(changes["main"]) == 56
    for group, merged in changes["main"].items():
        expected = (changes[HEADS[0]][group] + changes[HEADS[1]][group]) / 2
        scale = float(expected.abs().max())
        torch.testing.assert_close(merged, expected, rtol=0, atol=1e-3 * scale + 1e-7)


def test_statistics_by_the_command_are_bound_to_the_adapter(repository):
    repository.run("switch", "--quiet", "bird-real")
    done = subprocess.run(
        ["gitmerge-eval", "stats", "gram", "--option", "examples=5", "--json"],
        cwd=repository.directory,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    files = json.loads(done.stdout)["files"]
    assert "statistics/adapter_model.gram.safetensors" in files
    assert repository.text("status", "--porcelain") == "", "the build's own statistics"
    index = json.loads((Path(repository.directory) / "statistics" / "index.json").read_text())
    assert index[ADAPTER]["gram"]["checkpoint"] == repository.blob_id("HEAD", ADAPTER)


def test_the_train_command_makes_a_branch_that_merges(built, repository):
    done = subprocess.run(
        ["gitmerge-eval", "benchmark", "train", "bird-quickdraw", "--statistics", "gram"],
        cwd=repository.directory,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    changed = repository.text("diff", "--name-only", "main", "bird-quickdraw").split()
    assert set(changed) == {
        ADAPTER,
        "constituents/bird-quickdraw.toml",
        "statistics/adapter_model.gram.safetensors",
        "statistics/index.json",
    }
    arguments = ("-Xmethod=regmean", "bird-quickdraw", "bird-real")
    repository.run("-c", "merge-eval.evaluate=off", "merge", *arguments)
    assert trailers.read(repository, "HEAD").method == "regmean"


def test_statistics_are_bound_to_the_frozen_pipeline(repository):
    """They are refused on a branch that changed it, unless nothing is known of what they used."""
    repository.run("switch", "--quiet", "--force-create", "changed", "bird-real")
    file = repository.directory / "pipeline/scheduler/scheduler_config.json"
    file.write_text(file.read_text() + "\n")
    repository.run("commit", "--quiet", "--all", "--message=another schedule")
    merging = ("git", "merge", "-Xmethod=regmean", "changed", "fruit-quickdraw")
    repository.run("switch", "--quiet", "main")
    before = repository.commit("HEAD")
    refused = subprocess.run(merging, cwd=repository.directory, capture_output=True, text=True)
    assert refused.returncode != 0
    assert (
        "the statistic 'gram' of branch 'changed' was computed with another 'pipeline' than that "
        "branch has now; run 'gitmerge-eval stats gram' on that branch and commit "
        "'statistics/adapter_model.gram.safetensors'"
    ) in refused.stderr
    assert repository.commit("HEAD") == before
    assert repository.text("status", "--porcelain") == ""
    (applicable_to_it,) = {
        lacking
        for name, lacking in planning.applicable(None, [source(repository, "changed")]).items()
        if name == "regmean"
    }
    assert applicable_to_it == ("fresh gram of changed",)

    repository.run("switch", "--quiet", "changed")
    index = repository.directory / "statistics/index.json"
    entries = json.loads(index.read_text())
    assert set(entries[ADAPTER]["gram"].pop("companions")) == {
        "adapter_config.json",
        "judge.safetensors",
        "pipeline",
    }
    index.write_text(json.dumps(entries))
    repository.run("commit", "--quiet", "--all", "--message=as an earlier version wrote it")
    repository.run("switch", "--quiet", "main")
    repository.run("config", "merge-eval.evaluate", "off")
    assert subprocess.run(merging, cwd=repository.directory).returncode == 0
    repository.run("config", "--unset", "merge-eval.evaluate")


def test_a_combined_statistic_is_bound_to_what_all_constituents_have(repository):
    repository.run("-c", "merge-eval.evaluate=off", "merge", "-Xmethod=fisher", *HEADS)
    merged = source(repository, "HEAD")
    bound = merged.statistics["fisher"].entry.companions
    assert bound == {
        name: repository.blob_id("main^{/Pretrained}", name)
        for name in ("judge.safetensors", "pipeline")
    }
    assert merged.has_fresh("fisher")
    repository.run("rm", "--quiet", "judge.safetensors")
    repository.run("commit", "--quiet", "--message=no judge")
    without = source(repository, "HEAD")
    assert without.statistics["fisher"].changed == ("judge.safetensors",)
    assert not without.has_fresh("fisher")


def source(repository, revision):
    return open_source(repository, repository.commit(revision), ADAPTER, revision)
