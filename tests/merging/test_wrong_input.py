"""Wrong input: a message with the remedy, Git's exit status, and everything as it was."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import torch
from models import MODEL, ModelRepository, statistics_for
from small_repositories import BASE, LINES, copied, edited, left_over, settle

from gitmerge_eval import strategy
from gitmerge_eval.checkpoints.metadata import Metadata

SMALL = {**BASE, "w": torch.tensor([1.0, 2.0])}


def tuned(*values):
    return {**SMALL, "w": torch.tensor(values)}


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    made = ModelRepository(tmp_path_factory.mktemp("template") / "model", SMALL, text=LINES)
    made.branch("a", tuned(1.0, 3.0), files={"notes.txt": edited("a", 3)})
    made.branch("b", tuned(4.0, 2.0), files={"new.txt": "b\n"})
    made.branch("nan", tuned(float("nan"), 2.0))
    made.branch("infinite", tuned(float("inf"), 2.0))
    made.branch("wide", {**BASE, "w": torch.zeros(3)})
    made.branch("removed", files={"x": "x"})
    made.run("switch", "--quiet", "removed")
    made.run("rm", "--quiet", MODEL)
    made.commit("no model")
    made.run("switch", "--quiet", "main")
    for number, name in enumerate(("with-1", "with-2")):
        made.branch(name, tuned(1.0, 5.0 + number), statistics_for(SMALL, number))
    made.run("switch", "--quiet", "--create", "stale", "with-1")
    made.save(tuned(1.0, 9.0))
    made.commit("trained on, statistics not computed again")
    made.run("switch", "--quiet", "main")
    settle(made)
    return made


@pytest.fixture
def repository(template, tmp_path):
    return copied(template, tmp_path / "model")


def refused(repository, *arguments, status=2):
    """What Git and we say; everything is as before."""
    before = repository.state()
    done = repository.merge(*arguments, status=status)
    assert "Traceback" not in done.stderr, done.stderr
    assert repository.state() == before
    assert not left_over(repository.git.path("gitmerge-eval"))
    return done.stderr


OPTIONS = {
    "-Xdensty=0.3 -Xmethod=ties": "unknown strategy option 'densty'; did you mean 'density'?",
    "-Xmethod=tise": "unknown merge method 'tise'; did you mean 'ties'?",
    "-Xmethod=ties -Xdensity=1.5": "option 'density' is '1.5', which is not a number in (0, 1]",
    "-Xmethod=ties -Xdensity": "option 'density' needs a value: density=<value>",
    "-Xmethod=mats -Xiterations=2.5": "option 'iterations' is '2.5', which is not a whole number",
    "-Xmethod=average -Xweights=0.2,0.3,0.5": "has 3 numbers for 2 constituents",
    "-Xmethod=average -Xdevice=cuda": "sees no CUDA device; use device=cpu",
    "-Xmethod=average -Xdevice=tpu": "not one of auto, cpu, cuda, cuda:<n>",
    "-Xmethod=average -Xaccumulate=float16": "not one of auto, float32, float64",
    "-Xmethod=average -Xrank=2": "option 'rank' is for adapters, and 'model.safetensors' is none",
    "-Xmethod=average -Xbase=nowhere": "'nowhere' is not a commit in this repository",
    "-Xmethod=fisher": "'fisher' needs the statistic 'fisher', which branches 'a', 'b' do not have",
    "-Xmethod=mats -Xinit=nowhere": "'nowhere' is not a commit in this repository",
}


def test_options(repository):
    for options, message in OPTIONS.items():
        if torch.cuda.is_available() and "cuda" in options:
            continue
        heads = ("with-1", "with-2") if "init" in options else ("a", "b")
        assert message in refused(repository, *options.split(), *heads), options


def test_statistics(repository):
    said = refused(repository, "-Xmethod=regmean", "with-1", "stale")
    assert "'gram' of branch 'stale' was computed on another version" in said
    assert "run 'gitmerge-eval stats gram' on that branch" in said
    repository.run("switch", "--quiet", "with-2")
    (repository.folder / "statistics/index.json").write_text('{"model.safetensors": {\n<<<<<<<')
    repository.commit("torn")
    repository.run("switch", "--quiet", "main")
    said = refused(repository, "-Xmethod=average", "with-1", "with-2")
    assert "'statistics/index.json' of 'with-2': statistics/index.json is not readable" in said


def test_shapes_in_conflict(repository):
    said = refused(repository, "a", "wide")
    assert "1 parameter groups cannot be merged" in said
    assert "w: 'wide' has float32[3], the base has float32[2]" in said
    assert "bring these groups to one shape" in said
    said = refused(repository, "a", "removed")
    assert "deleted on one branch, changed on another" in said

    repository.run("switch", "--quiet", "a")
    before = repository.state()
    for other, numbers in (("wide", (1, 2, 3)), ("removed", (1, 2))):
        done = repository.merge(other, status=1)
        assert f"CONFLICT (model): '{MODEL}'" in done.stdout
        commits = {1: "main", 2: "a", 3: other}
        assert repository.git.text("ls-files", "--unmerged").splitlines() == [
            f"100644 {repository.git.blob_id(commits[n], MODEL)} {n}\t{MODEL}" for n in numbers
        ]
        assert torch.equal(repository.tensors()["w"], torch.tensor([1.0, 3.0]))
        assert repository.git.path("MERGE_HEAD").exists()
        repository.run("merge", "--abort")
        assert repository.state() == before
    repository.merge("wide", status=1)
    repository.run("checkout", "--theirs", MODEL)
    assert repository.tensors()["w"].shape == (3,)
    repository.run("commit", "--all", "--quiet", "--no-edit")
    assert repository.git.blob_id("HEAD", MODEL) == repository.git.blob_id("wide", MODEL)
    assert "Merge-Method" not in repository.git.text("log", "-1", "--format=%B")


def lfs_object(repository, revision, group):
    blob = repository.git.run("cat-file", "blob", f"{revision}:{MODEL}").stdout
    name = Metadata.parse(blob).groups[group].object_id
    return name, repository.folder / ".git/lfs/objects" / name[:2] / name[2:4] / name


def test_objects_that_are_missing_or_corrupt(repository):
    name, path = lfs_object(repository, "a", "w")
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    said = refused(repository, "a", "b")
    assert f"LFS object {name[:12]} does not have the bytes its name promises" in said
    assert f"group 'w' of '{MODEL}'" in said
    assert "'a'" in said
    path.unlink()
    assert f"LFS object {name[:12]} is not in" in refused(repository, "a", "b")


def test_values_that_are_no_numbers(repository):
    for name in ("nan", "infinite"):
        said = refused(repository, "-Xmethod=average", "a", name)
        assert f"group 'w' of '{MODEL}': branch '{name}': it holds NaN or infinity" in said


def test_metadata_that_was_merged_as_text(repository):
    repository.run("switch", "--quiet", "b")
    text = repository.git.text("show", f"HEAD:{MODEL}").replace('"w"', '<<<<<<< a\n"w"')
    blob = repository.git.write_blob(text.encode())
    repository.run("update-index", "--cacheinfo", f"100644,{blob},{MODEL}")
    repository.run("commit", "--quiet", "-m", "torn")
    repository.run("switch", "--quiet", "--force", "--detach", "main", status=None)
    repository.run("reset", "--quiet", "--hard", "main")
    said = refused(repository, "a", "b")
    assert f"'{MODEL}' of 'b': not git-theta metadata" in said


def test_a_truncated_model_is_refused_at_add(repository):
    file = repository.folder / MODEL
    file.write_bytes(file.read_bytes()[:-3])
    done = repository.run("add", MODEL, status=128)
    assert f"'{MODEL}': truncated safetensors" in done.stderr
    assert repository.git.blob_id("", MODEL) == repository.git.blob_id("HEAD", MODEL)


def test_work_of_the_users_is_in_the_way(repository):
    folder = repository.folder
    (folder / "other.txt").write_text("staged")
    repository.run("add", "other.txt")
    assert "your index has staged changes" in refused(repository, "a", "b")
    repository.run("reset", "--quiet")
    (folder / "other.txt").unlink()

    model = (folder / MODEL).read_bytes()
    repository.save(tuned(7.0, 7.0))
    assert f"your changes to {MODEL} would be overwritten" in refused(repository, "a", "b")
    said = refused(repository, "--autostash", "a", "b")
    assert f"the autostash holds changes to {MODEL}" in said
    assert repository.git.text("stash", "list") == ""
    (folder / MODEL).write_bytes(model)
    repository.run("update-index", "--refresh")

    (folder / "notes.txt").write_text("mine\n")
    assert "local files would be overwritten by the merge" in refused(repository, "a", "b")
    (folder / "notes.txt").write_text(LINES)
    (folder / "new.txt").write_text("mine\n")
    assert "new.txt" in refused(repository, "a", "b")
    (folder / "new.txt").unlink()

    # What the merge does not touch may be in any state.
    attributes = (folder / ".gitattributes").read_text() + "# mine\n"
    (folder / ".gitattributes").write_text(attributes)
    repository.merge("a", "b")
    assert (folder / ".gitattributes").read_text() == attributes
    assert repository.run("status", "--porcelain").stdout == " M .gitattributes\n"


def test_an_untracked_file_or_link_where_a_model_would_be_written(repository, tmp_path):
    for name in ("a", "b"):
        repository.run("switch", "--quiet", "--create", f"{name}-more", name)
        repository.save(tuned(1.0, 1.0), "sub/more.safetensors")
        repository.commit("one more")
    repository.run("switch", "--quiet", "main")
    outside = tmp_path / "outside"
    outside.mkdir()
    (repository.folder / "sub").symlink_to(outside)
    refused(repository, "a-more", "b-more")
    assert list(outside.iterdir()) == []
    (repository.folder / "sub").unlink()
    (repository.folder / "sub").mkdir()
    (repository.folder / "sub/more.safetensors").write_text("mine")
    said = refused(repository, "a-more", "b-more")
    assert "the untracked file 'sub/more.safetensors' would be overwritten" in said


def test_unrelated_histories(repository):
    repository.run("switch", "--quiet", "--orphan", "alien")
    (repository.folder / ".gitattributes").write_text("*.safetensors filter=theta merge=theta\n")
    repository.save(tuned(5.0, 5.0))
    repository.commit("from elsewhere")
    repository.run("switch", "--quiet", "a")
    assert "refusing to merge unrelated histories" in refused(repository, "alien", status=128)
    strange = ("--allow-unrelated-histories", "alien")
    said = refused(repository, "-Xmethod=ties", *strange)
    assert "'ties' needs the base's 'model.safetensors'" in said
    assert "--strategy-option=base=<revision>" in said
    repository.run("switch", "--quiet", "--detach", "a")
    repository.run("rm", "--quiet", ".gitattributes")
    repository.run("commit", "--quiet", "-m", "no attributes in the way")
    (repository.folder / ".git/info/attributes").write_text("*.safetensors filter=theta\n")
    repository.merge("-Xmethod=average", *strange)
    assert torch.equal(repository.tensors("HEAD")["w"], torch.tensor([3.0, 4.0]))


def test_a_result_that_does_not_fit_its_dtype(tmp_path):
    base = {"w": torch.tensor([6e4, 0.0], dtype=torch.float16)}
    repository = ModelRepository(tmp_path / "model", base)
    for name in ("a", "b"):
        repository.branch(name, {"w": torch.tensor([6.5e4, len(name)], dtype=torch.float16)})
    said = refused(repository, "-Xmethod=task-arithmetic", "-Xscale=1", "a", "b")
    assert "the merged values do not fit float16; choose a smaller scale" in said


def test_a_git_directory_that_cannot_be_written(repository):
    blocker = repository.git.path("gitmerge-eval")
    for file in blocker.iterdir():
        file.unlink()
    blocker.rmdir()
    blocker.write_text("a file in the folder's place")
    before = repository.state()
    done = repository.merge("a", "b", status=2)
    assert "nothing was changed" in done.stderr
    assert "Traceback" not in done.stderr
    assert repository.state() == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_git_directory(repository):
    git = repository.folder / ".git"
    before = repository.state()
    git.chmod(0o555)
    try:
        repository.merge("a", "b", status=None)
    finally:
        git.chmod(0o755)
    assert repository.state() == before


def test_the_strategy_run_by_hand(repository, capsys, monkeypatch):
    monkeypatch.chdir(repository.folder)
    done = subprocess.run(
        ["git-merge-theta"], cwd=repository.folder, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("gitmerge-eval: git-merge-theta is started by 'git merge'")
    assert done.stderr.count("\n") == 1


def test_a_bug_of_ours_is_not_taken_for_a_conflict(repository, tmp_path):
    """Python's exit status 1 would make Git commit a merge that never was."""
    broken = tmp_path / "broken" / "msgpack"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise RuntimeError('a broken installation')\n")
    before = repository.state()
    done = subprocess.run(
        ["git", "merge", "a", "b"],
        cwd=repository.folder,
        env={**os.environ, "PYTHONPATH": str(broken.parent)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert "unexpected error, nothing was changed" in done.stderr
    assert repository.state() == before
    assert Path(strategy.__file__).name == "strategy.py"
