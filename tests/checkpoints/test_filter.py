"""The long-running filter under the real Git, and its protocol by hand."""

import hashlib
import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import safetensors.numpy

from gitmerge_eval.checkpoints.lfs import ObjectStore
from gitmerge_eval.checkpoints.metadata import Metadata, is_metadata
from gitmerge_eval.git.repository import Repository

PROGRAM = f"'{sys.executable}' -m gitmerge_eval.filter"
PATH = "models/model ü.safetensors"


def configure(repository, process=True):
    if process:
        repository.run("config", "filter.theta.process", PROGRAM)
    for command in ("clean", "smudge"):
        repository.run("config", f"filter.theta.{command}", f"{PROGRAM} {command} %f")
    repository.run("config", "filter.theta.required", "true")


@pytest.fixture
def filtered(repository, commit):
    configure(repository)
    commit({".gitattributes": "*.safetensors filter=theta\n"})
    return repository


def put(repository, path=PATH, value=1.0):
    random = np.random.default_rng(1)
    arrays = {
        "w": random.standard_normal((64, 33)).astype(np.float32) * np.float32(value),
        "b": np.arange(7),
    }
    file = repository.directory / path
    file.parent.mkdir(parents=True, exist_ok=True)
    safetensors.numpy.save_file(arrays, file, {"format": "pt"})
    return file.read_bytes()


def index_blob(repository, path=PATH):
    return repository.run("cat-file", "blob", f":{path}").stdout


def age(repository, path=PATH):
    """Make the file look changed, so that Git cleans it again."""
    os.utime(repository.directory / path, (1_000_000_000, 1_000_000_000))


@pytest.mark.parametrize("process", [True, False], ids=["process", "one-shot"])
def test_add_checkout_and_status(repository, commit, process):
    configure(repository, process)
    commit({".gitattributes": "*.safetensors filter=theta\n"})
    data = put(repository)
    commit({PATH: data})
    assert is_metadata(index_blob(repository))
    (repository.directory / PATH).unlink()
    checkout = repository.run("checkout", "--", PATH)
    assert (checkout.stdout, checkout.status) == (b"", 0)
    assert (repository.directory / PATH).read_bytes() == data
    age(repository)
    assert repository.text("status", "--porcelain") == ""
    assert repository.text("status", "--porcelain") == ""


def filters_started(repository, *arguments):
    trace = repository.git_directory / "traced"
    repository.run(*arguments, environment={"GIT_TRACE": str(trace)})
    started = sum("gitmerge_eval.filter" in line for line in trace.read_text().splitlines())
    trace.unlink()
    return started


@pytest.mark.skipif(sys.platform != "linux", reason="files are leased on Linux alone")
def test_a_status_straight_after_reads_nothing(filtered, commit, tmp_path):
    commit({PATH: put(filtered)})
    filtered.run("switch", "--quiet", "-c", "two")
    commit({PATH: put(filtered, value=2)})
    for _ in range(4):
        for branch in ("main", "two"):
            assert filters_started(filtered, "switch", "--quiet", branch) == 1
            assert filters_started(filtered, "status") == 0
    filtered.run("worktree", "add", "--quiet", str(tmp_path / "linked"), "main")
    assert filters_started(Repository(tmp_path / "linked"), "status") == 0
    filtered.run("reset", "--quiet", "--hard", "HEAD~1")
    assert filters_started(filtered, "status") == 0
    assert filters_started(filtered, "diff", "--stat", "main", "two") == 0


def test_a_full_disk_fails_the_add_with_one_line(filtered):
    """As a full disk does it: the largest file that a process may write is one block."""
    put(filtered)
    command = f"ulimit -f 4; trap '' XFSZ; exec git add '{PATH}'"
    done = subprocess.run(
        ["bash", "-c", command], cwd=filtered.directory, capture_output=True, text=True
    )
    assert done.returncode
    ours = [line for line in done.stderr.splitlines() if line.startswith("gitmerge-eval:")]
    assert len(ours) == 1
    assert f"'{PATH}': cannot write" in ours[0]
    assert "File too large; check" in ours[0]
    assert "Traceback" not in done.stderr
    store = ObjectStore(filtered).folder
    assert not list((store / "tmp").iterdir())
    assert all(path.stat().st_size < 4096 for path in store.rglob("objects/*/*/*"))
    assert filtered.text("ls-files", PATH) == ""


