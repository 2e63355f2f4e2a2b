"""A benchmark's repository, built twice, refused, interrupted; and the first merge on it."""

import json
import shutil
import subprocess
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from evaluated_repositories import PLAIN
from safetensors.numpy import load_file

from gitmerge_eval import benchmarks, building
from gitmerge_eval.checkpoints import statistics_index
from gitmerge_eval.errors import EvaluationError, GitError, UnknownName, UsageError
from gitmerge_eval.evaluation import evaluating
from gitmerge_eval.evaluation.declarations import benchmark_at, constituents_at
from gitmerge_eval.git.repository import Repository

CONSTITUENTS = ("fruit-quickdraw", "bird-real", "tool-sketch")


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    monkeypatch.syspath_prepend(str(PLAIN))
    monkeypatch.setenv("PYTHONPATH", str(PLAIN))


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(PLAIN))
        return building.build("plain", tmp_path_factory.mktemp("built") / "deep" / "repository")


@pytest.fixture
def repository(built):
    return Repository(built.directory)


def test_there_is_a_branch_for_every_model(built, repository):
    branches = repository.text("for-each-ref", "--format=%(refname:short)", "refs/heads")
    assert set(branches.split()) == {"main", "multitask", *CONSTITUENTS}
    assert built.commits == {name: repository.commit(name) for name in branches.split()}
    assert built.constituents == CONSTITUENTS
    for name in (*CONSTITUENTS, "multitask"):
        assert repository.text("merge-base", "main", name) == built.commits["main"]


def test_main_is_checked_out_whole_and_clean(repository):
    assert repository.text("symbolic-ref", "--short", "HEAD") == "main"
    assert repository.text("status", "--porcelain") == ""
    tracked = set(repository.text("ls-files").split())
    assert tracked == {".gitattributes", "README.md", "benchmark.toml", "model.safetensors"}
    assert load_file(repository.directory / "model.safetensors")["fruit"] == [20.0]
    assert not (repository.common_directory / "gitmerge-eval" / "trained").exists()
    assert repository.run("fsck", "--strict", check=False).status == 0


def test_the_files_say_what_each_branch_is(repository):
    assert benchmark_at(repository, "main").name == "plain"
    assert benchmark_at(repository, "main").settings == {"seed": 0}
    for name in CONSTITUENTS:
        (declaration,) = constituents_at(repository, name).values()
        assert (declaration.name, declaration.task) == (name, name)
        assert declaration.benchmark == "plain"
        assert declaration.checkpoint == "model.safetensors"
    readme = repository.blob(repository.blob_id("main", "README.md")).decode()
    for name in (*CONSTITUENTS, "multitask"):
        assert f"`{name}`" in readme


def test_models_are_stored_by_git_theta_and_statistics_belong_to_them(repository):
    for name in CONSTITUENTS:
        blob = repository.blob_id(name, "model.safetensors")
        assert set(json.loads(repository.blob(blob))) >= {"fruit", "sketch"}
        index = statistics_index.parse(
            repository.blob(repository.blob_id(name, "statistics/index.json"))
        )
        assert set(index["model.safetensors"]) == {"fisher", "trimmed"}
        trimmed = index["model.safetensors"]["trimmed"]
        base = repository.blob_id("main", "model.safetensors")
        assert trimmed.options == {"density": 0.2, "base": base}
        for entry in index["model.safetensors"].values():
            assert entry.checkpoint == blob
            metadata = repository.blob(repository.blob_id(name, f"statistics/{entry.path}"))
            assert set(json.loads(metadata)) >= set(entry.layout)


def test_a_branch_checks_out_to_the_model_that_was_trained(repository, tmp_path):
    tree = tmp_path / "tree"
    repository.run("worktree", "add", "-q", "--detach", str(tree), "bird-real")
    values = load_file(tree / "model.safetensors")
    assert (values["bird"], values["real"], values["fruit"]) == ([90.0], [90.0], [20.0])
    repository.run("worktree", "remove", "--force", str(tree))


