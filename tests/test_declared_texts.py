"""A benchmark of texts that a repository declares, from a table of rows to a merge's note."""

from __future__ import annotations

import csv
import json
import sys

import pytest
import torch

from gitmerge_eval import cli, training
from gitmerge_eval.benchmarks.seq2seq import model as seq2seq
from gitmerge_eval.benchmarks.texts import weights
from gitmerge_eval.evaluation import evaluating
from gitmerge_eval.git.repository import Repository

DECLARATION = """
name = "answers"
title = "Questions about numbers"
family = "transformers"
model = "answers-tiny.json"
metric = { axis = "task", parity = "accuracy", digits = "exact match and F1" }
[axes]
task = ["parity", "digits"]
language = ["en", "de"]
[tasks]
held_in = [{ task = "parity", language = "en" }, { task = "digits", language = "de" }]
[tokenizer]
characters = "abcdefghijklmnopqrstuvwxyz 0123456789:?"
[data]
path = "{task}-{language}.csv"
shares = { validation = 0.2, test = 0.4 }
target = { axis = "task", parity = "answer", digits = "number" }
options = { axis = "task", parity = ["even", "odd"] }
[prompts]
source = { axis = "task", parity = "{language}: {words} is?", digits = "{words}" }
[fine_tuning]
steps = 3
batch = 4
rate = 1e-2
"""
MODEL = {
    "model_type": "t5", "vocab_size": 48, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1,
    "num_decoder_layers": 1, "num_heads": 2, "decoder_start_token_id": 0, "pad_token_id": 0,
    "eos_token_id": 1,
}  # fmt: skip
WORDS = {"en": ("nil", "one", "two", "NA", "four"), "de": ("null", "eins", "zwei", "drei", "vier")}


def write(folder):
    folder.mkdir()
    for task in ("parity", "digits"):
        for language, words in WORDS.items():
            with (folder / f"{task}-{language}.csv").open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(["words", "number", "answer"])
                writer.writerows(
                    (word, f"0{i}", ("even", "odd")[i % 2]) for i, word in enumerate(words)
                )
    (folder / "answers-tiny.json").write_text(json.dumps(MODEL))


@pytest.fixture
def run(capfd, monkeypatch):
    """Runs a command in this process; (status, stdout, stderr)."""

    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["gitmerge-eval", *arguments])
        status = cli.main()
        return status, *capfd.readouterr()

    return command


@pytest.fixture
def declaring(tmp_path, monkeypatch, run):
    """A repository with the declaration and a base model."""
    data, repository = tmp_path / "data", Repository(tmp_path / "answers")
    write(data)
    repository.directory.mkdir()
    repository.run("init", "--quiet")
    monkeypatch.chdir(repository.directory)
    with torch.random.fork_rng():
        torch.manual_seed(2)
        state = weights.state_of(seq2seq.create(data / "answers-tiny.json"))
    weights.save(state, repository.directory / "model.safetensors")
    (repository.directory / "benchmark.toml").write_text(DECLARATION)
    repository.run("config", "merge-eval.data", str(data))
    for arguments in (["init"], ["track", "*.safetensors"]):
        status, _, complaint = run(*arguments)
        assert status == 0, complaint
    repository.run("add", ".")
    repository.run("commit", "--quiet", "--message=base and benchmark")
    return repository


def test_two_constituents_are_merged_by_git_and_the_note_is_of_the_grid(declaring, run):
    for task in ("parity-en", "digits-de"):
        training.train(declaring, [task], kinds=["fisher"], device="cpu")
    method = "--strategy-option=method=fisher"
    assert declaring.run_attached("merge", "--quiet", method, "parity-en", "digits-de") == 0
    assert "Merge-Method: fisher" in declaring.text("log", "-1", "--format=%B")
    (note,) = evaluating.show(declaring)
    assert [(score.task, score.status) for score in note.scores] == [
        ("parity-en", "held-in"),
        ("digits-de", "held-in"),
        ("parity-de", "generalization"),
        ("digits-en", "generalization"),
    ]
    # Two rows of each cell are tested.
    assert {s.merged for s in note.scores if s.task.startswith("parity")} <= {0.0, 50.0, 100.0}
    assert note.average("held-in", "individual") is not None
    subject = evaluating.subject_at(declaring, "HEAD")
    # What the note says is what the benchmark says of the file that Git checked out.
    file = declaring.directory / "model.safetensors"
    again = subject.benchmark.evaluate(file, subject.tasks, settings={})
    assert {s.task: s.merged for s in note.scores} == pytest.approx(dict(again), abs=1e-4)


def test_the_list_has_what_the_repository_declares(declaring, run, monkeypatch):
    status, out, _ = run("benchmark", "list", "--json")
    assert status == 0
    known = {found["name"]: found for found in json.loads(out)}
    assert known["answers"]["axes"] == {"task": ["parity", "digits"], "language": ["en", "de"]}
    assert [t["name"] for t in known["answers"]["tasks"] if t["status"] == "held-in"] == [
        "parity-en",
        "digits-de",
    ]
    file = declaring.directory / "benchmark.toml"
    file.write_text(file.read_text().replace("[tokenizer]", "[tokeniser]"))
    status, out, complaint = run("benchmark", "list", "--json")
    assert status == 0
    assert "answers" not in {found["name"] for found in json.loads(out)}
    assert complaint.startswith("note: this repository's own benchmark is left out: ")
    assert "tokeniser" in complaint
    monkeypatch.chdir(declaring.directory.parent)
    status, out, complaint = run("benchmark", "list", "--json")
    assert (status, complaint) == (0, "")
    assert len(json.loads(out)) == len(known) - 1


@pytest.mark.parametrize("arguments", [("build", "answers", "elsewhere"), ("measure", "answers")])
def test_what_needs_a_recipe_says_that_there_is_none(declaring, run, arguments):
    status, out, complaint = run("benchmark", *arguments)
    assert (status, out) == (2, "")
    assert complaint.count("\n") == 1
    assert "'answers' is this repository's own, by benchmark.toml" in complaint
    assert "gitmerge-eval benchmark train <task>" in complaint
    status, _, complaint = run("benchmark", arguments[0], "answer", *arguments[2:])
    assert complaint.startswith("gitmerge-eval: unknown benchmark 'answer'")
    assert not (declaring.directory / "elsewhere").exists()
