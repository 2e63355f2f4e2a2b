"""verify over a range: each misuse is first let through by what has no protection, then found."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys

import pytest
from audited_repositories import (
    BASE,
    amended,
    built,
    forge,
    found,
    kinds,
    plain_server,
    with_one,
)
from models import MODEL, fine_tuned
from small_repositories import copied

from gitmerge_eval import cli
from gitmerge_eval.checkpoints.lfs import ObjectStore
from gitmerge_eval.checkpoints.metadata import Metadata
from gitmerge_eval.errors import GitError, InvalidOption, UsageError
from gitmerge_eval.git import history
from gitmerge_eval.git.repository import Repository
from gitmerge_eval.verifying import verify


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return built(tmp_path_factory.mktemp("template") / "model")


@pytest.fixture
def repository(template, tmp_path):
    return copied(template, tmp_path / "model")


def without_hooks(repository):
    """As whoever forges history works: our hook would leave trailers out that are not true."""
    repository.git.run("config", "core.hooksPath", os.devnull)


@pytest.fixture
def bare(repository, tmp_path):
    return plain_server(repository, tmp_path / "forge.git")


# --- merges --------------------------------------------------------------------------------------


def test_a_forge_merges_two_models_as_text_and_that_is_found(repository, bare):
    old = bare.commit("main")
    forge(bare.directory, "main", "left")
    merged = forge(bare.directory, "main", "right")
    # Nothing said a word, and the result reads as a model.
    groups = Metadata.parse(bare.blob(bare.blob_id("main", MODEL))).groups
    left = Metadata.parse(bare.blob(bare.blob_id("left", MODEL))).groups
    right = Metadata.parse(bare.blob(bare.blob_id("right", MODEL))).groups
    assert groups["first.weight"] == left["first.weight"]
    assert groups["second.weight"] == right["second.weight"]
    assert bare.succeeds("fsck")
    result = found(bare, f"{old}..main")
    (finding,) = result.findings
    assert (finding.commit, finding.path, finding.kind) == (merged, MODEL, "text-merge")
    assert "each of its 6 parameter groups is that of one of the parents" in finding.problem
    assert (result.sound, result.undecided) == (False, False)
    # The first of the two took main's part unchanged: left alone had changed the model.
    assert result.commits == 4


def test_a_merge_as_text_that_no_longer_reads_is_named_as_such(repository, bare):
    commit = bare.commit("a")
    tree = bare.text("rev-parse", "a^{tree}")
    torn = bare.blob(bare.blob_id("a", MODEL)).replace(b'"first.bias"', b'"first.weight"', 1)
    marked = b"<<<<<<< a\n" + bare.blob(bare.blob_id("b", MODEL))
    for content, what in ((torn, "'first.weight' occurs twice"), (marked, "left in conflict")):
        blob = bare.write_blob(content)
        listing = bare.text("ls-tree", tree).replace(bare.blob_id("a", MODEL), blob)
        other = bare.run("mktree", stdin=listing + "\n").text
        merge = bare.text("commit-tree", other, "-p", commit, "-p", "b", "-m", "merge")
        result = found(bare, f"a..{merge}", "^b")
        assert kinds(result) == [("damaged", "wrong")]
        assert "was merged as text, and can no longer be read" in result.findings[0].problem
        assert what in result.findings[0].problem


def test_merges_of_ours_and_ordinary_ones_are_sound(repository, bare):
    repository.branch("words", files={"notes.txt": "words\n"})
    repository.merge("-Xmethod=ties", "a", "b")
    repository.merge("--no-edit", "words")
    repository.merge("-Xmethod=task-arithmetic", "-Xscale=0.3", "left")
    result = found(repository, "origin/main..HEAD")
    assert (result.sound, kinds(result)) == (True, [])
    assert (result.merges, result.recomputed) == (2, ())
    deep = found(repository, "origin/main..HEAD", recompute=True)
    assert deep.sound
    assert [r.verdict for r in deep.recomputed] == ["exact", "exact"]


def test_a_merge_by_hand_is_found_until_a_reviewer_accepts_it(repository):
    repository.merge("-s", "ours", "--no-edit", "a")
    repository.save(fine_tuned(BASE, 9))
    amended(repository)
    commit = repository.git.commit("HEAD")
    result = found(repository, "HEAD^..HEAD", "^a")
    assert kinds(result) == [("no-trailer", "wrong")]
    assert f"--allow {commit[:10]}" in result.findings[0].problem
    accepted = found(repository, "HEAD^!", allowed=[commit[:10]])
    assert (accepted.sound, kinds(accepted)) == (True, [("no-trailer", "accepted")])
    repository.run("config", "--add", "merge-eval.allow", commit)
    assert found(repository, "HEAD^!").sound
    repository.run("config", "--add", "merge-eval.allow", "main")
    with pytest.raises(InvalidOption, match=r"'merge-eval.allow' is 'main'; give the full id"):
        found(repository, "HEAD^!")
    with pytest.raises(GitError, match="--allow: 'nothing' is not a commit"):
        found(repository, "HEAD^!", allowed=["nothing"])


def test_a_model_that_was_changed_after_the_merge(repository):
    repository.merge("-Xmethod=average", "a", "b")
    tensors = repository.tensors()
    tensors["second.weight"][1, 2] += 1e-3
    repository.save(tensors)
    amended(repository)
    # Git shows a merge with its trailers, as before.
    assert "Merge-Method: average" in repository.git.text("log", "-1", "--format=%B")
    assert kinds(found(repository, "HEAD^!")) == [("other-model", "wrong")]
    # Whoever forges the trailer too is found by computing the merge again.
    message = repository.git.text("log", "-1", "--format=%B")
    (finding,) = found(repository, "HEAD^!").findings
    recorded = finding.problem.partition("Merge-Model says ")[2][:10]
    line = next(one for one in message.splitlines() if one.startswith(f"Merge-Model: {recorded}"))
    forged = f"Merge-Model: {repository.git.blob_id('HEAD', MODEL)} {MODEL}"
    amended(repository, "-m", message.replace(line, forged))
    assert found(repository, "HEAD^!").sound
    result = found(repository, "HEAD^!", recompute=True)
    assert kinds(result) == [("not-the-merge", "wrong")]
    assert "group 'second.weight' is not what average gives" in result.findings[0].problem


def test_trailers_that_were_copied(repository):
    repository.merge("-Xmethod=average", "a", "b")
    message = repository.git.text("log", "-1", "--format=%B")
    without_hooks(repository)
    repository.run("switch", "--quiet", "left")
    (repository.folder / "notes.txt").write_text("words\n")
    repository.run("commit", "--quiet", "--all", "-m", message)
    result = found(repository, "HEAD^!")
    assert (result.sound, kinds(result)) == (True, [("stale-trailers", "remark")])
    assert "were copied from another commit and mean nothing here" in result.findings[0].problem
    repository.save(fine_tuned(BASE, 7))
    repository.run("commit", "--quiet", "--all", "-m", message)
    result = found(repository, "HEAD^!")
    assert kinds(result) == [("other-model", "wrong")]
    assert "take the Merge-* lines out of the message" in result.findings[0].problem
    repository.save(fine_tuned(BASE, 8))
    repository.run("commit", "--quiet", "--all", "-m", "words\n\nMerge-Model: 1234")
    assert kinds(found(repository, "HEAD^!")) == [("torn-trailers", "remark")]


def test_parents_that_the_trailers_do_not_speak_of(repository):
    """A true average of a and b, offered as the merge of left."""
    repository.merge("-Xmethod=average", "a", "b")
    message = repository.git.text("log", "-1", "--format=%B")
    git = repository.git
    other = git.text("commit-tree", "HEAD^{tree}", "-p", "HEAD^1", "-p", "left", "-m", message)
    assert verify(git, other).sound
    result = found(repository, f"{other}^!")
    assert kinds(result) == [("other-constituent", "wrong")] * 2
    assert f"merged 'a' ({git.commit('a')[:10]})" in result.findings[0].problem
    # A branch on which they were squashed leads to them.
    squashed = git.text("commit-tree", "HEAD^{tree}", "-p", "HEAD^1", "-m", message)
    other = git.text("commit-tree", "HEAD^{tree}", "-p", "left", "-p", squashed, "-m", message)
    assert kinds(found(repository, f"{other}^!")) == []


def test_a_model_that_was_renamed_on_one_side_is_the_other_sides(repository):
    repository.run("switch", "--quiet", "--create", "moved")
    repository.run("mv", MODEL, "weights.safetensors")
    repository.commit("moved")
    repository.merge("--no-edit", "left")
    assert repository.git.blob_id("HEAD", "weights.safetensors") == repository.git.blob_id(
        "left", MODEL
    )
    assert kinds(found(repository, "HEAD^!")) == []
    with pytest.raises(UsageError, match="no checkpoint was merged in it"):
        verify(repository.git, "HEAD")
    # Another model of the branch in its place is another matter.
    repository.save(fine_tuned(BASE, 21), "other.safetensors")
    repository.commit("another model")
    repository.merge("-s", "ours", "--no-edit", "right")
    other = (repository.folder / "other.safetensors").read_bytes()
    (repository.folder / "weights.safetensors").write_bytes(other)
    amended(repository)
    assert kinds(found(repository, "HEAD^!")) == [("no-trailer", "wrong")]


def test_a_squashed_merge_is_one_of_ours(repository):
    repository.merge("--ff", "--squash", "-Xmethod=average", "a", "b")
    repository.run("commit", "--quiet", "--no-edit")
    result = found(repository, "HEAD^!", recompute=True)
    assert (result.sound, result.merges) == (True, 1)
    assert [one.verdict for one in result.recomputed] == ["exact"]


def test_a_merge_that_takes_the_mark_off_what_it_spoils(repository, bare):
    forge(bare.directory, "left", "right")
    tree = bare.text("rev-parse", "left^{tree}")
    listing = bare.text("ls-tree", tree).splitlines()
    bare_tree = "".join(f"{line}\n" for line in listing if ".gitattributes" not in line)
    other = bare.run("mktree", stdin=bare_tree).text
    merge = bare.text("commit-tree", other, "-p", "left^1", "-p", "left^2", "-m", "merge")
    assert kinds(found(bare, f"{merge}^!")) == [("text-merge", "wrong")]


# --- ordinary commits ----------------------------------------------------------------------------


def test_a_model_that_was_committed_without_the_filter(repository):
    for name in ("clean", "process"):
        repository.run("config", "--unset", f"filter.theta.{name}")
    repository.run("config", "filter.theta.required", "false")
    repository.save(fine_tuned(BASE, 5))
    repository.run("commit", "--quiet", "--all", "-m", "fine-tuned")
    result = found(repository, "HEAD^!")
    assert kinds(result) == [("unfiltered", "wrong")]
    assert "run 'gitmerge-eval init' there, then 'git add --renormalize'" in str(result.findings)


def test_a_tensor_that_is_not_there_or_not_what_it_says(repository, bare):
    repository.run("switch", "--quiet", "left")
    repository.save(with_one("first.weight", 6))
    repository.commit("more")
    # A push that skips the hooks lacks the tensor, and Git takes it.
    repository.run("push", "--quiet", "--no-verify", "origin", "left")
    assert found(bare, "left^!").sound
    result = found(bare, "left^!", objects=True)
    assert kinds(result) == [("object", "wrong")]
    assert "names 1 tensors that are not in this repository's store" in result.findings[0].problem
    deep = found(bare, "left^!", recompute=True)
    assert (kinds(deep), deep.undecided) == ([("not-here", "unknown")], True)
    assert "this repository has no remote" in deep.findings[0].problem
    repository.run("push", "--quiet", "--force", "origin", "left~1:left")
    repository.run("push", "--quiet", "origin", "left")
    assert found(bare, "left^!", objects=True).sound
    store = ObjectStore(bare)
    record = Metadata.parse(bare.blob(bare.blob_id("left", MODEL))).groups["first.weight"]
    file = store.path(record.object_id)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    # A weight in the store itself: git-lfs made the file read-only, perhaps a link to ours.
    file.unlink()
    file.write_bytes(data)
    assert found(bare, "left^!", objects=True).sound
    result = found(bare, "left^!", recompute=True)
    assert kinds(result) == [("object", "wrong")]
    assert "group 'first.weight': LFS object" in result.findings[0].problem


# --- ranges and the command ----------------------------------------------------------------------


def test_what_a_range_is(repository):
    git = repository.git
    zeros = "0" * 40
    assert history.arguments(git, [f"{zeros}..main"]) == [git.commit("main")]
    assert history.arguments(git, ["a", "^b"]) == [git.commit("a"), f"^{git.commit('b')}"]
    with pytest.raises(GitError, match=r"'nothing..HEAD' is not a range of commits"):
        history.arguments(git, ["nothing..HEAD"])
    with pytest.raises(GitError, match=r"'notes.txt' is not a range of commits"):
        history.arguments(git, ["notes.txt"])
    with pytest.raises(UsageError, match="'--output=x' is not a range"):
        history.arguments(git, ["--output=x"])
    assert found(repository, "main..main").commits == 0


def test_what_replaces_a_commit_hides_nothing(repository, bare):
    bad = forge(bare.directory, "left", "right")
    good = bare.text("commit-tree", f"{bad}^1^{{tree}}", "-p", f"{bad}^1", "-m", "good")
    bare.run("replace", bad, good)
    assert bare.text("log", "-1", "--format=%s", "left") == "good"
    assert kinds(found(bare, "left^!")) == [("text-merge", "wrong")]


@pytest.mark.parametrize(
    ("lines", "verdict", "problem"),
    [
        ("Merge-Method: average", "wrong", "none of its constituents"),
        (
            "Merge-Method: averge\nMerge-Constituent: {a} a",
            "unknown",
            "'averge', which is no method",
        ),
    ],
)
def test_trailers_that_nobody_could_recompute(repository, lines, verdict, problem):
    commit = forge(repository.folder / ".git", "left", "right")
    model = repository.git.blob_id(commit, MODEL)
    record = lines.format(a=repository.git.commit("left"))
    message = f"words\n\n{record}\nMerge-Model: {model} {MODEL}\n"
    parents = ("-p", f"{commit}^1", "-p", f"{commit}^2")
    junk = repository.git.text("commit-tree", f"{commit}^{{tree}}", *parents, "-m", message)
    result = found(repository, f"{junk}^!")
    assert ("torn-trailers", verdict) in kinds(result)
    assert not result.sound
    assert problem in result.findings[0].problem


def test_trailers_that_name_thousands_of_models(repository):
    lines = "".join(f"Merge-Model: {'1' * 40} {number}\n" for number in range(3000))
    message = f"words\n\nMerge-Method: average\n{lines}"
    without_hooks(repository)
    repository.git.run("commit", "--quiet", "--allow-empty", "--file=-", stdin=message)
    result = found(repository, "HEAD^!", recompute=True)
    assert kinds(result) == [("torn-trailers", "wrong")]
    assert "name 3000 files of models" in result.findings[0].problem


def test_the_command_in_a_bare_repository(repository, bare, monkeypatch, capsys):
    old = bare.commit("left")
    commit = forge(bare.directory, "left", "right")
    monkeypatch.chdir(bare.directory)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["gitmerge-eval", "verify", *arguments])
        status = cli.main()
        return (status, *capsys.readouterr())

    status, out, err = run(f"{old}..left")
    assert (status, err) == (1, "")
    assert out.startswith(f"{commit[:10]} (Merge pull request #7 from right)\n  wrong, text-merge:")
    assert out.endswith("2 commits, 1 merge of models: NOT verified\n")
    parents = ("-p", "left^1", "-p", "left^2")
    sly = bare.text("commit-tree", "left^{tree}", *parents, "-m", "\x1b[2Jnothing to see")
    assert run(f"{sly}^!")[1].startswith(f"{sly[:10]} (\N{REPLACEMENT CHARACTER}[2Jnothing to see)")
    status, out, _ = run("--all", "--allow", commit, "--json")
    content = json.loads(out)
    assert (status, content["sound"], content["merges"]) == (0, True, 1)
    assert [f["verdict"] for f in content["findings"]] == ["accepted"]
    status, out, _ = run(commit)
    assert (status, "no trailer says how it was merged" in out) == (1, True)
    for wrong, message in {
        ("left", "--allow", commit): "--allow and --objects are for a range",
        ("left..right", "--all"): "give a range, --all, or --pushed",
        ("left..nothing",): "'left..nothing' is not a range of commits",
    }.items():
        status, out, err = run(*wrong)
        assert (status, out) == (2, "")
        assert message in err
    monkeypatch.setattr(sys, "stdin", io.StringIO("not what a hook gets\n"))
    status, _, err = run("--pushed")
    assert (status, "is no line of a pre-receive hook" in err) == (2, True)


def test_a_shallow_clone_cannot_tell(repository, bare, tmp_path):
    forge(bare.directory, "left", "right")
    clone = tmp_path / "clone"
    url = bare.directory.as_uri()
    arguments = ("--quiet", "--depth=1", "--branch=left", "--no-checkout")
    subprocess.run(["git", "clone", *arguments, url, clone], check=True)
    result = found(Repository(clone), "HEAD^!")
    assert (kinds(result), result.undecided) == ([("not-here", "unknown")], True)
    assert "run 'git fetch --unshallow'" in result.findings[0].problem
    Repository(clone).run("fetch", "--quiet", "--unshallow")
    assert kinds(found(Repository(clone), "HEAD^!")) == [("text-merge", "wrong")]
