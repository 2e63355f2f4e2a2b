"""A full disk and a read-only repository: one clear line, nothing changed, nothing left behind.

Each case runs in a mount namespace of its own, where a folder of the repository lies on a small
file system or is read-only; the mounts go with the namespace.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from models import ModelRepository
from small_repositories import LINES, copied, edited, left_over, settle

from gitmerge_eval.git.repository import Repository

ROOM = 12_000
"""Bytes left on a disk that is nearly full: less than the model has."""


def namespace() -> tuple[str, ...]:
    """The command that gives a process mounts of its own: as anybody, or as root only."""
    for how in (("unshare", "--user", "--map-root-user", "--mount"), ("unshare", "--mount")):
        command = [*how, "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
        if shutil.which("unshare") and subprocess.run(command, capture_output=True).returncode == 0:
            return how
    return ()


NAMESPACE = namespace()
pytestmark = pytest.mark.skipif(not NAMESPACE, reason="mounts are not allowed here")

BASE = {"w": torch.zeros(60, 100), "frozen": torch.zeros(3)}


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    made = ModelRepository(tmp_path_factory.mktemp("template") / "model", BASE, text=LINES)
    for number, name in enumerate("ab"):
        generator = torch.Generator().manual_seed(number)
        tuned = {**BASE, "w": torch.rand(60, 100, generator=generator)}
        files = {f"{name}.txt": name * 9000, "notes.txt": edited(name, 5 * number)}
        made.branch(name, tuned, files=files)
    settle(made)
    return made


@pytest.fixture(scope="module")
def uncomputed(tmp_path_factory):
    """Each branch adds a group, so that torch is not needed to merge them."""
    made = ModelRepository(tmp_path_factory.mktemp("uncomputed") / "model", BASE, text=LINES)
    for number, name in enumerate("ab"):
        files = {f"{name}.txt": name * 9000, "notes.txt": edited(name, 5 * number)}
        made.branch(name, {**BASE, name: torch.full((30, 100), 1.0 + number)}, files=files)
    settle(made)
    return made


@pytest.fixture
def repository(template, tmp_path):
    return copied(template, tmp_path / "model")


def small(folder: str, room: int) -> str:
    """Put a folder with what is in it on a file system with only ``room`` bytes left."""
    return f"""
        cp -a {folder} "$1/aside" && mount -t tmpfs -o size=16m tmpfs {folder}
        cp -a "$1/aside/." {folder}/ && rm -r "$1/aside"
        free=$(df --output=avail -B1 {folder} | tail -n 1)
        test "$free" -le {room} || head -c $((free - {room})) /dev/zero > {folder}/filler
    """


def read_only(folder: str) -> str:
    return f"mount --bind {folder} {folder} && mount -o remount,bind,ro {folder}"


def confined(repository: ModelRepository, folder: Path, mounts: str, *command: str):
    """Run a command with these mounts; what it said, and the repository as it left it."""
    aside, after = folder / "outside", folder / "after"
    aside.mkdir()
    script = f"""
        set -e
        cd {shlex.quote(str(repository.folder))}
        {mounts}
        cd . ; status=0
        {shlex.join(command)} || status=$?
        find . -name filler -delete 2>/dev/null || true
        cp -a . {shlex.quote(str(after))}
        exit $status
    """
    done = subprocess.run(
        [*NAMESPACE, "bash", "-c", script, "bash", str(aside)],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    left = ModelRepository.__new__(ModelRepository)
    left.folder, left.git = after, Repository(after)
    (after / ".git" / "filler").unlink(missing_ok=True)
    for filler in after.rglob("filler"):
        filler.unlink()
    return done, left


def objects(repository: ModelRepository) -> set[str]:
    return {path.name for path in (repository.folder / ".git/lfs/objects").rglob("?" * 64)}


def all_left_over(repository: ModelRepository) -> set[str]:
    git = repository.folder / ".git"
    return left_over(git / "gitmerge-eval") | {path.name for path in (git / "lfs/tmp").glob("*")}


def unchanged(before: ModelRepository, after: ModelRepository) -> None:
    assert after.state() == before.state()
    assert after.run("status", "--porcelain").stdout == ""
    assert all_left_over(after) == set()
    assert not list(after.folder.glob(".*.gitmerge-eval"))
    assert not list((after.folder / ".git").glob("*.lock"))


def lines(done) -> list[str]:
    """What we said; where Git's own restoring fails too, it has lines of its own."""
    assert "Traceback" not in done.stderr
    return [line for line in done.stderr.splitlines() if line.startswith("gitmerge-eval: ")]


