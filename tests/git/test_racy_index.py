"""Files as young as the index: Git takes our word, and still sees every change."""

import os
import subprocess
import sys
import time

import pytest

from gitmerge_eval.git import racy_index
from gitmerge_eval.git.repository import Repository

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="files are leased on Linux alone")

PATHS = ["models/model.safetensors", "model.safetensors", "ü" * 30, "x" * 4100]


def in_one_second(function):
    """Repeat until everything happened in one second of the clock."""
    for _ in range(20):
        while time.time() % 1 > 0.5:
            time.sleep(0.02)
        began = int(time.time())
        function()
        if int(time.time()) == began:
            return
    pytest.fail("the machine is too slow for two things in one second")


@pytest.fixture(params=["sha1", "sha256"])
def young(request, tmp_path):
    """A repository whose filtered files are as young as its index; cleaning leaves a trace."""
    folder = tmp_path / "young"
    subprocess.run(
        ["git", "init", "--quiet", f"--object-format={request.param}", str(folder)], check=True
    )
    repository = Repository(folder)
    repository.run("config", "filter.traced.clean", f"echo x >>'{tmp_path}/cleaned'; cat")
    (folder / ".gitattributes").write_text("* filter=traced\n.gitattributes -filter\n")
    for path in PATHS[:3]:
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(f"content of {path}")
    repository.run("add", ".")
    repository.run("commit", "--quiet", "-m", "all")

    def check_out():
        for path in PATHS[:3]:
            (folder / path).unlink()
        repository.run("checkout", "--", ".")

    in_one_second(check_out)
    (tmp_path / "cleaned").unlink()
    return repository


def cleaned(repository):
    trace = repository.directory.parent / "cleaned"
    count = len(trace.read_text()) // 2 if trace.exists() else 0
    trace.unlink(missing_ok=True)
    return count


def status(repository):
    return repository.run(
        "status", "--porcelain", environment={"GIT_OPTIONAL_LOCKS": "0"}
    ).stdout.decode()


def test_git_reads_again_without_us_and_not_with_us(young):
    assert status(young) == ""
    assert cleaned(young) == 3
    racy_index.settle(young, PATHS[:3])
    assert status(young) == ""
    assert cleaned(young) == 0
    young.run("fsck", "--strict")
    assert not (young.git_directory / "index.lock").exists()


def test_files_that_are_not_named_stay_under_suspicion(young):
    racy_index.settle(young, PATHS[:1])
    (young.directory / PATHS[1]).write_text(f"CONTENT of {PATHS[1]}")
    os.utime(young.directory / PATHS[1], ns=(young.path("index").stat().st_mtime_ns,) * 2)
    assert PATHS[1] in status(young)


def test_changes_are_seen_afterwards(young):
    racy_index.settle(young, PATHS[:3])
    (young.directory / PATHS[0]).write_text(f"CONTENT of {PATHS[0]}")
    assert status(young) == f" M {PATHS[0]}\n"


def test_a_file_that_changed_meanwhile_is_left_alone(young):
    (young.directory / PATHS[0]).write_text(f"CONTENT of {PATHS[0]}")
    before = (young.directory / PATHS[0]).stat().st_mtime_ns
    racy_index.settle(young, PATHS[:3])
    assert (young.directory / PATHS[0]).stat().st_mtime_ns == before
    assert status(young) == f" M {PATHS[0]}\n"


def test_a_file_that_somebody_writes_to_is_left_alone(young):
    with (young.directory / PATHS[1]).open("r+b"):
        before = (young.directory / PATHS[1]).stat().st_mtime_ns
        racy_index.settle(young, PATHS[:3])
        assert (young.directory / PATHS[1]).stat().st_mtime_ns == before


@pytest.mark.parametrize("prepare", ["lock", "version 4", "no index", "link", "not there"])
def test_where_it_cannot_it_does_nothing(young, prepare):
    index = young.path("index")
    if prepare == "lock":
        index.with_name("index.lock").touch()
    elif prepare == "version 4":
        young.run("update-index", "--index-version", "4")
    elif prepare == "no index":
        index.unlink()
    elif prepare == "link":
        for path in PATHS[:3]:
            (young.directory / path).unlink()
            (young.directory / path).symlink_to(index)
    else:
        for path in PATHS[:3]:
            (young.directory / path).unlink()
    before = index.read_bytes() if index.exists() else None
    racy_index.settle(young, PATHS)
    assert (index.read_bytes() if index.exists() else None) == before
    assert index.with_name("index.lock").exists() == (prepare == "lock")


def test_extended_entries_and_permissions(young):
    young.run("update-index", "--index-version", "3")
    (young.directory / "later").write_text("x")
    young.run("add", "--intent-to-add", "later")
    index = young.path("index")
    index.chmod(0o660)
    cleaned(young)
    racy_index.settle(young, PATHS[:3])
    assert index.stat().st_mode & 0o777 == 0o660
    assert status(young) == " A later\n"
    assert young.text("ls-files", "--error-unmatch", *PATHS[:2])


def test_waiting_for_the_next_second(tmp_path):
    file = tmp_path / "file"
    file.touch()
    racy_index.await_next_second(file, 1.5)
    assert int(time.time()) > int(file.stat().st_mtime)
    file.touch()
    os.utime(file, (time.time() + 5,) * 2)
    began = time.monotonic()
    racy_index.await_next_second(file, 1.5)
    racy_index.await_next_second(tmp_path / "absent", 1.5)
    assert time.monotonic() - began < 0.5