def test_a_store_that_cannot_be_written_fails_the_add_with_one_line(filtered):
    put(filtered)
    (filtered.git_directory / "lfs").write_text("not a folder")
    done = filtered.run("add", PATH, check=False)
    assert done.status
    ours = [line for line in done.stderr.splitlines() if line.startswith("gitmerge-eval:")]
    assert len(ours) == 1
    assert "lfs/tmp: Not a directory; check the folder's permissions" in ours[0]


def test_branches_and_a_linked_work_tree(filtered, commit, tmp_path):
    versions = {}
    for number, branch in enumerate(("one", "two")):
        filtered.run("switch", "--quiet", "-c", branch, "main")
        versions[branch] = put(filtered, value=number + 2)
        commit({PATH: versions[branch]}, branch)
    for branch in ("one", "two", "one"):
        filtered.run("switch", "--quiet", branch)
        assert (filtered.directory / PATH).read_bytes() == versions[branch]
        assert filtered.text("status", "--porcelain") == ""
    filtered.run("worktree", "add", "--quiet", str(tmp_path / "linked"), "two")
    linked = Repository(tmp_path / "linked")
    assert (linked.directory / PATH).read_bytes() == versions["two"]
    assert linked.text("status", "--porcelain") == ""


def test_cleaning_under_another_head_leaves_the_blob(filtered, commit):
    data = put(filtered)
    commit({PATH: data})
    document = json.loads(index_blob(filtered))
    for entry in document.values():
        entry["theta_metadata"]["last_commit"] = "c" * 40
    old = json.dumps(document, indent=4).encode()
    blob = filtered.write_blob(old)
    filtered.run("update-index", "--cacheinfo", f"100644,{blob},{PATH}")
    filtered.run("commit", "--quiet", "-m", "as git-theta would have written it")
    commit({"other": "1"})
    age(filtered)
    filtered.run("add", PATH)
    assert index_blob(filtered) == old
    # HEAD's entry counts where the index no longer has the path.
    filtered.run("rm", "--quiet", "--cached", PATH)
    filtered.run("add", PATH)
    assert index_blob(filtered) == old


def test_cleaning_in_a_conflict_keeps_the_entries_of_the_stages(filtered, commit):
    data = put(filtered)
    commit({PATH: data})
    document = json.loads(index_blob(filtered))
    document["w"]["theta_metadata"]["last_commit"] = "d" * 40
    theirs = json.dumps(document, indent=4).encode()
    blob = filtered.write_blob(theirs)
    filtered.run("rm", "--quiet", "--cached", PATH)
    filtered.run("commit", "--quiet", "-m", "gone from HEAD")
    lines = f"100644 {blob} 3\t{PATH}\n"
    filtered.run("update-index", "--index-info", stdin=lines)
    filtered.run("add", PATH)
    assert index_blob(filtered) == theirs


def test_a_model_that_is_not_safetensors_is_one_clear_line(filtered):
    (filtered.directory / "m.safetensors").write_bytes(b"\x80\x02}q\x00." + b"\0" * 100)
    done = filtered.run("add", "m.safetensors", check=False)
    assert done.status
    ours = [line for line in done.stderr.splitlines() if line.startswith("gitmerge-eval:")]
    assert len(ours) == 1
    assert "'m.safetensors': this is a PyTorch pickle" in ours[0]
    assert "Traceback" not in done.stderr


def test_one_bad_file_does_not_end_the_conversation(filtered, commit):
    good = put(filtered, "a.safetensors"), put(filtered, "z.safetensors", 2)
    data = put(filtered, "m.safetensors", 3)
    commit({"a.safetensors": good[0], "m.safetensors": data, "z.safetensors": good[1]})
    store = ObjectStore(filtered)
    record = Metadata.parse(index_blob(filtered, "m.safetensors")).groups["w"]
    store.path(record.object_id).write_bytes(b"\0" * record.size)
    for name in "amz":
        (filtered.directory / f"{name}.safetensors").unlink()
    done = filtered.run("checkout", "--", "a.safetensors", check=False)
    assert done.status == 0
    done = filtered.run("checkout", "--", ".", check=False)
    assert done.status
    assert "'m.safetensors': group 'w': LFS object" in done.stderr
    assert "does not have the bytes" in done.stderr
    assert not (filtered.directory / "m.safetensors").exists()


def test_truncated_files_are_refused_and_the_index_stays(filtered, commit):
    data = put(filtered)
    commit({PATH: data})
    before = filtered.text("ls-files", "-s")
    (filtered.directory / PATH).write_bytes(data[:-100])
    done = filtered.run("add", PATH, check=False)
    assert done.status
    assert "truncated safetensors" in done.stderr
    assert filtered.text("ls-files", "-s") == before


