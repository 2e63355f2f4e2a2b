"""The strategy in the flows of daily work, through the real Git; no tensor has to be computed."""

from __future__ import annotations

import json
import os
import re
import subprocess

import pytest
import torch
from models import MODEL, ModelRepository
from small_repositories import (
    BASE,
    LINES,
    built,
    copied,
    edited,
    grown,
    opened,
    settle,
    without_heavy_imports,
)  # fmt: skip

from gitmerge_eval import verifying
from gitmerge_eval.git import configuration, trailers

LEFT, RIGHT = "left", "right"


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    made = built(tmp_path_factory.mktemp("template") / "model", LEFT, RIGHT, "third")
    made.branch("clash", grown("clash"), files={"notes.txt": edited("clash", 0)})
    made.run("switch", "--quiet", "--create", "moved", "main")
    made.save(grown("moved"))
    made.commit("main's own training")
    made.run("switch", "--quiet", "main")
    settle(made)
    return made


@pytest.fixture
def repository(template, tmp_path):
    return copied(template, tmp_path / "model")


def parents(repository, revision="HEAD"):
    return repository.git.text("log", "-1", "--format=%P", revision).split()


def commits(repository, *revisions):
    return [repository.git.commit(revision) for revision in revisions]


def constituents(repository, revision="HEAD"):
    return [name for _, name in trailers.read(repository.git, revision).constituents]


def groups(repository, revision="HEAD"):
    return set(repository.tensors(revision)) - set(BASE)


def test_parents_are_gits_and_head_is_a_constituent_only_where_it_moved(repository):
    base = repository.git.commit("main")
    repository.merge("-Xmethod=average", LEFT, RIGHT)
    assert parents(repository) == commits(repository, base, LEFT, RIGHT)
    assert constituents(repository) == [LEFT, RIGHT]
    assert groups(repository) == {"left.weight", "right.weight"}
    assert trailers.read(repository.git, "HEAD").bases == (base,)
    repository.run("reset", "--quiet", "--hard", base)

    repository.merge("--ff", LEFT, RIGHT)  # HEAD's commit adds nothing: Git leaves it out
    assert parents(repository) == commits(repository, LEFT, RIGHT)
    assert constituents(repository) == [LEFT, RIGHT]
    repository.run("reset", "--quiet", "--hard", base)

    repository.merge("-Xmethod=average", LEFT)
    assert parents(repository) == commits(repository, base, LEFT)
    assert constituents(repository) == [LEFT]
    repository.run("reset", "--quiet", "--hard", base)

    repository.run("switch", "--quiet", "--detach", "moved")
    repository.merge(LEFT, RIGHT, "third")
    assert parents(repository) == commits(repository, "moved", LEFT, RIGHT, "third")
    assert constituents(repository) == ["HEAD", LEFT, RIGHT, "third"]
    assert groups(repository) == {f"{name}.weight" for name in ("moved", LEFT, RIGHT, "third")}
    assert verifying.verify(repository.git, "HEAD").findings[0].verdict == "exact"


def test_no_commit_then_abort_then_commit(repository):
    before = repository.state()
    repository.merge("--no-commit", LEFT, RIGHT)
    assert repository.state() != before
    repository.run("merge", "--abort")
    assert repository.state() == before
    repository.merge("--no-commit", "-m", "both", LEFT, RIGHT)
    repository.run("commit", "--quiet", "--no-edit")
    assert repository.git.text("log", "-1", "--format=%s") == "both"
    assert parents(repository) == commits(repository, "main~1", LEFT, RIGHT)
    assert constituents(repository) == [LEFT, RIGHT]
    assert repository.run("status", "--porcelain").stdout == ""


def test_squash_needs_ff_since_git_checks_that_first(repository):
    done = repository.merge("--squash", LEFT, RIGHT, status=128)
    assert "'--squash' and '--no-ff.' cannot be used together" in done.stderr
    repository.merge("--ff", "--squash", LEFT, RIGHT)
    repository.run("commit", "--quiet", "--no-edit")
    assert parents(repository) == commits(repository, "main~1")
    assert constituents(repository) == [LEFT, RIGHT]
    assert groups(repository) == {"left.weight", "right.weight"}


