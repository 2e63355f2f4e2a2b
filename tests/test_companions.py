"""Files beside a checkpoint: laid out for an evaluation, part of what a score belongs to."""

import numpy as np
import pytest
from evaluated_repositories import MERGED, MODELS, PLAIN, model, score
from safetensors.numpy import save_file

from gitmerge_eval.errors import EvaluationError
from gitmerge_eval.evaluation import evaluating, reporting
from gitmerge_eval.evaluation.declarations import BenchmarkDeclaration, ConstituentDeclaration
from gitmerge_eval.evaluation.workspace import Companions, companions_at, workspace
from gitmerge_eval.git import configuration, tracking

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
