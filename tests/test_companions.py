"""Files beside a checkpoint: laid out for an evaluation, part of what a score belongs to; and what
an evaluation keeps for figures of all tasks, and for how long."""

import fcntl
import os
import re
import subprocess
import sys
import time

import numpy as np
import pytest
from evaluated_repositories import MERGED, MODELS, PLAIN, model, score
from safetensors.numpy import save_file

from gitmerge_eval.errors import EvaluationError
from gitmerge_eval.evaluation import evaluating, reporting, summaries
from gitmerge_eval.evaluation.declarations import BenchmarkDeclaration, ConstituentDeclaration
from gitmerge_eval.evaluation.workspace import Companions, companions_at, workspace
from gitmerge_eval.git import configuration, tracking
from gitmerge_eval.pruning import prune

PATH = "models/skills.safetensors"


@pytest.fixture(autouse=True)
def plain(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(PLAIN))
    monkeypatch.setenv("PLAIN_LOG", str(tmp_path / "log"))
    return tmp_path / "log"


@pytest.fixture
def beside(repository):
    """A repository whose model needs a tracked and a plain file of its folder."""
    configuration.install(repository)
    tracking.track(repository, "*.safetensors")
    folder = repository.directory / "models"
    (folder / "frozen").mkdir(parents=True)
    save_file({"offset": np.array([3.0], np.float32)}, folder / "frozen" / "offset.safetensors")
    (folder / "factor.txt").write_text("0.5")
    declaration = BenchmarkDeclaration("plain-beside", {"seed": 3})
    (repository.directory / "benchmark.toml").write_text(declaration.toml())
    (repository.directory / "constituents").mkdir()
    for name in ("fruit-quickdraw", "bird-real"):
        own = ConstituentDeclaration(name, "plain-beside", name, PATH)
        (repository.directory / own.path).write_text(own.toml())
    put(repository, MERGED)
    return repository


def put(repository, values):
    (repository.directory / PATH).write_bytes(model(repository, values))
    repository.run("add", "--all")
    repository.run("commit", "-q", "--allow-empty", "-m", "model")


def evaluated(repository, log):
    """The note, and how many tasks had to be computed for it."""
    before = log.read_text().count("\n") if log.exists() else 0
    note = evaluating.evaluate(repository, "HEAD", device="cpu")
    return note, log.read_text().count("\n") - before


def test_a_model_is_evaluated_with_what_lies_beside_it(beside, plain):
    note, computed = evaluated(beside, plain)
    assert computed == 4
    assert note.path == PATH
    for found in note.scores:
        assert found.merged == 0.5 * score(MERGED, found.task) + 3.0
    assert evaluated(beside, plain) == (note, 0)


@pytest.mark.parametrize("which", ["plain", "tracked", "new"])
def test_scores_belong_to_the_companions_too(beside, plain, which):
    first, _ = evaluated(beside, plain)
    folder = beside.directory / "models"
    if which == "tracked":
        save_file({"offset": np.array([7.0], np.float32)}, folder / "frozen" / "offset.safetensors")
    elif which == "plain":
        (folder / "factor.txt").write_text("0.25")
    else:
        (folder / "frozen" / "another.txt").write_text("")
    put(beside, MERGED)
    second, computed = evaluated(beside, plain)
    assert computed == 4
    factor, offset = (0.25 if which == "plain" else 0.5), (7.0 if which == "tracked" else 3.0)
    assert second.scores[0].merged == factor * score(MERGED, second.scores[0].task) + offset
    beside.run("reset", "-q", "--hard", "HEAD~1")
    assert evaluated(beside, plain) == (first, 0)


def test_other_files_of_the_repository_do_not_count(beside, plain):
    evaluated(beside, plain)
    (beside.directory / "models" / "notes.txt").write_text("unrelated")
    (beside.directory / "factor.txt").write_text("9")
    put(beside, MERGED)
    assert evaluated(beside, plain)[1] == 0