def test_text_conflict_has_stages_and_readable_markers_beside_a_merged_model(repository):
    repository.run("switch", "--quiet", "clash")
    before = repository.state()
    done = repository.merge(LEFT, status=1)
    assert "CONFLICT (content): Merge conflict in notes.txt" in done.stdout
    stages = re.findall(
        r"^100644 (\w+) ([123])\tnotes", repository.git.text("ls-files", "-s"), re.M
    )
    wanted = [(repository.git.blob_id(r, "notes.txt"), n) for r, n in
              (("main", "1"), ("clash", "2"), (LEFT, "3"))]  # fmt: skip
    assert stages == wanted
    lines = (repository.folder / "notes.txt").read_text().splitlines()
    assert lines[:5] == ["<<<<<<< clash", "by clash", "=======", "by left", ">>>>>>> left"]
    assert set(repository.tensors()) - set(BASE) == {"clash.weight", "left.weight"}
    repository.run("merge", "--abort")
    assert repository.state() == before

    repository.merge(LEFT, status=1)
    (repository.folder / "notes.txt").write_text("resolved\n")
    repository.run("commit", "--quiet", "--all", "--no-edit")
    assert constituents(repository) == ["clash", LEFT]
    repository.run("reset", "--quiet", "--hard", "clash@{1}")

    done = repository.merge(LEFT, "third", status=2)
    assert "more than two heads conflict in notes.txt" in done.stderr
    assert repository.state() == before


def test_a_merge_is_reverted(repository):
    repository.merge(LEFT, RIGHT)
    repository.run("revert", "--no-edit", "-m", "1", "HEAD")
    assert repository.git.blob_id("HEAD", MODEL) == repository.git.blob_id("main~2", MODEL)
    assert set(repository.tensors()) == set(BASE)
    assert repository.git.text("status", "--porcelain") == ""


def test_status_after_a_merge_calls_no_filter(repository, tmp_path):
    log = tmp_path / "calls"
    program = repository.git.setting("filter.theta.process")
    counted = f"echo call >> '{log}'; {program}"
    repository.merge(LEFT, RIGHT)
    repository.run("config", "filter.theta.process", counted)
    for _ in range(2):
        assert repository.run("status", "--porcelain").stdout == ""
    assert not log.exists()
    os.utime(repository.folder / MODEL)  # the counter counts
    assert repository.run("status", "--porcelain").stdout == ""
    assert log.read_text() == "call\n"


