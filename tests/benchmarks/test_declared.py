"""Benchmarks that a benchmark.toml declares: what it says, what it may not, and what it scores."""

import copy
import csv
import json
import os
import subprocess
import sys

import datasets
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torchvision.transforms.functional import normalize, pil_to_tensor

from gitmerge_eval.benchmarks.declared.benchmark import benchmark
from gitmerge_eval.benchmarks.declared.splits import Splits
from gitmerge_eval.benchmarks.seq2seq import model as seq2seq
from gitmerge_eval.benchmarks.texts import weights
from gitmerge_eval.errors import EvaluationError, UnknownName

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PICTURES = tomllib.loads("""
name = "shades"
title = "Shades of two sides"
family = "open_clip"
metric = "accuracy"
model = "shades-tiny.json"
classes = ["pale_one", "middle", "deep"]
[axes]
side = ["left", "right"]
paper = ["plain", "lined"]
[tasks]
held_in = [{ side = "left", paper = "plain" }, { side = "right", paper = "lined" }]
[data]
path = "{paper}/{side}/{split}"
splits = { validation = "val" }
[prompts]
templates = ["{class} on {paper} paper", "a {class}"]
[fine_tuning]
steps = 2
batch = 4
rate = 1e-3
""")
MODEL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 8, "layers": 1, "width": 16, "head_width": 8, "patch_size": 4},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
SHADES = {"pale_one": 200, "middle": 120, "deep": 40}
WHERE = "'benchmark.toml' at main"


def draw(folder):
    """Pictures whose shade is their class; those of a split differ."""
    made = 0
    for paper in ("plain", "lined"):
        for side in ("left", "right"):
            for split in ("train", "val", "test"):
                for name, shade in SHADES.items():
                    there = folder / paper / side / split / name
                    there.mkdir(parents=True)
                    for i in range(3):
                        made += 1
                        colour = (shade, (shade * made) % 256, made)
                        Image.new("RGB", (8, 8), colour).save(there / f"{i}.png")
    (folder / "shades-tiny.json").write_text(json.dumps(MODEL))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    draw(folder)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    with torch.random.fork_rng():
        torch.manual_seed(4)
        model = open_clip.CLIP(**MODEL)
    file = tmp_path_factory.mktemp("base") / "model.safetensors"
    save_file(model.state_dict(), file)
    return file


def changed(base, **changes):
    """The declaration with keys replaced; 'a__b' is b in the table a, and None removes."""
    values = copy.deepcopy(base)
    for key, value in changes.items():
        *path, last = key.split("__")
        table = values
        for name in path:
            table = table.setdefault(name, {})
        if value is None:
            del table[last]
        else:
            table[last] = value
    return values


def made(values, folder=None):
    return benchmark(values, WHERE, folder)


def test_the_grid_is_what_the_declaration_says():
    found = made(PICTURES)
    assert {t.name: t.status for t in found.tasks} == {
        "left-plain": "held-in",
        "left-lined": "generalization",
        "right-plain": "generalization",
        "right-lined": "held-in",
    }
    assert found.axes == {"side": ("left", "right"), "paper": ("plain", "lined")}
    assert [t.name for t in found.generalization(["left-plain", "right-lined"])] == [
        "left-lined",
        "right-plain",
    ]


def test_short_forms_of_cells():
    found = made(
        changed(
            PICTURES,
            tasks__held_in=[{"side": "*", "paper": "plain"}],
            tasks__generalization=[{"side": ["left"], "paper": "lined"}],
        )
    )
    assert [t.status for t in found.tasks] == [
        "held-in", "generalization", "held-in", "unavailable",
    ]  # fmt: skip


