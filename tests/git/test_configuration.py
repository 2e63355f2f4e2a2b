"""init and its undoing, in clones of the real Git."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from gitmerge_eval.errors import PrerequisiteError
from gitmerge_eval.git import configuration, programs, tracking
from gitmerge_eval.git.repository import Repository


def configured(repository):
    lines = repository.run("config", "--local", "-z", "--list").fields
    return sorted(lines)


def hook_files(repository):
    folder = repository.path("hooks")
    return {
        path.name: (path.read_bytes(), stat.S_IMODE(path.stat().st_mode))
        for path in folder.iterdir()
    }


@pytest.fixture
def clone(repository, commit, tmp_path):
    commit({"a": "1\n"}, "first")
    subprocess.run(["git", "clone", "-q", repository.directory, tmp_path / "clöne 2"], check=True)
    return Repository(tmp_path / "clöne 2")


def test_install_twice_changes_once_and_uninstall_restores(clone):
    before, hooks_before = configured(clone), hook_files(clone)
    assert configuration.install(clone)
    after, hooks_after = configured(clone), hook_files(clone)
    config = clone.path("config").read_bytes()
    assert not configuration.install(clone)
    assert clone.path("config").read_bytes() == config
    assert hook_files(clone) == hooks_after
    assert clone.text("config", "--get-all", "pull.twohead").split() == ["ort", "theta"]
    assert set(before) < set(after)
    assert configuration.is_installed(clone)

    assert configuration.uninstall(clone)
    assert configured(clone) == before
    assert hook_files(clone) == hooks_before
    assert not configuration.uninstall(clone)
    assert not configuration.is_installed(clone)


def test_earlier_values_come_back_in_their_order(clone):
    for key, values in {
        "pull.twohead": ["recursive", "resolve"],
        "pull.ff": ["only"],
        "notes.displayRef": ["refs/notes/review", "refs/notes/ci"],
        "filter.theta.clean": ["git-theta-filter clean %f"],
        "filter.theta.process": [""],
    }.items():
        for value in values:
            clone.run("config", "--add", key, value)
    before = configured(clone)
    configuration.install(clone)
    assert clone.text("config", "--get-all", "notes.displayRef").split() == [
        "refs/notes/review", "refs/notes/ci", "refs/notes/gitmerge-eval*",
    ]  # fmt: skip
    assert "gitmerge-eval filter clean %f" in clone.text("config", "filter.theta.clean")
    configuration.uninstall(clone)
    assert configured(clone) == before
    assert clone.text("config", "--get-all", "pull.twohead").split() == ["recursive", "resolve"]


def test_what_the_user_changed_since_stays(clone):
    configuration.install(clone)
    clone.run("config", "pull.ff", "only")
    clone.run("config", "--add", "notes.displayRef", "refs/notes/review")
    undone = configuration.uninstall(clone)
    assert clone.setting("pull.ff") == "only"
    assert clone.text("config", "--get-all", "notes.displayRef") == "refs/notes/review"
    assert any("pull.ff stays 'only'" in notice for notice in undone.notices)


def test_a_value_set_between_two_installations_is_the_one_restored(clone):
    configuration.install(clone)
    clone.run("config", "pull.ff", "only")
    configuration.install(clone)
    assert clone.setting("pull.ff") == "true"
    configuration.uninstall(clone)
    assert clone.setting("pull.ff") == "only"


def test_interrupted_before_the_configuration_was_written(clone, monkeypatch):
    before = configured(clone)
    monkeypatch.setattr(configuration, "_set", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        configuration.install(clone)
    monkeypatch.undo()
    configuration.uninstall(clone)
    assert configured(clone) == before


def test_a_remote_without_notes_can_be_fetched_and_one_with_notes_is_kept_apart(clone, repository):
    configuration.install(clone)
    clone.run("fetch", "--quiet")
    clone.run("notes", "--ref=gitmerge-eval", "add", "-m", "here", "HEAD")
    own = clone.text("rev-parse", "refs/notes/gitmerge-eval")
    repository.run("notes", "--ref=gitmerge-eval", "add", "-m", "there", "HEAD")
    clone.run("pull", "--quiet")
    assert clone.text("rev-parse", "refs/notes/gitmerge-eval") == own
    assert "there" in clone.text("notes", "--ref=origin/gitmerge-eval", "show", "HEAD")
    assert "here" in clone.text("log", "-1")


def test_a_clone_without_notes_is_quiet_and_notes_follow_an_amended_commit(clone):
    configuration.install(clone)
    assert clone.run("log", "-1").stderr == ""
    assert clone.run("commit", "--amend", "--allow-empty", "-m", "again").stderr == ""
    clone.run("notes", "--ref=gitmerge-eval", "add", "-m", "measured", "HEAD")
    old = clone.text("rev-parse", "HEAD")
    clone.run("commit", "--quiet", "--amend", "--allow-empty", "-m", "once more")
    assert clone.text("rev-parse", "HEAD") != old
    assert "measured" in clone.text("log", "-1")


def test_a_remote_added_later_is_taken_up_and_let_go(clone, repository):
    configuration.install(clone)
    clone.run("remote", "add", "other.fork", str(repository.directory))
    clone.run("remote", "add", "--mirror=fetch", "mirror", str(repository.directory))
    before = configured(clone)
    assert configuration.install(clone)
    fetched = clone.text("config", "--get-all", "remote.other.fork.fetch")
    assert "+refs/notes/gitmerge-eval*:refs/notes/other.fork/gitmerge-eval*" in fetched
    assert clone.text("config", "--get-all", "remote.mirror.fetch") == "+refs/*:refs/*"
    clone.run("fetch", "--quiet", "other.fork")
    configuration.uninstall(clone)
    assert set(configured(clone)) < set(before)


def test_a_plain_pull_fast_forwards_and_a_merge_of_a_branch_does_not(clone, repository, commit):
    configuration.install(clone)
    tip = commit({"a": "2\n"})
    clone.run("pull", "--quiet")
    assert clone.text("rev-parse", "HEAD") == tip
    clone.run("switch", "--quiet", "-c", "side")
    commit({"b": "1\n"}, to=clone)
    clone.run("switch", "--quiet", "main")
    clone.run("merge", "--quiet", "--no-edit", "--strategy=ort", "side")
    assert len(clone.text("rev-parse", "HEAD^@").split()) == 2


def test_cherry_pick_and_rebase_do_not_reach_the_strategy(clone, commit, monkeypatch, tmp_path):
    configuration.install(clone)
    (tmp_path / "bin").mkdir()
    strategy = tmp_path / "bin" / "git-merge-theta"
    strategy.write_text(f"#!/bin/sh\ntouch '{tmp_path}/called'\nexit 2\n")
    strategy.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    clone.run("switch", "--quiet", "-c", "side")
    side = commit({"b": "1\n"}, to=clone)
    clone.run("switch", "--quiet", "main")
    commit({"c": "1\n"}, to=clone)
    clone.run("cherry-pick", side)
    clone.run("switch", "--quiet", "side")
    clone.run("rebase", "--quiet", "HEAD~1", "--onto", "main~1")
    assert not (tmp_path / "called").exists()
    commit({"d": "1\n"}, to=clone)
    clone.run("switch", "--quiet", "main")
    commit({"e": "1\n"}, to=clone)
    clone.run("merge", "--quiet", "--no-edit", "side", check=False)
    assert (tmp_path / "called").exists()


def only(folder: Path, *names: str) -> str:
    """A PATH with nothing but these programs."""
    folder.mkdir()
    for name in names:
        found = shutil.which(name)
        assert found
        (folder / name).symlink_to(found)
    return str(folder)


def test_without_git_lfs_nothing_is_changed(clone, monkeypatch, tmp_path):
    before, hooks_before = configured(clone), hook_files(clone)
    monkeypatch.setenv("PATH", only(tmp_path / "bin", "git", "sh"))
    with pytest.raises(PrerequisiteError, match=r"git-lfs .*is not installed; .*git-lfs"):
        configuration.install(clone)
    assert configured(clone) == before
    assert hook_files(clone) == hooks_before
    assert not configuration.is_installed(clone)


def test_an_old_git_is_refused(clone, monkeypatch, tmp_path):
    folder = only(tmp_path / "bin", "sh", "git-lfs")
    fake = tmp_path / "bin" / "git"
    fake.write_text("#!/bin/sh\necho git version 2.34.1\n")
    fake.chmod(0o755)
    before = configured(clone)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", folder)
        with pytest.raises(PrerequisiteError, match=r"Git 2\.38 .*this is 2\.34\.1; update it"):
            configuration.install(clone)
    assert configured(clone) == before


def test_git_starts_our_programs_from_a_plain_shell(clone, monkeypatch):
    """Without the virtual environment on PATH, and from a folder with odd characters."""
    configuration.install(clone)
    plain = [
        f for f in os.environ["PATH"].split(os.pathsep) if Path(f) != programs.scripts_folder()
    ]
    monkeypatch.setenv("PATH", os.pathsep.join(plain))
    command = clone.setting("filter.theta.process")
    done = subprocess.run(["sh", "-c", f"{command} --help"], capture_output=True, check=False)
    assert done.returncode != 127
    notices = configuration.install(clone).notices
    assert any("export PATH=" in notice or "activate" in notice for notice in notices)


def test_a_program_is_quoted_for_the_shell_and_for_git(clone, monkeypatch, tmp_path):
    folder = tmp_path / "it's 100%f"
    folder.mkdir()
    program = folder / "gitmerge-eval"
    program.write_text('#!/bin/sh\n[ "$1" = filter ] && [ "$2" = clean ] && tr a-z A-Z\n')
    program.chmod(0o755)
    monkeypatch.setattr(programs, "scripts_folder", lambda: folder)
    monkeypatch.setattr(programs.sys, "prefix", "/elsewhere")
    configuration.install(clone)
    clone.run("config", "--unset", "filter.theta.process")
    (clone.directory / ".gitattributes").write_text("*.x filter=theta\n")
    (clone.directory / "file.x").write_text("text")
    clone.run("add", "file.x")
    assert clone.text("cat-file", "blob", ":file.x") == "TEXT"


def test_a_plain_name_where_it_lasts(monkeypatch, tmp_path):
    own = tmp_path / "venv" / "bin"
    own.mkdir(parents=True)
    script = own / "gitmerge-eval"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    monkeypatch.setattr(programs, "scripts_folder", lambda: own)
    monkeypatch.setattr(programs.sys, "prefix", str(own.parent))
    monkeypatch.setenv("PATH", str(own))
    assert programs.location() == str(script)
    lasting = tmp_path / "local"
    lasting.mkdir()
    (lasting / "gitmerge-eval").symlink_to(script)
    monkeypatch.setenv("PATH", f"{own}{os.pathsep}{lasting}")
    assert programs.location() == "gitmerge-eval"
    (lasting / "gitmerge-eval").unlink()
    (lasting / "gitmerge-eval").write_text("#!/bin/sh\n")
    (lasting / "gitmerge-eval").chmod(0o755)
    assert programs.location() == str(script)  # somebody else's


@pytest.fixture
def toy_filter(monkeypatch, tmp_path):
    """A stand-in for the filter: the work tree has the stored text in capital letters."""
    script = tmp_path / "toy"
    script.write_text(
        "#!/bin/sh\n"
        f'[ -e "{tmp_path}/broken" ] && exit 1\n'
        'case "$2" in smudge) tr a-z A-Z ;; clean) tr A-Z a-z ;; esac\n'
    )
    script.chmod(0o755)

    def configure(repository):
        for verb in ("clean", "smudge"):
            repository.run("config", f"filter.theta.{verb}", f"'{script}' filter {verb}")
        repository.run("config", "filter.theta.required", "true")

    return configure


def test_raw_checkpoints_are_checked_out_through_the_filter(
    repository, commit, toy_filter, tmp_path
):
    names = ["model.safetensors", "an ödd\nname.safetensors", "edited.safetensors"]
    commit({".gitattributes": "*.safetensors filter=theta\n"})
    commit(dict.fromkeys(names, '{"stored": "text"}\n'))
    commit({"unfiltered.safetensors": "no metadata\n", "plain.txt": '{"a": 1}\n'})
    (repository.directory / "edited.safetensors").write_text('{"stored": "texx"}\n')
    subprocess.run(["git", "clone", "-q", repository.directory, tmp_path / "c"], check=True)
    toy_filter(repository)
    assert sorted(tracking.raw(repository)) == sorted(names[:2])

    (tmp_path / "broken").touch()
    failed = tracking.check_out_raw(repository)
    assert not failed
    assert "could not be checked out" in failed.notices[0]
    for name in names[:2]:
        assert (repository.directory / name).read_text() == '{"stored": "text"}\n'

    (tmp_path / "broken").unlink()
    assert tracking.check_out_raw(repository)
    for name in names[:2]:
        assert (repository.directory / name).read_text() == '{"STORED": "TEXT"}\n'
    assert (repository.directory / "edited.safetensors").read_text() == '{"stored": "texx"}\n'
    assert (repository.directory / "unfiltered.safetensors").read_text() == "no metadata\n"
    assert (repository.directory / "plain.txt").read_text() == '{"a": 1}\n'
    assert "edited" in repository.text("status", "--porcelain", "-uno")
    assert not tracking.check_out_raw(repository)


@pytest.mark.parametrize(
    ("before", "pattern", "after"),
    [
        ("", "m.x", "m.x filter=theta merge=theta diff=theta\n"),
        ("*.txt text", "m.x", "*.txt text\nm.x filter=theta merge=theta diff=theta\n"),
        ("m.x -text filter=lfs diff=lfs merge=lfs\n", "m.x",
         "m.x -text filter=theta merge=theta diff=theta\n"),
        ("m.x filter=theta merge=theta diff=theta lockable\n", "m.x", None),
        ("# m.x\n\n[attr]m.x text\n", "a b.x",
         '# m.x\n\n[attr]m.x text\n"a b.x" filter=theta merge=theta diff=theta\n'),
        ('"a b.x" lockable\n', "a b.x", '"a b.x" lockable filter=theta merge=theta diff=theta\n'),
        ("m.x filter=theta merge=theta diff=theta\n*.x filter=lfs\n", "m.x",
         "m.x filter=theta merge=theta diff=theta\n*.x filter=lfs\n"
         "m.x filter=theta merge=theta diff=theta\n"),
    ],
)  # fmt: skip
def test_track_keeps_what_else_is_there(repository, before, pattern, after):
    path = repository.directory / ".gitattributes"
    if before:
        path.write_text(before)
    assert tracking.track(repository, pattern) == (after is not None)
    assert path.read_text() == (after or before)
    for attribute in ("filter", "merge", "diff"):
        assert repository.attribute(attribute, [pattern]) == {pattern: "theta"}
    assert repository.text("ls-files") == ".gitattributes"
    assert not tracking.track(repository, pattern)
    assert path.read_text() == (after or before)


def test_track_agrees_with_git_theta(repository, commit, tmp_path):
    """The real 'git theta track' finds nothing to add to what we wrote."""
    commit({"model.safetensors": "{}"})
    tracking.track(repository, "model.safetensors")
    path = repository.directory / ".gitattributes"
    ours = path.read_text()
    subprocess.run(
        [Path(sys.executable).parent / "git-theta", "track", "model.safetensors"],
        cwd=repository.directory, check=True, capture_output=True,
    )  # fmt: skip
    assert path.read_text() == ours
