"""gc: whatever names an object keeps it, and nothing else does."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from models import MODEL, ModelRepository

from gitmerge_eval import pruning
from gitmerge_eval.checkpoints.group_cache import CachedGroup, cache_path, open_cache
from gitmerge_eval.checkpoints.lfs import ObjectStore
from gitmerge_eval.checkpoints.metadata import GroupRecord, Metadata
from gitmerge_eval.errors import GitError, PruningRefused
from gitmerge_eval.git.process import Process, this
from gitmerge_eval.git.repository import Repository
from gitmerge_eval.pruning import prune

LONG_AGO = 1e9


class Lost:
    """An old object that is named by the metadata in a commit that no ref reaches."""

    def __init__(self, repository: Repository, text: str = "lost", last_commit: str | None = None):
        self.repository, self.store = repository, ObjectStore(repository)
        object_id, size = self.store.write(f"the tensor of {text}".encode())
        self.object_id = object_id
        update = "sparse" if last_commit else "dense"
        self.record = GroupRecord(
            "w", (2,), "float32", (1,), object_id, size, update, last_commit=last_commit
        )
        self.metadata = Metadata({"w": self.record}).serialize()
        self.name(self.metadata)
        os.utime(self.store.path(object_id), (LONG_AGO, LONG_AGO))

    def name(self, content: bytes) -> None:
        git = self.repository
        self.blob = git.write_blob(content)
        tree = f"100644 blob {self.blob}\tmodel.safetensors\n"
        self.tree = git.run("mktree", stdin=tree).text
        self.commit = git.text("commit-tree", self.tree, "-m", "lost")
        age(git)

    @property
    def is_here(self) -> bool:
        return self.store.path(self.object_id).exists()


def age(repository: Repository) -> None:
    """Make all of Git's objects old."""
    for path in repository.path("objects").rglob("*"):
        if path.is_file():
            path.chmod(0o644)
            os.utime(path, (LONG_AGO, LONG_AGO))


@pytest.fixture
def lost(repository, commit):
    commit({"readme": "a repository"})
    return Lost(repository)


def worktree(repository):
    folder = repository.directory.parent / "linked"
    repository.run("worktree", "add", "--quiet", "--detach", str(folder))
    return Repository(folder)


def by_branch(git, lost):
    git.run("branch", "named", lost.commit)


def by_annotated_tag(git, lost):
    git.run("tag", "-a", "-m", "v1", "v1", lost.commit)


def by_detached_head(git, lost):
    git.run("update-ref", "--no-deref", "HEAD", lost.commit)


def by_remote_branch(git, lost):
    git.run("update-ref", "refs/remotes/origin/main", lost.commit)


def by_tag_of_a_blob(git, lost):
    git.run("tag", "v1", lost.blob)


def by_note(git, lost):
    git.run("notes", "--ref=models", "add", "-C", lost.blob, "HEAD")


def by_replacement(git, lost):
    git.run("replace", git.commit("HEAD"), lost.commit)


def by_what_is_replaced(git, lost):
    git.run("branch", "named", lost.commit)
    git.run("replace", lost.commit, "main")


def by_reflog(git, lost):
    git.run("update-ref", "--create-reflog", "refs/heads/main", lost.commit)
    git.run("update-ref", "refs/heads/main", lost.commit + "~0")
    git.run("reset", "--quiet", "--hard", "main@{1}")


def by_reflog_of_a_deleted_branch(git, lost):
    # HEAD was there once, and the branch is gone.
    git.run("checkout", "--quiet", "--detach", lost.commit)
    git.run("checkout", "--quiet", "main")


def by_stash(git, lost):
    git.run("update-index", "--add", "--cacheinfo", f"100644,{lost.blob},m")
    git.run("stash", "store", git.run("stash", "create").text)
    git.run("reset", "--quiet", "--hard")


def by_an_older_stash(git, lost):
    by_stash(git, lost)
    (git.directory / "readme").write_text("another change")
    git.run("stash")


