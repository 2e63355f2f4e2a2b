"""Evaluation of a merge: the right tasks, models and numbers, computed once, without a trace."""

import os
import subprocess

import pytest
from evaluated_repositories import MERGED, MODELS, PLAIN, Evaluated, model, score

from gitmerge_eval.errors import EvaluationError, GitError, MissingObject
from gitmerge_eval.evaluation import evaluating, reporting
from gitmerge_eval.evaluation.declarations import BenchmarkDeclaration, ConstituentDeclaration
from gitmerge_eval.evaluation.note import TaskScore
from gitmerge_eval.git import notes
from gitmerge_eval.git.repository import Repository

HELD_IN = ("fruit-quickdraw", "bird-real")
SPANNED = ("fruit-real", "bird-quickdraw")


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return Evaluated.make(tmp_path_factory.mktemp("template") / "repository")


@pytest.fixture
def evaluated(template, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(PLAIN))
    found = template.copy(tmp_path / "repository")
    monkeypatch.setenv("PLAIN_LOG", str(found.log))
    return found


def evaluate(evaluated, revision="HEAD", **how):
    return evaluating.evaluate(evaluated.repository, revision, device="cpu", **how)


def recorded(note):
    """The note as its record gives it back."""
    return reporting.note_from_record(reporting.note_record(note))


def test_a_merge_is_scored_with_its_baselines_on_held_in_and_spanned_tasks(evaluated):
    evaluated.merge()
    note = evaluate(evaluated)
    expected = [
        TaskScore(
            task,
            "held-in" if task in HELD_IN else "generalization",
            merged=score(MERGED, task),
            pretrained=score(MODELS["main"], task),
            individual=score(MODELS[task], task) if task in HELD_IN else None,
            multitask=score(MODELS["multitask"], task),
        )
        for task in HELD_IN + SPANNED
    ]
    assert [TaskScore(**{**vars(s), "fingerprint": ""}) for s in note.scores] == expected
    assert len({s.fingerprint for s in note.scores}) == 4
    assert (note.method, note.options, note.spec) == ("mats", {"iterations": 20}, "5" * 64)
    assert note.constituents == HELD_IN
    assert note.checkpoint == evaluated.repository.blob_id("HEAD", "model.safetensors")
    assert note.settings == {"seed": 3}
    assert note.remarks == ()
    assert note.normalised("held-in") == pytest.approx((67 + 69) / (85 + 90))


def test_the_note_of_the_commit_holds_table_and_record(evaluated):
    merge = evaluated.merge()
    evaluated.put("more", {"file": "text"})
    note = evaluate(evaluated, merge)
    text = evaluated.repository.text("notes", "--ref=gitmerge-eval", "show", merge)
    assert text.startswith(reporting.note_table(note))
    assert text.endswith(reporting.note_line(note))
    assert evaluating.show(evaluated.repository, merge) == (recorded(note),)
    assert evaluating.show(evaluated.repository, "HEAD") == ()
    log = evaluated.repository.text("log", "-1", "--notes=gitmerge-eval", merge)
    assert "fruit-real" in log


def test_a_second_evaluation_computes_nothing_and_says_the_same(evaluated):
    evaluated.merge()
    first = evaluate(evaluated)
    assert len(evaluated.computed) == 4 + 4 + 1 + 1 + 4
    assert evaluate(evaluated) == first
    assert len(evaluated.computed) == 14
    evaluate(evaluated, force=True)
    assert len(evaluated.computed) == 28


def test_another_merge_of_the_same_computes_only_its_own_scores(evaluated):
    evaluated.merge()
    evaluate(evaluated)
    evaluated.repository.run("reset", "-q", "--hard", "main^")
    evaluated.merge(values=tuple(2 * v for v in MERGED), method="ties", options={})
    evaluate(evaluated)
    assert evaluated.computed[14:] == [*HELD_IN, *SPANNED]


