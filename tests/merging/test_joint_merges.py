"""One head after the other gives what all at once would have given, through merges of merges."""

from __future__ import annotations

import subprocess

import pytest
import torch
from models import MODEL, ModelRepository, base_model, fine_tuned, statistics_for
from small_repositories import copied, opened, settle

from gitmerge_eval import dryrun, methods
from gitmerge_eval.checkpoints.lfs import ObjectStore
from gitmerge_eval.checkpoints.metadata import Metadata
from gitmerge_eval.errors import MergeRefused
from gitmerge_eval.git import configuration, trailers
from gitmerge_eval.git.heads import resolve
from gitmerge_eval.merging import deciding, options
from gitmerge_eval.studies.planner import Planner
from gitmerge_eval.verifying import verify

BASE = base_model()
NAMES = "abcdef"
OPTIONS = {"dare": ("-Xseed=3",), "dare-ties": ("-Xseed=3",), "mats": ("-Xiterations=4",)}


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """main, and six branches from it, each with statistics and a file of its own."""
    made = ModelRepository(tmp_path_factory.mktemp("template") / "model", BASE)
    for number, name in enumerate(NAMES):
        statistics = statistics_for(BASE, number)
        made.branch(name, fine_tuned(BASE, number), statistics, files={f"{name}.txt": "new\n"})
    settle(made)
    return made


@pytest.fixture
def repository(template, tmp_path):
    return copied(template, tmp_path / "model")


def on(repository, branch, start="main"):
    repository.run("switch", "--quiet", "--create", branch, start)


def merge(repository, *heads, method="ties", given=(), status=0):
    return repository.merge(f"-Xmethod={method}", *given, *heads, status=status)


def blob(repository, revision="HEAD"):
    return repository.git.blob_id(revision, MODEL)


def leaves(repository, revision="HEAD"):
    record = trailers.read(repository.git, revision)
    return {name: commit for commit, name in record.constituents}


def at_once(repository, heads, **how):
    """The model of all heads together, on a branch of its own; HEAD is as before afterwards."""
    before = repository.git.text("symbolic-ref", "--short", "HEAD")
    on(repository, f"together-{'-'.join(heads)}")
    merge(repository, *heads, **how)
    found, specs = blob(repository), trailers.read(repository.git, "HEAD").specs
    repository.run("switch", "--quiet", before)
    return found, specs


@pytest.mark.parametrize("method", sorted(methods.load()))
def test_three_one_after_the_other(repository, method):
    given = OPTIONS.get(method, ())
    together, specs = at_once(repository, "abc", method=method, given=given)
    merge(repository, "a", "b", method=method, given=given)
    two = blob(repository)
    done = merge(repository, "c", method=method, given=given)
    assert "'main' is a merge: its constituents take part in its place (a, b, c)" not in done.stdout
    assert "'main' is a merge: its constituents take part in its place (a, b)" in done.stdout
    assert blob(repository) == together != two
    assert trailers.read(repository.git, "HEAD").specs == specs
    assert leaves(repository) == {name: repository.git.commit(name) for name in "abc"}
    assert trailers.read(repository.git, "HEAD").bases == (repository.git.commit("a~1"),)
    (finding,) = verify(repository.git, "HEAD").findings
    assert finding.verdict == "exact"


def test_the_plain_merge_of_heads_is_something_else(repository):
    """What goes wrong without expansion: the merge of two counts as one model beside the third."""
    together, _ = at_once(repository, "abc", method="average")
    merge(repository, "a", "b", method="average")
    done = merge(repository, "c", method="average", given=["-Xconstituents=heads"])
    assert "is a merge" not in done.stdout
    models = [repository.tensors(name)["first.weight"].double() for name in "abc"]
    halves = ((models[0] + models[1]) / 2).float().double()
    plain = ((halves + models[2]) / 2).float()
    assert torch.equal(repository.tensors("HEAD")["first.weight"], plain)
    assert blob(repository) != together
    record = trailers.read(repository.git, "HEAD")
    assert record.options["constituents"] == "heads"
    assert leaves(repository).keys() == {"main", "c"}
    assert verify(repository.git, "HEAD").sound
    # And it is taken apart by the next merge that asks for no plain one.
    merge(repository, "d", method="average")
    assert leaves(repository).keys() == set("abcd")
    assert blob(repository) == at_once(repository, "abcd", method="average")[0]


def planned(repository, method, *heads):
    """The digest of the merge that ``git merge`` of these heads would make now: all that its bytes
    depend on, the constituents in the order in which they are summed."""
    found = resolve(repository.git, heads)
    chosen = options.parse([("method", method)])
    paths = deciding.touched(repository.git, found)
    (plan,) = deciding.decide(repository.git, found, chosen, paths).plans
    return plan.spec.digest