def test_a_merge_without_new_tensors_needs_no_heavy_import(repository, tmp_path):
    done = subprocess.run(
        ["git", "merge", LEFT, RIGHT],
        cwd=repository.folder,
        env={**os.environ, **without_heavy_imports(tmp_path / "broken")},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "was imported" not in done.stderr
    assert groups(repository) == {"left.weight", "right.weight"}


def test_paths_with_spaces_several_models_and_a_linked_work_tree(tmp_path):
    folder = tmp_path / "ein Projekt (ü)"
    names = ("mödels/a b.safetensors", "second.safetensors")
    made = ModelRepository(folder, text=LINES)
    for name in names:
        made.save(BASE, name)
    made.commit("models")
    for branch in (LEFT, RIGHT):
        made.run("switch", "--quiet", "--create", branch, "main")
        for name in names:
            made.save(grown(branch), name)
        made.commit(branch)
    made.run("worktree", "add", "--quiet", "-b", "linked", "../linked tree", "main")
    linked = opened(tmp_path / "linked tree")
    linked.merge(LEFT, RIGHT)
    assert linked.run("status", "--porcelain").stdout == ""
    assert [path for _, path in trailers.read(linked.git, "HEAD").models] == sorted(names)
    found = verifying.verify(linked.git, "HEAD")
    assert [f.verdict for f in found.findings] == ["exact", "exact"]
    assert found.sound
    for name in names:
        left, right, merged = (
            made.git.run("cat-file", "--filters", f"{r}:{name}").stdout
            for r in (LEFT, RIGHT, "linked")
        )
        assert len(merged) > max(len(left), len(right))
        assert (linked.folder / name).read_bytes() == merged
    assert made.git.text("rev-parse", "HEAD") == made.git.text("rev-parse", RIGHT)


def test_a_model_renamed_on_one_branch_and_changed_on_another(repository):
    repository.run("switch", "--quiet", "--create", "renamed", "main")
    (repository.folder / "sub").mkdir()
    repository.run("mv", MODEL, "sub/m.safetensors")
    repository.commit("renamed")
    repository.run("switch", "--quiet", "main")
    repository.merge("renamed", LEFT, RIGHT)
    assert repository.git.blob_id("HEAD", MODEL) is None
    assert not (repository.folder / MODEL).exists()
    data = repository.git.run("cat-file", "--filters", "HEAD:sub/m.safetensors").stdout
    assert (repository.folder / "sub/m.safetensors").read_bytes() == data
    assert b"left.weight" in data
    assert b"right.weight" in data
    assert repository.run("status", "--porcelain").stdout == ""
    assert verifying.verify(repository.git, "HEAD").sound


def test_attributes_that_only_the_branches_have(tmp_path):
    made = ModelRepository(tmp_path / "model")
    made.run("rm", "--quiet", "--cached", ".gitattributes")
    (made.folder / ".gitattributes").unlink()
    made.commit("no model yet")
    for branch in (LEFT, RIGHT):
        made.run("switch", "--quiet", "--create", branch, "main")
        (made.folder / ".gitattributes").write_text("*.safetensors filter=theta merge=theta\n")
        made.run("add", ".gitattributes")
        made.save(grown(branch))
        made.commit(branch)
    made.run("switch", "--quiet", "main")
    made.merge(LEFT, RIGHT)
    assert groups(made) == {"left.weight", "right.weight"}
    assert made.run("status", "--porcelain").stdout == ""
    assert set(made.tensors()) == set(made.tensors("HEAD"))


def test_a_sparse_checkout_keeps_the_model_out(tmp_path):
    made = ModelRepository(tmp_path / "model")
    made.save(BASE, "models/m.safetensors")
    made.commit("model")
    for branch in (LEFT, RIGHT):
        made.run("switch", "--quiet", "--create", branch, "main")
        made.save(grown(branch), "models/m.safetensors")
        made.commit(branch)
    made.run("switch", "--quiet", "main")
    made.run("sparse-checkout", "set", "docs")
    made.merge(LEFT, RIGHT)
    assert not (made.folder / "models").exists()
    assert made.git.text("ls-files", "-t", "models") == "S models/m.safetensors"
    assert made.run("status", "--porcelain").stdout == ""
    made.run("sparse-checkout", "disable")
    data = (made.folder / "models/m.safetensors").read_bytes()
    assert b"left.weight" in data
    assert b"right.weight" in data


def test_a_criss_cross_history_wants_a_base(repository):
    for name, other in ((LEFT, RIGHT), (RIGHT, LEFT)):
        repository.run("switch", "--quiet", "--create", f"{name}-cross", name)
        repository.merge("-s", "ours", other)
        repository.save(grown(name, f"{name}-more"))
        repository.commit("more")
    before = repository.state()
    done = repository.merge("left-cross", status=2)
    assert f"'{MODEL}' differs between the merge bases" in done.stderr
    assert repository.state() == before
    repository.merge("-Xbase=main", "left-cross")
    wanted = {"left.weight", "right.weight", "left-more.weight", "right-more.weight"}
    assert groups(repository) == wanted
    assert trailers.read(repository.git, "HEAD").bases == tuple(commits(repository, "main"))


def test_pull_of_two_branches_with_options_from_the_configuration(repository, tmp_path):
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", repository.folder, clone], check=True)
    here = opened(clone)
    configuration.install(here.git)
    here.run("config", "lfs.storage", str(repository.folder / ".git" / "lfs"))
    here.run("config", "branch.main.mergeOptions", "-Xmethod=ties -Xscale=0.5")
    done = here.run("pull", "--no-rebase", "origin", LEFT, RIGHT)
    record = trailers.read(here.git, "HEAD")
    assert (record.method, record.options["scale"]) == ("ties", 0.5)
    assert [name for _, name in record.constituents] == [LEFT, RIGHT]
    here.run("reset", "--quiet", "--hard", "HEAD~1")
    here.run("config", "--unset", "branch.main.mergeOptions")
    here.run("config", "merge-eval.method", "task-arithmetic")
    here.run("config", "merge-eval.scale", "0.25")
    done = here.merge(f"origin/{LEFT}", f"origin/{RIGHT}")
    record = trailers.read(here.git, "HEAD")
    assert (record.method, record.options["scale"]) == ("task-arithmetic", 0.25)
    assert "checkpoints are merged by 'task-arithmetic'; choose another" in done.stderr


ORDINARY = {
    "one head": (["a"], "x"),
    "two heads": (["a", "b"], "x"),
    "conflict": (["clash"], "x"),
    "conflict of many": (["a", "clash", "b"], "x"),
    "ours": (["-Xours", "clash"], "x"),
    "a dirty file": (["a"], "dirty"),
    "nothing to do": (["main"], "x"),
}


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory):
    """The same repository with and without us; checkpoints are there, untouched."""
    folder = tmp_path_factory.mktemp("ordinary")
    ours = ModelRepository(folder / "ours", BASE, text=LINES)
    for name, line in (("a", 3), ("b", 15), ("clash", 9)):
        ours.branch(name, files={"notes.txt": edited(name, line), name: "new\n"})
    (ours.folder / "notes.txt").write_text(edited("main", 9))
    ours.commit("main moves")
    settle(ours)
    plain = copied(ours, folder / "plain")
    configuration.uninstall(plain.git)
    return ours, plain


