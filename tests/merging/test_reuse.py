"""What an earlier merge computed is not computed again, and only where nothing has changed."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from models import MODEL, ModelRepository, base_model, fine_tuned, statistics_for
from small_repositories import copied, left_over, settle

from gitmerge_eval.checkpoints.group_cache import CachedGroup, cache_path, open_cache
from gitmerge_eval.checkpoints.metadata import GroupRecord, Metadata
from gitmerge_eval.git.trailers import read as read_trailers
from gitmerge_eval.merging import options as merge_options
from gitmerge_eval.merging import reuse
from gitmerge_eval.merging.planning import plan_checkpoint
from gitmerge_eval.merging.reuse import Reuse, group_key, scalar_key
from gitmerge_eval.merging.sources import open_source
from gitmerge_eval.verifying import verify

BASE = base_model()
MERGED = {"first.weight", "second.weight", "first.bias", "scale"}
TIES = ("-Xmethod=ties", "-Xdensity=0.3", "a", "b")


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    made = ModelRepository(tmp_path_factory.mktemp("template") / "model", BASE)
    for number, name in enumerate("ab"):
        made.branch(name, fine_tuned(BASE, number), statistics_for(BASE, number))
    settle(made)
    return made


@pytest.fixture
def repository(template, tmp_path):
    return copied(template, tmp_path / "model")


def merging(repository, folder, at, do, *arguments):
    """``git merge`` with the strategy that crashes, or that notes what it computes."""
    programs = folder / "programs"
    programs.mkdir(exist_ok=True)
    script = Path(__file__).with_name("crashing_strategy.py")
    program = programs / "git-merge-theta"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}" "$@"\n')
    program.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        **{"CRASH_AT": at, "CRASH_DO": do, "CRASH_PID": str(folder / "pid")},
    }
    return subprocess.run(
        ["git", "merge", *arguments],
        cwd=repository.folder, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def watched(repository, folder, *arguments):
    """What the merge says, and the groups that it computed."""
    notes = folder / "computed"
    notes.write_text("")
    done = merging(repository, folder, "watch", str(notes), *arguments)
    assert done.returncode == 0, done.stderr
    return done.stderr, set(notes.read_text().split())


def reused(text):
    found = re.search(r"(\d+) of the merged ones were computed by an earlier merge", text)
    return int(found[1]) if found else 0


def remembered(repository):
    connection = sqlite3.connect(cache_path(repository.git))
    with connection:
        counts = [
            connection.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0]
            for table in ("groups", "scalars")
        ]
    connection.close()
    return counts


@pytest.fixture(scope="module")
def reference(template, tmp_path_factory):
    """The model that TIES gives, computed in one go."""
    made = copied(template, tmp_path_factory.mktemp("reference") / "model")
    said = made.merge(*TIES)
    assert reused(said.stderr) == 0
    return made.git.blob_id("HEAD", MODEL)


def test_a_killed_merge_is_taken_up_where_it_was(repository, reference, tmp_path):
    before = repository.state()
    killed = merging(repository, tmp_path, "kept:2", "KILL:self", *TIES)
    assert killed.returncode == 2
    assert repository.state() == before
    groups, _ = remembered(repository)
    assert 2 <= groups <= len(MERGED)
    said, computed = watched(repository, tmp_path, *TIES)
    assert reused(said) == groups
    assert len(computed) == len(MERGED) - groups
    assert computed < MERGED
    assert repository.git.blob_id("HEAD", MODEL) == reference
    # The file in the work tree, too, is whole.
    assert repository.run("status", "--porcelain").stdout == ""
    expected = repository.tensors("HEAD")
    assert all(torch.equal(value, expected[name]) for name, value in repository.tensors().items())
    assert not left_over(repository.git.path("gitmerge-eval"))

    # A retry, and verify, compute nothing; verify --fresh and another option everything.
    repository.run("reset", "--quiet", "--hard", "HEAD~1")
    said, computed = watched(repository, tmp_path, *TIES)
    assert (reused(said), computed) == (len(MERGED), set())
    assert repository.git.blob_id("HEAD", MODEL) == reference
    found = verify(repository.git, "HEAD").findings[0]
    assert (found.verdict, found.reused) == ("exact", len(MERGED))
    found = verify(repository.git, "HEAD", fresh=True).findings[0]
    assert (found.verdict, found.reused) == ("exact", 0)
    repository.run("reset", "--quiet", "--hard", "HEAD~1")
    said, computed = watched(repository, tmp_path, "-Xscale=0.9", *TIES)
    assert (reused(said), computed) == (0, MERGED)


@pytest.mark.parametrize("point", ["scalar", "storing", "objects"])
def test_a_kill_anywhere_in_the_computing_phase(repository, tmp_path, point):
    """No group is remembered that is not there, and what was left goes."""
    slerp = ("-Xmethod=slerp", "-Xscope=model", "a", "b")
    before = repository.state()
    killed = merging(repository, tmp_path, point, "KILL:self", *slerp)
    assert killed.returncode == 2
    assert repository.state() == before
    state = repository.git.path("gitmerge-eval")
    assert len(list(state.glob("run-*"))) == 1
    assert remembered(repository)[0] < len(MERGED)
    repository.merge(*slerp)
    assert list(state.glob("run-*")) == []
    found = verify(repository.git, "HEAD", fresh=True)
    assert found.sound
    assert repository.run("fsck", "--strict", "--no-dangling").returncode == 0


def test_what_verify_says(repository):
    repository.merge("-Xmethod=average", "a", "b")
    command = [sys.executable, "-m", "gitmerge_eval", "verify"]

    def said(*options):
        done = subprocess.run(
            [*command, *options], cwd=repository.folder, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert said().startswith(f"{MODEL}: exact, 6 parameter groups, 4 of them computed earlier\n")
    fresh = json.loads(said("--fresh", "--json"))["findings"][0]
    assert (fresh["verdict"], fresh["reused"]) == ("exact", 0)


def test_a_tampered_model_is_found_without_computing(repository):
    repository.merge("-Xmethod=average", "a", "b")
    message = repository.git.text("log", "-1", "--format=%B")
    repository.save({**repository.tensors(), "scale": torch.tensor(7.0)})
    repository.run("commit", "--quiet", "--amend", "--all", "-m", message)
    found = verify(repository.git, "HEAD").findings[0]
    assert (found.verdict, found.reused) == ("wrong", 4)
    assert "group 'scale' is not what average gives" in found.problems[0]


def test_a_merge_goes_on_without_the_cache(repository):
    path = cache_path(repository.git)
    path.mkdir()
    (path / "in the way").write_text("x")
    said = repository.merge("-Xmethod=average", "a", "b").stderr
    assert f"no cache of merged groups: '{path}'" in said
    assert "4 merged, 2 identical parameter groups" in said


def test_a_damaged_cache_is_set_aside_and_said(repository):
    path = cache_path(repository.git)
    path.write_bytes(b"not a database at all, and long enough to be taken for one" * 50)
    said = repository.merge("-Xmethod=average", "a", "b").stderr
    assert "the cache of merged groups was unreadable (file is not a database); it is now" in said
    assert path.with_name("groups.sqlite.unreadable").exists()
    assert verify(repository.git, "HEAD").findings[0].reused == 4


# --- keys ----------------------------------------------------------------------------------------


def planned(repository, method="mats", *options, heads=("a", "b")):
    git = repository.git
    chosen = merge_options.parse([("method", method), *options])
    base = open_source(git, git.commit("main"), MODEL, "the base")
    sources = [open_source(git, git.commit(head), MODEL, head) for head in heads]
    return plan_checkpoint(git, MODEL, chosen, base, sources, "float64")


SCALARS = {"norms": (1.5, 2.0)}


@pytest.fixture(scope="module")
def plan(template):
    return planned(template)


def group_of(plan, name="first.weight"):
    return next(group for group in plan.computed if group.name == name)


def key(plan, name="first.weight", scalars=SCALARS, device="cpu"):
    return group_key(plan, group_of(plan, name), scalars, device)


def with_record(source, name="first.weight", **changes):
    groups = dict(source.metadata.groups)
    groups[name] = replace(groups[name], **changes)
    return replace(source, metadata=Metadata(groups, source.metadata.header))


RECORD = {
    "shape": (5, 6),
    "dtype": "float64",
    "signature": (7,) * 16,
    "object_id": "0" * 64,
    "size": 1,
    "update_type": "sparse",
    "last_commit": "1" * 40,
    "keys": ("first", "weight"),
}


def changes(plan):
    """name -> another plan, of which a group's bytes may be other ones."""
    yield from (
        ("method", replace(plan, spec=replace(plan.spec, method="fisher"))),
        ("options", replace(plan, spec=replace(plan.spec, options={"iterations": 3}))),
        ("accumulate", replace(plan, spec=replace(plan.spec, accumulate="float32"))),
        ("numerics", replace(plan, spec=replace(plan.spec, numeric_version=99))),
        ("order", replace(plan, constituents=plan.constituents[::-1])),
        ("fewer", replace(plan, constituents=plan.constituents[:1])),
        ("no base", replace(plan, base=None)),
        ("reference", replace(plan, references={"init": plan.base})),
    )
    first, second = plan.constituents
    for field, value in RECORD.items():
        yield f"base {field}", replace(plan, base=with_record(plan.base, **{field: value}))
        other = with_record(second, **{field: value})
        yield f"constituent {field}", replace(plan, constituents=(first, other))
    constituents = plan.spec.constituents
    renamed = replace(constituents[0], checkpoint="2" * 40)
    yield (
        "identity",
        replace(plan, spec=replace(plan.spec, constituents=(renamed, constituents[1]))),
    )
    gram = second.statistics["gram"]
    for what, other in (
        ("statistic", replace(gram, metadata=with_record(gram, object_id="3" * 64).metadata)),
        ("no statistic", replace(gram, entry=replace(gram.entry, layout={}))),
    ):
        changed = replace(second, statistics={**second.statistics, "gram": other})
        yield what, replace(plan, constituents=(first, changed))