def test_six_by_merges_of_merges(repository):
    together, _ = at_once(repository, NAMES)
    digests = {method: planned(repository, method, *NAMES) for method in methods.load()}
    on(repository, "left")
    merge(repository, "a", "b")
    merge(repository, "c")
    on(repository, "right")
    merge(repository, "d", "e", method="average")
    on(repository, "deeper", "right")
    merge(repository, "f", given=["-Xconstituents=heads"])
    repository.run("switch", "--quiet", "left")
    found = {method: planned(repository, method, "deeper") for method in methods.load()}
    assert found == digests
    merge(repository, "deeper")
    assert blob(repository) == together
    assert leaves(repository) == {name: repository.git.commit(name) for name in NAMES}
    assert verify(repository.git, "HEAD").sound


def test_a_diamond_counts_what_both_sides_have_once(repository):
    together, _ = at_once(repository, "abc")
    on(repository, "left")
    merge(repository, "a", "b")
    on(repository, "right")
    merge(repository, "a", "c")
    # Git's base of the two is 'a', which is a constituent; the leaves have another.
    assert repository.git.text("merge-base", "left", "right") == repository.git.commit("a")
    merge(repository, "left")
    assert blob(repository) == together
    assert trailers.read(repository.git, "HEAD").bases == (repository.git.commit("main"),)
    assert verify(repository.git, "HEAD").sound


def test_two_common_constituents_are_no_criss_cross(repository):
    together, _ = at_once(repository, "abcd")
    on(repository, "left")
    merge(repository, "a", "b", "c")
    on(repository, "right")
    merge(repository, "a", "b", "d")
    refused = merge(repository, "left", given=["-Xconstituents=heads"], status=2)
    assert "differs between the merge bases" in refused.stderr
    merge(repository, "left")
    assert blob(repository) == together


def test_a_constituent_that_was_trained_on_replaces_its_older_self(repository):
    repository.run("switch", "--quiet", "a")
    repository.run("branch", "a-before")
    repository.save(fine_tuned(BASE, 20))
    repository.commit("a: more epochs")
    repository.run("switch", "--quiet", "main")
    together, _ = at_once(repository, "ab")
    merge(repository, "a-before", "b")
    done = merge(repository, "a")
    assert "'a-before'" in done.stdout
    assert "is contained in another constituent" in done.stdout
    assert blob(repository) == together


def test_a_model_that_was_changed_after_its_merge_is_a_leaf(repository):
    merge(repository, "a", "b")
    repository.save(fine_tuned(BASE, 30))
    repository.commit("trained on")
    done = merge(repository, "c")
    assert "is a merge" not in done.stdout
    assert leaves(repository).keys() == {"main", "c"}


def test_what_comes_after_a_merge_does_not_hide_it(repository):
    """Commits on top, a rename, an amended message, a revert that was reverted."""
    together, _ = at_once(repository, "abc")
    merge(repository, "a", "b")
    (repository.folder / "later.txt").write_text("text\n")
    repository.run("add", "later.txt")
    message = repository.git.text("log", "-1", "--format=%B").replace(
        "Merge", "Merge, reworded,", 1
    )
    repository.run("commit", "--quiet", "--amend", "-m", message)
    repository.run("revert", "--no-edit", "-m", "1", "HEAD")
    assert blob(repository) == blob(repository, "a~1")
    repository.run("revert", "--no-edit", "HEAD")
    repository.commit("more text")
    merge(repository, "c")
    assert blob(repository) == together
    assert leaves(repository).keys() == set("abc")


def test_a_renamed_merge_is_taken_apart(repository):
    together, _ = at_once(repository, "abc")
    merge(repository, "a", "b")
    repository.run("mv", MODEL, "renamed.safetensors")
    repository.commit("renamed")
    merge(repository, "c")
    assert repository.git.blob_id("HEAD", "renamed.safetensors") == together
    assert verify(repository.git, "HEAD").sound
    merge(repository, "d")
    assert leaves(repository).keys() == set("abcd")


def test_an_amended_message_without_trailers_leaves_a_leaf(repository):
    merge(repository, "a", "b")
    repository.run("commit", "--quiet", "--amend", "-m", "all gone")
    merge(repository, "c")
    assert leaves(repository).keys() == {"main", "c"}


