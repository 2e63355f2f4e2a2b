"""cross-lingual-mini: its data by hand, its building reduced, and the literal merge on it."""

import copy
import json
import os
import subprocess
import sys

import pytest
import torch
from num2words import num2words

from gitmerge_eval import benchmarks, building
from gitmerge_eval.benchmarks import cross_lingual_mini as mini
from gitmerge_eval.benchmarks import read_recipe, recipe_folder
from gitmerge_eval.benchmarks.number_words import Numbers
from gitmerge_eval.benchmarks.seq2seq import scoring
from gitmerge_eval.benchmarks.seq2seq.family import FAMILY
from gitmerge_eval.benchmarks.texts import metrics
from gitmerge_eval.benchmarks.texts.scoring import choices
from gitmerge_eval.errors import EvaluationError, InvalidOption, UnknownName

SETTINGS = {"seed": 3}
HELD_IN = ("value-en", "compare-ar", "say-th", "parity-de", "member-ko")


def grid_of(benchmark, settings=SETTINGS):
    return benchmark.evaluate.__self__.grid(settings)


@pytest.fixture(scope="module")
def small_recipe():
    recipe = copy.deepcopy(dict(read_recipe(mini.NAME)))
    recipe["pretraining"] |= {"steps": 4, "batch": 8}
    recipe["pretraining"]["shuffled"] |= {"steps": 2, "batch": 8}
    recipe["fine_tuning"] |= {"steps": 3, "batch": 8}
    recipe["multitask"] |= {"steps": 3, "batch": 8}
    recipe["statistics"]["fisher"] = recipe["statistics"]["gram"] = {"examples": 6}
    return recipe


@pytest.fixture(scope="module")
def small(small_recipe):
    return mini.benchmark(small_recipe, recipe_folder(mini.NAME))


@pytest.fixture(scope="module")
def built(small, tmp_path_factory):
    return small.build(tmp_path_factory.mktemp("built"), settings=SETTINGS)


def test_the_grid_is_five_by_five_with_a_held_in_diagonal():
    benchmark = benchmarks.get(mini.NAME)
    assert len(benchmark.tasks) == 25
    assert tuple(t.name for t in benchmark.tasks if t.status == "held-in") == HELD_IN
    assert len(benchmark.generalization(HELD_IN)) == 20
    assert {t.name for t in benchmark.generalization(["value-en", "say-th"])} == {
        "value-th", "say-en"
    }  # fmt: skip
    kinds = {t.skills["task"]: t.metric for t in benchmark.tasks}
    assert kinds["value"] == metrics.EXACT_MATCH_AND_F1
    assert kinds["say"] == metrics.SP_ROUGE
    assert {kinds[k] for k in ("compare", "parity", "member")} == {metrics.ACCURACY}
    assert set(kinds.values()) == set(metrics.METRICS)


def test_the_list_says_each_tasks_metric(capsys):
    from gitmerge_eval.cli import benchmarking

    benchmarking.list_benchmarks(as_json=True)
    listed = {b["name"]: b for b in json.loads(capsys.readouterr().out)}
    metric = {t["name"]: t["metric"] for t in listed[mini.NAME]["tasks"]}
    assert metric["say-th"] == metrics.SP_ROUGE
    assert metric["parity-ko"] == metrics.ACCURACY
    other = listed["domainnet-classification-mini"]
    assert {t["metric"] for t in other["tasks"]} == {"accuracy"}


