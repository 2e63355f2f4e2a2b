"""Decoder-only models from an empty repository to the note of a merge, on rows and by lm-eval."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_language_models import HARNESS, ROWS, harness_tasks, lay_out
from transformers.pytorch_utils import Conv1D
from typer.testing import CliRunner

from gitmerge_eval import training
from gitmerge_eval.benchmarks.causal.family import FAMILY
from gitmerge_eval.checkpoints import bridge, statistics_index
from gitmerge_eval.checkpoints.checkpoint import Checkpoint
from gitmerge_eval.checkpoints.lfs import ObjectStore
from gitmerge_eval.checkpoints.metadata import Metadata
from gitmerge_eval.cli.application import application
from gitmerge_eval.evaluation import evaluating
from gitmerge_eval.git.repository import Repository
from gitmerge_eval.statistics.gram import unpack_symmetric

MODEL = "model.safetensors"
HELD_IN = ("parity-en", "size-de")
SPANNED = ("parity-de", "size-en")


def run(*words):
    done = CliRunner().invoke(application, list(words))
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture(scope="module", params=["rows of llama", "lm-eval of gpt2"])
def merged(request, tmp_path_factory):
    """A repository with two trained constituents, merged by RegMean with the literal command."""
    how, _, kind = request.param.partition(" of ")
    folder = tmp_path_factory.mktemp(kind)
    base = lay_out(folder, kind)
    repository = Repository(folder / "models")
    repository.directory.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(repository.directory)
        patch.delenv("GITMERGE_EVAL_DATA", raising=False)
        patch.delenv("GITMERGE_EVAL_LM_EVAL_TASKS", raising=False)
        repository.run("init", "--quiet")
        run("init")
        repository.run("config", "merge-eval.evaluate", "off")
        repository.run("config", "merge-eval.data", str(folder / "data"))
        if how == "lm-eval":
            tasks = harness_tasks(folder / "tasks", folder / "data")
            repository.run("config", "merge-eval.lm-eval-tasks", str(tasks))
        run("track", MODEL)
        (repository.directory / MODEL).write_bytes(base.read_bytes())
        (repository.directory / "benchmark.toml").write_text(ROWS if how == "rows" else HARNESS)
        repository.run("add", "--all")
        repository.run("commit", "--quiet", "--message=base")
        training.train(repository, [HELD_IN[0]], kinds=["gram"])
        # The other as a user who trains elsewhere: statistics by the command, in the work tree.
        training.train(repository, [HELD_IN[1]])
        repository.run("switch", "--quiet", HELD_IN[1])
        run("stats", "fisher", "gram")
        repository.run("add", "--all")
        repository.run("commit", "--quiet", "--message=statistics")
        repository.run("switch", "--quiet", "main")
        if how == "lm-eval":
            repository.run("config", "merge-eval.evaluate", "sync")
            repository.run("config", "merge-eval.device", "cpu")
        status = repository.run_attached(
            "merge", "--quiet", "--strategy-option=method=regmean", *HELD_IN,
            environment={"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
        )  # fmt: skip
        assert status == 0
        yield repository, folder / "data", how


def tensors(repository, revision, path=MODEL):
    """name -> tensor of a file that Git-Theta stores."""
    data = repository.blob(repository.blob_id(revision, path))
    stored = Checkpoint(Metadata.parse(data), ObjectStore(repository))
    return {name: bridge.to_torch(stored.read(name)) for name in stored.groups}


def test_the_note_has_the_benchmarks_scores(merged):
    repository, _, how = merged
    if how == "rows":
        evaluating.evaluate(repository, device="cpu")
    # The hook has written the other, after the merge.
    (note,) = evaluating.show(repository)
    assert [(task.task, task.status) for task in note.scores] == [
        *((task, "held-in") for task in HELD_IN),
        *((task, "generalization") for task in SPANNED),
    ]
    for task in note.scores:
        assert all(0 <= score <= 100 for score in (task.merged, task.pretrained))
        # Learnt by heart: training and test are the same questions.
        assert (task.individual is not None) == (task.status == "held-in")
        assert task.individual is None or task.individual > task.pretrained
    assert ("lm-eval" in note.evaluator_version) == (how == "lm-eval")
    text = repository.text("notes", "--ref=gitmerge-eval", "show", "HEAD")
    assert "held-in" in text
    assert "generalization" in text
    record = json.loads(run("show", "HEAD", "--json"))[0]
    assert set(record["averages"]) == {"held-in", "generalization"}
    assert record["averages"]["held-in"]["normalised"] > 0


def test_the_merge_is_regmeans_formula_for_every_linear_layer(merged):
    repository, data, _ = merged
    heads = [tensors(repository, branch) for branch in HELD_IN]
    index = [
        statistics_index.parse(
            repository.blob(repository.blob_id(branch, "statistics/index.json"))
        )[MODEL]["gram"]
        for branch in HELD_IN
    ]  # fmt: skip
    stored = [
        tensors(repository, branch, f"statistics/{entry.path}")
        for branch, entry in zip(HELD_IN, index, strict=True)
    ]
    model = FAMILY.load(repository.directory / MODEL, data / "config.json")
    result = load_file(repository.directory / MODEL)
    layers = {f"{n}.weight": m for n, m in model.named_modules()
              if isinstance(m, (torch.nn.Linear, Conv1D)) and "lm_head" not in n}  # fmt: skip
    assert len(layers) in (8, 14)
    for name, layer in layers.items():
        grams = [
            unpack_symmetric(own[entry.layout[name]["key"]]).double()
            for own, entry in zip(stored, index, strict=True)
        ]
        # The formula with the input axis first, as GPT-2's layers have it; Linear has it second.
        turned = not isinstance(layer, Conv1D)
        weights = [(own[name].T if turned else own[name]).double() for own in heads]
        ones = torch.eye(len(grams[0])).double()
        scaled = [g * (0.9 + 0.1 * ones) for g in grams]
        right = sum(g @ w for g, w in zip(scaled, weights, strict=True))
        found = result[name].T if turned else result[name]
        torch.testing.assert_close(
            sum(scaled) @ found.double(), right, rtol=1e-3, atol=1e-3 * float(right.abs().max())
        )


def test_statistics_are_bound_to_their_checkpoint_and_data(merged):
    repository, _, _ = merged
    for branch in HELD_IN:
        entries = statistics_index.parse(
            repository.blob(repository.blob_id(branch, "statistics/index.json"))
        )[MODEL]
        assert entries["gram"].checkpoint == repository.blob_id(branch, MODEL)
        assert entries["gram"].data == f"numbers/{branch}:train"
        assert entries["gram"].examples == 8