def test_the_same_model_under_two_commits_is_told(repository):
    merge(repository, "a", "b")
    repository.run("switch", "--quiet", "--create", "copy", "a~1")
    repository.save(repository.tensors("a"))
    repository.commit("the same once more")
    repository.run("switch", "--quiet", "main")
    done = merge(repository, "copy")
    assert "'a' and 'copy' have the same model, which counts twice" in done.stdout
    assert leaves(repository).keys() == {"a", "b", "copy"}


def test_weights_are_of_the_leaves(repository):
    merge(repository, "a", "b", method="average")
    refused = merge(repository, "c", method="average", given=["-Xweights=0.5,0.5"], status=2)
    assert "option 'weights' has 2 numbers for 3 constituents" in refused.stderr
    together, _ = at_once(repository, "abc", method="average", given=["-Xweights=1,2,3"])
    merge(repository, "c", method="average", given=["-Xweights=1,2,3"])
    assert blob(repository) == together
    assert [name for _, name in trailers.read(repository.git, "HEAD").constituents] == [*"abc"]


def test_one_merge_of_two_models_that_have_come_about_differently(repository):
    """Of one model HEAD is a merge, of the other a leaf: the trailers are true for each."""
    other = "other.safetensors"
    repository.save(BASE, other)
    base = repository.commit("a second model")
    for number, name in enumerate("pqr"):
        on(repository, name, base)
        repository.save(fine_tuned(BASE, 60 + number))
        repository.save(fine_tuned(BASE, 70 + number), other)
        repository.commit(name)
    repository.run("switch", "--quiet", "main")
    merge(repository, "p", "q", method="task-arithmetic")
    repository.save(fine_tuned(BASE, 80), other)
    own = repository.commit("the second one trained on")
    merge(repository, "r", method="task-arithmetic")
    record = trailers.read(repository.git, "HEAD")
    named = [name for _, name in record.constituents]
    of = {one.path: [named[n - 1] for n, _ in one.constituents] for one in record.parts}
    assert of == {MODEL: ["p", "q", "r"], other: ["main", "r"]}
    assert dict(map(reversed, record.constituents))["main"] == own
    found = verify(repository.git, "HEAD")
    assert [finding.verdict for finding in found.findings] == ["exact", "exact"]
    # Without that line each model would seem to be merged from all four.
    message = repository.git.text("log", "-1", "--format=%B")
    torn = "\n".join(line for line in message.splitlines() if "Merge-Parts" not in line)
    repository.run("commit", "--quiet", "--amend", "-m", torn)
    assert not verify(repository.git, "HEAD").sound


def test_a_fresh_clone(repository, tmp_path):
    """Leaves come with the history, and their tensors when they are needed."""
    together, _ = at_once(repository, "abc")
    merge(repository, "a", "b")
    here = cloned(repository, tmp_path / "clone", "--branch", "main")
    merge(here, "origin/c")
    assert blob(here) == together
    assert leaves(here).keys() == {"a", "b", "origin/c"}
    assert verify(here.git, "HEAD").sound


def cloned(repository, target, *arguments):
    subprocess.run(
        ["git", "clone", "--quiet", "--no-local", *arguments, repository.folder, target], check=True
    )
    here = opened(target)
    configuration.install(here.git)
    here.run("checkout", "--quiet", "--force", "HEAD")
    return here


def squashed(repository, method, tmp_path):
    """A clone that has a squashed merge of a and b, and c, but neither a nor b."""
    on(repository, "flat")
    repository.merge("--ff", "--squash", f"-Xmethod={method}", "a", "b")
    repository.run("commit", "--quiet", "--no-edit")
    here = cloned(repository, tmp_path / "clone", "--single-branch", "--branch", "flat")
    here.run("fetch", "--quiet", "origin", "c:c")
    return here


@pytest.mark.parametrize("method", ["average", "fisher", "regmean"])
def test_merges_that_stand_for_leaves_that_are_not_here(repository, tmp_path, method):
    at_once(repository, "abc", method=method)
    here = squashed(repository, method, tmp_path)
    done = merge(here, "c", method=method)
    assert "'flat' is a merge and stands for its constituents (a, b)" in done.stdout
    record = trailers.read(here.git, "HEAD")
    assert [name for _, name in record.constituents] == ["flat", "c"]
    assert [name for _, name in record.leaves] == ["a", "b"]
    assert verify(here.git, "HEAD").sound
    expected = repository.tensors("together-a-b-c")
    for name, tensor in here.tensors("HEAD").items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-6)
    if method == "fisher":
        return  # whose sum weights every element: a merge of heads is the joint one
    # The plain merge of heads is not near it.
    here.run("reset", "--quiet", "--hard", "HEAD~1")
    merge(here, "c", method=method, given=["-Xconstituents=heads"])
    plain = here.tensors("HEAD")["first.bias"]
    assert not torch.allclose(plain, expected["first.bias"], rtol=1e-3)


