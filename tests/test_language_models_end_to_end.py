"""Decoder-only models from an empty repository to the note of a merge, on rows and by lm-eval."""

import json
import os
import shutil
import sys
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file
from tiny_language_models import HARNESS, ROWS, harness_tasks, lay_out, prompt, questions
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D
from typer.testing import CliRunner

from gitmerge_eval import training
from gitmerge_eval.benchmarks.causal import adapters
from gitmerge_eval.benchmarks.causal import model as causal
from gitmerge_eval.benchmarks.causal.family import FAMILY
from gitmerge_eval.benchmarks.texts.tokens import PretrainedTokens
from gitmerge_eval.checkpoints import bridge, statistics_index
from gitmerge_eval.checkpoints.checkpoint import Checkpoint
from gitmerge_eval.checkpoints.lfs import ObjectStore
from gitmerge_eval.checkpoints.metadata import Metadata
from gitmerge_eval.cli.application import application
from gitmerge_eval.evaluation import evaluating
from gitmerge_eval.evaluation.declarations import ConstituentDeclaration
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


def gram_of(repository, branch, checkpoint):
    """name -> the Gram matrix that a branch has of a layer's inputs, in float64."""
    index = statistics_index.parse(
        repository.blob(repository.blob_id(branch, "statistics/index.json"))
    )
    entry = index[checkpoint]["gram"]
    packed = tensors(repository, branch, f"statistics/{entry.path}")
    return {
        name: unpack_symmetric(packed[where["key"]]).double()
        for name, where in entry.layout.items()
    }


def test_the_merge_is_regmeans_formula_for_every_linear_layer(merged):
    repository, data, _ = merged
    heads = [tensors(repository, branch) for branch in HELD_IN]
    stored = [gram_of(repository, branch, MODEL) for branch in HELD_IN]
    model = FAMILY.load(repository.directory / MODEL, data / "config.json")
    result = load_file(repository.directory / MODEL)
    layers = {f"{n}.weight": m for n, m in model.named_modules()
              if isinstance(m, (torch.nn.Linear, Conv1D)) and "lm_head" not in n}  # fmt: skip
    assert len(layers) in (8, 14)
    for name, layer in layers.items():
        grams = [own[name] for own in stored]
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


# --- adapters ------------------------------------------------------------------------------------

ADAPTER = "adapter_model.safetensors"
SETTINGS = "adapter_config.json"


def tuned(base, tokenizer, cell, folder):
    """An adapter that PEFT has trained on a cell's questions, as its user would."""
    tokens = PretrainedTokens(tokenizer, 48)
    rows = [
        causal.pair(tokens, prompt(cell, row["words"]) + " ", row["answer"])
        for row in questions(cell)
    ]
    batch = causal.batch(rows, tokens.pad)
    settings = peft.LoraConfig(
        r=4, lora_alpha=8, target_modules=["c_attn", "c_proj", "c_fc"], fan_in_fan_out=True
    )
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), settings)
        optimiser = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr=1e-2)
        for _ in range(60):
            optimiser.zero_grad()
            likely = causal.target_log_likelihoods(model, batch)
            (-likely.sum() / batch.target_mask.sum()).backward()
            optimiser.step()
        model.save_pretrained(folder)
    return folder


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_adapters_are_measured_merged_and_scored(tmp_path, monkeypatch):
    checkpoint = lay_out(tmp_path, "gpt2")
    data = tmp_path / "data"
    (data / "base").mkdir()
    shutil.copyfile(checkpoint, data / "base" / MODEL)
    shutil.copyfile(data / "config.json", data / "base/config.json")
    repository = Repository(tmp_path / "models")
    repository.directory.mkdir()
    monkeypatch.chdir(repository.directory)
    monkeypatch.delenv("GITMERGE_EVAL_DATA", raising=False)
    repository.run("init", "--quiet")
    run("init")
    for key, value in (("evaluate", "off"), ("data", str(data)), ("device", "cpu")):
        repository.run("config", f"merge-eval.{key}", value)
    run("track", ADAPTER)
    own = ROWS.partition("[fine_tuning]")[0].replace("model =", 'base = "base"\nmodel =')
    (repository.directory / "benchmark.toml").write_text(own)
    repository.run("add", "--all")
    repository.run("commit", "--quiet", "--message=benchmark")
    changes = []
    for cell in HELD_IN:
        trained = tuned(data / "base", data / "tokenizer", cell, tmp_path / cell)
        repository.run("switch", "--quiet", "-c", cell, "main")
        for name in (ADAPTER, SETTINGS):
            shutil.copyfile(trained / name, repository.directory / name)
        declaration = ConstituentDeclaration(cell, "numbers", cell, ADAPTER)
        (repository.directory / "constituents").mkdir(exist_ok=True)
        (repository.directory / declaration.path).write_text(declaration.toml())
        repository.run("add", "--all")
        run("stats", "gram", "--constituent", cell)
        repository.run("add", "--all")
        repository.run("commit", "--quiet", f"--message={cell}")
        changes.append(adapters.deltas(repository.directory / ADAPTER))
        repository.run("switch", "--quiet", "main")
    status = repository.run_attached(
        "merge", "--quiet", "--strategy-option=method=regmean", *HELD_IN,
        environment={"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
    )  # fmt: skip
    assert status == 0
    grams = [gram_of(repository, cell, ADAPTER) for cell in HELD_IN]
    result = adapters.deltas(repository.directory / ADAPTER)
    assert len(result) == 2 * 4
    for name, found in result.items():
        scaled = [0.9 * own[name] + 0.1 * torch.diag(own[name].diag()) for own in grams]
        right = sum(g @ own[name].T for g, own in zip(scaled, changes, strict=True))
        torch.testing.assert_close(
            sum(scaled) @ found.T, right, rtol=1e-3, atol=1e-3 * float(right.abs().max())
        )
    note = evaluating.evaluate(repository)
    scores = {task.task: task for task in note.scores}
    assert set(scores) == {*HELD_IN, *SPANNED}
    for cell in HELD_IN:
        assert scores[cell].individual == 100
