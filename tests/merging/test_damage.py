"""A damaged, missing or wrongly typed object or file is named, and nothing changes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from models import MODEL, ModelRepository, statistics_for
from small_repositories import BASE, copied, settle

from gitmerge_eval.checkpoints.encoding import encode
from gitmerge_eval.checkpoints.lfs import ObjectStore
from gitmerge_eval.checkpoints.metadata import Metadata
from gitmerge_eval.errors import GitMergeEvalError
from gitmerge_eval.git.heads import gather
from gitmerge_eval.git.repository import Repository
from gitmerge_eval.merging import deciding
from gitmerge_eval.merging import options as merge_options
from gitmerge_eval.merging.merge import merge

GROUP = "w.weight"
SMALL = {**BASE, GROUP: torch.arange(6.0).reshape(2, 3)}
GRAM = "statistics/gram.safetensors"
METHODS = {"average": MODEL, "ties": MODEL, "regmean": GRAM}
"""Each with the file of branch 'a' in which something is damaged."""


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    made = ModelRepository(tmp_path_factory.mktemp("template") / "model", SMALL)
    for number, name in enumerate("ab"):
        tuned = {**SMALL, GROUP: SMALL[GROUP] + 1.0 + number}
        made.branch(name, tuned, {"gram": statistics_for(SMALL, number)["gram"]})
    settle(made)
    return made


@pytest.fixture
def repository(template, tmp_path):
    return copied(template, tmp_path / "model")


def stored(repository, path, revision="a"):
    return Metadata.parse(repository.git.run("cat-file", "blob", f"{revision}:{path}").stdout)


def commit_on_a(repository, path, data):
    """Branch 'a' with other bytes at ``path``, past any filter."""
    git = repository.git
    repository.run("switch", "--quiet", "a")
    blob = git.write_blob(data)
    repository.run("update-index", "--cacheinfo", f"100644,{blob},{path}")
    repository.run("commit", "--quiet", "-m", "damaged")
    repository.run("switch", "--quiet", "--force", "--detach", "main", status=None)
    repository.run("reset", "--quiet", "--hard", "main")


def damaged_object(repository, path, damage):
    record = stored(repository, path).groups[GROUP]
    file = ObjectStore(repository.git).path(record.object_id)
    file.chmod(0o644)
    damage(file)
    return record.object_id[:12]


def flipped(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def truncated(file):
    file.write_bytes(file.read_bytes()[:-7])


def empty(file):
    file.write_bytes(b"")


def longer(file):
    file.write_bytes(file.read_bytes() + b"\0")


def missing(file):
    file.unlink()


def a_folder(file):
    file.unlink()
    file.mkdir()


def a_pointer(file):
    file.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{file.name}\n")


def a_dangling_link(file):
    file.unlink()
    file.symlink_to("nowhere")


OBJECTS = [flipped, truncated, missing, empty, longer, a_folder, a_pointer, a_dangling_link]
ABSENT = [missing, a_folder, a_dangling_link]
REMEDIES = {False: "delete that file and repeat the command", True: "add a remote that has them"}


def everything(repository):
    """HEAD, refs, index, work tree, and every object: Git's and those of LFS."""
    git = repository.folder / ".git"
    objects = {
        path.relative_to(git): path.read_bytes()
        for folder in ("objects", "lfs")
        for path in (git / folder).rglob("*")
        if path.is_file()
    }
    lfs = {path: data for path, data in objects.items() if path.parts[0] == "lfs"}
    return repository.state(), lfs, set(git.glob("gitmerge-eval/run-*"))


def refused(repository, method, monkeypatch):
    """What a merge says that is refused in this very process; nothing has changed."""
    before = everything(repository)
    monkeypatch.chdir(repository.folder)
    git = Repository(repository.folder)
    base = git.text("merge-base", "a", "b")
    heads = gather(git, [base], [git.commit("a"), git.commit("b")])
    for head, name in zip(heads.remotes, "ab", strict=True):
        monkeypatch.setenv(f"GITHEAD_{head}", name)
    heads = gather(git, [base], list(heads.remotes))
    chosen = merge_options.parse([("method", method)])
    with pytest.raises(GitMergeEvalError) as caught:
        merge(git, heads, chosen, deciding.touched(git, heads))
    assert everything(repository) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