def test_a_sweep_needs_the_leaves(repository, tmp_path):
    """Of all that it tries only some methods could do without."""
    here = squashed(repository, "average", tmp_path)
    with pytest.raises(MergeRefused, match=r"of 'a' is not in this clone; other methods than"):
        Planner(here.git, ["c"])


def test_leaves_that_are_not_here_and_cannot_be_done_without(repository, tmp_path):
    here = squashed(repository, "ties", tmp_path)
    before = here.state()
    refused = merge(here, "c", status=2)
    assert "is not in this clone, and it cannot stand for them" in refused.stderr
    assert "'ties' needs the models themselves" in refused.stderr
    assert "--strategy-option=constituents=heads" in refused.stderr
    assert merge(here, "c", method="average", status=2).stderr.count("merged by 'ties'") == 1
    assert here.state() == before
    merge(here, "c", given=["-Xconstituents=heads"])
    assert leaves(here).keys() == {"flat", "c"}


def test_tensors_of_leaves_that_are_not_to_be_had(repository, tmp_path):
    """The leaves' commits are here, their tensors nowhere."""
    merge(repository, "a", "b", method="average")
    here = cloned(repository, tmp_path / "clone", "--branch", "main")
    here.run("fetch", "--quiet", "origin", "c:c")
    merge(here, "c", method="average")
    together = here.tensors("HEAD")
    here.run("reset", "--quiet", "--hard", "HEAD~1")
    lost = tmp_path / "lost"
    (repository.folder / ".git/lfs").rename(lost)
    for name in "ab":
        for path in needed_only_by(here, name):
            path.unlink()
    refused = merge(here, "c", status=2)
    assert "are neither here nor to be had from the remote" in refused.stderr
    done = merge(here, "c", method="average")
    assert "stands for its constituents (a, b)" in done.stdout
    for name, tensor in here.tensors("HEAD").items():
        torch.testing.assert_close(tensor, together[name], rtol=1e-6, atol=1e-7)


def needed_only_by(repository, name):
    """The files of the tensors that only the leaf ``name`` has."""
    store = ObjectStore(repository.git)

    def objects(revision):
        data = repository.git.blob(repository.git.blob_id(revision, MODEL))
        return {record.object_id for record in Metadata.parse(data).groups.values()}

    own = repository.git.text("rev-parse", f"origin/{name}")
    kept = objects("HEAD") | objects("c")
    return [store.path(one) for one in objects(own) - kept if store.path(one).exists()]


def test_combined_by_request(repository):
    merge(repository, "a", "b", method="average")
    refused = merge(repository, "c", given=["-Xconstituents=combined"], status=2)
    assert "'main' is a merge of 'a', 'b', and it cannot stand for them" in refused.stderr
    done = merge(repository, "c", method="average", given=["-Xconstituents=combined"])
    assert "'main' is a merge and stands for its constituents (a, b)" in done.stdout
    assert verify(repository.git, "HEAD").sound
    joint = repository.tensors("HEAD")["first.weight"]
    # Later it is taken apart like any other.
    merge(repository, "d", method="average")
    assert leaves(repository).keys() == set("abcd")
    mean = sum(repository.tensors(name)["first.weight"].double() for name in "abc") / 3
    torch.testing.assert_close(joint.double(), mean, rtol=1e-6, atol=1e-7)


def test_a_wrong_value_is_refused(repository):
    refused = merge(repository, "a", "b", given=["-Xconstituents=leafs"], status=2)
    assert "option 'constituents' is 'leafs', which is not one of leaves, heads" in refused.stderr


def test_plan_says_who_would_take_part(repository):
    merge(repository, "a", "b")
    before = repository.state()
    found = dryrun.preview(repository.git, ["c"], [("method", "regmean")])
    assert repository.state() == before
    (model,) = found.checkpoints
    assert [text.partition(" ")[0] for text in model.constituents] == ["a", "b", "c"]
    assert model.applicable["regmean"] == ()
    assert "'main' is a merge: its constituents take part in its place (a, b)" in found.notes[-1]
    alone = dryrun.preview(repository.git, ["c"], [("constituents", "heads")])
    assert [t.partition(" ")[0] for t in alone.checkpoints[0].constituents] == ["main", "c"]


def test_a_plan_without_the_leaves(repository, tmp_path):
    here = squashed(repository, "ties", tmp_path)
    found = dryrun.preview(here.git, ["c"], [("method", "ties")])
    assert not found.feasible
    assert "'flat' is a merge of 'a', 'b'" in found.checkpoints[0].problems[0]