def test_an_amended_merge_and_a_linked_worktree_find_the_known_scores(evaluated, tmp_path):
    evaluated.merge()
    evaluate(evaluated)
    evaluated.repository.run("commit", "-q", "--amend", "--no-edit", "--date=2020-01-01T00:00:00")
    tree = tmp_path / "a worktree ü"
    evaluated.repository.run("worktree", "add", "-q", "--detach", str(tree), "HEAD")
    note = evaluating.evaluate(Repository(tree), device="cpu")
    assert len(evaluated.computed) == 14
    assert note.average("held-in") == 68.0
    assert evaluating.show(evaluated.repository) == (recorded(note),)


def test_other_data_is_other_scores(evaluated):
    evaluated.merge()
    evaluate(evaluated)
    evaluate(evaluated, split="validation")
    assert len(evaluated.computed) == 28
    other = BenchmarkDeclaration("plain", {"seed": 4})
    evaluated.put("seed", {"benchmark.toml": other.toml()})
    evaluate(evaluated)
    assert {line.split()[2:][1] for line in evaluated.lines[28:]} == {"4"}


def test_each_split_keeps_its_own_record(evaluated):
    evaluated.merge()
    test = evaluate(evaluated)
    validation = evaluate(evaluated, split="validation")
    evaluate(evaluated)
    assert evaluating.show(evaluated.repository) == (recorded(validation), recorded(test))


def test_a_merge_of_a_merge_is_of_all_its_constituents(evaluated):
    evaluated.repository.run("switch", "-q", "-c", "pair", "main")
    pair = evaluated.merge()
    evaluated.repository.run("switch", "-q", "main")
    evaluated.merge(("pair", "tool-sketch"))
    note = evaluate(evaluated)
    assert note.constituents == (*HELD_IN, "tool-sketch")
    individual = {s.task: s.individual for s in note.scores if s.status == "held-in"}
    assert individual == {task: score(MODELS[task], task) for task in note.constituents}
    assert "tool-real" not in {s.task for s in note.scores}
    assert len(note.scores) == 8
    assert evaluated.repository.commit("pair") == pair


def test_trailers_count_only_where_the_model_is_theirs(evaluated):
    evaluated.merge()
    message = evaluated.repository.text("log", "-1", "--format=%B")
    evaluated.put("other", {}, MODELS["multitask"])
    evaluated.repository.run("commit", "-q", "--amend", "-m", message)
    note = evaluate(evaluated)
    assert note.method is None
    assert [s.pretrained for s in note.scores] == [None] * 4
    assert {s.merged for s in note.scores} == {
        score(MODELS["multitask"], task) for task in HELD_IN + SPANNED
    }


def test_a_constituent_is_evaluated_on_its_own_task(evaluated):
    note = evaluate(evaluated, "fruit-quickdraw")
    assert [(s.task, s.status, s.merged) for s in note.scores] == [
        ("fruit-quickdraw", "held-in", 85.0)
    ]
    assert (note.method, note.spec) == (None, None)


def test_any_model_can_be_evaluated_on_given_tasks(evaluated):
    note = evaluate(evaluated, "multitask", tasks=["bird-sketch"])
    assert [(s.task, s.merged) for s in note.scores] == [("bird-sketch", 68.5)]
    assert evaluating.show(evaluated.repository, "multitask") == ()


def test_a_constituent_that_started_from_another_counts_for_its_own_task(evaluated):
    own = ConstituentDeclaration("second", "plain", "bird-sketch", "model.safetensors")
    evaluated.repository.run("switch", "-q", "-c", "renamed", "fruit-quickdraw")
    evaluated.put("renamed", {own.path: own.toml()}, MODELS["tool-sketch"])
    evaluated.repository.run("switch", "-q", "main")
    evaluated.merge(("renamed", "bird-real"), bases=(evaluated.commits["fruit-quickdraw"],))
    assert evaluate(evaluated).constituents == ("second", "bird-real")