def test_figures_and_a_sheet_come_with_the_note(beside, plain):
    note, _ = evaluated(beside, plain)
    best = {
        f"best {status}": {"merged": max(s.merged for s in note.scores if s.status == status)}
        for status in ("held-in", "generalization")
    }
    assert note.figures == best
    sheet = beside.common_directory / note.sheet
    assert sheet.read_text().splitlines() == [s.task for s in note.scores]
    commit = beside.commit("HEAD")
    assert note.sheet == f"gitmerge-eval/sheets/{commit[:10]}-test.png"
    text = beside.text("notes", "--ref=gitmerge-eval", "show", commit)
    assert f"pictures: {note.sheet} in the git directory" in text
    assert f"  {'best held-in':<30}{best['best held-in']['merged']:>9.2f}" in text
    (shown,) = evaluating.show(beside, commit)
    assert (shown.figures, shown.sheet) == (note.figures, note.sheet)
    assert reporting.note_line(shown) == reporting.note_line(note)


def test_scores_whose_outputs_are_gone_are_computed_again(beside, plain):
    note, _ = evaluated(beside, plain)
    folders = list((beside.common_directory / "gitmerge-eval" / "outputs").iterdir())
    assert len(folders) == 4
    (folders[0] / "score.txt").unlink()
    folders[0].rmdir()
    again, computed = evaluated(beside, plain)
    assert (again.figures, computed) == (note.figures, 1)


def test_a_symbolic_link_among_the_companions_is_refused(beside):
    (beside.directory / "models" / "frozen" / "link").symlink_to("/etc/passwd")
    put(beside, MODELS["main"])
    with pytest.raises(EvaluationError, match=r"'models/frozen/link' .* is no plain file"):
        evaluating.evaluate(beside, "HEAD", device="cpu")


def test_companions_are_smudged_once_and_the_workspace_leaves_nothing(beside, tmp_path):
    blob = beside.blob_id("HEAD", PATH)
    found = companions_at(beside, "HEAD", PATH, ("factor.txt", "frozen", "missing"))
    assert list(found.blobs) == ["factor.txt", "frozen/offset.safetensors"]
    assert found.tensors == {"frozen/offset.safetensors"}
    parent = tmp_path / "room"
    with workspace(beside, parent) as room:
        with room.laid_out(blob, PATH, found) as first:
            names = {p.relative_to(first.parent).as_posix() for p in first.parent.rglob("*.*")}
            assert names == {"factor.txt", "frozen/offset.safetensors", "skills.safetensors"}
            inode = (first.parent / "frozen" / "offset.safetensors").stat().st_ino
        with room.laid_out(blob, PATH, found) as second:
            assert (second.parent / "frozen" / "offset.safetensors").stat().st_ino == inode
    assert list(parent.iterdir()) == []
    assert companions_at(beside, "HEAD", PATH, ()) == Companions()
    assert Companions().digest == ""


# --- what is kept of scores, and gc --------------------------------------------------------------


def kept(repository):
    """The folders of scores, and the sheets."""
    folder = repository.common_directory / "gitmerge-eval"
    return set((folder / "outputs").glob("*")), set((folder / "sheets").glob("*"))


def aged(repository):
    """All that evaluations kept, made old."""
    for found in kept(repository):
        for path in found:
            for file in (*path.rglob("*"), path):
                os.utime(file, (1e9, 1e9))


def forget_the_last_commit(repository):
    repository.run("reset", "-q", "--hard", "HEAD^")
    repository.run("reflog", "expire", "--expire=now", "--expire-unreachable=now", "--all")
    repository.run("gc", "--quiet", "--prune=now")


@pytest.fixture
def twice(beside, plain):
    """Two evaluated commits of one file that evaluations keep each; what the first has of it."""
    evaluated(beside, plain)
    first = kept(beside)
    put(beside, MODELS["multitask"])
    evaluated(beside, plain)
    aged(beside)
    assert [len(found) for found in kept(beside)] == [8, 2]
    return beside, first


