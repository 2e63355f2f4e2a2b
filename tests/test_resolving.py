"""``gitmerge-eval resolve``: models in conflict, group by group, after every verb of Git's."""

from __future__ import annotations

import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
from models import MODEL, ModelRepository, base_model, fine_tuned
from small_repositories import copied, settle

from gitmerge_eval import cli, resolving
from gitmerge_eval.git import conflicts, trailers
from gitmerge_eval.merging import staging
from gitmerge_eval.verifying import verify

BASE = base_model()
OURS, THEIRS = fine_tuned(BASE, 1), fine_tuned(BASE, 2)
OTHER = "other.safetensors"


def without(model, name):
    return {key: tensor for key, tensor in model.items() if key != name}


WIDER = without(
    {**THEIRS, "scale": torch.zeros(2), "second.weight": torch.ones(5, 6)}, "first.bias"
)
"""Two groups of another shape, and one deleted; all three conflict with 'ours'."""


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    made = ModelRepository(tmp_path_factory.mktemp("template") / "model", BASE)
    made.branch("ours", OURS)
    made.branch("theirs", THEIRS)
    made.branch("wider", WIDER)
    made.run("switch", "--quiet", "ours")
    settle(made)
    return made


@pytest.fixture
def repository(template, tmp_path):
    return copied(template, tmp_path / "model")


