"""drop and remerge: the merge that HEAD's model is, made again as an ordinary commit on top."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest
from evaluated_repositories import MODELS, PLAIN, Evaluated, score
from models import MODEL, ModelRepository, base_model, fine_tuned, statistics_for
from small_repositories import copied, left_over, settle

from gitmerge_eval.errors import GitError, InvalidOption, MergeRefused, UnknownName
from gitmerge_eval.evaluation import evaluating
from gitmerge_eval.git import configuration, tracking, trailers
from gitmerge_eval.remerging import remerge
from gitmerge_eval.verifying import verify

BASE = base_model()
TOML = 'name = "{0}"\nbenchmark = "plain"\ntask = "{0}"\ncheckpoint = "model.safetensors"\n'


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """main is the TIES merge of a, b and c; 'two' is that of a and b, 'solved' one by RegMean."""
    made = ModelRepository(tmp_path_factory.mktemp("template") / "model", BASE)
    for number, name in enumerate("abc"):
        files = {f"{name}.txt": "new\n", f"constituents/{name}.toml": TOML.format(name)}
        made.branch(name, fine_tuned(BASE, number), statistics_for(BASE, number), files=files)
    made.run("branch", "start")
    made.merge("-Xmethod=ties", "-Xdensity=0.3", "a", "b", "c")
    made.run("switch", "--quiet", "--create", "two", "start")
    made.merge("-Xmethod=ties", "-Xdensity=0.3", "a", "b")
    made.run("switch", "--quiet", "--create", "solved", "start")
    made.merge("-Xmethod=regmean", "a", "b", "c")
    made.run("switch", "--quiet", "main")
    settle(made)
    return made


@pytest.fixture
def repository(template, tmp_path):
    return copied(template, tmp_path / "model")


def blob(repository, revision="HEAD", path=MODEL):
    return repository.git.blob_id(revision, path)


def test_dropping_gives_the_merge_of_the_rest(repository):
    before = repository.git.commit("HEAD")
    done = remerge(repository.git, ["c"])
    assert done.commit == repository.git.commit("HEAD")
    assert repository.git.text("log", "-1", "--format=%P") == before
    assert blob(repository) == blob(repository, "two")
    record, other = (trailers.read(repository.git, one) for one in ("HEAD", "two"))
    assert record.lines() == other.lines()
    assert repository.git.text("log", "-1", "--format=%s") == f"Drop 'c' from the merge of {MODEL}"
    # What c declared goes, its other files stay and are said.
    assert done.removed == ("constituents/c.toml",)
    assert blob(repository, path="constituents/c.toml") is None
    assert not (repository.folder / "constituents/c.toml").exists()
    assert blob(repository, path="constituents/a.toml")
    assert "what 'c' brought beside stays: c.txt" in done.remarks
    assert (repository.folder / "c.txt").exists()
    assert repository.run("status", "--porcelain").stdout == ""
    assert repository.folder.joinpath(MODEL).stat().st_size > 0
    assert verify(repository.git, "HEAD").sound
    assert left_over(repository.folder / ".git/gitmerge-eval") == set()
    assert not repository.git.path("SQUASH_MSG").exists()


def test_a_revert_of_a_drop_gives_the_old_merge_back(repository):
    merged = blob(repository)
    remerge(repository.git, ["c"])
    repository.run("revert", "--no-edit", "HEAD")
    assert blob(repository) == merged
    assert blob(repository, path="constituents/c.toml")
    # It is the merge of three again, for whatever comes next.
    done = remerge(repository.git, ["b"], dry_run=True)
    assert done.models[0].constituents == ("a", "c")


def test_by_another_method(repository):
    before = repository.git.commit("HEAD")
    done = remerge(repository.git, items=[("method", "regmean")])
    assert (done.models[0].method, done.models[0].constituents) == ("regmean", ("a", "b", "c"))
    assert repository.git.text("log", "-1", "--format=%P") == before
    # The statistics are settled as in that merge, too.
    files = {line.split("\t")[1]: line.split()[2] for line in
             repository.git.text("ls-tree", "-r", "HEAD").splitlines()}  # fmt: skip
    same = {line.split("\t")[1]: line.split()[2] for line in
            repository.git.text("ls-tree", "-r", "solved").splitlines()}  # fmt: skip
    assert files == same
    assert repository.run("status", "--porcelain").stdout == ""
    # And back, with one option changed: the others are those of the merge.
    remerge(repository.git, items=[("method", "ties"), ("density", "0.3")])
    assert blob(repository) == blob(repository, before)
    remerge(repository.git, items=[("scale", "0.5")])
    record = trailers.read(repository.git, "HEAD")
    assert (record.method, record.options["scale"], record.options["density"]) == ("ties", 0.5, 0.3)
    assert verify(repository.git, "HEAD").sound


def test_the_very_same_merge_is_nothing_to_do(repository):
    before = repository.state()
    done = remerge(repository.git)
    assert (done.commit, repository.state()) == (None, before)
    assert "is this very merge already" in done.remarks[0]


def test_after_a_merge_of_merges_and_a_drop(repository):
    """Leaves of nested merges are dropped by name, and what comes next is merged with the rest."""
    repository.run("switch", "--quiet", "two")
    repository.merge("-Xmethod=ties", "-Xdensity=0.3", "-Xconstituents=heads", "c")
    remerge(repository.git, ["a"])
    assert [n for _, n in trailers.read(repository.git, "HEAD").constituents] == ["b", "c"]
    repository.branch("d", fine_tuned(BASE, 9), start="start")
    repository.run("switch", "--quiet", "two")
    repository.merge("-Xmethod=average", "d")
    assert [n for _, n in trailers.read(repository.git, "HEAD").constituents] == ["b", "c", "d"]


def test_two_models_of_which_one_has_the_constituent(repository):
    repository.run("switch", "--quiet", "start")
    repository.save(BASE, "other.safetensors")
    base = repository.commit("a second model")
    for number, name in enumerate("pqr"):
        repository.run("switch", "--quiet", "--create", name, base)
        repository.save(fine_tuned(BASE, 60 + number))
        if name != "r":
            repository.save(fine_tuned(BASE, 70 + number), "other.safetensors")
        repository.commit(name)
    repository.run("switch", "--quiet", "start")
    repository.merge("-Xmethod=average", "p", "q", "r")
    before = blob(repository, path="other.safetensors")
    done = remerge(repository.git, ["r"])
    assert [(m.path, m.constituents) for m in done.models] == [(MODEL, ("p", "q"))]
    assert blob(repository, path="other.safetensors") == before
    assert verify(repository.git, "HEAD").sound
    # The other model is a merge as before: both lose 'q' at once.
    done = remerge(repository.git, ["q"])
    assert {m.path for m in done.models} == {MODEL, "other.safetensors"}
    assert verify(repository.git, "HEAD").sound


@pytest.mark.parametrize(
    ("names", "items", "error", "message"),
    [
        (["cc"], [], UnknownName, r"unknown constituent 'cc'; did you mean 'c'\? \(known: a, b, c"),
        (["a", "b", "c"], [], MergeRefused, "the last constituent cannot be dropped"),
        (["c"], [("method", "tise")], UnknownName, "did you mean 'ties'"),
        (["c"], [("weights", "1,2")], Exception, "method 'ties' has no option 'weights'"),
        ([], [("method", "average"), ("weights", "1,2")], InvalidOption, "2 numbers for 3"),
    ],
)
def test_what_is_refused_leaves_all_as_it_is(repository, names, items, error, message):
    before = repository.state()
    with pytest.raises(error, match=message):
        remerge(repository.git, names, items)
    assert repository.state() == before
    assert left_over(repository.folder / ".git/gitmerge-eval") == set()


def test_heads_that_are_no_merge(repository):
    repository.run("switch", "--quiet", "a")
    with pytest.raises(MergeRefused, match=rf"HEAD's model is no merge \('{MODEL}'\)"):
        remerge(repository.git, ["b"])
    repository.run("switch", "--quiet", "main")
    repository.save(fine_tuned(BASE, 40))
    repository.commit("trained on")
    with pytest.raises(MergeRefused, match="was changed after its merge"):
        remerge(repository.git, ["b"])


def test_weights_have_to_be_named_anew(repository):
    remerge(repository.git, items=[("method", "average"), ("weights", "1,2,3")])
    with pytest.raises(InvalidOption, match=r"merged with weights=1.0,2.0,3.0.*-X weights"):
        remerge(repository.git, ["b"])
    remerge(repository.git, ["b"], [("weights", "1,3")])
    assert trailers.read(repository.git, "HEAD").options["weights"] == [1.0, 3.0]


def test_work_that_would_be_lost(repository):
    repository.save(fine_tuned(BASE, 40))
    before = repository.state()
    with pytest.raises(MergeRefused, match=f"your changes to {MODEL} would be overwritten"):
        remerge(repository.git, ["c"])
    assert repository.state() == before
    repository.run("add", MODEL)
    with pytest.raises(MergeRefused, match="staged changes"):
        remerge(repository.git, ["c"])
    repository.run("reset", "--quiet", "--hard")
    (repository.folder / "constituents/c.toml").write_text("edited\n")
    with pytest.raises(MergeRefused, match="your changes to constituents"):
        remerge(repository.git, ["c"])
    assert (repository.folder / "constituents/c.toml").read_text() == "edited\n"
    repository.run("reset", "--quiet", "--hard")
    repository.run("revert", "--no-commit", "-m", "1", "HEAD")
    with pytest.raises(MergeRefused, match="a revert is not finished"):
        remerge(repository.git, ["c"])


def test_a_hook_that_refuses_the_commit(repository):
    hook = repository.folder / ".git/hooks/pre-commit"
    hook.write_text("#!/bin/sh\necho 'not today' >&2\nexit 1\n")
    hook.chmod(0o755)
    with pytest.raises(GitError, match=r"(?s)staged.*not today.*git commit"):
        remerge(repository.git, ["c"])
    hook.unlink()
    # What waits is a merge of ours: committed by hand it has its trailers.
    repository.run("commit", "--quiet", "--no-edit")
    assert blob(repository) == blob(repository, "two")
    assert verify(repository.git, "HEAD").sound
    assert repository.git.text("log", "-1", "--format=%s").startswith("Drop 'c'")


def test_the_commands(repository):
    def run(*arguments, status=0):
        command = [sys.executable, "-m", "gitmerge_eval", *arguments]
        done = subprocess.run(command, cwd=repository.folder, capture_output=True, text=True)
        assert done.returncode == status, f"{done.stdout}\n{done.stderr}"
        return done

    before = repository.state()
    said = run("drop", "c", "--dry-run").stdout
    assert f"{MODEL}: would be merged by ties of a, b, without c" in said
    assert "would be removed: constituents/c.toml" in said
    assert repository.state() == before
    found = json.loads(run("drop", "c", "--json", "-m", "c had no licence").stdout)
    assert found["commit"] == repository.git.commit("HEAD")
    assert repository.git.text("log", "-1", "--format=%s") == "c had no licence"
    assert found["models"][0]["dropped"] == ["c"]
    wrong = run("drop", "x", status=2)
    assert wrong.stderr.startswith("gitmerge-eval: unknown constituent 'x'")
    run("remerge", "-X", "method=average")
    assert trailers.read(repository.git, "HEAD").method == "average"


@pytest.fixture
def evaluated(tmp_path, monkeypatch):
    """The TIES merge of three models of a handful of numbers, evaluated."""
    monkeypatch.syspath_prepend(str(PLAIN))
    monkeypatch.setenv("PYTHONPATH", str(PLAIN))
    made = Evaluated.make(tmp_path / "evaluated")
    monkeypatch.setenv("PLAIN_LOG", str(made.log))
    configuration.install(made.repository)
    tracking.track(made.repository, "*.safetensors")
    made.repository.run("add", "--all")
    made.repository.run("commit", "--quiet", "-m", "tracked")
    heads = ("fruit-quickdraw", "bird-real", "tool-sketch")
    made.repository.run("merge", "--no-edit", "-Xmethod=average", *heads)
    return made


def test_old_and_new_are_evaluated_side_by_side(evaluated):
    repository = evaluated.repository
    command = [sys.executable, "-m", "gitmerge_eval", "drop", "tool-sketch", "--json"]
    done = subprocess.run(command, cwd=repository.directory, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = {(one["status"], one["task"]): one for one in json.loads(done.stdout)["comparison"]}
    models = [MODELS[name] for name in ("fruit-quickdraw", "bird-real", "tool-sketch")]
    three, two = (
        [sum(values) / count for values in zip(*models[:count], strict=True)] for count in (3, 2)
    )
    for task in ("fruit-quickdraw", "bird-real"):
        one = found["held-in", task]
        assert one["before"] == pytest.approx(score(three, task), abs=1e-3)
        assert one["now"] == pytest.approx(score(two, task), abs=1e-3)
    gone = found["held-in", "tool-sketch"]
    assert (gone["before"], gone["now"]) == (
        pytest.approx(score(three, "tool-sketch"), abs=1e-3),
        None,
    )
    (note,) = evaluating.show(repository, "HEAD")
    assert (note.method, note.constituents) == ("average", ("fruit-quickdraw", "bird-real"))
    # The same in words, and without an evaluation where the configuration wants none.
    repository.run("config", "merge-eval.evaluate", "off")
    again = subprocess.run(
        [*command[:3], "remerge", "-Xmethod=task-arithmetic"],
        cwd=repository.directory, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "merged by task-arithmetic of fruit-quickdraw, bird-real" in again.stdout
    assert "change" not in again.stdout
    assert evaluating.show(repository, "HEAD") == ()


@pytest.mark.parametrize("point", ["_apply", "swap_index"])
def test_killed_while_it_lands(repository, point):
    before = repository.state()
    code = (
        "import os, signal\n"
        "from gitmerge_eval.git import landing\n"
        "from gitmerge_eval.git.repository import Repository\n"
        "from gitmerge_eval.remerging import remerge\n"
        f"original = landing.{point}\n"
        "def killed(*arguments):\n"
        "    original(*arguments)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        f"landing.{point} = killed\n"
        "remerge(Repository.here(), ['c'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=repository.folder, check=False)
    assert done.returncode == -signal.SIGKILL
    assert repository.git.commit("HEAD") == before[0]
    if point == "swap_index":
        # All of it is in the index: the commit that is still to be made gets its trailers.
        repository.run("commit", "--quiet", "--no-edit")
    else:
        done = remerge(repository.git, ["c"])
        assert "undid an interrupted merge" in done.remarks[0]
    assert blob(repository) == blob(repository, "two")
    assert verify(repository.git, "HEAD").sound
    assert repository.run("status", "--porcelain").stdout == ""