def test_gc_keeps_what_a_note_or_a_score_of_a_checkpoint_that_is_here_refers_to(twice):
    repository, _ = twice
    before = kept(repository)
    assert prune(repository, older_than_days=0).evaluated == ()
    repository.run("reset", "-q", "--hard", "HEAD^")  # the reflog knows it
    assert prune(repository, older_than_days=0).evaluated == ()
    assert kept(repository) == before


def test_gc_removes_what_was_kept_of_a_model_that_is_gone(twice, plain):
    repository, first = twice
    forget_the_last_commit(repository)
    outputs, sheets = kept(repository)
    said = subprocess.run(
        [sys.executable, "-m", "gitmerge_eval", "gc", "--dry-run"],
        cwd=repository.directory, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert re.search(
        r"^would remove 5 outputs \(.* k?B\) of evaluations that nothing refers to$",
        said.stdout,
        re.M,
    )
    planned = prune(repository, dry_run=True).evaluated
    assert kept(repository) == (outputs, sheets)
    done = prune(repository).evaluated
    assert planned == done
    gone = {repository.common_directory / leftover.path for leftover in done}
    assert gone == (outputs - first[0]) | (sheets - first[1])
    assert all(leftover.size > 0 for leftover in done)
    assert kept(repository) == first
    # Nothing that is still here has to be computed again.
    assert evaluated(repository, plain)[1] == 0
    assert prune(repository, older_than_days=0).evaluated == ()


def test_gc_keeps_what_was_written_lately(twice):
    repository, _ = twice
    forget_the_last_commit(repository)
    for path in kept(repository)[0]:
        os.utime(path, (time.time() - 86_400, time.time() - 86_400))
    assert len(prune(repository, dry_run=True).evaluated) == 1  # the sheet
    assert len(prune(repository, older_than_days=0.5, dry_run=True).evaluated) == 5


@pytest.mark.parametrize("ref", ["refs/notes/gitmerge-eval", "refs/notes/origin/gitmerge-eval"])
def test_gc_keeps_a_sheet_for_as_long_as_a_note_names_it(twice, ref):
    repository, _ = twice
    before = kept(repository)
    repository.run("update-ref", ref, "refs/notes/gitmerge-eval")
    if ref != "refs/notes/gitmerge-eval":
        repository.run("update-ref", "-d", "refs/notes/gitmerge-eval")
    assert prune(repository, older_than_days=0).evaluated == ()
    repository.run("update-ref", "-d", ref)
    removed = prune(repository, older_than_days=0).evaluated
    assert [leftover.path.split("/")[1] for leftover in removed] == ["sheets", "sheets"]
    assert kept(repository) == (before[0], set())


def test_gc_removes_a_folder_whose_score_was_never_computed(twice):
    repository, _ = twice
    folder = repository.common_directory / "gitmerge-eval/outputs" / ("0" * 64)
    folder.mkdir()
    (folder / "half").write_text("a picture")
    assert prune(repository).evaluated == ()
    aged(repository)
    assert [leftover.size for leftover in prune(repository).evaluated] == [9]
    assert not folder.exists()


def test_gc_leaves_all_of_it_to_an_evaluation_that_runs(twice, plain, monkeypatch):
    repository, _ = twice
    forget_the_last_commit(repository)
    before = kept(repository)
    seen = []
    original = evaluating._note

    def during(*arguments):
        seen.append(prune(repository, older_than_days=0))
        return original(*arguments)

    monkeypatch.setattr(evaluating, "_note", during)
    assert evaluated(repository, plain)[1] == 0
    (pruned,) = seen
    assert pruned.evaluated == ()
    assert any("an evaluation is running here" in notice for notice in pruned.notices)
    assert kept(repository) == before
    assert len(prune(repository, older_than_days=0).evaluated) == 5


def test_an_evaluation_waits_for_a_gc_and_two_evaluations_do_not_wait(twice):
    repository, _ = twice
    folder = repository.common_directory / "gitmerge-eval"
    with summaries.in_use(folder), summaries.in_use(folder), summaries.unused(folder) as free:
        assert not free
    with summaries.unused(folder) as free, (folder / "evaluations.lock").open("w") as lock:
        assert free
        with pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