def by_index(git, lost):
    git.run("update-index", "--add", "--cacheinfo", f"100644,{lost.blob},model.safetensors")


def by_conflict(git, lost):
    git.run("update-index", "--index-info", stdin=f"100644 {lost.blob} 3\tmodel.safetensors\n")


def by_resolved_conflict(git, lost):
    by_conflict(git, lost)
    (git.directory / "model.safetensors").write_text("resolved")
    git.run("add", "model.safetensors")


def by_split_index(git, lost):
    git.run("update-index", "--split-index")
    by_index(git, lost)


def by_head_of_a_worktree(git, lost):
    worktree(git).run("update-ref", "--no-deref", "HEAD", lost.commit)


def by_index_of_a_worktree(git, lost):
    by_index(worktree(git), lost)


def by_bisect_in_a_worktree(git, lost):
    worktree(git).run("update-ref", "refs/bisect/bad", lost.commit)


def by_own_ref_of_a_worktree(git, lost):
    worktree(git).run("update-ref", "refs/worktree/mine", lost.commit)


def by_reflog_of_a_worktree(git, lost):
    linked = worktree(git)
    linked.run("checkout", "--quiet", "--detach", lost.commit)
    linked.run("checkout", "--quiet", "--detach", "main")


def by_a_worktree_that_is_away(git, lost):
    linked = worktree(git)
    by_index(linked, lost)
    shutil.rmtree(linked.directory)


def by_a_worktree_with_a_damaged_record(git, lost):
    linked = worktree(git)
    by_index(linked, lost)
    (linked.git_directory / "gitdir").unlink()


def by_state(name, content="{0}\n", where="."):
    def write(git, lost):
        path = git.git_directory / where / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content.format(lost.commit))

    write.__name__ = f"by_{name}"
    return write


def by_a_bisect_seen_from_a_worktree(git, lost):
    git.run("update-ref", "refs/bisect/bad", lost.commit)
    git.directory = worktree(git).directory


def by_text_in_conflict(git, lost):
    lost.name(b"<<<<<<< ours\n" + lost.metadata + b"=======\n{}\n>>>>>>> theirs\n")
    by_branch(git, lost)


def by_pointer(git, lost):
    lost.name(
        b"version https://git-lfs.github.com/spec/v1\n"
        b"oid sha256:%s\nsize 12\n" % lost.object_id.encode()
    )
    by_branch(git, lost)


def by_an_update_that_builds_on_it(git, lost):
    later = Lost(git, "a sparse update", last_commit=lost.commit)
    git.run("branch", "named", later.commit)


def by_an_update_of_an_update(git, lost):
    middle = Lost(git, "middle", last_commit=lost.commit)
    git.run("branch", "named", Lost(git, "last", last_commit=middle.commit).commit)


def by_a_cached_group(git, lost):
    with open_cache(git) as cache:
        cache.put("key", CachedGroup((lost.record,)))
    os.utime(lost.store.path(lost.object_id), (LONG_AGO, LONG_AGO))


NAMING = [
    by_branch,
    by_annotated_tag,
    by_tag_of_a_blob,
    by_detached_head,
    by_remote_branch,
    by_note,
    by_replacement,
    by_what_is_replaced,
    by_reflog,
    by_reflog_of_a_deleted_branch,
    by_stash,
    by_an_older_stash,
    by_index,
    by_conflict,
    by_resolved_conflict,
    by_split_index,
    by_head_of_a_worktree,
    by_index_of_a_worktree,
    by_bisect_in_a_worktree,
    by_own_ref_of_a_worktree,
    by_reflog_of_a_worktree,
    by_a_worktree_that_is_away,
    by_a_worktree_with_a_damaged_record,
    by_state("MERGE_HEAD"),
    by_state("CHERRY_PICK_HEAD"),
    by_state("ORIG_HEAD"),
    by_state("FETCH_HEAD", "{0}\tnot-for-merge\tbranch 'x' of /elsewhere\n"),
    by_state("onto", where="rebase-merge"),
    by_state("git-rebase-todo", "pick {0} tuned\n", where="rebase-merge"),
    by_state("abort-safety", where="sequencer"),
    by_state("journal", '{{"pid": 1, "tree": "{0}"}}', where="gitmerge-eval"),
    by_state("state", '{{"head": "{0}"}}', where="gitmerge-eval"),
    by_a_bisect_seen_from_a_worktree,
    by_text_in_conflict,
    by_pointer,
    by_an_update_that_builds_on_it,
    by_an_update_of_an_update,
    by_a_cached_group,
]


