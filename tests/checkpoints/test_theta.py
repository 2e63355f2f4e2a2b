"""Together with the stock git-theta 0.2.0: what one commits, the other checks out."""

import os
import re
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from gitmerge_eval.checkpoints import theta
from gitmerge_eval.checkpoints.checkpoint import Checkpoint, clean, smudge
from gitmerge_eval.checkpoints.lfs import ObjectStore
from gitmerge_eval.checkpoints.metadata import GroupRecord, Metadata
from gitmerge_eval.checkpoints.safetensors_file import SafetensorsFile
from gitmerge_eval.errors import MalformedCheckpoint
from gitmerge_eval.git.repository import Repository

OURS = f"'{sys.executable}' -m gitmerge_eval.filter"
PATH = "model.safetensors"  # git-theta finds no earlier version of a file in a folder


def shared_arrays():
    """Tensors that the stock git-theta can clean; it compiles anew for each dtype, in seconds."""
    random = np.random.default_rng(4)
    return {
        "b": np.array([True, False, True]),
        "empty": np.zeros((0, 3), np.float32),
        "f32": random.standard_normal((30, 40)).astype(np.float32),
        "f64": random.standard_normal(7),
        "i64": np.arange(6).reshape(2, 3),
        "scalar": np.array(2.5, np.float32),
    }


def use_stock(repository):
    repository.run("config", "--unset", "filter.theta.process", check=False)
    for command in ("clean", "smudge"):
        program = f"git-theta-filter {command} %f"
        repository.run("config", f"filter.theta.{command}", program)
    repository.run("config", "filter.theta.required", "true")


def use_ours(repository):
    repository.run("config", "filter.theta.process", OURS)
    for command in ("clean", "smudge"):
        repository.run("config", f"filter.theta.{command}", f"{OURS} {command} %f")
    repository.run("config", "filter.theta.required", "true")


