"""Trailers through the real Git: what goes in comes out, on the right commits only."""

from __future__ import annotations

import dataclasses
import json

import pytest

from gitmerge_eval.git import trailers
from gitmerge_eval.git.trailers import MergedModel, MergeState, MergeTrailers, NamedCommit

FULL = MergeTrailers(
    method="mats",
    options={"iterations": 20, "init": "task-arithmetic", "weights": [0.5, 0.5], "name": "é"},
    bases=("b" * 40,),
    constituents=(("1" * 40, "fruit-quickdraw"), ("2" * 40, "bird/réal")),
    models=(("c" * 40, "model.safetensors"), ("d" * 40, "a folder/mödel 2.safetensors")),
    specs=(("e" * 64, "model.safetensors"), ("f" * 64, "a folder/mödel 2.safetensors")),
    sweep=f"{'9' * 64} heldin-validation 81.2500 of 53 candidates",
)


@pytest.mark.parametrize(
    ("told", "kept"),
    [
        (FULL.sweep, FULL.sweep),
        ("", ""),
        (f"{FULL.sweep}\nMerge-Method: other", ""),
        ("some text of another program", ""),
    ],
)
def test_only_a_sweep_is_taken_from_the_environment(monkeypatch, told, kept):
    monkeypatch.setenv(trailers.SWEEP_VARIABLE, told)
    assert trailers.sweep_from_environment() == kept


def state_for(repository, **changes):
    head, other = repository.text("rev-parse", "HEAD"), "2" * 40
    state = MergeState(head=head, remotes=(other,), trailers=FULL.lines())
    return dataclasses.replace(state, **changes)


def trailers_of(repository, commit="HEAD"):
    """What Git itself takes for trailers."""
    return repository.text("log", "-1", "--format=%(trailers:only,unfold)", commit).splitlines()


def test_state_survives_storage(repository):
    state = MergeState(
        head="a" * 40,
        remotes=("1" * 40, "2" * 40),
        trailers=FULL.lines(),
        constituents=(NamedCommit("1" * 40, "fruit"), NamedCommit("2" * 40, "é \udcff")),
        models=(MergedModel("weights/é.safetensors", "c" * 40, "e" * 64),),
        squash=True,
    )
    trailers.write_state(repository, state)
    assert trailers.read_state(repository) == state
    text = repository.path(trailers.STATE).read_text(errors="surrogateescape")
    assert list(json.loads(text)) == sorted(json.loads(text))
    trailers.remove_state(repository)
    assert trailers.read_state(repository) is None
    trailers.remove_state(repository)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"head": 1}', "null"])
def test_a_torn_state_is_none(repository, content):
    path = repository.path(trailers.STATE)
    path.parent.mkdir()
    path.write_text(content)
    assert trailers.read_state(repository) is None


@pytest.mark.parametrize(
    "message",
    [
        "Merge branches 'a' and 'b'",  # what Git gives the hook: no final newline
        "title\n",
        "title\n\nA body.\n",
        "title\n\nA body.\n---\nwith what looks like a patch divider\n",
        "title\n\nBody.\n\nSigned-off-by: Ada <ada@example.org>\n",
        "title\n\n# Conflicts:\n#\tmodel.safetensors\n",
    ],
)
def test_every_kind_of_message_gets_them_once(repository, commit, tmp_path, message):
    commit({"a": "1"})
    file = tmp_path / "MESSAGE"
    file.write_text(message)
    for _ in range(2):  # 'rebase -r' hands the old message in again
        assert trailers.apply_trailers(file, state_for(repository), repository)
    repository.run("commit", "--quiet", "--allow-empty", "-F", str(file))
    assert [line for line in trailers_of(repository) if line.startswith("Merge-")] == [
        *FULL.lines()
    ]
    assert repository.text("log", "-1", "--format=%s") == message.split("\n")[0]
    for line in message.split("\n")[1:]:
        if line and not line.startswith("#"):
            assert line in repository.text("log", "-1", "--format=%B").split("\n")


def test_a_message_in_any_encoding_keeps_its_bytes(repository, commit, tmp_path):
    commit({"a": "1"})
    file = tmp_path / "MESSAGE"
    file.write_bytes(b"caf\xe9\n\nna\xefve\n")
    trailers.apply_trailers(file, state_for(repository), repository)
    assert file.read_bytes().startswith(b"caf\xe9\n\nna\xefve\n\nMerge-Method: mats\n")