def test_a_clone_fetches_all_objects_at_once(filtered, commit, tmp_path, monkeypatch):
    files = {f"m{n}.safetensors": put(filtered, f"m{n}.safetensors", n + 1) for n in range(3)}
    commit(files)
    subprocess.run(["git", "init", "--quiet", "--bare", tmp_path / "remote"], check=True)
    filtered.run("remote", "add", "origin", str(tmp_path / "remote"))
    filtered.run("push", "--quiet", "origin", "main")
    ids = [
        record.object_id
        for name in files
        for record in Metadata.parse(index_blob(filtered, name)).groups.values()
    ]
    ObjectStore(filtered).push("origin", ids)
    subprocess.run(
        ["git", "clone", "--quiet", "--no-checkout", "remote", "clone"], cwd=tmp_path, check=True
    )
    cloned = Repository(tmp_path / "clone")
    configure(cloned)
    trace = tmp_path / "trace"
    cloned.run("checkout", "--quiet", "main", environment={"GIT_TRACE": str(trace)})
    assert trace.read_text().count("built-in: git commit-tree") == 1
    for name, data in files.items():
        assert (cloned.directory / name).read_bytes() == data
    assert cloned.text("status", "--porcelain") == ""


def test_many_files_in_one_checkout(filtered, commit):
    names = [f"m{n}.safetensors" for n in range(9)]
    files = {name: put(filtered, name, n + 1) for n, name in enumerate(names)}
    commit(files)
    for name in names:
        (filtered.directory / name).unlink()
    assert filters_started(filtered, "checkout", "--", *names[:4]) == 1
    assert filters_started(filtered, "checkout", "--", ".") == 1
    for name, data in files.items():
        assert (filtered.directory / name).read_bytes() == data
    assert filters_started(filtered, "status") == 0


