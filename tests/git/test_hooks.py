"""Our hooks beside everybody else's, run by the real Git."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from gitmerge_eval.git import configuration, hooks, programs, trailers
from gitmerge_eval.git.repository import Repository

SUPPORTS_CONFIGURED = (programs.version_of("git", "version") or ()) >= programs.CONFIGURED_HOOKS
FILES_ONLY = pytest.mark.skipif(
    SUPPORTS_CONFIGURED, reason="this Git has its hooks in the configuration, none is moved"
)


def write_hook(repository, name, body, mode=0o755):
    path = hooks.folder(repository) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(mode)
    return path


def files(folder):
    return {
        path.name: (path.read_bytes(), stat.S_IMODE(path.lstat().st_mode))
        for path in folder.iterdir()
    }


@pytest.fixture
def spy(monkeypatch, tmp_path):
    """A program in the place of ours that writes down how it was called; returns its log."""
    log = tmp_path / "spied"
    program = tmp_path / "gitmerge-eval"
    program.write_text(
        f"#!/bin/sh\necho \"$@\" >>'{log}'\n"
        f"[ \"$2\" = pre-push ] && cat >>'{log}'\n[ ! -e '{tmp_path}/fail' ]\n"
    )
    program.chmod(0o755)
    monkeypatch.setattr(programs, "location", lambda name=programs.MAIN: str(program))
    return log


def diverge(repository, commit):
    """main and side, each with a commit of its own; a merge state for their merge."""
    commit({"a": "1\n"})
    repository.run("branch", "side")
    head = commit({"b": "1\n"})
    repository.run("switch", "--quiet", "side")
    side = commit({"c": "1\n"})
    repository.run("switch", "--quiet", "main")
    record = trailers.MergeTrailers("ties", {"scale": 0.5}, constituents=((side, "side"),))
    state = trailers.MergeState(head=head, remotes=(side,), trailers=record.lines())
    trailers.write_state(repository, state)
    return state


def test_every_event_reaches_the_program(repository, commit, spy, tmp_path):
    hooks.install(repository)
    state = diverge(repository, commit)
    assert not spy.exists(), "an ordinary commit started the program"
    trailers.write_state(repository, state)
    repository.run("merge", "--quiet", "--no-edit", "--strategy=ort", "side")
    repository.run("commit", "--quiet", "--amend", "--no-edit")
    subprocess.run(["git", "init", "-q", "--bare", tmp_path / "bare"], check=True)
    repository.run("push", "--quiet", str(tmp_path / "bare"), "main")
    head = repository.text("rev-parse", "HEAD")
    called = spy.read_text().splitlines()
    assert called[0].startswith("hook prepare-commit-msg")
    assert called[0].endswith(" merge")
    assert called[1] == "hook post-merge 0"
    assert called[2].startswith("hook prepare-commit-msg")
    assert called[3] == "hook post-commit"
    assert called[4] == f"hook pre-push {tmp_path / 'bare'} {tmp_path / 'bare'}"
    assert called[5] == f"refs/heads/main {head} refs/heads/main {'0' * 40}"
    assert len(called) == 6


def test_a_failing_program_stops_a_push_and_nothing_else(repository, commit, spy, tmp_path):
    hooks.install(repository)
    diverge(repository, commit)
    (tmp_path / "fail").touch()
    repository.run("merge", "--quiet", "--no-edit", "--strategy=ort", "side")
    repository.run("commit", "--quiet", "--amend", "--no-edit")
    assert len(spy.read_text().splitlines()) == 4, "each hook calls the program once"
    subprocess.run(["git", "init", "-q", "--bare", tmp_path / "bare"], check=True)
    assert repository.run("push", str(tmp_path / "bare"), "main", check=False).status != 0


def test_foreign_hooks_run_first_with_arguments_and_input(repository, commit, spy, tmp_path):
    for event in hooks.EVENTS:
        take = "cat" if event == "pre-push" else "true"
        write_hook(repository, event, f"{{ echo theirs {event} \"$@\"; {take}; }} >>'{spy}'")
    before = files(hooks.folder(repository))
    hooks.install(repository)
    diverge(repository, commit)
    spy.unlink()
    repository.run("merge", "--quiet", "--no-edit", "--strategy=ort", "side")
    subprocess.run(["git", "init", "-q", "--bare", tmp_path / "bare"], check=True)
    repository.run("push", "--quiet", str(tmp_path / "bare"), "main")
    called = spy.read_text().splitlines()
    refs = [line for line in called if line.startswith("refs/heads/main")]
    assert len(refs) == 2
    assert refs[0] == refs[1]
    verbs = [" ".join(line.split()[:2]) for line in called if line not in refs]
    assert sorted(verbs) == sorted(
        f"{who} {event}"
        for who in ("theirs", "hook")
        for event in ("prepare-commit-msg", "post-merge", "pre-push")
    )
    if not SUPPORTS_CONFIGURED:
        assert verbs[::2] == ["theirs prepare-commit-msg", "theirs post-merge", "theirs pre-push"]
    hooks.uninstall(repository)
    assert files(hooks.folder(repository)) == before


@pytest.mark.parametrize("event", ["pre-push", "prepare-commit-msg"])
def test_a_foreign_refusal_counts(repository, commit, spy, tmp_path, event):
    commit({"a": "1\n"})
    write_hook(repository, event, "exit 3")
    hooks.install(repository)
    subprocess.run(["git", "init", "-q", "--bare", tmp_path / "bare"], check=True)
    if event == "pre-push":
        done = repository.run("push", str(tmp_path / "bare"), "main", check=False)
    else:
        done = repository.run("commit", "--allow-empty", "-m", "refused", check=False)
    assert done.status != 0


@FILES_ONLY
def test_a_hook_that_git_ignored_stays_ignored(repository, commit, spy, tmp_path):
    write_hook(repository, "post-commit", f"touch '{tmp_path}/ran'", mode=0o644)
    hooks.install(repository)
    commit({"a": "1\n"})
    assert not (tmp_path / "ran").exists()
    hooks.uninstall(repository)
    assert not os.access(hooks.folder(repository) / "post-commit", os.X_OK)


def test_without_the_program_they_do_nothing(repository, commit, monkeypatch, tmp_path):
    gone = tmp_path / "gone" / "gitmerge-eval"
    monkeypatch.setattr(programs, "location", lambda name=programs.MAIN: str(gone))
    folders = os.environ["PATH"].split(os.pathsep)
    others = [folder for folder in folders if not Path(folder, "gitmerge-eval").exists()]
    monkeypatch.setenv("PATH", os.pathsep.join(others))
    hooks.install(repository)
    diverge(repository, commit)
    assert repository.run("merge", "--no-edit", "--strategy=ort", "side").status == 0
    subprocess.run(["git", "init", "-q", "--bare", tmp_path / "bare"], check=True)
    done = repository.run("push", str(tmp_path / "bare"), "main")
    assert "tensors of checkpoints were not sent" in done.stderr
    # A script whose Python is gone with its environment.
    gone.parent.mkdir()
    gone.write_text("#!/nowhere/python\n")
    gone.chmod(0o755)
    repository.run("commit", "--quiet", "--allow-empty", "-m", "more")
    assert repository.run("push", str(tmp_path / "bare"), "main").status == 0


@FILES_ONLY
def test_git_lfs_hooks_are_called_and_it_says_what_we_said(repository, spy, tmp_path):
    lfs = ["git", "lfs", "install", "--local"]
    subprocess.run(lfs, cwd=repository.directory, check=True, capture_output=True)
    before = files(hooks.folder(repository))
    said = hooks.install(repository).notices
    done = subprocess.run(
        lfs, cwd=repository.directory, check=False, capture_output=True, text=True
    )
    assert done.returncode == 2
    quoted = said[0].split("'")[5]
    assert quoted.startswith("Hook already exists: ")
    assert quoted in done.stdout + done.stderr
    forced = ["git", "lfs", "update", "--force"]
    subprocess.run(forced, cwd=repository.directory, check=True, capture_output=True)
    assert hooks.state(repository, "post-merge") == "absent"
    hooks.install(repository)
    assert all(hooks.state(repository, event) == "installed" for event in hooks.EVENTS)
    assert len(hooks.chained(hooks.folder(repository) / "pre-push")) == 1
    hooks.uninstall(repository)
    assert files(hooks.folder(repository)) == before


def test_git_theta_hooks_are_set_aside_and_come_back(repository, commit, spy, tmp_path):
    """The hooks that the real git-theta writes, again after every one of its commands."""
    commit({"model.safetensors": "{}"})
    command = [Path(sys.executable).parent / "git-theta", "track", "model.safetensors"]
    subprocess.run(command, cwd=repository.directory, check=True, capture_output=True)
    theirs = files(hooks.folder(repository))
    assert {"post-commit", "pre-push"} <= set(theirs)
    for _ in range(2):
        assert any(
            "git-theta's hook pre-push aside" in line for line in hooks.install(repository).made
        )
        commit({"b": "1"})
        subprocess.run(["git", "init", "-q", "--bare", tmp_path / "bare"], check=True)
        repository.run("push", "--quiet", str(tmp_path / "bare"), "main")
        assert not repository.path("theta/commits").exists()
        subprocess.run(command, cwd=repository.directory, check=True, capture_output=True)
    hooks.install(repository)
    hooks.uninstall(repository)
    assert files(hooks.folder(repository)) == theirs


@FILES_ONLY
def test_moved_by_pre_commit_they_still_run_and_leave(repository, commit, spy):
    """pre-commit renames a hook that is there to <hook>.legacy and calls it from its own."""
    original = write_hook(repository, "post-commit", f"echo original >>'{spy}'").read_bytes()
    hooks.install(repository)
    path = hooks.folder(repository) / "post-commit"
    path.rename(path.with_name("post-commit.legacy"))
    write_hook(repository, "post-commit", f'echo pre-commit >>\'{spy}\'; "$0.legacy" "$@"')
    assert hooks.state(repository, "post-commit") == "installed"
    assert not hooks.install(repository)
    commit({"a": "1"})
    assert spy.read_text().split() == ["pre-commit", "original"]
    hooks.uninstall(repository)
    assert path.with_name("post-commit.legacy").read_bytes() == original
    assert b"pre-commit" in path.read_bytes()
    assert not hooks.chained(path)


@FILES_ONLY
def test_a_hook_written_over_ours_is_chained_too_and_none_is_lost(repository, commit, spy):
    write_hook(repository, "post-commit", f"echo first >>'{spy}'")
    hooks.install(repository)
    newer = write_hook(repository, "post-commit", f"echo second >>'{spy}'").read_bytes()
    hooks.install(repository)
    commit({"a": "1"})
    assert spy.read_text().split() == ["first", "second"]
    said = hooks.uninstall(repository).notices
    assert (hooks.folder(repository) / "post-commit").read_bytes() == newer
    assert "post-commit.gitmerge-eval-chained" in said[0]
    assert len(hooks.chained(hooks.folder(repository) / "post-commit")) == 1


def test_core_hooks_path_is_respected(repository, commit, spy, tmp_path):
    folder = tmp_path / "shared hooks"
    repository.run("config", "core.hooksPath", str(folder))
    write_hook(repository, "post-commit", f"echo shared >>'{spy}'")
    before = files(folder)
    said = hooks.install(repository).notices
    diverge(repository, commit)
    repository.run("commit", "--quiet", "--allow-empty", "-m", "one more")
    lines = spy.read_text().splitlines()
    assert "shared" in lines
    assert "hook post-commit" in lines
    if not SUPPORTS_CONFIGURED:
        assert any("core.hooksPath" in line for line in said)
    hooks.uninstall(repository)
    assert files(folder) == before


def test_they_work_in_a_linked_work_tree(repository, commit, spy, tmp_path):
    hooks.install(repository)
    commit({"a": "1"})
    repository.run("worktree", "add", "--quiet", "-b", "other", str(tmp_path / "other tree"))
    other = Repository(tmp_path / "other tree")
    trailers.write_state(other, trailers.MergeState("a" * 40, (), ()))
    commit({"b": "1"})
    assert not spy.exists()
    commit({"c": "1"}, to=other)
    assert "hook post-commit" in spy.read_text()
    assert not hooks.install(other)


def test_an_older_version_is_renewed_in_place(repository, spy, monkeypatch, tmp_path):
    hooks.install(repository)
    monkeypatch.setattr(programs, "location", lambda name=programs.MAIN: "/elsewhere/gitmerge-eval")
    assert {hooks.state(repository, event) for event in hooks.EVENTS} == {"outdated"}
    assert hooks.install(repository)
    assert {hooks.state(repository, event) for event in hooks.EVENTS} == {"installed"}
    assert not list(hooks.folder(repository).glob(f"*{hooks.CHAINED}*"))


def test_scripts_are_portable_shell(repository):
    for event in hooks.EVENTS:
        text = hooks.script(event)
        assert text.startswith(b"#!/bin/sh\n")
        assert hooks.MARKER + event.encode() in text
        assert b"@" + b"PROGRAM@" not in text
        subprocess.run(["sh", "-n"], input=text, check=True)


def test_a_clone_without_a_hooks_folder(repository, commit, spy):
    shutil.rmtree(hooks.folder(repository))
    hooks.install(repository)
    diverge(repository, commit)
    repository.run("merge", "--quiet", "--no-edit", "--strategy=ort", "side")
    assert "hook post-merge 0" in spy.read_text()
    assert configuration.uninstall(repository)
    assert not list(hooks.folder(repository).glob("*"))