def test_record_comes_back_from_a_commit(repository, commit, tmp_path):
    commit({"a": "1"})
    file = tmp_path / "MESSAGE"
    file.write_text("title")
    trailers.apply_trailers(file, state_for(repository), repository)
    repository.run("commit", "--quiet", "--allow-empty", "-F", str(file))
    # Neither signatures, notes nor colours may get in between.
    repository.run("config", "log.showSignature", "true")
    repository.run("config", "color.ui", "always")
    repository.run("notes", "add", "-m", "Merge-Method: from a note")
    assert trailers.read(repository, "HEAD") == FULL
    assert trailers.parse(repository, "HEAD")[0] == ("Merge-Method", "mats")
    assert trailers.read(repository, "HEAD~1") is None


@pytest.mark.parametrize(
    "path",
    ["plain", "two words", " leading", "new\nline", "tab\t", '"quoted"', "ünï", "raw\udcff", ""],
)
def test_names_survive_a_trailer(path):
    written = trailers.quoted(path)
    assert "\n" not in written
    assert written.encode("utf-8").decode() == written
    assert trailers.unquoted(written) == path


def test_broken_trailers_are_no_merge():
    assert MergeTrailers.of([("Merge-Base", "b")]) is None
    assert MergeTrailers.of([("Merge-Method", "ties"), ("Merge-Options", "{")]) is None
    assert MergeTrailers.of([("Merge-Method", "ties"), ("Merge-Options", "3")]) is None
    bare = MergeTrailers.of([("merge-method", "ties")])
    assert bare is not None
    assert (bare.method, bare.options, bare.tool) == ("ties", {}, "")


def test_models_resolved_by_hand_lose_their_lines(repository, commit, tmp_path):
    commit({"model.safetensors": "one", "a folder/mödel 2.safetensors": "two"})
    kept = repository.blob_id("", "model.safetensors")
    record = dataclasses.replace(
        FULL, models=((kept, "model.safetensors"), ("d" * 40, "a folder/mödel 2.safetensors"))
    )
    models = (
        MergedModel("model.safetensors", kept, "e" * 64),
        MergedModel("a folder/mödel 2.safetensors", "d" * 40, "f" * 64),
    )
    state = state_for(repository, trailers=record.lines(), models=models)
    file = tmp_path / "MESSAGE"
    file.write_text("title\n")
    assert trailers.apply_trailers(file, state, repository)
    repository.run("commit", "--quiet", "--allow-empty", "-F", str(file))
    found = trailers.read(repository, "HEAD")
    assert found.models == ((kept, "model.safetensors"),)
    assert found.specs == (("e" * 64, "model.safetensors"),)
    assert found.constituents == FULL.constituents

    file.write_text("title\n")
    state = dataclasses.replace(state, models=models[1:])
    assert not trailers.apply_trailers(file, state, repository)
    assert file.read_text() == "title\n"


def test_is_current_only_for_the_very_merge(repository, commit):
    commit({"a": "1"})
    repository.run("branch", "side")
    head = commit({"b": "1"})
    repository.run("switch", "--quiet", "side")
    side = commit({"c": "1"})
    repository.run("switch", "--quiet", "main")
    state = MergeState(head=head, remotes=(side,), trailers=FULL.lines())
    assert not trailers.is_current(repository, state)
    repository.run("merge", "--no-commit", "--no-ff", "--quiet", "side")
    assert trailers.is_current(repository, state)
    assert not trailers.is_current(repository, dataclasses.replace(state, head=side))
    assert not trailers.is_current(repository, dataclasses.replace(state, remotes=(side, head)))
    repository.run("merge", "--abort")
    assert not trailers.is_current(repository, state)
    repository.run("merge", "--squash", "--quiet", "side")
    assert not trailers.is_current(repository, state)
    assert trailers.is_current(repository, dataclasses.replace(state, squash=True))
    repository.run("commit", "--quiet", "-m", "squashed")
    assert not trailers.is_current(repository, dataclasses.replace(state, squash=True))


def test_linked_work_trees_have_states_of_their_own(repository, commit, tmp_path):
    commit({"a": "1"})
    repository.run("worktree", "add", "--quiet", str(tmp_path / "other"))
    other = type(repository)(tmp_path / "other")
    trailers.write_state(other, MergeState(head="a" * 40, remotes=(), trailers=()))
    assert trailers.read_state(repository) is None
    assert trailers.read_state(other).head == "a" * 40
