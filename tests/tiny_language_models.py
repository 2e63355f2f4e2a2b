"""Decoder-only models of a few thousand weights, a tokenizer and questions, for whole flows.

Two skills, of numbers as words: 'parity' (even or odd) and 'size' (low or high), in two languages.
All is in the formats that real ones have: config.json, tokenizer.json, model.safetensors, JSON
lines, and YAML for lm-eval.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from gitmerge_eval.benchmarks.causal import model as causal
from gitmerge_eval.benchmarks.texts import weights

WORDS = {
    "en": ("nil", "one", "two", "three", "four", "five", "six", "seven"),
    "de": ("null", "eins", "zwei", "drei", "vier", "sechs", "acht", "neun"),
}
OPTIONS = {"parity": ("even", "odd"), "size": ("low", "rather high")}
CELLS = [f"{task}-{language}" for task in OPTIONS for language in WORDS]
ARCHITECTURES = {
    "llama": {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64,
    },
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64, "resid_pdrop": 0.0,
             "attn_pdrop": 0.0, "embd_pdrop": 0.0},
}  # fmt: skip
END, BEGIN = "<|end|>", "<|begin|>"

ROWS = """
name = "numbers"
title = "Numbers as words"
family = "causal-lm"
model = "config.json"
metric = "accuracy"

[axes]
task = ["parity", "size"]
language = ["en", "de"]

[tasks]
held_in = [{ task = "parity", language = "en" }, { task = "size", language = "de" }]

[tokenizer]
folder = "tokenizer"
longest = 48

[data]
path = "{task}-{language}-{split}.jsonl"
target = "answer"
options = { axis = "task", parity = ["even", "odd"], size = ["low", "rather high"] }

[prompts]
source = { axis = "task", parity = "{words} is ", size = "How much is {words}? " }

[fine_tuning]
steps = 80
batch = 8
rate = 3e-3
"""
HARNESS = """
name = "numbers"
family = "causal-lm"
model = "config.json"
metric = { axis = "task", parity = "acc", size = "acc_norm" }

[axes]
task = ["parity", "size"]
language = ["en", "de"]

[tasks]
held_in = [{ task = "parity", language = "en" }, { task = "size", language = "de" }]

[tokenizer]
folder = "tokenizer"
longest = 48

[lm_eval]
task = "numbers_{task}_{language}"

[fine_tuning]
steps = 80
batch = 8
rate = 3e-3
"""


def questions(cell):
    """All rows of a cell; training and test are the same ones, to be learnt by heart."""
    task, language = cell.split("-")
    first, second = OPTIONS[task]
    return [
        {"words": word, "answer": (first, second)[i % 2 if task == "parity" else i // 4]}
        for i, word in enumerate(WORDS[language])
    ]


def prompt(cell, words):
    """What is asked, without white space at the end."""
    return f"{words} is" if cell.startswith("parity") else f"How much is {words}?"


def tokenizer(folder, kind):
    """A byte-level BPE tokenizer as GPT-2 has it; LLaMA's begins its texts with a token."""
    texts = [
        f"{prompt(cell, row['words'])} {row['answer']}" for cell in CELLS for row in questions(cell)
    ]
    built = Tokenizer(models.BPE())
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    built.decoder = decoders.ByteLevel()
    built.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=120, special_tokens=[END, BEGIN], show_progress=False,
            initial_alphabet=sorted(set("".join(texts).replace(" ", "Ġ"))),
        ),
    )  # fmt: skip
    if kind == "llama":
        from tokenizers.processors import TemplateProcessing

        begin = [(BEGIN, built.token_to_id(BEGIN))]
        built.post_processor = TemplateProcessing(single=f"{BEGIN} $A", special_tokens=begin)
    PreTrainedTokenizerFast(
        tokenizer_object=built, eos_token=END, bos_token=BEGIN if kind == "llama" else END
    ).save_pretrained(folder)
    return built.get_vocab_size()


def lay_out(folder: Path, kind: str) -> Path:
    """The user's data folder; gives the base model's file, beside it."""
    data = folder / "data"
    data.mkdir(parents=True)
    size = tokenizer(data / "tokenizer", kind)
    special = {"vocab_size": size, "bos_token_id": 1, "eos_token_id": 0, "pad_token_id": 0}
    (data / "config.json").write_text(
        json.dumps({"model_type": kind, **ARCHITECTURES[kind], **special})
    )
    for cell in CELLS:
        for split in ("train", "validation", "test"):
            lines = [json.dumps(row) + "\n" for row in questions(cell)]
            (data / f"{cell}-{split}.jsonl").write_text("".join(lines))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = weights.state_of(causal.create(data / "config.json"))
    weights.save(state, folder / "model.safetensors")
    return folder / "model.safetensors"


def harness_tasks(folder: Path, data: Path) -> Path:
    """lm-eval's tasks of the same questions, as a user would write them."""
    folder.mkdir()
    for cell in CELLS:
        task, language = cell.split("-")
        asked = "{{words}} is" if task == "parity" else "How much is {{words}}?"
        files = "".join(
            f"    {split}: {json.dumps(str(data / f'{cell}-{split}.jsonl'))}\n"
            for split in ("train", "validation", "test")
        )
        (folder / f"{cell}.yaml").write_text(
            f"task: numbers_{task}_{language}\n"
            "dataset_path: json\n"
            f"dataset_kwargs:\n  cache_dir: {json.dumps(str(folder.parent / 'cache'))}\n"
            f"  data_files:\n{files}"
            "output_type: multiple_choice\n"
            "training_split: train\nvalidation_split: validation\ntest_split: test\n"
            f'doc_to_text: "{asked}"\n'
            f"doc_to_choice: {json.dumps(list(OPTIONS[task]))}\n"
            "doc_to_target: answer\n"
            "metric_list:\n"
            "  - {metric: acc, aggregation: mean, higher_is_better: true}\n"
            "  - {metric: acc_norm, aggregation: mean, higher_is_better: true}\n"
        )
    return folder