@pytest.mark.parametrize("case", ORDINARY)
def test_ordinary_merges_are_gits_own(ordinary, tmp_path, case):
    arguments, state = ORDINARY[case]
    results = []
    for template in ordinary:
        here = copied(template, tmp_path / template.folder.name)
        if state == "dirty":
            (here.folder / "notes.txt").write_text("mine\n")
        done = subprocess.run(
            ["git", "merge", "--no-ff", *arguments],
            cwd=here.folder,
            env={
                **os.environ,
                **without_heavy_imports(tmp_path / "broken"),
                **dict.fromkeys(("GIT_COMMITTER_DATE", "GIT_AUTHOR_DATE"), "@1700000000 +0000"),
            },
            capture_output=True, text=True,
        )  # fmt: skip
        results.append((done.returncode, here.state(), here.git.text("status"), done.stdout))
        assert "Traceback" not in done.stderr, done.stderr
    ours, plain = results
    assert ours[:3] == plain[:3]
    if case != "conflict of many":
        strategy = re.compile("'(theta|ort|octopus)' strategy|strategy (theta|ort|octopus)")
        assert strategy.sub("strategy", ours[3]) == strategy.sub("strategy", plain[3])


def test_a_conflict_in_a_renamed_model_shows_ours_under_the_new_name(repository, tmp_path):
    repository.run("switch", "--quiet", "--create", "renamed", "main")
    repository.run("mv", MODEL, "m.safetensors")
    repository.save({"frozen": torch.zeros(4)}, "m.safetensors")
    repository.commit("renamed, and of another shape")
    repository.run("switch", "--quiet", LEFT)
    repository.save({"frozen": torch.ones(3)})
    repository.commit("trained")
    before = repository.state()
    mine = (repository.folder / MODEL).read_bytes()
    done = repository.merge("renamed", status=1)
    assert "CONFLICT (model): 'm.safetensors'" in done.stdout
    assert (repository.folder / "m.safetensors").read_bytes() == mine
    assert not (repository.folder / MODEL).exists()
    unmerged = repository.git.text("ls-files", "--unmerged").splitlines()
    assert [line.split()[2:] for line in unmerged] == [[n, "m.safetensors"] for n in "123"]
    repository.run("merge", "--abort")
    assert repository.state() == before