@pytest.mark.parametrize("name", NAMING, ids=lambda function: function.__name__)
def test_what_is_named_is_kept(repository, lost, name):
    name(repository, lost)
    age(repository)
    pruned = prune(repository, older_than_days=0)
    assert lost.is_here
    assert pruned.removed == ()


def test_what_nothing_names_is_removed(repository, lost):
    kept = Lost(repository, "kept")
    repository.run("branch", "kept", kept.commit)
    age(repository)
    planned = prune(repository, dry_run=True)
    assert lost.is_here
    assert not cache_path(repository).exists()
    done = prune(repository)
    assert [found.object_id for found in done.removed] == [lost.object_id]
    assert planned.removed == done.removed
    assert (planned.dry_run, done.dry_run) == (True, False)
    assert [found.object_id for found in done.named] == [kept.object_id]
    assert not lost.is_here
    assert kept.is_here
    assert list((kept.store.folder / "tmp").iterdir()) == []
    assert prune(repository).removed == ()


def test_an_entry_that_is_only_intended_names_nothing(repository, lost):
    (repository.directory / "later").write_text("later")
    repository.run("add", "--intent-to-add", "later")
    prune(repository)
    assert not lost.is_here


def test_a_score_in_the_cache_names_nothing(repository, lost):
    folder = repository.git_directory / "gitmerge-eval"
    (folder / "jobs").mkdir(parents=True)
    for name in ("results.sqlite", "jobs/log"):
        (folder / name).write_text(f"{lost.blob} {lost.commit}\n")
    prune(repository)
    assert not lost.is_here


def test_young_objects_are_kept(repository, lost):
    path = lost.store.path(lost.object_id)
    now = time.time()
    os.utime(path, (now - 13 * 86400, now - 13 * 86400))
    assert [found.object_id for found in prune(repository).young] == [lost.object_id]
    assert lost.is_here
    os.utime(path, (now - 15 * 86400, now - 15 * 86400))
    assert prune(repository, older_than_days=16).removed == ()
    assert len(prune(repository).removed) == 1


@pytest.mark.parametrize("packed", [False, True])
def test_young_unreachable_git_objects_name_what_is_old(repository, lost, packed):
    """A stash dropped by mistake, an add that was taken back."""
    git = repository
    if packed:
        git.run("repack", "--cruft", "--cruft-expiration=never", "-d", "-q")
        assert list(git.path("objects").glob("pack/*.mtimes"))
    files = [path for path in git.path("objects").rglob("*") if path.is_file()]
    for path in files:
        os.utime(path)
    assert len(prune(git).young) == 0
    assert lost.is_here
    age(git)
    prune(git)
    assert not lost.is_here


def test_metadata_of_many_pieces(repository, lost):
    """Ids at any distance from the edges between the pieces that are read."""
    records, store = {}, lost.store
    for number in range(6000):
        object_id, size = f"{number:064x}", 3
        records[f"layer.{number}"] = GroupRecord(
            f"layer.{number}", (2,), "float32", (1, -2), object_id, size
        )
        if number % 7 == 0:
            path = store.path(object_id)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"abc")
            os.utime(path, (LONG_AGO, LONG_AGO))
    lost.name(Metadata(records).serialize())
    assert repository.run("cat-file", "-s", lost.blob).text > str(2 << 20)
    repository.run("branch", "large", lost.commit)
    age(repository)
    pruned = prune(repository)
    assert [found.object_id for found in pruned.removed] == [lost.object_id]
    assert len(pruned.named) == 6000 // 7 + 1