@pytest.mark.parametrize("where", ["config", "origin", "nowhere", "unknown"])
def test_the_multitask_model_may_be_elsewhere(evaluated, where):
    repository = evaluated.repository
    commit = evaluated.commits["multitask"]
    repository.run("branch", "-q", "-D", "multitask")
    if where == "config":
        repository.run("config", "merge-eval.multitask", commit)
    elif where == "unknown":
        repository.run("config", "merge-eval.multitask", "no-such-branch")
    elif where == "origin":
        repository.run("update-ref", "refs/remotes/origin/multitask", commit)
    evaluated.merge()
    note = evaluate(evaluated)
    known = where in ("config", "origin")
    assert (note.average("held-in", "multitask") is not None) == known
    assert len(note.remarks) == (where == "unknown")
    if where == "unknown":
        assert "no-such-branch" in note.remarks[0]
        assert "merge-eval.multitask" in note.remarks[0]


def test_of_two_constituents_of_one_task_the_better_is_the_baseline(evaluated):
    again = ConstituentDeclaration("again", "plain", "fruit-quickdraw", "model.safetensors")
    evaluated.repository.run("switch", "-q", "-c", "again", "main")
    evaluated.put("again", {again.path: again.toml()}, MODELS["multitask"])
    evaluated.repository.run("switch", "-q", "main")
    evaluated.merge(("again", "fruit-quickdraw"))
    note = evaluate(evaluated)
    assert [(s.task, s.individual) for s in note.scores] == [("fruit-quickdraw", 85.0)]


@pytest.mark.parametrize("branch", ["fruit-real", "baselines/fruit-real"])
def test_a_model_of_a_generalization_task_is_its_individual_baseline(evaluated, branch):
    own = (50, 51, 52, 53, 54, 55)
    declarations = {
        branch: ConstituentDeclaration("fruit-real", "plain", "fruit-real", "model.safetensors"),
        # Not for the task that the branch is called by.
        "bird-quickdraw": ConstituentDeclaration("x", "plain", "tool-real", "model.safetensors"),
    }
    for name, declaration in declarations.items():
        evaluated.repository.run("switch", "-q", "-c", name, "main")
        evaluated.put(name, {declaration.path: declaration.toml()}, own)
    evaluated.repository.run("switch", "-q", "main")
    evaluated.merge()
    note = evaluate(evaluated)
    found = {s.task: s.individual for s in note.scores if s.status == "generalization"}
    assert found == {"fruit-real": score(own, "fruit-real"), "bird-quickdraw": None}
    assert note.remarks == ()
    assert "fruit-real" in reporting.note_table(note)


def test_a_baseline_that_cannot_be_read_is_a_remark(evaluated):
    evaluated.merge()
    remove_objects(evaluated.repository, "multitask")
    note = evaluate(evaluated)
    assert note.average("held-in", "multitask") is None
    assert note.average("held-in", "pretrained") is not None
    assert "multitask" in note.remarks[0]


def test_a_merge_that_cannot_be_read_is_an_error_that_names_it(evaluated):
    merge = evaluated.merge()
    remove_objects(evaluated.repository, "HEAD")
    with pytest.raises(MissingObject, match=merge[:10]):
        evaluate(evaluated)
    assert evaluating.show(evaluated.repository) == ()


def remove_objects(repository, revision):
    import json

    metadata = json.loads(repository.blob(repository.blob_id(revision, "model.safetensors")))
    text = json.dumps(metadata)
    removed = [
        file
        for file in (repository.common_directory / "lfs" / "objects").rglob("*")
        if file.is_file() and file.name in text
    ]
    assert removed
    for file in removed:
        file.unlink()


def test_evaluation_leaves_no_file_and_touches_no_work_tree(evaluated):
    evaluated.merge()
    (evaluated.repository.directory / "model.safetensors").write_text("being edited")
    files = [p for p in evaluated.repository.directory.rglob("*") if ".git" not in p.parts]
    before = {p: p.stat().st_mtime_ns for p in files}
    index = (evaluated.repository.git_directory / "index").read_bytes()
    evaluate(evaluated)
    files = [p for p in evaluated.repository.directory.rglob("*") if ".git" not in p.parts]
    assert {p: p.stat().st_mtime_ns for p in files} == before
    assert (evaluated.repository.git_directory / "index").read_bytes() == index
    left = evaluated.repository.common_directory / "gitmerge-eval" / "evaluated"
    assert list(left.iterdir()) == []


