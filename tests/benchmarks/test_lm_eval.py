"""lm-evaluation-harness as evaluator: its scores are ours by hand, and it runs nobody's code."""

import functools
import json
import os
import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_language_models import CELLS, HARNESS, OPTIONS, harness_tasks, lay_out, prompt, questions

from gitmerge_eval.benchmarks.causal import harness as harness_module
from gitmerge_eval.benchmarks.causal import model as causal
from gitmerge_eval.benchmarks.causal.family import FAMILY
from gitmerge_eval.benchmarks.causal.harness import Asked, Harness, Settings, _Reporting, apart
from gitmerge_eval.benchmarks.declared.benchmark import benchmark
from gitmerge_eval.benchmarks.texts.tokens import PretrainedTokens
from gitmerge_eval.errors import EvaluationError
from gitmerge_eval.evaluation.resolving import harness_folder
from gitmerge_eval.git.repository import Repository

try:
    import tomllib
except ImportError:
    import tomli as tomllib


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def laid_out(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    checkpoint = lay_out(folder, request.param)
    return checkpoint, folder / "data", harness_tasks(folder / "tasks", folder / "data")


@pytest.fixture
def loaded(laid_out):
    checkpoint, data, tasks = laid_out
    return (
        FAMILY.load(checkpoint, data / "config.json"),
        PretrainedTokens(data / "tokenizer", 48),
        tasks,
    )


def likelihoods(model, tokens, source, target):
    """The log-likelihood of each token of the target, without the end, by our own functions."""
    batch = causal.batch([causal.pair(tokens, source, target)], tokens.pad)
    with torch.no_grad():
        return causal.target_log_likelihoods(model, batch)[0][batch.target_mask[0, 1:]][:-1]


def asked(cell, metric="acc"):
    return Asked("numbers_" + cell.replace("-", "_"), metric)


def test_likelihoods_are_those_of_lm_evals_own_model(loaded):
    from lm_eval.api.instance import Instance

    model, tokens, _ = loaded
    pairs = [
        (prompt(cell, row["words"]), " " + option)
        for cell in CELLS
        for row in questions(cell)
        for option in OPTIONS[cell.split("-")[0]]
    ]
    with apart():
        lm = _Reporting(None, pretrained=model, tokenizer=tokens.published, batch_size=5)
        found = lm.loglikelihood([Instance("loglikelihood", {}, pair, 0) for pair in pairs])
    for (source, target), (total, _) in zip(pairs, found, strict=True):
        # White space may be the prompt's or the answer's; it is the same text.
        for ours in ((source, target), (source + " ", target[1:])):
            expected = float(likelihoods(model, tokens, *ours).sum())
            assert total == pytest.approx(expected, abs=1e-4)


def test_scores_are_those_of_a_plain_loop(loaded):
    model, tokens, tasks = loaded
    harness = Harness(
        {"parity-en": asked("parity-en"), "size-de": asked("size-de", "acc_norm")},
        Settings(batch=3), tasks,
    )  # fmt: skip
    steps = []
    found = harness.evaluate(
        model, tokens.published, ["parity-en", "size-de"], split="test",
        progress=lambda *step: steps.append(step),
    )  # fmt: skip
    for cell, normalised in (("parity-en", False), ("size-de", True)):
        right = 0
        for row in questions(cell):
            scores = {
                option: float(
                    likelihoods(model, tokens, prompt(cell, row["words"]), " " + option).sum()
                ) / (len(option) if normalised else 1)
                for option in OPTIONS[cell.split("-")[0]]
            }  # fmt: skip
            right += max(scores, key=scores.__getitem__) == row["answer"]
        assert found[cell] == pytest.approx(100 * right / 8)
        assert (cell, 16, 16) in steps


def test_generated_answers_are_those_of_the_familys_own_generation(loaded, tmp_path):
    from lm_eval.api.instance import Instance

    model, tokens, _ = loaded
    prompts = [prompt("parity-en", row["words"]) for row in questions("parity-en")]
    how = {"until": ["zzz"], "max_gen_toks": 4, "do_sample": False}
    with apart():
        lm = _Reporting(None, pretrained=model, tokenizer=tokens.published, batch_size=3)
        written = lm.generate_until(
            [Instance("generate_until", {}, (p, dict(how)), i) for i, p in enumerate(prompts)]
        )
    ours = FAMILY.generate(model, tokens, prompts, longest=4)
    assert [text.strip() for text in written] == ours
    assert any(ours)
    # What the model writes is made the right answer to three questions.
    rows = [
        {"asked": p, "answer": text if i < 3 else f"not {text}"}
        for i, (p, text) in enumerate(zip(prompts, written, strict=True))
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "written.yaml").write_text(
        "task: written\ndataset_path: json\n"
        f"dataset_kwargs: {{cache_dir: {json.dumps(str(tmp_path / 'cache'))}, "
        f"data_files: {{test: {json.dumps(str(tmp_path / 'rows.jsonl'))}}}}}\n"
        "output_type: generate_until\ntest_split: test\n"
        'doc_to_text: "{{asked}}"\ndoc_to_target: answer\n'
        f"generation_kwargs: {json.dumps(how)}\n"
        "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]\n"
    )
    harness = Harness({"a": Asked("written", "exact_match")}, Settings(), tmp_path)
    found = harness.evaluate(model, tokens.published, ["a"], split="test")
    assert found["a"] == pytest.approx(100 * 3 / 8)


def test_training_examples_are_lm_evals_with_its_prompts(loaded):
    _, _, tasks = loaded
    found = Harness({"a": asked("size-de")}, Settings(), tasks).examples("a")
    assert [(e.source, e.targets) for e in found] == [
        (prompt("size-de", row["words"]) + " ", (row["answer"],)) for row in questions("size-de")
    ]


def test_a_group_of_tasks_has_lm_evals_mean_and_shots_come_before_the_question(loaded, tmp_path):
    model, tokens, tasks = loaded
    for file in tasks.glob("*.yaml"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "group.yaml").write_text(
        "group: numbers\ntask: [numbers_parity_en, numbers_size_de]\n"
        "aggregate_metric_list: [{metric: acc, aggregation: mean, weight_by_size: true}]\n"
    )
    several = {"all": Asked("numbers", "acc"), "a": asked("parity-en"), "b": asked("size-de")}
    found = Harness(several, Settings(), tmp_path).evaluate(
        model, tokens.published, list(several), split="test"
    )
    assert found["all"] == pytest.approx((found["a"] + found["b"]) / 2)
    assert len(Harness(several, Settings(), tmp_path).examples("all")) == 16
    harness = Harness(several, Settings(shots=2), tmp_path)
    harness.evaluate(model, tokens.published, ["a"], split="test")
    (own,) = harness._tasks("a", "test")["tasks"].values()
    contexts = {instance.args[0] for instance in own.instances}
    assert all(context.count(" is") == 3 for context in contexts)
    assert harness.fingerprint("a", "test") == Harness(
        several, Settings(shots=2), tmp_path
    ).fingerprint("a", "test")


def test_percentages_are_taken_as_they_are(loaded):
    model, tokens, tasks = loaded
    found = [
        Harness({"a": asked("size-de")}, Settings(percent=percent), tasks).evaluate(
            model, tokens.published, ["a"], split="test"
        )["a"]
        for percent in (False, True)
    ]
    assert found[0] == pytest.approx(100 * found[1])
    assert found[1] > 0


def test_the_validation_split_is_another(loaded, tmp_path):
    model, tokens, tasks = loaded
    own = tmp_path / "own"
    own.mkdir()
    text = (tasks / "parity-en.yaml").read_text()
    rows = [{"words": "one", "answer": "odd"}]
    (own / "few.jsonl").write_text(json.dumps(rows[0]) + "\n")
    lines = [
        f"    validation: {json.dumps(str(own / 'few.jsonl'))}"
        if line.startswith("    validation") else line for line in text.splitlines()
    ]  # fmt: skip
    (own / "a.yaml").write_text("\n".join(lines) + "\n")
    harness = Harness({"a": asked("parity-en")}, Settings(), own)
    assert harness.fingerprint("a", "validation") != harness.fingerprint("a", "test")
    steps = []
    harness.evaluate(
        model, tokens.published, ["a"], split="validation",
        progress=lambda *step: steps.append(step),
    )  # fmt: skip
    assert steps[-1] == ("a", 2, 2)
    without = [line for line in lines if not line.startswith("test_split")]
    (own / "a.yaml").write_text("\n".join(without) + "\n")
    with pytest.raises(EvaluationError, match="no validation split"):
        Harness({"a": asked("parity-en")}, Settings(), own).fingerprint("a", "validation")


def test_fingerprints_follow_task_files_and_data(laid_out, tmp_path):
    _, data, _ = laid_out
    copied = tmp_path / "data"
    copied.mkdir()
    for cell in CELLS:
        for split in ("train", "validation", "test"):
            name = f"{cell}-{split}.jsonl"
            (copied / name).write_bytes((data / name).read_bytes())
    tasks = harness_tasks(tmp_path / "tasks", copied)

    def fingerprint():
        return Harness({"a": asked("parity-en")}, Settings(), tasks).fingerprint("a", "test")

    first = fingerprint()
    assert fingerprint() == first
    file = tasks / "parity-en.yaml"
    file.write_text(file.read_text().replace("{{words}} is", "{{words}} is:"))
    second = fingerprint()
    rows = copied / "parity-en-test.jsonl"
    rows.write_text(rows.read_text().replace("three", "many"))
    assert len({first, second, fingerprint()}) == 3


def test_nothing_else_notices_an_evaluation(loaded):
    model, tokens, tasks = loaded
    here, draws = os.getcwd(), []
    for evaluated in (False, True):
        torch.manual_seed(3)
        np.random.seed(3)
        random.seed(3)
        if evaluated:
            harness = Harness({"a": asked("parity-en")}, Settings(limit=2), tasks)
            harness.evaluate(model, tokens.published, ["a"], split="test")
        draws.append((float(torch.rand(())), np.random.rand(), random.random()))
    assert draws[0] == draws[1]
    assert os.getcwd() == here


# --- whose code it is ----------------------------------------------------------------------------


def planted(folder):
    """A folder as a branch may have it, with a task whose YAML runs a function of the branch's."""
    (folder / "evil.py").write_text("open('was-here', 'w').close()\ndef text(doc): return ''\n")
    (folder / "evil.yaml").write_text(
        "task: evil\ndataset_path: json\ndoc_to_text: !function evil.text\n"
        "output_type: multiple_choice\ntest_split: train\n"
    )


def test_a_task_of_the_working_directory_is_not_known(tmp_path, monkeypatch):
    planted(tmp_path)
    monkeypatch.chdir(tmp_path)
    # Without the tasks that lm-eval brings, which takes it a quarter of a minute to list.
    few = functools.partial(harness_module.TaskManager, include_defaults=False)
    monkeypatch.setattr(harness_module, "TaskManager", few)
    names = ("evil.yaml", "evil", "evil*", "./evil.yaml")
    harness = Harness({name: Asked(name, "acc") for name in names}, Settings(), None)
    for name in names:
        with pytest.raises(EvaluationError, match=r"unknown task of lm-eval.*lm-eval-tasks"):
            harness.fingerprint(name, "test")
    assert not (tmp_path / "was-here").exists()


def test_a_metric_of_the_working_directory_is_not_run(laid_out, tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/mine.py").write_text(f"open({str(tmp_path / 'was-here')!r}, 'w').close()\n")
    own = tmp_path / "own"
    own.mkdir()
    text = (laid_out[2] / "parity-en.yaml").read_text()
    (own / "a.yaml").write_text(text.replace("metric: acc,", "metric: mine,"))
    monkeypatch.chdir(tmp_path)
    Harness({"a": asked("parity-en", "mine")}, Settings(), own).fingerprint("a", "test")
    assert not (tmp_path / "was-here").exists()
    # In the branch's folder it would have been.
    from lm_eval.api.registry import get_metric

    get_metric("mine", hf_evaluate_metric=True)
    assert (tmp_path / "was-here").exists()


@pytest.mark.parametrize("name", ["../tasks/a", "/tmp/a.yaml", "a*", "{language.real}", "~/a"])
def test_a_declaration_names_tasks_and_no_files(name):
    values = tomllib.loads(HARNESS)
    values["lm_eval"]["task"] = name
    with pytest.raises(EvaluationError, match=r"^here, \[lm_eval\]: "):
        benchmark(values, "here", None)


def test_own_tasks_are_not_taken_from_the_repository(tmp_path, monkeypatch):
    repository = Repository(tmp_path / "models")
    repository.directory.mkdir()
    repository.run("init", "--quiet")
    inside, outside = repository.directory / "tasks", tmp_path / "tasks"
    inside.mkdir()
    outside.mkdir()
    (tmp_path / "link").symlink_to(inside)
    monkeypatch.delenv("GITMERGE_EVAL_LM_EVAL_TASKS", raising=False)
    assert harness_folder(repository) is None
    for wrong in (inside, tmp_path / "link", tmp_path):
        repository.run("config", "merge-eval.lm-eval-tasks", str(wrong))
        with pytest.raises(EvaluationError, match="a checkout of this repository may write into"):
            harness_folder(repository)
    for wrong in ("tasks", str(tmp_path / "gone")):
        repository.run("config", "merge-eval.lm-eval-tasks", wrong)
        with pytest.raises(EvaluationError, match="no absolute path of a folder"):
            harness_folder(repository)
    repository.run("config", "merge-eval.lm-eval-tasks", str(outside))
    assert harness_folder(repository) == outside.resolve()


def test_the_guides_declarations_are_whole():
    text = (Path(__file__).parents[2] / "docs/guide.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```toml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    found = [benchmark(tomllib.loads(b), "the guide", None) for b in blocks if "causal-lm" in b]
    assert [made.name for made in found] == ["two-skills", "reasoning"]
    assert all(made.train for made in found)
    assert "lm-eval" in found[1].evaluator_version


# --- declarations --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"lm_eval": {}}, "'task' is not there"),
        ({"lm_eval": {"task": "a_{tsk}"}}, "did you mean 'task'"),
        ({"lm_eval": {"task": "a", "limits": 3}}, "did you mean 'limit'"),
        ({"lm_eval": {"task": "a", "shots": -1}}, "'shots' is -1"),
        ({"lm_eval": {"task": "a", "percent": 1}}, "write true or false"),
        ({"metric": 3}, "give the name of a metric"),
        ({"tokenizer": {"characters": "ab"}}, "name it by 'folder'"),
        ({"stopping": {"every": 1, "patience": 1}}, "leave it out"),
    ],
)
def test_a_malformed_declaration_is_one_clear_line(change, complaint):
    with pytest.raises(EvaluationError) as caught:
        benchmark({**tomllib.loads(HARNESS), **change}, "here", None)
    assert str(caught.value).startswith("here")
    assert complaint in str(caught.value)


def test_a_metric_that_is_not_there_or_not_a_share_is_said(loaded):
    model, tokens, tasks = loaded
    for metric, complaint in (("acc_nrm", r"did you mean 'acc_norm,none'"), ("bpb", "unknown")):
        harness = Harness({"a": asked("parity-en", metric)}, Settings(limit=1), tasks)
        with pytest.raises(EvaluationError, match=complaint):
            harness.evaluate(model, tokens.published, ["a"], split="test")


def test_a_metric_of_which_less_is_better_is_refused(loaded, tmp_path):
    text = (
        (loaded[2] / "parity-en.yaml")
        .read_text()
        .replace("higher_is_better: true", "higher_is_better: false")
    )
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(EvaluationError, match="less of 'acc' is better"):
        Harness({"a": asked("parity-en")}, Settings(), tmp_path).fingerprint("a", "test")