def test_an_object_that_is_named_again_meanwhile_survives(repository, lost, monkeypatch):
    original = pruning._named

    def racing(*arguments):
        found = original(*arguments)
        lost.store.write(b"the tensor of lost")
        return found

    monkeypatch.setattr(pruning, "_named", racing)
    pruned = prune(repository, older_than_days=0)
    assert lost.is_here
    assert pruned.removed == ()


def test_an_object_that_is_named_again_at_the_last_moment_survives(repository, lost, monkeypatch):
    original = Path.rename

    def racing(self, target):
        if self.name == lost.object_id:
            lost.store.write(b"the tensor of lost")
        return original(self, target)

    monkeypatch.setattr(Path, "rename", racing)
    prune(repository)
    assert lost.is_here
    assert lost.store.read(lost.object_id, 18) == b"the tensor of lost"


@pytest.mark.parametrize("named", [True, False])
def test_a_gc_that_was_killed_is_undone_by_the_next(repository, lost, named):
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from gitmerge_eval.git.repository import Repository\n"
        "from gitmerge_eval.pruning import prune\n"
        "Path.unlink = lambda self, **options: os.kill(os.getpid(), signal.SIGKILL)\n"
        "prune(Repository(sys.argv[1]))\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, repository.directory])
    assert killed.returncode == -signal.SIGKILL
    assert not lost.is_here
    if named:
        repository.run("branch", "named", lost.commit)
        age(repository)
    prune(repository)
    assert lost.is_here is named
    assert list((lost.store.folder / "tmp").iterdir()) == []


# --- where it cannot be known --------------------------------------------------------------------


def cloned(repository, folder, *options):
    url = repository.directory.as_uri()
    subprocess.run(["git", "clone", "--quiet", *options, url, folder], check=True)
    return Repository(folder)


def refused(repository, match, error=PruningRefused, **options):
    lost = Lost(repository, "of the refused")
    with pytest.raises(error, match=match):
        prune(repository, **options)
    assert lost.is_here


def test_a_partial_clone_that_lacks_files_is_refused(repository, commit, tmp_path):
    commit({"a": "first"})
    commit({"a": "second"})
    repository.run("config", "uploadpack.allowFilter", "true")
    clone = cloned(repository, tmp_path / "clone", "--filter=blob:none")
    packs = sorted(clone.path("objects").glob("pack/*.pack"))
    refused(clone, r"partial clone: 1 files .* 'git fetch --refetch --no-filter'", GitError)
    assert sorted(clone.path("objects").glob("pack/*.pack")) == packs
    clone.run("fetch", "--quiet", "--refetch", "--no-filter")
    age(clone)
    assert len(prune(clone).removed) == 1


def test_a_shallow_clone_is_complete_as_far_as_it_goes(repository, commit, tmp_path):
    commit({"a": "first"})
    named = Lost(repository, "named")
    commit({"m": named.metadata}, "second")
    clone = cloned(repository, tmp_path / "clone", "--depth=1")
    here = Lost(clone, "named"), Lost(clone, "lost")
    prune(clone)
    assert [one.is_here for one in here] == [True, False]


def test_a_repository_with_a_hole_is_refused(repository, commit):
    commit({"a": "first"})
    blob = repository.blob_id("HEAD", "a")
    (repository.path("objects") / blob[:2] / blob[2:]).unlink()
    refused(repository, r"cannot be walked \(.*missing blob.*\); see 'git fsck'", GitError)
    commit({"a": "second"})
    tree = repository.text("rev-parse", "HEAD~1^{tree}")
    (repository.path("objects") / tree[:2] / tree[2:]).unlink()
    refused(repository, r"cannot be walked \(.*tree.*\); see 'git fsck'", GitError)