def test_scores_are_those_of_a_plain_loop_over_the_files(pictures, checkpoint):
    model = open_clip.CLIP(**MODEL)
    model.load_state_dict(load_file(checkpoint))
    model.eval()
    tokenizer = open_clip.SimpleTokenizer(context_length=12)
    vectors = {}
    with torch.no_grad():
        for name in SHADES:
            text = name.replace("_", " ")
            prompts = [f"{text} on plain paper", f"{text} on lined paper", f"a {text}"]
            mean = sum(model.encode_text(tokenizer([p]), normalize=True)[0] for p in prompts)
            vectors[name] = mean / mean.norm()
        right, count = 0, 0
        for file in sorted((pictures / "plain/left/test").glob("*/*.png")):
            pixels = pil_to_tensor(Image.open(file)).float() / 255
            pixels = normalize(pixels, open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
            feature = model.encode_image(pixels[None])[0]
            right += max(vectors, key=lambda n: float(feature @ vectors[n])) == file.parent.name
            count += 1
    scores = made(PICTURES, pictures).evaluate(checkpoint, ["left-plain"], settings={})
    assert count == 9
    assert scores == {"left-plain": 100 * right / count}


def test_fingerprints_follow_the_bytes_the_split_and_the_model(tmp_path):
    draw(tmp_path)
    first = made(PICTURES, tmp_path).fingerprint("left-plain", "test", {})
    assert made(PICTURES, tmp_path).fingerprint("left-plain", "test", {}) == first
    assert made(PICTURES, tmp_path).fingerprint("left-plain", "validation", {}) != first
    one = tmp_path / "plain/left/test/deep/0.png"
    Image.new("RGB", (8, 8), (1, 2, 3)).save(one)
    assert made(PICTURES, tmp_path).fingerprint("left-plain", "test", {}) != first


def test_training_is_repeatable_and_statistics_are_collected(pictures, checkpoint, tmp_path):
    found = made(PICTURES, pictures)
    for name in ("a", "b"):
        found.train(checkpoint, ["left-plain"], tmp_path / name, settings={"seed": 5})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").read_bytes() != checkpoint.read_bytes()
    statistic = found.collect("gram", tmp_path / "a", "left-plain", options={}, settings={})
    assert statistic.examples == 9
    assert statistic.data == "shades/left-plain:train"


def test_a_saved_data_set_scores_as_the_same_files(pictures, checkpoint, tmp_path):
    files = sorted(pictures.glob("*/*/test/*/*.png"))
    table = datasets.Dataset.from_dict(
        {
            "image": [str(file) for file in files],
            "label": [list(SHADES).index(file.parent.name) for file in files],
            "cell": ["-".join(file.parts[-5:-3]) for file in files],
        },
        features=datasets.Features(
            image=datasets.Image(),
            label=datasets.ClassLabel(names=list(SHADES)),
            cell=datasets.Value("string"),
        ),
    )
    datasets.DatasetDict({"held": table}).save_to_disk(tmp_path / "somebody/shades/all")
    (tmp_path / "shades-tiny.json").write_text(json.dumps(MODEL))
    own = changed(
        PICTURES,
        data={
            "dataset": "somebody/shades",
            "configuration": "all",
            "where": {"cell": "{paper}-{side}"},
            "splits": {"test": "held"},
        },
    )
    tasks = ["left-plain", "right-lined"]
    assert made(own, tmp_path).evaluate(checkpoint, tasks, settings={}) == made(
        PICTURES, pictures
    ).evaluate(checkpoint, tasks, settings={})
    with pytest.raises(EvaluationError, match=r"unknown split 'train'.*known: held"):
        made(own, tmp_path).fingerprint("left-plain", "train", {})


def test_shares_make_splits_that_are_disjoint_whole_and_of_the_seed():
    names = [f"{i}.png" for i in range(50)]
    splits = Splits(shares={"validation": 0.1, "test": 0.3})
    parts = {split: splits.part(names, split) for split in ("train", "validation", "test")}
    assert [len(parts[split]) for split in parts] == [30, 5, 15]
    assert sorted([*parts["train"], *parts["validation"], *parts["test"]]) == sorted(names)
    other = Splits(shares=splits.shares, seed=1)
    assert other.part(names, "test") != parts["test"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"family": "open-clip"}, "unknown family 'open-clip'; did you mean 'open_clip'"),
        ({"name": "domainnet-classification-mini"}, "an installed benchmark"),
        ({"metric": "acuracy"}, "unknown metric 'acuracy'; did you mean 'accuracy'"),
        ({"clases": ["a"]}, "unknown key 'clases'; did you mean 'classes'"),
        ({"classes": ["a", "a"]}, "write a list of different texts"),
        ({"classes": ["../a"]}, "names become parts of paths"),
        ({"axes__side": ["..", "b"]}, "names become parts of paths"),
        ({"axes": {}}, "there is no axis"),
        ({"axes__split": ["a"]}, "an axis is called 'split'"),
        ({"tasks__held_in": []}, "no task is held-in"),
        ({"tasks__held_in": ["left-plain"]}, "nor a list of cells as"),
        ({"tasks__held_in": [{"side": "left"}]}, "has no 'paper'"),
        ({"tasks__held_in": [{"side": "leff", "paper": "*"}]}, "did you mean 'left'"),
        ({"tasks__unavailable": [{"side": "*", "paper": "plain"}]}, "both held-in and unavailable"),
        ({"tasks__unavailable": "others", "tasks__generalization": "others"}, "both 'others'"),
        ({"tasks__helt_in": []}, "did you mean 'held_in'"),
        ({"data__path": "../{side}"}, "a path below the data folder"),
        ({"data__path": "/etc/{side}/{split}"}, "a path below the data folder"),
        ({"data__path": "{sid}/{split}"}, "unknown name in 'path' 'sid'; did you mean 'side'"),
        ({"data__path": "{side.__class__}/{split}"}, "a name alone"),
        ({"data__path": "{side}/*"}, "without '..', ':' or patterns"),
        ({"data__path": "https://example.org/{split}"}, "without '..', ':' or patterns"),
        ({"data__path": "{side}"}, "shares to make splits of"),
        ({"data__shares": {"test": 0.2}}, "splits of their own"),
        ({"data__splits": {"tset": "a"}}, "did you mean 'test'"),
        ({"prompts__templates": ["{class.__init__.__globals__}"]}, "a name alone"),
        ({"prompts__templates": ["{class!r}"]}, "a name alone"),
        ({"prompts__templates": ["a {paper}"]}, "add '{class}'"),
        ({"model": "../tiny.json"}, "a path below the data folder"),
        ({"fine_tuning__steps": 0}, "'steps' is 0; give a whole number from 1 on"),
        ({"fine_tuning__rate": "fast"}, "'rate' is 'fast'; give a number"),
        ({"fine_tuning__rate": None}, "'rate' is not there"),
        ({"fine_tuning__step": 3}, "did you mean 'steps'"),
        ({"fine_tuning__decay": "cosin"}, "did you mean 'cosine'"),
        ({"stopping__every": 3}, "'patience' is not there"),
        ({"statistics__gram": {"examples": 0}}, "a whole number from 1"),
    ],
)
def test_a_malformed_declaration_is_one_clear_line(change, complaint):
    with pytest.raises(EvaluationError) as caught:
        made(changed(PICTURES, **change))
    message = str(caught.value)
    assert message.startswith(WHERE)
    assert complaint in message
    assert "\n" not in message