FULL = {
    "the LFS store": (".git/lfs", "cannot write "),
    "our own folder": (".git/gitmerge-eval", "cannot write "),
    "Git's objects": (".git/objects", "No space left on device"),
    "everything": (".git", "No space left on device"),
}


@pytest.mark.parametrize("what", FULL)
def test_a_full_disk(repository, tmp_path, what):
    folder, message = FULL[what]
    room = 0 if what == "Git's objects" else ROOM
    done, after = confined(
        repository, tmp_path, small(folder, room), "git", "merge", "-Xmethod=average", "a", "b"
    )
    assert done.returncode in (2, 128), done.stderr
    assert len(lines(done)) == 1, done.stderr
    assert message in lines(done)[0]
    assert "No space left on device" in lines(done)[0]
    unchanged(repository, after)
    # With room again, the same merge works.
    after.merge("-Xmethod=average", "a", "b")
    assert after.run("status", "--porcelain").stdout == ""


@pytest.mark.parametrize("room", [0, 12288, 32768, 131072])
def test_a_full_work_tree(uncomputed, tmp_path, room):
    """The work tree on a disk of its own: whatever fits or does not, all or nothing."""
    repository = copied(uncomputed, tmp_path / "model")
    tree = tmp_path / "tree"
    repository.run("worktree", "add", "--quiet", "-b", "here", str(tree), "main")
    linked = ModelRepository.__new__(ModelRepository)
    linked.folder, linked.git = tree, Repository(tree)
    settle(linked)
    before = linked.state()
    script = f"""
        set -e
        {small(str(tree), room)}
        cd {tree}; status=0
        git merge -Xmethod=average a b > "$1/said" 2>&1 || status=$?
        rm -f filler; ls -A > "$1/files"; git status --porcelain > "$1/status"
        test "$status" = 0 || ! git rev-parse -q --verify MERGE_HEAD > /dev/null
        cat notes.txt > "$1/notes"
        exit $status
    """
    outside = tmp_path / "outside"
    outside.mkdir()
    command = [*NAMESPACE, "bash", "-c", script, "bash", str(outside)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    said = (outside / "said").read_text()
    assert "Traceback" not in said
    assert (outside / "status").read_text() == ""
    files = set((outside / "files").read_text().split())
    if room < 131072:
        assert done.returncode == 2
        assert files == {".git", ".gitattributes", "model.safetensors", "notes.txt"}
        assert (outside / "notes").read_text() == LINES
        assert repository.git.commit("here") == before[0]
        own = [line for line in said.splitlines() if line.startswith("gitmerge-eval: ")]
        assert len(own) == 1, said
        # The last that can fail is the model itself, when the ordinary files are written already.
        assert room != 32768 or f"cannot write '{tree}/model.safetensors': No space left" in said
    else:
        assert done.returncode == 0, said
        assert files >= {"a.txt", "b.txt"}
        assert repository.git.commit("here") != before[0]


READ_ONLY = {
    "the git directory": ".git",
    "the LFS store": ".git/lfs",
    "our own folder": ".git/gitmerge-eval",
    "Git's objects": ".git/objects",
    "the repository": ".",
}


@pytest.mark.parametrize("what", READ_ONLY)
def test_read_only(repository, tmp_path, what):
    merge = ("git", "merge", "-Xmethod=average", "a", "b")
    done, after = confined(repository, tmp_path, read_only(READ_ONLY[what]), *merge)
    assert done.returncode in (2, 128), done.stderr
    # Where Git itself cannot note ORIG_HEAD it does not even ask us.
    said = lines(done) or done.stderr.splitlines()
    assert len(said) == 1, done.stderr
    assert "Read-only file system" in said[0]
    unchanged(repository, after)


def test_gc_where_it_may_not_write(repository, tmp_path):
    gc = ("gitmerge-eval", "gc", "--older-than", "0")
    done, after = confined(repository, tmp_path, read_only(".git"), *gc)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("gitmerge-eval: Read-only file system '")
    assert len(done.stderr.splitlines()) == 1
    assert objects(after) == objects(repository)
    shutil.rmtree(after.folder)
    shutil.rmtree(tmp_path / "outside")
    done, after = confined(repository, tmp_path, read_only(".git"), *gc, "--dry-run")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("would remove 0 objects")


def test_verify_where_it_may_not_write(repository, tmp_path):
    repository.merge("-Xmethod=average", "a", "b")
    verify = ("gitmerge-eval", "verify", "--fresh")
    done, _ = confined(repository, tmp_path, read_only("."), *verify)
    assert done.returncode == 2
    assert len(lines(done)) == 1
    assert "Read-only file system" in lines(done)[0]