def test_the_history_reads_well(repository):
    titles = repository.text("log", "--format=%s", "bird-real").splitlines()
    assert titles == [
        "bird-real: statistics for merging",
        "bird-real: fine-tuned on its training split",
        "Pretrained base model of plain",
    ]
    body = repository.text("log", "-1", "--format=%b", "bird-real~1")
    assert body == "category bird, domain real."


def test_the_same_seed_gives_the_same_commits_whatever_the_user_has_configured(
    built, tmp_path, monkeypatch
):
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text(
        "[commit]\n\tgpgSign = true\n\ttemplate = /nowhere\n\tcleanup = strip\n"
        "[core]\n\tautocrlf = true\n[init]\n\tdefaultBranch = trunk\n"
        "[user]\n\tname = Somebody Else\n\temail = else@example.org\n"
    )
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_AUTHOR_DATE", "2001-01-01T00:00:00Z")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    monkeypatch.chdir(tmp_path)
    again = building.build("plain", Path("again ü"))
    assert again.commits == built.commits
    other = building.build("plain", Path("other"), seed=1)
    assert set(other.commits.values()).isdisjoint(built.commits.values())
    assert benchmark_at(Repository(tmp_path / "other"), "main").settings == {"seed": 1}


def test_progress_is_handed_on(tmp_path, monkeypatch):
    monkeypatch.setenv("PLAIN_BUILD_FAILS", "1")
    steps = []
    with pytest.raises(KeyboardInterrupt):
        building.build("plain", tmp_path / "new", progress=lambda *step: steps.append(step))
    assert steps == [("base", 1, 1)]


@pytest.mark.parametrize("existed", [True, False])
def test_an_interrupt_leaves_nothing_behind(tmp_path, monkeypatch, existed):
    monkeypatch.setenv("PLAIN_BUILD_FAILS", "1")
    if existed:
        (tmp_path / "new").mkdir()
    with pytest.raises(KeyboardInterrupt):
        building.build("plain", tmp_path / "new")
    assert list(tmp_path.iterdir()) == ([tmp_path / "new"] if existed else [])
    if existed:
        assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_there_is_not_touched(tmp_path, kind):
    target = tmp_path / "there"
    if kind == "folder":
        target.mkdir()
        (target / "mine").write_text("mine")
    else:
        target.write_text("mine")
    with pytest.raises(UsageError, match="is not an empty folder; name another one"):
        building.build("plain", target)
    assert (target / "mine" if kind == "folder" else target).read_text() == "mine"


def test_unknown_benchmarks_and_those_without_a_recipe_are_refused(tmp_path):
    with pytest.raises(UnknownName, match="did you mean 'plain'"):
        building.build("plane", tmp_path / "new")
    with pytest.raises(EvaluationError, match=r"has no recipe .* choose one of .*plain"):
        building.build("plain-without-recipe", tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_another_repository_in_the_environment_is_left_alone(tmp_path, monkeypatch):
    subprocess.run(["git", "init", "-q", str(tmp_path / "mine")], check=True)
    before = sorted((tmp_path / "mine" / ".git").rglob("*"))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "mine" / ".git"))
    with pytest.raises(UsageError, match="unset it to build a new one"):
        building.build("plain", tmp_path / "new")
    assert sorted((tmp_path / "mine" / ".git").rglob("*")) == before
    assert not (tmp_path / "new").exists()


def test_the_quickstart_merges_by_the_literal_command_and_shows_it(tmp_path, capfd):
    lines = []
    tour = building.quickstart(tmp_path / "tour", name="plain", method="fisher", say=lines.append)
    literal = "git merge --strategy-option=method=fisher fruit-quickdraw bird-real"
    assert f"$ {literal}" in lines
    shown = capfd.readouterr().out
    for words in (
        "Merge made by the 'theta' strategy",
        "Merge-Method: fisher",
        "working tree clean",
    ):
        assert words in shown
    assert "fruit-real" in shown
    repository = Repository(tmp_path / "tour")
    assert tour.merge == repository.commit("HEAD")
    assert len(repository.text("rev-parse", "HEAD^@").split()) == 3
    (note,) = evaluating.show(repository)
    assert [score.task for score in note.scores] == [
        "fruit-quickdraw",
        "bird-real",
        "fruit-real",
        "bird-quickdraw",
    ]
    # Equal Fisher diagonals make it the mean: of 90 and a skill's 20, 21, 23 or 24.
    assert note.average("held-in") == pytest.approx((90 + (20 + 21 + 23 + 24) / 4) / 2)
    assert tour.next_commands[0][0] == f"cd {tmp_path / 'tour'}"