def git(repository, *arguments, **environment):
    """Git with the stock git-theta's environment; its hooks write a log, so output is caught."""
    settings = os.environ | {"GIT_THETA_CHECKPOINT_TYPE": "safetensors"} | environment
    done = subprocess.run(
        ["git", *arguments],
        cwd=repository.directory,
        env=settings,
        check=False,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def put(repository, arrays, header=None):
    file = repository.directory / PATH
    safetensors.numpy.save_file(arrays, file, header)
    # Git cleans a file as young as its index again and again, at seconds each with git-theta.
    earlier = file.stat().st_mtime - 10
    os.utime(file, (earlier, earlier))


def checked_out(repository):
    """The work-tree file after a fresh checkout."""
    (repository.directory / PATH).unlink()
    git(repository, "checkout", "--", PATH)
    return SafetensorsFile((repository.directory / PATH).read_bytes())


def assert_holds(file, arrays):
    assert set(file.names) == set(arrays)
    for name, array in arrays.items():
        value = file.read(name)
        assert (value.dtype, value.shape) == (array.dtype, array.shape), name
        assert value.tobytes() == array.tobytes(), name


def index_blob(repository):
    return repository.run("cat-file", "blob", f":{PATH}").stdout


@pytest.fixture(scope="module")
def stock(tmp_path_factory, git_environment):
    """A repository in turn of git-theta (dense), us (dense), git-theta again (sparse, low rank)."""
    folder = tmp_path_factory.mktemp("stock")
    subprocess.run(["git", "init", "--quiet", str(folder)], check=True)
    repository = Repository(folder)
    use_stock(repository)
    repository.run("config", "core.hooksPath", os.devnull)
    (folder / ".gitattributes").write_text("*.safetensors filter=theta\n")
    git(repository, "add", ".gitattributes")
    git(repository, "commit", "-m", "attributes")
    arrays = shared_arrays()
    put(repository, arrays)
    git(repository, "add", "-A")
    git(repository, "commit", "-m", "dense")
    versions = [arrays]
    use_ours(repository)
    arrays = {name: array * 2 if name == "f32" else array for name, array in arrays.items()}
    put(repository, arrays)
    git(repository, "add", "-A")
    git(repository, "commit", "-m", "dense, with no last commit")
    use_stock(repository)
    # git-theta wants a file of ready-made updates, even where it has to find them itself.
    ready_made = folder.parent / "none.safetensors"
    safetensors.numpy.save_file({}, ready_made)
    updates = {"GIT_THETA_UPDATE_DATA_PATH": str(ready_made)}
    for kind in ("sparse", "low-rank"):
        arrays = {name: arrays[name] for name in ("f32", "i64", "scalar")}
        changed = arrays["f32"].copy()
        if kind == "sparse":
            changed[3, 5:9] += 0.5
        else:
            column, row = np.linspace(0, 1, 30), np.linspace(-1, 1, 40)
            changed += np.outer(column, row).astype(np.float32)
        arrays["f32"] = changed
        put(repository, arrays)
        git(repository, "add", "-A", GIT_THETA_UPDATE_TYPE=kind, **updates)
        git(repository, "commit", "-m", kind)
        versions.append(arrays)
    return repository, versions


def test_ours_makes_the_objects_and_signatures_that_stock_made(stock):
    repository, versions = stock
    blob = repository.run("cat-file", "blob", f"HEAD~3:{PATH}").stdout
    theirs = Metadata.parse(blob)
    assert theirs.serialize() == blob
    store = ObjectStore(repository)
    ours = Metadata.parse(clean(safetensors.numpy.save(versions[0]), store))
    for name, record in theirs.groups.items():
        mine = ours.groups[name]
        assert (mine.object_id, mine.size) == (record.object_id, record.size)
        assert (mine.signature, mine.shape, mine.dtype) == (
            record.signature,
            record.shape,
            record.dtype,
        )
    assert {record.last_commit for record in theirs.groups.values()} == {
        repository.text("rev-parse", "HEAD~4")
    }


def test_ours_checks_out_what_stock_committed_and_keeps_its_blob(stock, tmp_path):
    repository, versions = stock
    git(repository, "worktree", "add", "--no-checkout", "-q", str(tmp_path / "w"), "HEAD~3")
    linked = Repository(tmp_path / "w")
    use_ours(repository)
    git(linked, "checkout", "HEAD", "--", ".")
    data = (linked.directory / PATH).read_bytes()
    assert_holds(SafetensorsFile(data), versions[0])
    assert git(linked, "status", "--porcelain") == b""
    blob = index_blob(linked)
    # Under another HEAD, where stock git-theta would name another last commit.
    git(linked, "commit", "--allow-empty", "-m", "another HEAD")
    os.utime(linked.directory / PATH, (1, 1))
    git(linked, "add", PATH)
    assert index_blob(linked) == blob
    assert git(linked, "status", "--porcelain") == b""


def test_updates_are_read_as_stock_reads_them_and_kept(stock):
    repository, versions = stock
    store = ObjectStore(repository)
    for revision, kind, arrays in (
        ("HEAD~1", "sparse", versions[1]),
        ("HEAD", "low-rank", versions[2]),
    ):
        metadata = Metadata.parse(repository.run("cat-file", "blob", f"{revision}:{PATH}").stdout)
        checkpoint = Checkpoint(metadata, store, PATH)
        assert metadata.groups["f32"].update_type == kind
        assert metadata.groups["f32"].last_commit == repository.text("rev-parse", f"{revision}~")
        np.testing.assert_allclose(checkpoint.read("f32"), arrays["f32"], atol=1e-6)
        assert checkpoint.read("i64").tolist() == arrays["i64"].tolist()
    with pytest.raises(MalformedCheckpoint, match="path in the repository"):
        Checkpoint(metadata, store).read("f32")
    # The stock filter's own result is the oracle for every bit.
    use_stock(repository)
    theirs = checked_out(repository)
    use_ours(repository)
    ours = checked_out(repository)
    assert_holds(ours, {name: theirs.read(name) for name in theirs.names})
    blob = index_blob(repository)
    os.utime(repository.directory / PATH, (1, 1))
    git(repository, "add", PATH)
    assert index_blob(repository) == blob
    assert git(repository, "status", "--porcelain") == b""


def test_stock_checks_out_what_ours_committed(repository):
    use_ours(repository)
    (repository.directory / ".gitattributes").write_text("*.safetensors filter=theta\n")
    arrays = shared_arrays() | {
        "bf16": np.array([1.5, np.inf, -0.0], ml_dtypes.bfloat16),
        "f16": np.array([[0.1, -2], [1e-7, 6e4]], np.float16),
        "f8": np.array([0.5, -448], ml_dtypes.float8_e4m3fn),
        "large": np.arange(1_100_000, dtype=np.float32),
        "c64": np.array([1 + 2j], np.complex64),
    }
    put(repository, arrays, {"format": "pt"})
    before = (repository.directory / PATH).read_bytes()
    git(repository, "add", "-A")
    git(repository, "commit", "-m", "ours")
    records = Metadata.parse(index_blob(repository)).groups.values()
    assert {record.last_commit for record in records} == {None}
    use_stock(repository)
    assert_holds(checked_out(repository), arrays)
    use_ours(repository)
    assert checked_out(repository).header == {"format": "pt"}
    assert (repository.directory / PATH).read_bytes() == before
    assert git(repository, "status", "--porcelain") == b""


def update_record(**changes):
    known = {"update_type": "sparse", "last_commit": "1" * 40} | changes
    return GroupRecord("w", (2,), "float32", (), "a" * 64, 10, **known)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"last_commit": None}, "names no commit"),
        ({}, "not here"),
    ],
)
def test_updates_that_lead_nowhere(repository, changes, message):
    with pytest.raises(MalformedCheckpoint, match=message):
        theta.read(update_record(**changes), ObjectStore(repository), PATH)


@pytest.mark.parametrize("update_type", ["no-such-plugin", "sparse"])
def test_updates_that_cannot_be_applied(repository, commit, update_type):
    store = ObjectStore(repository)
    blob = clean(safetensors.numpy.save({"w": np.ones(2, np.float32)}), store)
    first = commit({PATH: blob})
    object_id = Metadata.parse(blob).groups["w"].object_id
    size = Metadata.parse(blob).groups["w"].size
    record = GroupRecord(
        "w", (2,), "float32", (), object_id, size, update_type=update_type, last_commit=first
    )
    with pytest.raises(MalformedCheckpoint, match=re.escape(f"'{update_type}' update")):
        theta.read(record, store, PATH)


def test_nested_checkpoints_of_git_theta_keep_their_nesting(repository, tmp_path):
    store = ObjectStore(repository)
    flat = Metadata.parse(
        clean(safetensors.numpy.save({"a/b": np.ones(2), "c": np.ones(3)}), store)
    )
    nested = Metadata(
        {
            name: GroupRecord(
                name, r.shape, r.dtype, r.signature, r.object_id, r.size,
                last_commit="d" * 40, keys=("a", "b") if name == "a/b" else (),
            )
            for name, r in flat.groups.items()
        }
    )  # fmt: skip
    smudge(nested.serialize(), store, tmp_path / "out")
    assert clean(tmp_path / "out", store, [nested]) == nested.serialize()
    changed = safetensors.numpy.save({"a/b": np.zeros(2), "c": np.ones(3)})
    again = Metadata.parse(clean(changed, store, [nested]))
    assert again.groups["a/b"].keys == ("a", "b")
    assert again.groups["a/b"].last_commit is None