def test_loading_imports_nothing_heavy():
    code = (
        f"import sys; from gitmerge_eval import benchmarks; benchmarks.get('{mini.NAME}'); "
        "print([m for m in ('torch', 'transformers', 'num2words') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_vocabulary_is_exactly_what_is_written(small_recipe):
    grid = grid_of(benchmarks.get(mini.NAME), {})
    texts = [t for e in all_examples(grid) for t in (e.source, *e.targets, *e.options)]
    assert all(2 not in grid.tokens.encode(text) for text in [*texts, *grid.source.corpus()])
    size = json.loads(grid.configuration.read_text())["vocab_size"]
    assert grid.tokens.size <= size
    longest = small_recipe["evaluation"]["longest_answer"]
    assert max(len(grid.tokens.encode(t)) for e in all_examples(grid) for t in e.targets) <= longest


def all_examples(grid):
    return [
        example
        for task in grid.tasks
        for split in ("train", "validation", "test")
        for example in grid.cell(task.name, split)
    ]


def test_cells_split_the_numbers_and_answer_rightly():
    grid = grid_of(benchmarks.get(mini.NAME))
    for language in ("en", "ar", "th", "de", "ko"):
        value = {s: grid.cell(f"value-{language}", s) for s in ("train", "validation", "test")}
        numbers = [int(e.targets[0]) for several in value.values() for e in several]
        assert sorted(numbers) == list(range(100))
        assert {s: len(several) for s, several in value.items()} == {
            "train": 72, "validation": 8, "test": 20
        }  # fmt: skip
        for several in value.values():
            for e in several:
                said = num2words(int(e.targets[0]), lang=language)
                assert e.source == f"<value><{language}>{said}"
        known = {num2words(n, lang=language): n for n in range(100)}
        for e in grid.cell(f"say-{language}", "test"):
            assert known[e.targets[0]] == int(e.source.removeprefix(f"<say><{language}>"))
        for kind, right in (("compare", lambda n: n >= 50), ("parity", lambda n: n % 2 == 0)):
            for e in grid.cell(f"{kind}-{language}", "train"):
                number = known[e.source.removeprefix(f"<{kind}><{language}>")]
                assert e.targets == (e.options[0 if right(number) else 1],)
        member = grid.cell(f"member-{language}", "train")
        assert len(member) == 144
        for e in member:
            said, digits = e.source.removeprefix(f"<member><{language}>").split(" = ")
            assert e.targets == (e.options[0 if known[said] == int(digits) else 1],)
            assert len(digits) == len(str(known[said]))
            differ = sum(a != b for a, b in zip(digits, str(known[said]), strict=True))
            assert differ == (0 if known[said] == int(digits) else 1)


def test_another_seed_draws_other_data(small):
    fingerprints = {
        small.fingerprint("value-en", "test", SETTINGS),
        small.fingerprint("value-en", "test", {"seed": 4}),
        small.fingerprint("value-en", "train", SETTINGS),
        small.fingerprint("value-de", "test", SETTINGS),
    }
    assert len(fingerprints) == 4
    assert small.fingerprint("value-en", "test", {}) == small.fingerprint(
        "value-en", "test", {"seed": 0}
    )


@pytest.mark.parametrize("settings", [{"sed": 1}, {"seed": "1"}, {"seed": -1}])
def test_wrong_settings_are_refused(small, settings):
    with pytest.raises((UnknownName, InvalidOption), match="seed"):
        small.fingerprint("value-en", "test", settings)


def test_splits_larger_than_the_range_are_refused(small_recipe):
    with pytest.raises(InvalidOption, match="100"):
        Numbers(0, small_recipe["numbers"] | {"train": 90})


def test_evaluation_equals_a_plain_loop(small, built):
    checkpoint = built.constituents["say-th"]
    grid = grid_of(small)
    model = FAMILY.load(checkpoint, grid.configuration)
    tasks = ["value-en", "compare-ar", "say-th"]
    seen = []
    found = small.evaluate(
        checkpoint, tasks, settings=SETTINGS, progress=lambda *step: seen.append(step)
    )
    for task in tasks:
        total = 0.0
        for e in grid.cell(task, "test"):
            if e.options:
                total += e.options[choices(FAMILY, model, grid.tokens, [e])[0]] == e.targets[0]
                continue
            text = scoring.generate(model, grid.tokens, [e.source], longest=40)[0]
            total += (
                metrics.exact_match_and_f1(text, e.targets)
                if task == "value-en"
                else metrics.sp_rouge(text, e.targets, list)
            )
        assert found[task] == pytest.approx(100 * total / 20)
        assert (task, 20, 20) in seen
    assert list(found) == tasks
    with pytest.raises(UnknownName, match="did you mean 'say-th'"):
        small.evaluate(checkpoint, ["say-tt"], settings=SETTINGS)
    with pytest.raises(UnknownName, match="validation"):
        small.evaluate(checkpoint, ["say-th"], settings=SETTINGS, split="valid")


def test_building_twice_gives_the_same_bytes(small, built, tmp_path):
    torch.manual_seed(99)
    again = small.build(tmp_path / "again", settings=SETTINGS)
    for first, second in zip(
        [built.base, built.multitask, *built.constituents.values()],
        [again.base, again.multitask, *again.constituents.values()],
        strict=True,
    ):
        assert first.read_bytes() == second.read_bytes()
    assert len({p.read_bytes() for p in (built.base, *built.constituents.values())}) == 6
    for task in built.statistics:
        for one, other in zip(built.statistics[task], again.statistics[task], strict=True):
            assert (one.kind, one.fingerprint) == (other.kind, other.fingerprint)
            assert all(torch.equal(one.tensors[k], other.tensors[k]) for k in one.tensors)


def test_a_constituent_is_trained_alone_as_in_the_building(small, built, tmp_path):
    small.train(built.base, ["say-th"], tmp_path / "one", settings=SETTINGS)
    assert (tmp_path / "one").read_bytes() == built.constituents["say-th"].read_bytes()
    small.train(built.base, HELD_IN, tmp_path / "all", settings=SETTINGS)
    assert (tmp_path / "all").read_bytes() == built.multitask.read_bytes()
    with pytest.raises(UnknownName, match="say-th"):
        small.train(built.base, ["say-tt"], tmp_path / "none", settings=SETTINGS)


def test_statistics_say_what_they_were_made_of(small, built):
    for task, files in built.statistics.items():
        assert [file.kind for file in files] == ["fisher", "gram"]
        for file in files:
            assert file.examples == 6
            assert file.data == f"{mini.NAME}/{task}:train"
            assert file.fingerprint == small.fingerprint(task, "train", SETTINGS)
        assert len(files[0].tensors) == 52
        assert len(files[1].layout) == 37
    checkpoint = built.constituents["say-th"]
    with pytest.raises(UnknownName, match="did you mean 'sampled'"):
        small.collect("fisher", checkpoint, "say-th", settings=SETTINGS, options={"sample": 1})
    drawn = small.collect(
        "fisher", checkpoint, "say-th", settings=SETTINGS, options={"sampled": True, "examples": 2}
    )
    assert drawn.examples == 2
    assert drawn.options["sampled"] is True


def test_what_is_not_installed_is_said(small, monkeypatch):
    monkeypatch.setitem(sys.modules, "num2words", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EvaluationError, match=r"gitmerge-eval\[language\]"):
        small.fingerprint("value-en", "test", {"seed": 77})


def test_the_literal_merge_ends_with_its_note(small, tmp_path, monkeypatch):
    monkeypatch.setattr(mini, "BENCHMARK", small)
    model = tmp_path / "model"
    found = building.build(mini.NAME, model, seed=3)
    assert found.constituents == HELD_IN
    scripts = os.path.dirname(sys.executable)
    environment = os.environ | {
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@b", "GIT_MERGE_AUTOEDIT": "no",
    }  # fmt: skip

    def git(*command):
        done = subprocess.run(
            ["git", *command], cwd=model, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    git("merge", "--strategy-option=method=regmean", *HELD_IN)
    # The commit, main before it, and the heads.
    assert len(git("rev-list", "--parents", "-1", "HEAD").split()) == 2 + len(HELD_IN)
    record = json.loads(
        next(
            line
            for line in git("notes", "--ref=gitmerge-eval", "show", "HEAD").splitlines()
            if line.startswith("{") and json.loads(line)["kind"] == "evaluation/test"
        )
    )
    assert record["method"] == "regmean"
    assert [task["task"] for task in record["tasks"] if task["status"] == "held-in"] == list(
        HELD_IN
    )
    assert len(record["tasks"]) == 25
    # Evaluated in processes of Git's hook, by the recipe as it is installed.
    assert all(0 <= task["merged"] <= 100 for task in record["tasks"])