def resolve(repository, *arguments, status=0):
    """The command, in this process, which has torch loaded already."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(repository.folder)
        patch.setattr(sys, "argv", ["gitmerge-eval", "resolve", *arguments])
        found = cli.main()
    assert found == status, f"{found}\n{out.getvalue()}\n{err.getvalue()}"
    return SimpleNamespace(stdout=out.getvalue(), stderr=err.getvalue())


def added(name, base=BASE, ours=OURS, theirs=THEIRS):
    return (ours[name].double() + theirs[name].double() - base[name].double()).float()


def test_choices_add_up_until_a_cherry_pick_can_go_on(repository):
    done = repository.run("cherry-pick", "wider", status=1)
    assert "go on with 'gitmerge-eval resolve'" in done.stderr
    before = repository.state()
    found = json.loads(resolve(repository, "--json", status=1).stdout)
    assert found["conclusion"] == "git cherry-pick --continue"
    (model,) = found["models"]
    assert (model["path"], model["method"], model["staged"]) == (MODEL, "task-vector", False)
    assert {g["name"]: (g["versions"], g["taken"]) for g in model["groups"]} == {
        "scale": ({"base": "float32[]", "ours": "float32[]", "theirs": "float32[2]"}, None),
        "first.bias": ({"base": "float32[6]", "ours": "float32[6]", "theirs": "absent"}, None),
        "second.weight": (
            {"base": "float32[4, 6]", "ours": "float32[4, 6]", "theirs": "float32[5, 6]"}, None,
        ),
    }  # fmt: skip
    assert "2 of 3 groups are left" in resolve(repository, "--base", "sc*", status=1).stdout
    assert (
        "1 of 3 groups are left"
        in resolve(repository, "--theirs", "second.weight", status=1).stdout
    )
    assert repository.state() == before
    done = resolve(repository, "--theirs")  # all that are left, and not those decided above
    assert "'scale' as base" in done.stdout
    assert "conclude with 'git cherry-pick --continue'" in done.stdout
    # Staged with true stat data: nothing is read again, and nothing is left to add.
    assert repository.run("status", "--porcelain").stdout == f"M  {MODEL}\n"
    repository.run("cherry-pick", "--continue")
    found = repository.tensors("HEAD")
    assert torch.equal(found["scale"], BASE["scale"])
    assert torch.equal(found["second.weight"], WIDER["second.weight"])
    assert "first.bias" not in found  # taken from the side that deleted it
    assert torch.equal(found["first.weight"], added("first.weight"))
    assert torch.equal(repository.tensors()["first.weight"], found["first.weight"])
    assert "no model is in conflict here" in resolve(repository, status=2).stderr


def test_ours_and_theirs_are_gits_own_in_revert_and_rebase(repository):
    repository.run("switch", "--quiet", "wider")
    repository.save({**WIDER, "scale": torch.zeros(3)})
    repository.commit("wider still")
    done = repository.run("revert", "--no-edit", "HEAD~1", status=1)
    assert "gitmerge-eval resolve" in done.stderr
    (model,) = json.loads(resolve(repository, "--list", "--json", status=1).stdout)["models"]
    (group,) = model["groups"]
    assert group["versions"] == {"base": "float32[2]", "ours": "float32[3]", "theirs": "float32[]"}
    resolve(repository, "--theirs")
    repository.run("revert", "--continue")
    assert torch.equal(repository.tensors("HEAD")["scale"], BASE["scale"])

    repository.run("switch", "--quiet", "--create", "moved", "theirs")
    repository.run("rebase", "wider~2", status=1)
    resolve(repository, "--ours")
    repository.run("rebase", "--continue")
    found = repository.tensors("HEAD")
    assert torch.equal(found["scale"], WIDER["scale"])
    assert repository.run("status", "--porcelain").stdout == ""


def test_a_stash_in_conflict(repository):
    repository.run("switch", "--quiet", "--detach", "main")
    repository.save(WIDER)
    repository.run("stash")
    repository.run("switch", "--quiet", "ours")
    repository.run("stash", "pop", status=1)
    done = resolve(repository, "--ours")
    assert "'git stash drop'" in done.stdout
    assert torch.equal(repository.tensors()["first.weight"], added("first.weight"))
    assert repository.run("stash", "list").stdout  # Git keeps it after a conflict


def test_a_merge_in_conflict_is_merged_by_its_method_and_verifies(repository):
    repository.merge("-X", "method=ties", "-X", "scale=0.7", "wider", status=1)
    resolve(repository, "--ours", "scale", status=1)
    resolve(repository, "--theirs")
    repository.run("commit", "--no-edit")
    message = repository.git.text("log", "-1", "--format=%B")
    wider, ours = repository.git.commit("wider"), repository.git.commit("HEAD^1")
    assert "Merge-Method: ties" in message
    assert '"scale":0.7' in message
    assert f'Merge-Resolution: {ours} {{"{MODEL}":["scale"]}}' in message
    assert f'Merge-Resolution: {wider} {{"{MODEL}":["first.bias","second.weight"]}}' in message
    assert [f.verdict for f in verify(repository.git, "HEAD", fresh=True).findings] == ["exact"]
    # A resolution that was edited is found out, and one from somewhere else.
    somewhere = repository.git.commit("theirs")
    for other, why in ((wider, "scale"), (somewhere, "which is no side of the merge")):
        forged = message.replace(f"Merge-Resolution: {ours}", f"Merge-Resolution: {other}")
        repository.run("commit", "--amend", "-m", forged)
        found = verify(repository.git, "HEAD")
        assert not found.sound
        assert why in str(found)


def test_of_a_joint_merge_the_weights_stay_in_the_order_of_the_heads(repository):
    repository.run("switch", "--quiet", "--create", "joint", "main")
    repository.merge("-Xmethod=average", "theirs", "ours")
    weights = ("-Xmethod=average", "-Xweights=1,2,7")
    done = repository.merge(*weights, "wider", status=1)
    assert "'joint' is a merge" in done.stdout
    resolve(repository, "--ours")
    repository.run("commit", "--quiet", "--no-edit")
    record = trailers.read(repository.git, "HEAD")
    assert [name for _, name in record.constituents] == ["theirs", "ours", "wider"]
    assert verify(repository.git, "HEAD").sound
    expected = sum(
        weight * model["first.weight"].double()
        for weight, model in zip((1, 2, 7), (THEIRS, OURS, WIDER), strict=True)
    )
    torch.testing.assert_close(repository.tensors()["first.weight"], (expected / 10).float())


def test_a_model_edited_after_it_was_resolved_has_no_trailers(repository):
    repository.merge("-X", "method=ties", "wider", status=1)
    resolve(repository, "--ours")
    repository.save(OURS)
    repository.run("commit", "--all", "--no-edit")
    assert "Merge-" not in repository.git.text("log", "-1", "--format=%B")


def test_other_options_for_the_rest(repository):
    repository.run("cherry-pick", "wider", status=1)
    resolve(repository, "--ours", "-X", "scale=0.5")
    expected = OURS["first.weight"].double() + 0.5 * (
        THEIRS["first.weight"].double() - BASE["first.weight"].double()
    )
    assert torch.equal(repository.tensors()["first.weight"], expected.float())
    repository.run("cherry-pick", "--abort")
    repository.run("cherry-pick", "wider", status=1)
    resolve(repository, "--ours", "-X", "method=average")
    mean = (OURS["first.weight"].double() + THEIRS["first.weight"].double()) / 2
    assert torch.equal(repository.tensors()["first.weight"], mean.float())


def test_what_the_driver_refused_is_finished_with_the_right_option(repository):
    repository.run("-c", "merge-eval.driver.sclae=0.5", "cherry-pick", "theirs", status=1)
    done = resolve(repository, "-X", "scale=0.5")
    assert "4 groups merged by task-vector" in done.stdout
    repository.run("cherry-pick", "--continue")
    expected = OURS["scale"].double() + 0.5 * (THEIRS["scale"].double() - BASE["scale"].double())
    assert torch.equal(repository.tensors("HEAD")["scale"], expected.float())


def test_both_added_a_model_and_one_deleted_it(repository):
    repository.run("switch", "--quiet", "--orphan", "elsewhere")
    repository.save(THEIRS)
    repository.commit("a model of its own")
    repository.run("switch", "--quiet", "ours")
    done = repository.run("cherry-pick", "elsewhere", status=1)
    assert f"'task-vector' needs a base, and '{MODEL}' was added on both sides" in done.stderr
    assert "needs a base" in resolve(repository, "--ours", status=2).stderr
    done = resolve(repository, "--base", "-X", "method=average", "first.weight", status=2)
    assert "not in conflict" in done.stderr
    resolve(repository, "-X", "method=average")
    mean = (OURS["first.weight"].double() + THEIRS["first.weight"].double()) / 2
    assert torch.equal(repository.tensors()["first.weight"], mean.float())
    repository.run("cherry-pick", "--abort")

    repository.run("switch", "--quiet", "--create", "gone", "main")
    repository.run("rm", "--quiet", MODEL)
    repository.run("commit", "--quiet", "-m", "no model")
    repository.run("cherry-pick", "ours", status=1)
    done = resolve(repository, "--ours", status=2)
    assert f"'{MODEL}' is deleted in ours and changed on the other side" in done.stderr


def save_shards(repository, model):
    """Two shards and their index."""
    names = sorted(model)
    parts = {
        f"model-{n}-of-00002.safetensors": names[i::2] for i, n in enumerate(("00001", "00002"))
    }
    for file, own in parts.items():
        repository.save({name: model[name] for name in own}, file)
    weights = {name: file for file, own in parts.items() for name in own}
    document = {"metadata": {}, "weight_map": weights}
    (repository.folder / f"{MODEL}.index.json").write_text(json.dumps(document, indent=2))


def test_a_model_in_shards(repository):
    repository.run("switch", "--quiet", "--create", "shards", "main")
    repository.run("rm", "--quiet", MODEL)
    save_shards(repository, BASE)
    repository.commit("in shards")
    wider = {**THEIRS, "scale": torch.zeros(2)}
    for name, model in (("ours", OURS), ("theirs", THEIRS), ("wider", wider)):
        repository.run("switch", "--quiet", "--create", f"shards-{name}", "shards")
        save_shards(repository, model)
        repository.commit(name)
    repository.run("switch", "--quiet", "shards-ours")

    def whole():
        files = repository.folder.glob("model-0*.safetensors")
        return {k: v for file in files for k, v in safetensors.torch.load_file(file).items()}

    # The driver merges shard by shard.
    repository.run("cherry-pick", "shards-theirs")
    assert all(
        torch.equal(whole()[n], added(n)) for n in ("first.weight", "scale", "second.weight")
    )
    repository.run("reset", "--hard", "--quiet", "HEAD~1")
    repository.run("cherry-pick", "shards-wider", status=1)
    resolve(repository, "--theirs")
    repository.run("cherry-pick", "--continue")
    assert torch.equal(whole()["scale"], wider["scale"])
    assert torch.equal(whole()["first.weight"], added("first.weight"))
    repository.run("reset", "--hard", "--quiet", "HEAD~1")
    # The strategy merges the model as one, and so does the resolution.
    repository.merge("-X", "method=average", "shards-wider", status=1)
    resolve(repository, "--ours")
    repository.run("commit", "--no-edit")
    assert repository.run("status", "--porcelain").stdout == ""
    assert torch.equal(whole()["scale"], OURS["scale"])
    mean = (OURS["first.weight"].double() + THEIRS["first.weight"].double()) / 2
    assert torch.equal(whole()["first.weight"], mean.float())
    assert verify(repository.git, "HEAD").sound


# --- misuse --------------------------------------------------------------------------------------


def test_names_are_checked(repository):
    repository.run("cherry-pick", "wider", status=1)
    before = repository.state()
    cases = [
        (["--ours", "second.wieght"], "did you mean 'second.weight'?"),
        (["--ours", "first.weight"], f"'first.weight' of '{MODEL}' is not in conflict (merged)"),
        (["--ours", "--theirs"], "only one of --ours, --theirs and --base"),
        (["scale"], "say which side's groups are taken"),
        (["--ours", "--path", "modle.safetensors"], "did you mean 'model.safetensors'?"),
        (["--ours", "-X", "sclae=1"], "did you mean 'scale'?"),
        (["--ours", "-X", "scale"], "option 'scale' needs a value"),
        (["--ours", "-X", "base=main"], "'base' cannot be given to a merge that is in conflict"),
        (["--ours", "-X", "rename-threshold=9"], "'rename-threshold' cannot be given to"),
    ]  # fmt: skip
    for arguments, message in cases:
        assert message in resolve(repository, *arguments, status=2).stderr
    assert repository.state() == before
    (model,) = json.loads(resolve(repository, "--json", status=1).stdout)["models"]
    assert all(group["taken"] is None for group in model["groups"])


def test_a_file_that_somebody_has_merged_by_hand_is_not_overwritten(repository, monkeypatch):
    repository.run("cherry-pick", "wider", status=1)
    by_hand = {**OURS, "scale": torch.full((2,), 7.0)}
    repository.save(by_hand)
    with monkeypatch.context() as patch:
        patch.setattr(staging, "_check_files", lambda *arguments: None)
        resolving.resolve(repository.git, "ours")
        assert torch.equal(repository.tensors()["scale"], OURS["scale"])  # the work is lost
    repository.run("cherry-pick", "--abort")
    repository.run("cherry-pick", "wider", status=1)
    repository.save(by_hand)
    done = resolve(repository, "--ours", status=2)
    assert f"'{MODEL}' in the work tree is neither side's version" in done.stderr
    assert torch.equal(repository.tensors()["scale"], by_hand["scale"])
    assert conflicts.unmerged(repository.git)
    repository.run("add", MODEL)
    repository.run("cherry-pick", "--continue")
    assert torch.equal(repository.tensors("HEAD")["scale"], by_hand["scale"])


def test_what_was_chosen_for_another_conflict_does_not_count(repository, monkeypatch):
    repository.run("cherry-pick", "wider", status=1)
    resolve(repository, "--base", "scale", status=1)
    repository.run("cherry-pick", "--abort")
    repository.run("switch", "--quiet", "theirs")
    repository.run("cherry-pick", "--no-commit", "wider", status=1)
    known = conflicts._read(repository.git)
    assert [c.path for c in known] == [MODEL]
    (model,) = json.loads(resolve(repository, "--json", status=1).stdout)["models"]
    assert [g["taken"] for g in model["groups"] if g["name"] == "scale"] == [None]


def test_of_two_models_the_first_is_not_forgotten(repository):
    """The second is merged without a conflict, before Git has written the first one's stages."""
    repository.run("switch", "--quiet", "--create", "two", "main")
    repository.save(BASE, OTHER)
    repository.commit("two models")
    for branch, first, second in (("ours", OURS, OURS), ("wider", WIDER, THEIRS)):
        repository.run("switch", "--quiet", "--create", f"two-{branch}", "two")
        repository.save(first)
        repository.save(second, OTHER)
        repository.commit(branch)
    repository.run("switch", "--quiet", "two-ours")
    repository.run("-c", "merge-eval.driver.scale=0.5", "cherry-pick", "two-wider", status=1)
    (model,) = json.loads(resolve(repository, "--ours", "--json").stdout)["models"]
    assert model["path"] == MODEL
    expected = OURS["first.weight"].double() + 0.5 * (
        THEIRS["first.weight"].double() - BASE["first.weight"].double()
    )
    # By the option that the cherry-pick was given, which nobody repeats here.
    assert torch.equal(repository.tensors()["first.weight"], expected.float())