def cases(kinds):
    """Every kind for two methods, and the first three for TIES, which reads as the average does."""
    return [
        pytest.param(method, kind, id=f"{method}-{kind.__name__}")
        for method in METHODS
        for kind in (kinds[:3] if method == "ties" else kinds)
    ]


@pytest.mark.parametrize(("method", "damage"), cases(OBJECTS))
def test_a_damaged_object(repository, monkeypatch, method, damage):
    name = damaged_object(repository, METHODS[method], damage)
    said = refused(repository, method, monkeypatch)
    assert f"group '{GROUP}' of '{MODEL}'" in said
    whose = "statistic 'gram' of 'a'" if method == "regmean" else "branch 'a'"
    assert f"{whose}: " in said
    assert name in said
    assert REMEDIES[damage in ABSENT] in said


def of_another_dtype():
    return encode(np.zeros((2, 3), np.float64))


def of_another_shape():
    return encode(np.zeros((3, 3), np.float32))


def no_tensor():
    return b"\x82\xa1a\x01\xa1b\x02"


def garbage():
    return b"\xc1 this was never msgpack"


TYPES = [of_another_dtype, of_another_shape, no_tensor, garbage]


@pytest.mark.parametrize(("method", "content"), cases(TYPES))
def test_an_object_that_is_not_what_the_metadata_says(repository, monkeypatch, method, content):
    """The hash is right, so only its type can tell."""
    path = METHODS[method]
    data = content()
    data = data if isinstance(data, bytes) else b"".join(bytes(piece) for piece in data)
    object_id, size = ObjectStore(repository.git).write(data)
    blob = repository.git.run("cat-file", "blob", f"a:{path}").stdout
    record = stored(repository, path).groups[GROUP]
    blob = blob.replace(record.object_id.encode(), object_id.encode())
    document = json.loads(blob)
    document[GROUP]["lfs_metadata"]["size"] = str(size)
    commit_on_a(repository, path, json.dumps(document, indent=4).encode())
    if path == MODEL:
        repository.run("switch", "--quiet", "--detach", "main")
    said = refused(repository, method, monkeypatch)
    assert GROUP in said
    assert ("statistic 'gram' of 'a'" if method == "regmean" else "branch 'a'") in said


FILES = {
    "text": b"weights\n",
    "empty": b"",
    "a pickle": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00}\x94\x8c\x01w\x94K\x01s.",
    "a torch archive": b"PK\x03\x04" + bytes(60),
    "truncated safetensors": b"\x40\x00\x00\x00\x00\x00\x00\x00" + b'{"w.weight": {"dtype"',
    "a pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:"
    + b"0" * 64
    + b"\nsize 1\n",
    "json": b'{"w.weight": [1, 2]}',
    "a list": b"[]",
    "torn metadata": b'<<<<<<< a\n{"w": 1}\n=======\n{}\n>>>>>>> b\n',
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_is_no_checkpoint(repository, monkeypatch, kind):
    commit_on_a(repository, MODEL, FILES[kind])
    said = refused(repository, "average", monkeypatch)
    assert f"'{MODEL}' of 'a': " in said


@pytest.mark.parametrize("kind", ["text", "a pickle", "json", "torn metadata"])
def test_a_statistic_that_is_none(repository, monkeypatch, kind):
    commit_on_a(repository, GRAM, FILES[kind])
    said = refused(repository, "regmean", monkeypatch)
    assert "'a'" in said
    assert "gram" in said


def test_through_git(repository):
    """Exit status, one line, and what is left, with the real git merge."""
    damaged_object(repository, MODEL, truncated)
    before = everything(repository)
    done = repository.merge("-Xmethod=ties", "a", "b", status=2)
    ours = [line for line in done.stderr.splitlines() if "theta failed" not in line]
    assert len(ours) == 1
    assert ours[0].startswith(f"gitmerge-eval: group '{GROUP}' of '{MODEL}': branch 'a': ")
    assert everything(repository) == before
    assert shutil.which("git-merge-theta")
    assert Path(repository.folder / ".git" / "lfs" / "tmp").is_dir()