def test_a_failing_benchmark_leaves_no_file(evaluated, monkeypatch):
    evaluated.merge()
    monkeypatch.setenv("PLAIN_FAIL", "out of data")
    with pytest.raises(RuntimeError, match="out of data"):
        evaluate(evaluated)
    left = evaluated.repository.common_directory / "gitmerge-eval" / "evaluated"
    assert list(left.iterdir()) == []


def test_what_killed_evaluations_left_is_removed_a_day_later(evaluated):
    left = evaluated.repository.common_directory / "gitmerge-eval" / "evaluated"
    for name in ("old", "new"):
        (left / name).mkdir(parents=True)
    os.utime(left / "old", (1, 1))
    evaluated.merge()
    evaluate(evaluated)
    assert [folder.name for folder in left.iterdir()] == ["new"]


def test_progress_rises_to_one(evaluated):
    evaluated.merge()
    steps = []
    evaluate(evaluated, progress=steps.append)
    completed = [step.completed for step in steps]
    assert completed == sorted(completed)
    assert completed[-1] == pytest.approx(1.0)
    assert len(completed) == 140
    assert {step.model for step in steps} == {"merged", "pretrained", "multitask", *HELD_IN}


def test_a_score_that_is_no_number_is_refused(evaluated):
    evaluated.merge(values=(float("nan"), *MERGED[1:]))
    with pytest.raises(EvaluationError, match="gave nan for the task 'fruit-quickdraw'"):
        evaluate(evaluated)


def constituent(name, **changes):
    fields = {"benchmark": "plain", "task": name, "checkpoint": "model.safetensors"}
    return ConstituentDeclaration(name, **{**fields, **changes})


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ({"benchmark.toml": None}, "has no benchmark.toml, so there is nothing"),
        ({"benchmark.toml": 'name = "plane"\n'}, "did you mean 'plain'.*install the package"),
        (
            {"constituents/fruit-quickdraw.toml": constituent("x", task="fruit-quikdraw").toml()},
            "did you mean 'fruit-quickdraw'.*correct 'task'",
        ),
        (
            {"constituents/fruit-quickdraw.toml": constituent("x", benchmark="other").toml()},
            "'x' is of the benchmark 'other'.*correct 'constituents/x.toml'",
        ),
        ({"constituents/fruit-quickdraw.toml": None}, "declares no task; commit a file"),
        (
            {"constituents/z.toml": constituent("z", task="bird-real", checkpoint="b/z").toml()},
            r"2 checkpoints \(b/z, model.safetensors\); say which",
        ),
        ({"model.safetensors": None}, "has no checkpoint 'model.safetensors'"),
    ],
)
def test_what_is_wrong_with_a_repository_is_said(evaluated, files, complaint):
    repository = evaluated.repository
    repository.run("switch", "-q", "fruit-quickdraw")
    for path, text in files.items():
        if text is None:
            (repository.directory / path).unlink()
    evaluated.put("bad", {path: text for path, text in files.items() if text is not None})
    with pytest.raises(EvaluationError, match=complaint):
        evaluate(evaluated)
    assert evaluated.computed == []


def test_one_of_several_checkpoints_can_be_chosen(evaluated):
    evaluated.repository.run("switch", "-q", "fruit-quickdraw")
    other = constituent("z", task="bird-real", checkpoint="b/z.safetensors")
    data = model(evaluated.repository, MERGED).decode()
    evaluated.put("two", {other.path: other.toml(), "b/z.safetensors": data})
    note = evaluate(evaluated, checkpoint="b/z.safetensors")
    assert [(s.task, s.merged) for s in note.scores] == [("bird-real", 69.0)]
    with pytest.raises(EvaluationError, match=r"no constituent of 'HEAD' has .* 'c'"):
        evaluate(evaluated, checkpoint="c")