def test_missing_data_are_one_clear_line(tmp_path):
    for folder, complaint in (
        (None, "not known where"),
        (tmp_path / "gone", "is not there"),
        (tmp_path, r"has no 'shades-tiny\.json'"),
    ):
        with pytest.raises(EvaluationError, match=f"{complaint}.*merge-eval.data"):
            made(PICTURES, folder).fingerprint("left-plain", "test", {})
    (tmp_path / "shades-tiny.json").write_text(json.dumps(MODEL))
    with pytest.raises(EvaluationError, match="has no 'plain/left/test'"):
        made(PICTURES, tmp_path).fingerprint("left-plain", "test", {})


@pytest.mark.parametrize("what", ["cell", "class", "picture", "model"])
def test_links_out_of_the_data_folder_are_refused(tmp_path, what):
    draw(tmp_path / "data")
    inside = {
        "cell": "plain/left/test",
        "class": "plain/left/test/deep",
        "picture": "plain/left/test/deep/0.png",
        "model": "shades-tiny.json",
    }[what]
    outside = tmp_path / f"outside{os.path.splitext(inside)[1]}"
    (tmp_path / "data" / inside).rename(outside)
    (tmp_path / "data" / inside).symlink_to(outside)
    with pytest.raises(EvaluationError, match="outside of the data folder"):
        made(PICTURES, tmp_path / "data").fingerprint("left-plain", "test", {})