def test_a_broken_ref_is_refused(repository, commit):
    commit({"a": "first"})
    (repository.git_directory / "refs/heads/broken").write_text("1" * 40 + "\n")
    refused(repository, "cannot be walked", GitError)


def test_a_store_that_others_share_is_refused(repository, commit, tmp_path):
    commit({"a": "first"})
    repository.run("config", "lfs.storage", str(tmp_path / "shared"))
    refused(repository, r"outside this repository \(lfs.storage\)")
    repository.run("config", "lfs.storage", "own-lfs")
    lost = Lost(repository)
    assert (repository.common_directory / "own-lfs").is_dir()
    prune(repository)
    assert not lost.is_here
    shutil.rmtree(repository.common_directory / "own-lfs")
    (tmp_path / "shared").mkdir(exist_ok=True)
    (repository.common_directory / "own-lfs").symlink_to(tmp_path / "shared")
    refused(repository, "outside this repository")


def test_precious_objects_are_refused(repository, commit):
    commit({"a": "first"})
    repository.run("config", "extensions.preciousObjects", "true")
    repository.run("config", "core.repositoryFormatVersion", "1")
    refused(repository, "extensions.preciousObjects")


def test_borrowed_objects_are_not_touched(repository, lost, tmp_path):
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", "--shared", repository.directory, clone], check=True)
    assert ObjectStore(Repository(clone)).has(lost.object_id)
    prune(Repository(clone))
    assert lost.is_here


def run_folder(repository, owner):
    folder = repository.git_directory / "gitmerge-eval" / f"run-{owner.pid}-{owner.start}-abc"
    folder.mkdir(parents=True)
    (folder / "0.checkpoint").write_text("half a model")
    return folder


def test_while_a_merge_runs_it_is_refused(repository, commit):
    commit({"a": "first"})
    linked = worktree(repository)
    fields = Path(f"/proc/{os.getppid()}/stat").read_text().rsplit(")", 1)[1].split()
    folder = run_folder(linked, Process(os.getppid(), fields[19]))
    refused(repository, rf"a merge is being computed here \(process {os.getppid()}\)")
    assert folder.exists()