def test_killed_in_the_middle_of_a_file_it_leaves_whole_objects(repository):
    """Objects appear while the file is still arriving; a killed filter leaves no half ones."""
    arrays = {f"w{n}": np.random.default_rng(n).standard_normal(200_000) for n in range(6)}
    data = safetensors.numpy.save(arrays)
    parts = [data[start : start + 65516] for start in range(0, len(data) * 2 // 3, 65516)]
    folder = ObjectStore(repository).folder
    process = subprocess.Popen(
        [sys.executable, "-m", "gitmerge_eval.filter"],
        cwd=repository.directory,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        process.stdin.write(HANDSHAKE + packets("command=clean\n", "pathname=a\n"))
        process.stdin.write(b"".join(map(packet, parts)))
        process.stdin.flush()
        deadline = time.monotonic() + 60
        while not list(folder.rglob("objects/*/*/*")) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.kill()
    objects = list(folder.rglob("objects/*/*/*"))
    assert objects
    for path in objects:
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
    left = [p for p in folder.rglob("*") if p.is_file() and p not in objects]
    assert all(p.parent == folder / "tmp" and p.name.startswith("gitmerge-eval-") for p in left)


def test_what_was_begun_for_one_file_is_not_given_for_another(repository, filtered, commit):
    names = [f"m{n}.safetensors" for n in range(3)]
    files = {name: put(filtered, name, n + 1) for n, name in enumerate(names)}
    commit(files)
    requests = b"".join(
        packets("command=smudge\n", f"pathname={name}\n", "can-delay=1\n")
        + packets(index_blob(filtered, name))
        for name in names
    )
    requests += packets("command=list_available_blobs\n")
    for name in reversed(names):
        requests += packets("command=smudge\n", f"pathname={name}\n") + packets()
    done = converse(repository, HANDSHAKE + requests)
    places = [done.stdout.find(file[8:100]) for file in files.values()]
    assert places == sorted(places, reverse=True)
    assert min(places) > 0


def test_missing_objects_fail_the_checkout_with_the_remedy(filtered, commit):
    data = put(filtered)
    commit({PATH: data})
    record = Metadata.parse(index_blob(filtered)).groups["w"]
    ObjectStore(filtered).path(record.object_id).unlink()
    (filtered.directory / PATH).unlink()
    done = filtered.run("checkout", "--", PATH, check=False)
    assert done.status
    assert "add a remote that has them" in done.stderr
    assert not (filtered.directory / PATH).exists()


def test_a_repository_in_an_odd_place(tmp_path, commit):
    folder = tmp_path / "with space 'quote' ü\\"
    subprocess.run(["git", "init", "--quiet", str(folder)], check=True)
    repository = Repository(folder)
    configure(repository)
    commit({".gitattributes": "* -filter\n*.safetensors filter=theta\n"}, to=repository)
    data = put(repository)
    commit({PATH: data}, to=repository)
    (folder / PATH).unlink()
    repository.run("checkout", "--", PATH)
    assert (folder / PATH).read_bytes() == data


# The protocol by hand.


def packet(text):
    data = text if isinstance(text, bytes) else text.encode()
    return b"%04x" % (len(data) + 4) + data


def packets(*lines):
    return b"".join(packet(line) for line in lines) + b"0000"


HANDSHAKE = packets("git-filter-client\n", "version=2\n") + packets(
    "capability=clean\n", "capability=smudge\n", "capability=delay\n", "capability=future\n"
)
GREETING = packets("git-filter-server\n", "version=2\n") + packets(
    "capability=clean\n", "capability=smudge\n", "capability=delay\n"
)


def converse(repository, data, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "gitmerge_eval.filter", *arguments],
        cwd=repository.directory,
        input=data,
        capture_output=True,
        check=False,
    )


def test_handshake_and_end(repository):
    done = converse(repository, HANDSHAKE)
    assert (done.returncode, done.stdout, done.stderr) == (0, GREETING, b"")


def test_errors_and_unknown_commands_leave_the_conversation_open(repository):
    requests = packets("command=clean\n", "pathname=a=b\n") + packets(b"x" * 65516, b"y")
    requests += packets("command=archive\n", "pathname=c\n") + packets(b"z")
    requests += packets("command=smudge\n", "pathname=d\n") + packets(b"raw ", b"bytes")
    requests += packets("command=smudge\n", "pathname=e\n", "can-delay=1\n") + packets(b"{}")
    requests += packets("command=smudge\n", "pathname=f\n") + packets(b"{}")
    requests += packets("command=list_available_blobs\n")
    requests += packets("command=smudge\n", "pathname=e\n") + packets()
    requests += packets("command=list_available_blobs\n")
    done = converse(repository, HANDSHAKE + requests)
    assert done.stdout.startswith(GREETING)
    empty = (8).to_bytes(8, "little") + b"{}      "
    assert done.stdout[len(GREETING) :] == (
        packets("status=error\n")
        + packets("status=error\n")
        + packets("status=success\n") + packets(b"raw bytes") + packets()
        + packets("status=delayed\n")
        + packets("status=success\n") + packets(empty) + packets()
        + packets("pathname=e\n") + packets("status=success\n")
        + packets("status=success\n") + packets(empty) + packets()
        + packets() + packets("status=success\n")
    )  # fmt: skip
    assert done.stderr.decode().splitlines() == [
        "gitmerge-eval: 'a=b': unknown checkpoint format; "
        "save the model with safetensors and commit that file"
    ]


@pytest.mark.parametrize("data", [b"hello", b"0001", packets("git-filter-client\n", "version=9\n")])
def test_what_is_not_git_is_told_so(repository, data):
    done = converse(repository, data)
    assert done.returncode == 2
    assert b"is run by Git" in done.stderr
    assert b"Traceback" not in done.stderr


def test_input_that_ends_in_the_middle(repository):
    request = packets("command=clean\n", "pathname=a\n") + packet(b"x" * 100)
    done = converse(repository, HANDSHAKE + request)
    assert b"Git ended in the middle" in done.stderr
    assert b"Traceback" not in done.stderr


def test_wrong_arguments_and_one_shot_errors(repository):
    done = converse(repository, b"", "wash", "x")
    assert done.returncode == 2
    assert b"usage: gitmerge-eval filter" in done.stderr
    done = converse(repository, b"", "clean", "x.safetensors")
    assert done.returncode == 2
    assert done.stderr == (
        b"gitmerge-eval: clean 'x.safetensors': the file is empty; "
        b"save the model with safetensors\n"
    )


def test_no_heavy_import_for_a_small_checkpoint(filtered):
    data = put(filtered)
    code = (
        "import io, sys; from gitmerge_eval.filter import Conversion; "
        "from gitmerge_eval.git.repository import Repository; "
        f"c = Conversion(Repository.here()); b = c.clean({PATH!r}, io.BytesIO({data!r})); "
        f"c.smudge({PATH!r}, b, io.BytesIO()); "
        "print([m for m in ('torch', 'numba', 'git_theta', 'tensorstore') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-"], cwd=filtered.directory, input=code.encode(), capture_output=True,
        check=True,
    )  # fmt: skip
    assert done.stdout.strip() == b"[]"
