"""``git diff``, ``git show``, ``git log -p`` of checkpoints; and nobody else gets metadata."""

from __future__ import annotations

import io
import json
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from models import MODEL, ModelRepository
from small_repositories import copied, settle

from gitmerge_eval.checkpoints.lsh import signature
from gitmerge_eval.checkpoints.metadata import is_metadata
from gitmerge_eval.diagnosing import WARNING, diagnose
from gitmerge_eval.git import configuration
from gitmerge_eval.git.showing import Showing, subcommand

PROGRAMS = Path(sys.executable).parent


def model(shift: float = 0.0, **more: torch.Tensor) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)

    def values(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    return {
        "first.weight": values(20, 10) * (1 + shift),
        "first.bias": values(20),
        "second.weight": values(8, 20) + shift,
        "frozen.weight": values(5, 5),
        **more,
    }


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    made = ModelRepository(tmp_path_factory.mktemp("shown") / "models", model())
    made.branch("one", model(0.1))
    made.branch("two", model(0.2, **{"head.weight": torch.ones(3, 2)}))
    settle(made)
    return made


@pytest.fixture
def made(template, tmp_path):
    return copied(template, tmp_path / "models")


def no_tensors(made):
    """From here on a tensor that is read is an error."""
    for path in (made.folder / ".git/lfs/objects").rglob("*"):
        if path.is_file():
            path.chmod(0o644)
            path.unlink()


def capturing(made, tmp_path) -> tuple[str, Path]:
    """A diff program that keeps what it is given, and where."""
    kept = tmp_path / "kept"
    kept.mkdir()
    script = tmp_path / "capture"
    script.write_text(
        f"#!/bin/sh\nfor f in \"$@\"; do test -f \"$f\" && cp \"$f\" "
        f"{shlex.quote(str(kept))}/$(echo \"$f\" | tr / _); done\necho captured\n"
    )  # fmt: skip
    script.chmod(0o755)
    return str(script), kept


def contents(kept: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(kept.iterdir())]


def tensors_of(data: bytes) -> set[str]:
    assert not is_metadata(data)
    return set(safetensors.torch.load(data))


# --- what is shown -------------------------------------------------------------------------------


def test_diff_groups_by_state_with_the_relative_change_and_reads_no_tensor(made):
    no_tensors(made)
    out = made.run("diff", "one", "two", "--", MODEL).stdout
    lines = out.splitlines()
    blobs = [made.git.blob_id(revision, MODEL)[:10] for revision in ("one", "two")]
    assert lines[0] == f"checkpoint {MODEL}  {blobs[0]}..{blobs[1]}"
    assert lines[1] == "5 parameter groups: 2 changed, 1 added, 2 equal"
    modules = {line.split()[0]: line for line in lines[3:] if "≈" in line}
    assert set(modules) == {"first", "second"}
    assert "1 of 2 groups, 220 parameters" in modules["first"]
    assert "  added: head.weight float32[3, 2]" in lines
    assert "{" not in out
    # ‖b - a‖ / ‖a‖ of a first.weight that is scaled by 1.2 / 1.1, with the bias that is equal.
    a, b = model(0.1), model(0.2)
    norm = sum(float((a[n] ** 2).sum()) for n in ("first.weight", "first.bias")) ** 0.5
    exact = float((b["first.weight"] - a["first.weight"]).norm()) / norm
    assert float(modules["first"].split()[2]) == pytest.approx(exact, rel=0.6)


@pytest.mark.parametrize("arguments", [
    ("show", "one"), ("log", "-p", "-1", "one"), ("diff", "--no-ext-diff", "main", "one"),
])  # fmt: skip
def test_show_and_log_give_a_line_for_each_module_that_changed(made, arguments):
    no_tensors(made)
    out = made.run(*arguments).stdout
    changed = [
        line for line in out.splitlines() if line.startswith(("-", "+")) and line[1:2] not in "-+"
    ]
    found = sorted(line.split(":")[0] for line in changed)
    assert found == ["+first", "+second", "-first", "-second"]
    assert "2 groups, 220 parameters, float32, norm ≈ " in changed[0]
    assert "tensor_metadata" not in out


def test_show_of_a_merge_is_short(made):
    made.merge("--strategy-option=method=average", "one", "two", status=None)
    made.git.run("commit", "--quiet", "--allow-empty", "-m", "x", check=False)
    no_tensors(made)
    out = made.run("show", "--first-parent", "-m", "HEAD").stdout + made.run("show", "HEAD").stdout
    assert "tensor_metadata" not in out
    assert len(out.splitlines()) < 80


def test_new_deleted_renamed_and_conflicting_files(made):
    no_tensors(made)
    empty = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
    assert (
        "added checkpoint: 4 groups, 405 parameters, float32"
        in made.run("diff", empty, "main").stdout
    )
    assert "deleted checkpoint: 4 groups" in made.run("diff", "main", empty).stdout
    made.git.run("switch", "--quiet", "--create", "moved", check=False)
    made.git.run("symbolic-ref", "HEAD", "refs/heads/moved")
    made.git.run("mv", MODEL, "renamed.safetensors")
    made.git.run("commit", "--quiet", "-m", "renamed")
    assert f"checkpoint {MODEL}  none.." in made.run("diff", empty, "main").stdout
    text = made.run("diff", "-M10%", "one", "HEAD").stdout
    assert f"checkpoint {MODEL} → renamed.safetensors" in text
    shown = subprocess.run(
        [PROGRAMS / "gitmerge-eval", "differ", "both", MODEL], cwd=made.folder,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert shown.stdout == f"* Unmerged path {MODEL}\n"


def test_the_work_trees_own_file_is_cleaned_and_nothing_is_stored(made):
    assert made.run("diff").stdout == ""
    made.save(model(0.1))
    before = {p for p in (made.folder / ".git").rglob("*") if "lfs" in p.parts and p.is_file()}
    out = made.run("diff", "--", MODEL).stdout
    assert "..work tree" in out
    assert "4 parameter groups: 2 changed, 2 equal" in out
    clean_by_git = {p for p in (made.folder / ".git").rglob("*")
                    if "lfs" in p.parts and p.is_file()} - before  # fmt: skip
    side = (MODEL, "0" * 40, "100644")
    for arguments in (("one", MODEL), ("both", MODEL, *side, *side)):
        subprocess.run(
            [PROGRAMS / "gitmerge-eval", "differ", *arguments], cwd=made.folder, check=True,
            capture_output=True,
        )  # fmt: skip
    after = {p for p in (made.folder / ".git").rglob("*") if "lfs" in p.parts and p.is_file()}
    assert after - before == clean_by_git
    # A file that was left as it is shows against another commit from the index, without tensors.
    made.git.run("checkout", "--quiet", "--", MODEL)
    no_tensors(made)
    assert "2 changed" in made.run("diff", "one").stdout
    in_index = made.run("diff", "--cached", "one").stdout
    assert "2 changed" in in_index


def test_what_is_no_checkpoint_is_said_and_the_diff_goes_on(made):
    (made.folder / "zz.txt").write_text("more\n")
    made.git.run("add", "zz.txt")
    (made.folder / MODEL).write_bytes(b"\x80\x04not a model" * 10)
    done = subprocess.run(
        [PROGRAMS / "gitmerge-eval", "differ", "both", MODEL, "/dev/null", ".", ".", MODEL,
         "0" * 40, "100644"], cwd=made.folder, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "cannot be shown: this is a PyTorch pickle" in done.stdout
    done = subprocess.run(
        [PROGRAMS / "gitmerge-eval", "differ", "one", MODEL], cwd=made.folder,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("checkpoint that cannot be shown: ")
    done = subprocess.run(
        [PROGRAMS / "gitmerge-eval", "differ"], cwd=made.folder, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "usage: gitmerge-eval differ" in done.stderr


def test_a_name_in_a_checkpoint_cannot_steer_the_terminal(made):
    made.save(model(**{"evil\x1b[31m.weight": torch.ones(2)}))
    made.commit("an odd name")
    out = made.run("diff", "HEAD~1", "HEAD").stdout + made.run("show").stdout
    assert "\x1b" not in out
    assert "evil\\x1b[31m.weight" in out


def test_a_patch_for_machines_is_still_to_be_had(made):
    patch = made.run("format-patch", "--stdout", "main..one").stdout
    assert '"theta_metadata"' in patch
    made.git.run("apply", "--cached", stdin=patch)
    assert made.git.blob_id("", MODEL) == made.git.blob_id("one", MODEL)
    assert (
        '"theta_metadata"'
        in made.run("diff", "--no-ext-diff", "--no-textconv", "main", "one").stdout
    )
    assert made.run("diff", "--stat", "main", "one").stdout.count("model.safetensors") == 1


# --- nobody else gets metadata -------------------------------------------------------------------


def test_metadata_would_be_of_no_use_to_a_foreign_program(made, tmp_path):
    """What goes wrong without the guard: git-theta's own diff program cannot read metadata."""
    metadata = tmp_path / "metadata"
    metadata.write_bytes(made.git.blob(made.git.blob_id("one", MODEL)))
    environment = {**os.environ, "GIT_THETA_CHECKPOINT_TYPE": "safetensors"}
    program = shutil.which("git-theta-diff")
    assert program
    sides = [str(metadata), "0" * 40, "100644"]
    done = subprocess.run([program, MODEL, *sides, *sides], env=environment, capture_output=True)
    assert done.returncode
    out = subprocess.run(
        ["git", "-c", f"diff.theta.command={program}", "diff", "one", "two"], cwd=made.folder,
        env=environment, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "ADDED PARAMETER GROUPS" in out
    assert "head/weight" in out or "head.weight" in out


@pytest.mark.parametrize("settings", [
    {"diff.theta.command": "{program}"},
    {"diff.theta.textconv": "{program}"},
    {"diff.external": "{program}"},
])  # fmt: skip
def test_another_program_gets_the_model(made, tmp_path, settings):
    program, kept = capturing(made, tmp_path)
    (made.folder / ".git/info/attributes").write_text(
        "*.safetensors !diff\n" if "diff.external" in settings else ""
    )
    given = [w for key, v in settings.items() for w in ("-c", f"{key}={v.format(program=program)}")]
    flags = ["--no-ext-diff"] if "diff.theta.textconv" in settings else []
    out = made.run(*given, "diff", *flags, "one", "two", "--", MODEL).stdout
    assert "captured" in out or flags
    assert [tensors_of(data) for data in contents(kept)]


@pytest.mark.parametrize("by", ["environment", "configuration"])
def test_the_other_side_of_a_rename_is_a_model_for_another_program(made, tmp_path, by):
    """A program for paths without a driver gets both sides of a rename, be one of them ours."""
    program, kept = capturing(made, tmp_path)
    attributes = made.folder / ".gitattributes"
    attributes.write_text(attributes.read_text() + "plain.bin filter=theta\n")
    made.git.run("mv", MODEL, "plain.bin")
    made.commit("another name")
    variable = {"GIT_EXTERNAL_DIFF": program} if by == "environment" else {}
    setting = ["-c", f"diff.external={program}"] if by == "configuration" else []
    made.git.run("mv", "plain.bin", "again.safetensors")
    made.save(model(0.01), "again.safetensors")
    made.commit("a tracked name again")
    subprocess.run(
        ["git", *setting, "diff", "-M10%", "HEAD~1", "HEAD"], cwd=made.folder,
        env={**os.environ, **variable}, check=True, capture_output=True,
    )  # fmt: skip
    assert len(contents(kept)) >= 2
    for data in contents(kept):
        tensors_of(data)


def test_a_checkout_a_stash_and_an_archive_get_the_model(made, tmp_path):
    expected = set(model())
    made.git.run("switch", "--quiet", "one")
    assert tensors_of((made.folder / MODEL).read_bytes()) == expected
    made.save(model(0.3))
    made.git.run("stash")
    assert tensors_of((made.folder / MODEL).read_bytes()) == expected
    made.git.run("stash", "apply")
    assert tensors_of((made.folder / MODEL).read_bytes()) == expected
    made.git.run("reset", "--quiet", "--hard")
    archive = made.git.run("archive", "--format=tar", "two").stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        member = tar.extractfile(MODEL)
        assert member is not None
        tensors_of(member.read())
    tensors_of(made.git.run("cat-file", "--filters", f"two:{MODEL}").stdout)
    made.git.run("worktree", "add", "--quiet", str(tmp_path / "linked"), "two")
    tensors_of((tmp_path / "linked" / MODEL).read_bytes())
    made.git.run("restore", "--source=two", "--", MODEL)
    tensors_of((made.folder / MODEL).read_bytes())
    made.git.run("checkout", "--quiet", "--force", "main")
    # 'git difftool -d' checks out both sides; its process is no 'git diff'.
    copy = tmp_path / "copy"
    copy.write_text(f'#!/bin/sh\ncp -rL "$1" {tmp_path}/left; cp -rL "$2" {tmp_path}/right\n')
    copy.chmod(0o755)
    made.git.run("difftool", "--dir-diff", "--no-prompt", f"--extcmd={copy}", "one", "two")
    for side in ("left", "right"):
        tensors_of((tmp_path / side / MODEL).read_bytes())


@pytest.mark.parametrize(
    "prefix",
    [(), ("-c", "alias.showmodel=show"), ("--no-pager",), ("-C", ".")],
)
def test_however_git_is_called_a_checkout_after_it_is_whole(made, prefix):
    word = "showmodel" if "alias" in "".join(prefix) else "show"
    assert "norm ≈" in made.run(*prefix, word, "one").stdout
    made.run(*prefix, "checkout", "--quiet", "two")
    tensors_of((made.folder / MODEL).read_bytes())


def test_without_proc_the_whole_file_is_made(made, monkeypatch):
    """Nobody above this process is a Git that we know: so nothing is 'only shown'."""
    request = {"pathname": MODEL, "blob": "0" * 40}
    assert not Showing(made.git).wants(request)
    monkeypatch.setattr("gitmerge_eval.git.showing.calling_git", lambda: ["git", "diff"])
    assert Showing(made.git).wants(request)
    for guarded in ({"ref": "refs/heads/main"}, {"treeish": "1" * 40}, {"can-delay": "1"}):
        assert not Showing(made.git).wants({**request, **guarded})
    assert not Showing(made.git).wants({"pathname": "notes.txt"})
    for other in (["git", "stash", "show"], ["git", "checkout"], ["git"], []):
        monkeypatch.setattr("gitmerge_eval.git.showing.calling_git", lambda other=other: other)
        assert not Showing(made.git).wants(request)


@pytest.mark.parametrize(("line", "found"), [
    ("git diff", "diff"),
    ("git -c a.b=checkout --no-pager -C /x show HEAD", "show"),
    ("git --git-dir=/x/.git --work-tree=/x log -p", "log"),
    ("git --git-dir /x/.git diff", ""),  # a form whose value we might take for a command
    ("git --unknown diff", ""),
    ("git -p checkout diff", "checkout"),
    ("git", ""),
])  # fmt: skip
def test_subcommands_are_read_with_care(line, found):
    assert subcommand(line.split()) == found


# --- set-up, and the estimates -------------------------------------------------------------------


def test_init_sets_both_and_takes_them_back(made):
    assert made.git.text("config", "diff.theta.command").endswith("gitmerge-eval differ both")
    assert made.git.text("config", "diff.theta.textconv").endswith("gitmerge-eval differ one")
    configuration.uninstall(made.git)
    assert made.git.setting("diff.theta.command") is None


def test_doctor_names_a_checkpoint_that_is_shown_as_json(made):
    attributes = made.folder / ".gitattributes"
    attributes.write_text("*.safetensors filter=theta merge=theta\n")
    assert "tensor_metadata" in made.run("diff", "one", "two", "--", MODEL).stdout
    (found,) = (f for f in diagnose(made.git) if f.name == "diff")
    assert found.status == WARNING
    assert f"gitmerge-eval track {MODEL}" in found.remedy
    subprocess.run(
        [PROGRAMS / "gitmerge-eval", "track", MODEL], cwd=made.folder, check=True,
        capture_output=True,
    )  # fmt: skip
    assert not [f for f in diagnose(made.git) if f.name == "diff"]
    assert "tensor_metadata" not in made.run("diff", "one", "two", "--", MODEL).stdout


def test_signatures_estimate_norms_of_scattered_values_and_overstate_constant_ones():
    generator = np.random.default_rng(3)
    ratios = []
    for _ in range(200):
        values = generator.normal(size=generator.integers(50, 30_000)).astype(np.float32)
        estimate = 1e-8 * np.sqrt(np.mean(np.square(np.array(signature(values), float))))
        ratios.append(estimate / np.linalg.norm(values))
    assert np.sqrt(np.mean(np.square(ratios))) == pytest.approx(1, abs=0.05)
    assert np.std(ratios) == pytest.approx(1 / np.sqrt(32), abs=0.04)
    size = 250_000
    constant = np.ones(size, np.float32)
    estimate = 1e-8 * np.sqrt(np.mean(np.square(np.array(signature(constant), float))))
    assert 2 < estimate / np.sqrt(size) < 1.5 * np.sqrt(size / 10_000)


def test_metadata_is_json_that_git_stores(made):
    """The blob itself is what it was."""
    assert "first.weight" in json.loads(made.git.blob(made.git.blob_id("one", MODEL)))