def test_what_is_taken_whole_keeps_its_very_bytes(repository):
    """Blobs that stock git-theta wrote in another order, files from before the filter, links."""
    raw = (repository.folder / MODEL).read_bytes()
    repository.run("switch", "--quiet", "--create", "others", "main")
    text = json.dumps(json.loads(repository.git.text("show", f"main:{MODEL}")), indent=1)
    for path, data in (("laid-out.safetensors", text.encode()), ("raw.safetensors", raw)):
        blob = repository.git.write_blob(data)
        repository.run("update-index", "--add", "--cacheinfo", f"100644,{blob},{path}")
    link = repository.git.write_blob(MODEL.encode())
    repository.run("update-index", "--add", "--cacheinfo", f"120000,{link},link.safetensors")
    repository.run("commit", "--quiet", "-m", "others")
    repository.run("switch", "--quiet", "--discard-changes", "main")
    repository.merge("others", LEFT, RIGHT)
    for path in ("laid-out.safetensors", "raw.safetensors", "link.safetensors"):
        assert repository.git.blob_id("HEAD", path) == repository.git.blob_id("others", path)
    assert (repository.folder / "link.safetensors").is_symlink()
    for path in ("laid-out.safetensors", "raw.safetensors"):
        assert (repository.folder / path).read_bytes() == raw
    assert groups(repository) == {"left.weight", "right.weight"}
    assert repository.run("status", "--porcelain").stdout == ""


def test_an_index_of_another_name(repository):
    index = repository.folder / ".git" / "elsewhere"
    (repository.folder / ".git" / "index").rename(index)
    done = subprocess.run(
        ["git", "merge", LEFT, RIGHT],
        cwd=repository.folder,
        env={**os.environ, "GIT_INDEX_FILE": str(index)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert groups(repository) == {"left.weight", "right.weight"}
    assert not (repository.folder / ".git" / "index").exists()


def test_heads_that_take_no_part_are_named(repository):
    repository.merge("-Xmethod=average", LEFT)
    done = repository.merge("-Xmethod=average", LEFT, RIGHT)
    assert f"'{LEFT}' is merged already: it takes no part in this merge" in done.stderr
    assert RIGHT not in "".join(line for line in done.stderr.splitlines() if "part" in line)
    repository.run("reset", "--quiet", "--hard", "main@{2}")
    repository.run("branch", "longer", LEFT)
    repository.run("switch", "--quiet", "longer")
    repository.run("commit", "--quiet", "--allow-empty", "-m", "further")
    repository.run("switch", "--quiet", "main")
    done = repository.merge("-Xmethod=average", LEFT, "longer", RIGHT)
    assert f"'{LEFT}' is contained in another head" in done.stderr
    assert constituents(repository) == ["longer", RIGHT]


def test_models_committed_before_they_were_tracked_are_read_as_they_are(tmp_path):
    subprocess.run(["git", "init", "--quiet", str(tmp_path / "model")], check=True)
    repository = opened(tmp_path / "model")
    repository.save(BASE)
    repository.commit("raw base")
    for name in (LEFT, RIGHT):
        repository.branch(name, grown(name))
    configuration.install(repository.git)
    done = subprocess.run(
        ["gitmerge-eval", "track", "*.safetensors"],
        cwd=repository.folder,
        capture_output=True,
        text=True,
    )
    assert f"'{MODEL}' is committed as an ordinary file" in done.stderr
    repository.run("add", "--renormalize", ".")
    repository.commit("tracked")
    repository.merge("-Xmethod=average", LEFT, RIGHT)
    # HEAD stores the base's model in another way, and is no constituent for that.
    assert constituents(repository) == [LEFT, RIGHT]
    assert set(repository.tensors()) == {*grown(LEFT), *grown(RIGHT)}
    assert repository.run("status", "--porcelain").stdout == ""
    assert verifying.verify(repository.git, "HEAD").sound
