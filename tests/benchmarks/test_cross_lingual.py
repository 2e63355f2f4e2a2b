"""cross-lingual at the paper's size: grid, model, and readers on made-up published files."""

import copy
import json

import datasets
import pytest
import torch

from gitmerge_eval import benchmarks
from gitmerge_eval.benchmarks import cross_lingual as full
from gitmerge_eval.benchmarks import read_recipe, recipe_folder
from gitmerge_eval.benchmarks.corpora import reading
from gitmerge_eval.benchmarks.learning.schedule import Schedule
from gitmerge_eval.benchmarks.seq2seq import model as seq2seq
from gitmerge_eval.benchmarks.texts import building, metrics, weights
from gitmerge_eval.benchmarks.texts.tokens import CharacterTokens
from gitmerge_eval.errors import EvaluationError, InvalidOption, UnknownName

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789 :.?"


@pytest.fixture(scope="module")
def recipe():
    return read_recipe(full.NAME)


def write(folder, rows):
    folder.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_list(rows).to_parquet(folder)


def question(i, language):
    return {
        "id": f"{i}", "title": f"article {i // 4}", "context": f"context {i} in {language}",
        "question": f"question {i}?",
        "answers": {"text": [f"answer {i}", f"answer {i}", f"or {i}"], "answer_start": [0, 0, 5]},
    }  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Folders as 'hf download --repo-type dataset NAME --local-dir' leaves them, few rows each."""
    datasets.disable_progress_bars()
    root = tmp_path_factory.mktemp("data")
    part = "00000-of-00001.parquet"
    for split, count in (("train", 400), ("validation", 3)):
        rows = [question(i, "en") for i in range(count)]
        write(root / "squad" / "plain_text" / f"{split}-{part}", rows)
        rows = [
            {
                "question_text": f"question {i}?", "document_title": f"title {i}",
                "language": ("korean", "thai", "russian")[i % 3],
                "annotations": {"answer_start": [-1 if i % 2 else 7],
                                "answer_text": ["" if i % 2 else "text"]},
                "document_plaintext": f"document {i}", "document_url": "",
            }
            for i in range(count)
        ]  # fmt: skip
        write(root / "answerable_tydiqa" / "data" / f"{split}-{part}", rows)
    write(root / "xquad" / "xquad.ar" / f"validation-{part}", [question(i, "ar") for i in range(2)])
    for split in ("train", "validation", "test"):
        rows = [
            {"premise": f"premise {i} of {split}", "hypothesis": f"{i}", "label": i % 3}
            for i in range(6)
        ]
        write(root / "xnli" / "ar" / f"{split}-{part}", rows)
    rows = [
        {
            "url": f"https://page/{i}",
            "article": {
                "section_name": ["a", "b"] if i else [], "document": ["One.", "Two."] if i else [],
                "summary": ["1", "2"] if i else [],
            },
        }
        for i in range(300)
    ]  # fmt: skip
    write(root / "wiki_lingua" / "thai" / f"train-{part}", rows)
    wic = root / "xlwic_datasets"
    columns = ["N", "0", "1", "0", "1"]

    def lines(path, count, *, labels=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        text = ""
        for i in range(count):
            label = [str(i % 2)] if labels else []
            text += "\t".join([f"w{i}", *columns, f'A "w{i}', f"the NA w{i}", *label]) + "\n"
        path.write_text(text, encoding="utf-8")

    lines(wic / "wic_english" / "train_en.txt", 200)
    lines(wic / "wic_english" / "valid_en.txt", 4)
    for name, splits in (("xlwic_wikt/german_de/de", ("train", "valid")),
                         ("xlwic_wn/korean_ko/ko", ("valid",))):  # fmt: skip
        for split in splits:
            lines(wic / f"{name}_{split}.txt", 5)
        lines(wic / f"{name}_test_data.txt", 3, labels=False)
        (wic / f"{name}_test_gold.txt").write_text("1\n0\n1\n")
    return root


@pytest.fixture
def cells(data, monkeypatch, tmp_path):
    monkeypatch.setenv(reading.FOLDER_VARIABLE, str(data))
    grid = full.benchmark(read_recipe(full.NAME), recipe_folder(full.NAME)).evaluate.__self__.grid(
        {}
    )
    return grid.cell


def test_the_grid_is_table_1():
    benchmark = benchmarks.get(full.NAME)
    status = {t.name: t.status for t in benchmark.tasks}
    assert len(status) == 25
    assert {n for n, s in status.items() if s == "held-in"} == {
        "squad-en", "xnli-ar", "wikilingua-th", "wic-de", "tydiqa-ko"
    }  # fmt: skip
    assert {n for n, s in status.items() if s == "unavailable"} == {
        "squad-ko", "xnli-ko", "wic-ar", "wic-th", "tydiqa-de"
    }  # fmt: skip
    assert sum(s == "generalization" for s in status.values()) == 15
    held_in = [n for n, s in status.items() if s == "held-in"]
    assert len(benchmark.generalization(held_in)) == 15
    assert {t.name for t in benchmark.generalization(["squad-en", "tydiqa-ko"])} == {"tydiqa-en"}
    assert {t.skills["task"]: t.metric for t in benchmark.tasks} == {
        "squad": metrics.EXACT_MATCH_AND_F1, "wikilingua": metrics.SP_ROUGE,
        "xnli": metrics.ACCURACY, "wic": metrics.ACCURACY, "tydiqa": metrics.ACCURACY,
    }  # fmt: skip


def test_the_model_is_mt5_xl_with_an_output_layer_of_its_own(recipe):
    with torch.device("meta"):
        model = seq2seq.create(recipe_folder(full.NAME) / recipe["model"])
    assert type(model).__name__ == "MT5ForConditionalGeneration"
    assert not seq2seq.is_tied(model)
    attention, feed_forward, norm = 4 * 2048 * 2048, 3 * 2048 * 5120, 2048
    encoder = 24 * (attention + feed_forward + 2 * norm) + norm + 32 * 32
    decoder = 24 * (2 * attention + feed_forward + 3 * norm) + norm + 32 * 32
    expected = 2 * 250112 * 2048 + encoder + decoder
    assert sum(p.numel() for p in model.parameters()) == expected == 3_742_619_648


def test_the_training_is_the_papers(recipe):
    for section in ("fine_tuning", "multitask"):
        numbers = dict(recipe[section])
        for ours in ("precision", "recompute", "every", "patience", "looked_at"):
            del numbers[ours]
        schedule = Schedule(**numbers)
        assert (schedule.optimiser, schedule.rate) == ("adamw", 5e-4)
        assert (schedule.steps, schedule.batch, schedule.part) == (5000, 1024, 8)


def test_squad_is_trained_by_article_and_tested_on_validation(cells):
    train, validation, test = (cells("squad-en", s) for s in ("train", "validation", "test"))
    assert len(train) + len(validation) == 400
    assert 0 < len(validation) < 60
    assert len(test) == 3
    assert test[0].source == "question: question 0? context: context 0 in en"
    assert test[0].targets == ("answer 0", "or 0")
    assert not test[0].options

    def articles(cell):
        return {int(e.source.split("context ")[1].split()[0]) // 4 for e in cell}

    assert not articles(train) & articles(validation)


def test_xquad_is_for_testing_alone(cells):
    assert [e.source for e in cells("squad-ar", "test")] == [
        f"question: question {i}? context: context {i} in ar" for i in range(2)
    ]
    with pytest.raises(EvaluationError, match=r"'squad-ar'.*no examples.*'train'"):
        cells("squad-ar", "train")
    with pytest.raises(EvaluationError, match="unavailable"):
        cells("squad-ko", "test")


def test_xnli_has_three_options(cells):
    for split in ("train", "validation", "test"):
        cell = cells("xnli-ar", split)
        assert cell[0].source == f"xnli: premise: premise 0 of {split} hypothesis: 0"
        assert [e.targets[0] for e in cell[:3]] == ["entailment", "neutral", "contradiction"]
        assert cell[0].options == ("entailment", "neutral", "contradiction")


def test_wikilingua_is_cut_in_three_parts(cells):
    parts = {s: cells("wikilingua-th", s) for s in ("train", "validation", "test")}
    # The article without sections has nothing to summarise.
    assert sum(len(part) for part in parts.values()) == 299
    assert len(parts["train"]) > 200 > 60 > len(parts["test"]) > len(parts["validation"]) > 0
    assert parts["test"][0].source == "summarize: One. Two."
    assert parts["test"][0].targets == ("1 2",)


def test_wic_reads_its_archive(cells):
    german = cells("wic-de", "train")
    assert len(german) == 5
    assert german[0].source == 'wic: word: w0 sentence1: A "w0 sentence2: the NA w0'
    assert [e.targets[0] for e in german[:2]] == ["different", "same"]
    assert [e.targets[0] for e in cells("wic-de", "test")] == ["same", "different", "same"]
    assert len(cells("wic-ko", "test")) == 3
    assert len(cells("wic-en", "test")) == 4
    assert len(cells("wic-en", "train")) + len(cells("wic-en", "validation")) == 200
    with pytest.raises(EvaluationError, match="no examples"):
        cells("wic-ko", "train")


def test_tydiqa_asks_whether_there_is_an_answer(cells):
    cell = cells("tydiqa-ko", "train")
    assert len(cell) + len(cells("tydiqa-ko", "validation")) == 134
    assert len(cells("tydiqa-th", "test")) == 1
    for example in cell:
        number = int(example.source.split()[-1])
        assert number % 3 == 0
        assert example.targets == ("no" if number % 2 else "yes",)
    assert cell[0].options == ("no", "yes")


def test_missing_data_are_said_in_a_line(tmp_path, monkeypatch, recipe):
    def no_connection(*arguments, **how):
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", no_connection)
    monkeypatch.delenv(reading.FOLDER_VARIABLE, raising=False)
    benchmark = full.benchmark(recipe, recipe_folder(full.NAME))
    (tmp_path / "squad").mkdir()
    for task, settings, message in (
        ("xnli-ar", {}, r"hf download --repo-type dataset facebook/xnli"),
        ("xnli-ar", {"data": str(tmp_path)}, f"{tmp_path}/xnli"),
        ("squad-en", {"data": str(tmp_path)}, r"no files 'plain_text/train-\*.parquet'"),
        ("wic-de", {}, r"xlwic_datasets.zip"),
    ):
        with pytest.raises(EvaluationError, match=message) as caught:
            benchmark.fingerprint(task, "train", settings)
        assert "\n" not in str(caught.value)
    with pytest.raises(UnknownName, match="did you mean 'data'"):
        benchmark.fingerprint("xnli-ar", "test", {"dat": "x"})
    with pytest.raises(InvalidOption, match="'data' is 3"):
        benchmark.fingerprint("xnli-ar", "test", {"data": 3})


def test_a_missing_base_is_said_in_a_line(tmp_path, monkeypatch, recipe):
    import huggingface_hub

    def no_connection(*arguments, **how):
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", no_connection)
    monkeypatch.delenv(full.WEIGHTS_VARIABLE, raising=False)
    benchmark = full.benchmark(recipe, recipe_folder(full.NAME))
    with pytest.raises(EvaluationError, match="hf download DKYoon/mt5-xl-lm-adapt"):
        building.pretrain(benchmark.evaluate.__self__.grid({}))
    monkeypatch.setenv(full.WEIGHTS_VARIABLE, str(tmp_path))
    other = full.benchmark(recipe, recipe_folder(full.NAME))
    with pytest.raises(EvaluationError, match=r"no model.safetensors"):
        building.pretrain(other.evaluate.__self__.grid({}))


@pytest.fixture
def tiny(data, tmp_path, monkeypatch, recipe):
    """The full recipe with a model of a few parameters in the place of mT5-xl, and short texts."""
    monkeypatch.setenv(reading.FOLDER_VARIABLE, str(data))
    numbers = json.loads((recipe_folder(full.NAME) / recipe["model"]).read_text())
    small = numbers | {
        "vocab_size": 64, "d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1,
        "num_decoder_layers": 1, "num_heads": 2,
    }  # fmt: skip
    (tmp_path / "tiny.json").write_text(json.dumps(small))
    torch.manual_seed(0)
    base = weights.state_of(seq2seq.create(tmp_path / "tiny.json"))
    (tmp_path / "base").mkdir()
    weights.save(base, tmp_path / "base" / "model.safetensors")
    monkeypatch.setenv(full.WEIGHTS_VARIABLE, str(tmp_path / "base"))
    reduced = copy.deepcopy(dict(recipe)) | {"model": "tiny.json"}
    for section in ("fine_tuning", "multitask"):
        reduced[section] |= {
            "steps": 2, "batch": 4, "accumulate": 2, "every": 1, "looked_at": 2,
            "precision": "float32",
        }  # fmt: skip
    reduced["evaluation"]["longest_answer"] = 4
    reduced["statistics"]["fisher"] = reduced["statistics"]["gram"] = {"examples": 3}
    monkeypatch.setattr(
        "gitmerge_eval.benchmarks.texts.tokens.PretrainedTokens",
        lambda name, longest: CharacterTokens([], LETTERS),
    )
    return full.benchmark(reduced, tmp_path)


def test_the_recipe_goes_through_the_minis_functions(tiny, tmp_path):
    built = tiny.build(tmp_path / "built", tasks=["xnli-ar", "wikilingua-th"])
    assert built.settings == {"seed": 0}
    assert built.base.read_bytes() == (tmp_path / "base" / "model.safetensors").read_bytes()
    for task, checkpoint in built.constituents.items():
        assert checkpoint.read_bytes() != built.base.read_bytes()
        assert [file.kind for file in built.statistics[task]] == ["fisher", "gram"]
        assert all(file.examples == 3 for file in built.statistics[task])
        scores = tiny.evaluate(checkpoint, ["xnli-ar", "wikilingua-th", "squad-ar"])
        assert all(0 <= score <= 100 for score in scores.values())