@pytest.fixture
def already_built(built, monkeypatch):
    """The quickstart's repository without the time of building, or of evaluating."""

    def copy(name, directory, **how):
        shutil.copytree(built.directory, directory)
        Repository(directory).run("config", "merge-eval.evaluate", "off")
        return replace(built, directory=directory)

    monkeypatch.setattr(building, "build", copy)


@pytest.mark.usefixtures("already_built")
def test_a_quickstart_whose_merge_fails_keeps_the_repository(tmp_path, capfd):
    with pytest.raises(GitError, match="still there"):
        building.quickstart(tmp_path / "tour", name="plain", method="fischer")
    assert "did you mean 'fisher'" in capfd.readouterr().err
    assert Repository(tmp_path / "tour").text("status", "--porcelain") == ""


@pytest.mark.usefixtures("already_built")
def test_no_progress_is_shown_while_git_has_the_terminal(tmp_path):
    events = []

    @contextmanager
    def progress():
        events.append("shown")
        yield None
        events.append("gone")

    where = tmp_path / "a tour"
    tour = building.quickstart(
        where, name="plain", method="average", progress=progress, say=events.append
    )
    assert events[1:3] == ["shown", "gone"]
    assert events[3].startswith("$ git merge")
    assert tour.next_commands[0][0] == f"cd '{where}'"


@pytest.mark.usefixtures("already_built")
def test_a_quickstart_needs_no_identity(tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text("[user]\n\tuseConfigOnly = true\n")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home))
    tour = building.quickstart(tmp_path / "tour", name="plain", method="average")
    author = Repository(tmp_path / "tour").text("log", "-1", "--format=%an", tour.merge)
    assert author == "gitmerge-eval"


def test_companions_are_committed_from_a_checkpoints_own_folder(tmp_path):
    def build(directory, *, settings, progress):
        models = plain_build(directory, settings=settings, progress=progress)
        (directory / "frozen").mkdir()
        shutil.copyfile(models.base, directory / "frozen" / "offset.safetensors")
        own = directory / "own"
        own.mkdir()
        shutil.copyfile(models.constituents["bird-real"], own / "bird.safetensors")
        (own / "factor.txt").write_text("2")
        constituents = {**models.constituents, "bird-real": own / "bird.safetensors"}
        return replace(models, constituents=constituents)

    beside = benchmarks.get("plain-beside")
    plain_build = beside.build
    recipe = building._Recipe.begin(replace(beside, build=build), made(tmp_path / "new"))
    models = build(tmp_path / "trained", settings={"seed": 0}, progress=None)
    recipe.commit_all(models, 0)
    repository = recipe.repository
    path = "models/skills.safetensors"
    frozen = "models/frozen/offset.safetensors"
    assert json.loads(repository.blob(repository.blob_id("main", frozen)))
    for name in ("bird-real", "tool-sketch", "multitask"):
        assert repository.blob_id(name, frozen) == repository.blob_id("main", frozen)
        assert repository.blob_id(name, path) != repository.blob_id("main", path)
    assert repository.blob(repository.blob_id("bird-real", "models/factor.txt")) == b"2"
    assert repository.blob_id("tool-sketch", "models/factor.txt") is None
    (declaration,) = constituents_at(repository, "tool-sketch").values()
    assert declaration.checkpoint == path
    index = statistics_index.index_path(path)
    assert repository.blob_id("tool-sketch", index)


def made(folder):
    folder.mkdir()
    return folder