@pytest.mark.parametrize(
    ("asked", "configured", "used"),
    [("cpu", "cuda", "cpu"), ("auto", "cpu", "cpu"), ("auto", None, "cpu or cuda")],
)
def test_the_device_is_as_asked_then_as_configured_then_what_there_is(
    evaluated, asked, configured, used
):
    if configured:
        evaluated.repository.run("config", "merge-eval.device", configured)
    note = evaluating.evaluate(evaluated.repository, "fruit-quickdraw", device=asked)
    assert note.device in used.split(" or ")


def test_a_gpu_that_is_not_there_is_refused(evaluated, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EvaluationError, match="'cuda:1' is not there for torch; use 'cpu'"):
        evaluating.evaluate(evaluated.repository, "fruit-quickdraw", device="cuda:1")


def test_a_constituent_that_is_not_in_the_clone_is_named(evaluated):
    absent = "1" * 40
    evaluated.merge(constituents=((absent, "far-away"),))
    with pytest.raises(EvaluationError, match=r"'far-away' \(1111111111\).*--unshallow"):
        evaluate(evaluated)


def test_a_model_replaced_by_hand_is_no_result_of_the_merge(evaluated):
    repository = evaluated.repository
    other = constituent("other", task="fruit-real", checkpoint="other.safetensors")
    files = {other.path: other.toml(), "other.safetensors": model(repository, MERGED).decode()}
    repository.run("switch", "-q", "-c", "other", "main")
    evaluated.put("other", files)
    repository.run("switch", "-q", "main")
    evaluated.put("two models", {"other.safetensors": files["other.safetensors"]})
    merged = model(repository, MERGED)
    records = (
        (repository.write_blob(merged), "model.safetensors"),
        ("2" * 40, "other.safetensors"),
    )
    evaluated.merge(("other", "bird-real"), models=records)
    assert evaluate(evaluated, checkpoint="model.safetensors").method == "mats"
    replaced = evaluate(evaluated, checkpoint="other.safetensors")
    assert (replaced.method, replaced.scores[0].pretrained) == (None, None)


def test_an_unknown_revision_is_a_git_error(evaluated):
    with pytest.raises(GitError, match="'nowhere' is not a commit"):
        evaluate(evaluated, "nowhere")


def test_no_note_is_written_unless_wanted(evaluated):
    evaluated.merge()
    evaluate(evaluated, write_note=False)
    assert notes.read(evaluated.repository, "HEAD") is None


def test_processes_that_evaluate_at_once_agree(evaluated, monkeypatch):
    merge = evaluated.merge()
    monkeypatch.setenv("PYTHONPATH", str(PLAIN))
    code = (
        "import sys; from gitmerge_eval.evaluation import evaluating\n"
        "from gitmerge_eval.git.repository import Repository\n"
        "evaluating.evaluate(Repository(sys.argv[1]), device='cpu')\n"
    )
    command = [os.sys.executable, "-c", code, str(evaluated.repository.directory)]
    running = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    assert len(evaluating.show(evaluated.repository, merge)) == 1


def test_another_clones_other_scores_stay_beside_ones_own_unless_forced(evaluated):
    merge = evaluated.merge()
    note = evaluate(evaluated)
    theirs = reporting.note_record(note)
    theirs["tasks"][0]["merged"] -= 1
    other_data = {**theirs, "tasks": [{**t, "data": "other"} for t in theirs["tasks"]]}
    more = reporting.note_record(note)
    del more["tasks"][0]["pretrained"]
    for old, kept in ((theirs, 1), (other_data, 0), (more, 0)):
        evaluated.repository.run("notes", "--ref=gitmerge-eval", "remove", merge)
        notes.write(evaluated.repository, merge, "their table", old)
        evaluate(evaluated)
        text = notes.read(evaluated.repository, merge)
        assert len(notes.records(text)) == 1 + kept
        assert text.count("another clone measured the same differently") == kept
        assert "their table" not in text
        evaluate(evaluated, force=True)
        assert len(notes.records(notes.read(evaluated.repository, merge))) == 1