def test_a_folder_that_is_no_class_and_an_unknown_split_are_named(tmp_path):
    draw(tmp_path)
    found = made(PICTURES, tmp_path)
    with pytest.raises(UnknownName, match="did you mean 'test'"):
        found.fingerprint("left-plain", "tests", {})
    (tmp_path / "plain/left/test/deeep").mkdir()
    with pytest.raises(EvaluationError, match="did you mean 'deep'"):
        found.fingerprint("left-plain", "test", {})


def test_a_model_that_would_be_downloaded_is_refused(tmp_path):
    draw(tmp_path)
    text = MODEL | {"text_cfg": {"hf_model_name": "somebody/model"}}
    (tmp_path / "shades-hub.json").write_text(json.dumps(text))
    found = made(changed(PICTURES, model="shades-hub.json"), tmp_path)
    with pytest.raises(EvaluationError, match=r"'hf_model_name'.*download"):
        found.fingerprint("left-plain", "test", {})


def test_declaring_imports_no_torch():
    code = (
        "import json, sys; from gitmerge_eval.benchmarks.declared.benchmark import benchmark; "
        "benchmark(json.loads(sys.stdin.read()), 'here', None); "
        "print([m for m in ('torch', 'open_clip', 'transformers', 'datasets') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(PICTURES), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "[]"


# --- texts ---------------------------------------------------------------------------------------

TEXTS = tomllib.loads("""
name = "answers"
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
steps = 2
batch = 4
rate = 1e-3
""")
T5 = {
    "model_type": "t5",
    "vocab_size": 48,
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 16,
    "num_layers": 1,
    "num_decoder_layers": 1,
    "num_heads": 2,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "eos_token_id": 1,
}
WORDS = {"en": ("nil", "one", "two", "NA", "four"), "de": ("null", "eins", "zwei", "drei", "vier")}


@pytest.fixture
def texts(tmp_path):
    for task in ("parity", "digits"):
        for language, words in WORDS.items():
            with (tmp_path / f"{task}-{language}.csv").open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(["words", "number", "answer"])
                writer.writerows(
                    (word, f"0{i}", ("even", "odd")[i % 2]) for i, word in enumerate(words)
                )
    (tmp_path / "answers-tiny.json").write_text(json.dumps(T5))
    return tmp_path


@pytest.fixture
def answering(texts):
    with torch.random.fork_rng():
        torch.manual_seed(2)
        state = weights.state_of(seq2seq.create(texts / "answers-tiny.json"))
    weights.save(state, texts / "base.safetensors")
    return texts / "base.safetensors"


def test_texts_are_trained_on_measured_and_scored(texts, answering):
    found = made(TEXTS, texts)
    assert {t.name: t.metric for t in found.tasks}["digits-en"] == "exact match and F1"
    found.train(answering, ["parity-en"], texts / "trained.safetensors", settings={})
    scores = found.evaluate(texts / "trained.safetensors", ["parity-en", "digits-de"], settings={})
    assert set(scores) == {"parity-en", "digits-de"}
    assert scores["parity-en"] in (0.0, 50.0, 100.0)  # two rows in the test split
    fisher = found.collect("fisher", answering, "parity-en", options={}, settings={})
    assert fisher.examples == 2


def examples_of(values, folder, task, split):
    from gitmerge_eval.benchmarks.declared import clip_family, text_family
    from gitmerge_eval.benchmarks.declared.table import Table

    declared = made(values)
    functions = text_family.functions(
        Table(values, WHERE),
        clip_family.Declared(declared.name, declared.axes, declared.tasks, folder),
    )
    return functions.grid({}).cell(task, split)


def test_rows_become_examples_as_they_are_written(texts):
    rows = [
        example
        for split in ("train", "validation", "test")
        for example in examples_of(TEXTS, texts, "parity-en", split)
    ]
    assert sorted((e.source, e.targets) for e in rows) == sorted(
        (f"en: {word} is?", (("even", "odd")[i % 2],)) for i, word in enumerate(WORDS["en"])
    )
    assert {e.options for e in rows} == {("even", "odd")}
    numbers = examples_of(TEXTS, texts, "digits-de", "train")
    assert all(e.targets[0].startswith("0") and not e.options for e in numbers)


def test_json_lines_may_have_several_answers_and_numbers_of_options(texts):
    rows = [{"words": "a", "number": ["1", "one"], "answer": 1, "part": "x"}] * 2
    for task in ("parity", "digits"):
        for split in ("train", "test"):
            file = texts / f"{task}-{split}.jsonl"
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = changed(TEXTS, data__path="{task}-{split}.jsonl", data__shares=None)
    assert examples_of(own, texts, "digits-en", "test")[0].targets == ("1", "one")
    assert examples_of(own, texts, "parity-en", "test")[0].targets == ("odd",)
    filtered = changed(own, data__where={"part": "{language}"})
    with pytest.raises(EvaluationError, match="has no rows of digits-en in the test split"):
        examples_of(filtered, texts, "digits-en", "test")


def test_the_fingerprint_follows_rows_and_configuration(texts):
    first = made(TEXTS, texts).fingerprint("digits-en", "test", {})
    (texts / "answers-tiny.json").write_text(json.dumps(T5 | {"d_ff": 32}))
    second = made(TEXTS, texts).fingerprint("digits-en", "test", {})
    file = texts / "digits-en.csv"
    file.write_text(file.read_text().replace("0", "1"))
    third = made(TEXTS, texts).fingerprint("digits-en", "test", {})
    assert len({first, second, third}) == 3


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"metric": {"axis": "tsk"}}, "unknown axis 'tsk'; did you mean 'task'"),
        ({"metric": {"axis": "task", "parity": "accuracy"}}, "there is nothing for 'digits'"),
        ({"data__path": "{task}.xls"}, "name files that end with"),
        ({"data__options": None}, "'options' is not there"),
        ({"prompts__source": "{words.__class__}"}, "a name alone"),
        ({"tokenizer": {"characters": "a", "folder": "b"}}, "either 'folder'"),
        ({"tokenizer": {"folder": "../b"}}, "a path below the data folder"),
        ({"model": "/answers.json"}, "a path below the data folder"),
    ],
)
def test_a_malformed_declaration_of_texts_is_one_clear_line(change, complaint):
    with pytest.raises(EvaluationError) as caught:
        made(changed(TEXTS, **change))
    assert str(caught.value).startswith(WHERE)
    assert complaint in str(caught.value)


def test_bad_rows_and_columns_are_named(texts):
    wrong = changed(TEXTS, data__target="anser")
    with pytest.raises(EvaluationError, match="unknown column 'anser'; did you mean 'answer'"):
        examples_of(wrong, texts, "digits-en", "test")
    other = changed(TEXTS, data__options={"axis": "task", "parity": ["even", "uneven"]})
    with pytest.raises(EvaluationError, match="no answer among even, uneven"):
        [examples_of(other, texts, "parity-en", s) for s in ("train", "validation", "test")]
    (texts / "answers-tiny.json").write_text(json.dumps(T5 | {"auto_map": {}}))
    with pytest.raises(EvaluationError, match="'auto_map'"):
        examples_of(TEXTS, texts, "parity-en", "test")