def test_a_resolution_that_was_killed_can_be_repeated(repository, monkeypatch):
    repository.run("cherry-pick", "wider", status=1)

    def killed(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(staging.landing, "swap_index", killed)
        with pytest.raises(KeyboardInterrupt):
            resolving.resolve(repository.git, "ours")
    assert conflicts.unmerged(repository.git)
    resolve(repository, "--ours")
    repository.run("cherry-pick", "--continue")
    assert torch.equal(repository.tensors("HEAD")["scale"], OURS["scale"])


def test_git_remembers_what_was_resolved(repository):
    """As after 'git add': what 'git checkout --merge' brings a conflict back from."""
    repository.run("cherry-pick", "wider", status=1)
    stages = repository.git.text("ls-files", "--unmerged")
    resolve(repository, "--ours")
    assert repository.git.text("ls-files", "--resolve-undo") == stages


def conflicting_merge(repository):
    repository.merge("-Xmethod=average", "wider", status=1)


def test_a_commit_of_everything_says_whose_model_it_has(repository):
    conflicting_merge(repository)
    done = repository.run("commit", "-a", "-m", "both")
    assert (
        "'model.safetensors' is committed as 'ours' has it, and nothing of 'wider'" in done.stderr
    )
    assert repository.git.blob_id("HEAD", MODEL) == repository.git.blob_id("ours^", MODEL)
    repository.run("reset", "--keep", "HEAD^")  # as the message says
    conflicting_merge(repository)


def test_who_takes_theirs_whole_is_told_too(repository):
    conflicting_merge(repository)
    repository.run("checkout", "--theirs", MODEL)
    repository.run("add", MODEL)
    done = repository.run("commit", "--no-edit")
    assert "committed as 'wider' has it, and nothing of 'ours' is in it" in done.stderr


def test_a_resolved_model_is_not_spoken_of(repository):
    conflicting_merge(repository)
    resolve(repository, "--ours")
    done = repository.run("commit", "--no-edit")
    assert "nothing of" not in done.stderr


def test_another_commit_after_a_conflict_was_given_up_is_not_spoken_of(repository):
    conflicting_merge(repository)
    repository.run("merge", "--abort")
    (repository.folder / "notes.txt").write_text("an ordinary file\n")
    repository.run("add", "notes.txt")
    assert repository.run("commit", "-m", "text").stderr == ""
    repository.run("switch", "--quiet", "--create", "text", "theirs")
    (repository.folder / "more.txt").write_text("an ordinary file\n")
    repository.run("add", "more.txt")
    repository.run("commit", "-m", "text")
    repository.run("switch", "--quiet", "ours")
    assert "nothing of" not in repository.merge("-Xmethod=average", "text").stderr