def test_a_key_covers_whatever_determines_the_bytes(plan, monkeypatch):
    keys = {"": key(plan)}
    keys |= {what: key(changed) for what, changed in changes(plan)}
    keys["scalar"] = key(plan, scalars={"norms": (1.5, 2.0000000000000004)})
    keys["scalar's name"] = key(plan, scalars={"others": (1.5, 2.0)})
    keys["device"] = key(plan, device="cuda:1")
    keys["group"] = key(plan, "second.weight")
    monkeypatch.setattr(reuse, "_version", lambda package: "99")
    keys["versions"] = key(plan)
    same = [pair for pair in keys.items() if list(keys.values()).count(pair[1]) > 1]
    assert same == []


def test_a_key_does_not_depend_on_what_does_not_matter(template, plan):
    assert key(planned(template)) == key(plan)
    assert key(planned(template, heads=("b", "a"))) == key(plan)
    assert key(plan, device="cuda:0") == key(plan, device="cuda:1")
    elementwise = planned(template, "average")
    assert key(elementwise, device="cuda") == key(elementwise)
    other_group = with_record(plan.base, "scale", object_id="4" * 64)
    assert key(replace(plan, base=other_group)) == key(plan)
    relabelled = tuple(replace(source, label="x") for source in plan.constituents)
    assert key(replace(plan, constituents=relabelled)) == key(plan)