def test_beside_another_gc_it_is_refused(repository, commit):
    commit({"a": "first"})
    path = repository.git_directory / "gitmerge-eval" / "gc.lock"
    path.parent.mkdir(exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused(repository, "another 'gitmerge-eval gc' is running here")


def test_what_killed_commands_left_is_removed(repository, lost):
    dead = run_folder(worktree(repository), Process(this().pid, "1"))
    temporary = lost.store.folder / "tmp"
    temporary.mkdir(exist_ok=True)
    for name in ("gitmerge-eval-old", "gitmerge-eval-new", "of-git-lfs"):
        (temporary / name).write_text("x")
    for name in ("gitmerge-eval-old", "of-git-lfs"):
        os.utime(temporary / name, (LONG_AGO, LONG_AGO))
    planned = prune(repository, dry_run=True)
    assert dead.exists()
    done = prune(repository, older_than_days=0)
    assert planned.temporary == done.temporary == (str(temporary / "gitmerge-eval-old"), str(dead))
    assert sorted(path.name for path in temporary.iterdir()) == ["gitmerge-eval-new", "of-git-lfs"]
    assert not dead.exists()


def test_old_cache_entries_go_and_their_objects_with_them(repository, lost):
    other = Lost(repository, "other")
    with open_cache(repository) as cache:
        cache.put("old", CachedGroup((lost.record,)))
        cache.put("new", CachedGroup((other.record,)))
        cache.put_scalars("old-scalar", (1.0,))
    for one in (lost, other):
        os.utime(one.store.path(one.object_id), (LONG_AGO, LONG_AGO))
    connection = sqlite3.connect(cache_path(repository))
    with connection:
        days = int(time.time()) - 10 * 86400
        connection.execute("UPDATE groups SET used = ? WHERE key = 'old'", (days,))
        connection.execute("UPDATE scalars SET used = ?", (days,))
    connection.close()
    assert prune(repository, cache_days=11, dry_run=True).cache_entries == 0
    planned = prune(repository, cache_days=9, dry_run=True)
    done = prune(repository, cache_days=9)
    assert planned.removed == done.removed
    assert planned.cache_entries == done.cache_entries == 2
    assert [found.object_id for found in done.cached] == [other.object_id]
    assert [one.is_here for one in (lost, other)] == [False, True]
    with open_cache(repository) as cache:
        assert cache.get("old") is None
        assert cache.get("new") == CachedGroup((other.record,))


def test_in_a_repository_of_sha256_ids(tmp_path):
    folder = tmp_path / "sha256"
    subprocess.run(["git", "init", "--quiet", "--object-format=sha256", folder], check=True)
    git = Repository(folder)
    kept, gone = Lost(git, "kept"), Lost(git, "gone")
    (git.git_directory / "ORIG_HEAD").write_text(kept.commit + "\n")
    prune(git)
    assert [one.is_here for one in (kept, gone)] == [True, False]


def test_a_branch_of_a_model_that_was_deleted(tmp_path):
    """Through the real filter: what the others share stays, and can be stored again."""
    base = {"shared": torch.arange(4.0), "head": torch.zeros(3)}
    made = ModelRepository(tmp_path / "model", base)
    made.branch("a", {**base, "head": torch.ones(3)})
    made.branch("b", {**base, "head": torch.full((3,), 2.0)})
    git, store = made.git, ObjectStore(made.git)
    heads = {
        name: Metadata.parse(git.blob(git.blob_id(name, MODEL))).groups["head"].object_id
        for name in ("main", "a", "b")
    }
    made.run("branch", "--quiet", "-D", "b")
    for folder in (git.path("objects"), store.folder / "objects"):
        for path in folder.rglob("*"):
            if path.is_file():
                path.chmod(0o644)
                os.utime(path, (LONG_AGO, LONG_AGO))
    assert prune(git).removed == ()  # HEAD has been there
    made.run("reflog", "expire", "--expire=now", "--expire-unreachable=now", "--all")
    assert [found.object_id for found in prune(git).removed] == [heads["b"]]
    assert store.missing(heads.values()) == [heads["b"]]
    made.run("switch", "--quiet", "a")
    assert torch.equal(made.tensors()["head"], torch.ones(3))
    made.save({**base, "head": torch.full((3,), 2.0)})
    made.commit("again")
    assert store.missing(heads.values()) == []


# --- the command ---------------------------------------------------------------------------------


def gc(repository, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "gitmerge_eval", "gc", *arguments],
        cwd=repository.directory,
        capture_output=True,
        text=True,
    )


def test_the_command(repository, lost):
    kept = Lost(repository, "kept")
    repository.run("branch", "kept", kept.commit)
    age(repository)
    said = gc(repository, "--dry-run")
    assert (said.returncode, said.stderr) == (0, "")
    assert said.stdout == (
        "would remove 1 object (18 B) that nothing names\n"
        "kept 1 object (18 B) that commits, indexes or reflogs name\n"
    )
    assert lost.is_here
    path = lost.store.path(lost.object_id)
    os.utime(path)
    document = json.loads(gc(repository, "-n", "--json", "--older-than=1").stdout)
    assert document["removed"] == []
    assert document["young"] == [{"object_id": lost.object_id, "size": 18}]
    assert (document["young_bytes"], document["dry_run"]) == (18, True)
    os.utime(path, (LONG_AGO, LONG_AGO))
    assert gc(repository).stdout.startswith("removed 1 object (18 B)")
    assert not lost.is_here
    repository.run("config", "lfs.storage", "/nowhere/shared")
    said = gc(repository)
    assert said.returncode == 2
    assert said.stderr.startswith("gitmerge-eval: the LFS store '/nowhere/shared/objects'")
    assert said.stderr.count("\n") == 1
    assert gc(repository, "--older-than=-1").returncode == 2