def test_the_key_of_a_scalar_covers_the_model(template):
    plan = planned(template, "ties")
    other = planned(template, "ties", ("density", "0.3"))
    keys = [
        scalar_key(plan, "thresholds", "cpu"),
        scalar_key(plan, "others", "cpu"),
        scalar_key(plan, "thresholds", "cuda"),
        scalar_key(other, "thresholds", "cpu"),
    ]
    assert len(set(keys)) == 4
    assert scalar_key(planned(template, "ties"), "thresholds", "cpu") == keys[0]


def test_a_record_that_cannot_be_the_groups_is_not_taken(repository, plan):
    group = group_of(plan)
    with open_cache(repository.git) as cache:
        known = Reuse(plan, cache, "cpu")
        object_id, size = known._cache._store.write(b"an object")
        fine = GroupRecord(group.name, (6, 5), "float32", (1,), object_id, size)
        for record in (
            replace(fine, name="other"),
            replace(fine, shape=(5, 6)),
            replace(fine, dtype="float16"),
        ):
            known.keep(group, SCALARS, CachedGroup((record,)))
            assert known.group(group, SCALARS) is None
        known.keep(group, SCALARS, CachedGroup((fine,)))
        assert known.group(group, SCALARS).records == (fine,)


def test_a_foreign_method_is_always_computed(repository, plan):
    def kernel(group):
        raise AssertionError

    foreign = replace(plan, method=replace(plan.method, kernel=kernel))
    group = group_of(plan)
    with open_cache(repository.git) as cache:
        known = Reuse(foreign, cache, "cpu")
        object_id, size = known._cache._store.write(b"an object")
        record = GroupRecord(group.name, (6, 5), "float32", (1,), object_id, size)
        known.keep(group, SCALARS, CachedGroup((record,)))
        known.keep_scalar("norms", (1.0,))
        assert known.group(group, SCALARS) is None
        assert known.scalars() == {}
        assert cache.object_ids() == set()


def test_trailers_are_the_same_whether_computed_or_not(repository):
    repository.merge(*TIES)
    first = read_trailers(repository.git, "HEAD")
    repository.run("reset", "--quiet", "--hard", "HEAD~1")
    repository.merge(*TIES)
    assert read_trailers(repository.git, "HEAD") == first
