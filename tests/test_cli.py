"""The command line: what is printed where, exit statuses, and one line for each error."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys

import pytest
from models import MODEL, ModelRepository
from small_repositories import BASE, grown, without_heavy_imports

from gitmerge_eval import __version__, cli
from gitmerge_eval.methods import load


@pytest.fixture
def run(capsys, monkeypatch):
    """Runs a command in this process; (status, stdout, stderr)."""

    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["gitmerge-eval", *arguments])
        status = cli.main()
        out, err = capsys.readouterr()
        return status, out, err

    return command


def test_methods_as_json_and_as_a_table(run):
    status, out, _ = run("methods", "--json")
    assert status == 0
    found = {method["name"]: method for method in json.loads(out)}
    assert list(found) == list(load())
    assert found["mats"]["needs"] == ["base", "gram"]
    assert found["average"]["needs"] == []
    (iterations,) = (p for p in found["mats"]["hyperparameters"] if p["option"] == "iterations")
    assert (iterations["type"], iterations["minimum"], iterations["symbol"]) == ("int", 0, "N")
    assert iterations["sweep"] == list(range(10, 101, 10))
    status, out, _ = run("methods")
    assert status == 0
    for name, method in found.items():
        assert name in out
        assert method["merging_flops"].partition(";")[0] in out


M, D, K, T = 5, 768, 512, 1000
DK = D * K
COSTS = {
    ("average",): (M * DK, 0),
    ("task-arithmetic",): ((2 * M + 1) * DK, 0),
    ("dare",): ((6 * M + 1) * DK, 0),
    ("ties",): ((4 * M + 1) * DK, M * 20 * DK + M * DK * math.log(20)),
    ("fisher",): ((3 * M - 1) * DK, 4 * M * T * D * DK),
    ("regmean",): ((M + 2) * D * DK + (3 * M - 2) * DK, M * T * D * DK),
    ("mats", "--iterations", "50"): (
        (M + 50) * D * DK + (2 * M + 5 * 50 - 2) * DK, 4 * M * T * D * DK,
    ),
    ("slerp",): ((2 * M + 3) * DK + (M + 1) * math.log(DK) + math.log(M), 0),
}  # fmt: skip
"""The paper's Table 3, written out."""


@pytest.mark.parametrize("arguments", COSTS, ids=lambda value: value[0])
def test_costs_are_the_papers(run, arguments):
    layer = ("--models", str(M), "--in", str(D), "--out", str(K), "--tokens", str(T))
    status, out, _ = run("cost", *arguments, *layer, "--json")
    assert status == 0
    found = json.loads(out)
    for key, expected in zip(("merging_flops", "statistics_flops"), COSTS[arguments], strict=True):
        assert type(found[key]) is int
        # A logarithm is rounded to whole operations; everything else is exact.
        assert abs(found[key] - expected) <= 2, key
        if isinstance(expected, int):
            assert found[key] == expected
    status, out, _ = run("cost", *arguments, *layer)
    assert f"{found['merging_flops']:,}" in out


def test_slerp_of_two(run):
    layer = ("--models", "2", "--in", str(D), "--out", str(K), "--json")
    found = json.loads(run("cost", "slerp", *layer)[1])
    assert abs(found["merging_flops"] - (8 * DK + 3 * math.log(DK))) <= 1


WRONG = {
    ("cost", "tise", "--models=2", "--in=1", "--out=1"): "unknown merge method 'tise'",
    ("cost", "mats", "--models=2", "--in=1", "--out=1", "--iterations"): "'iterations' is ''",
    (
        "cost",
        "mats",
        "--models=2",
        "--in=1",
        "--out=1",
        "--iteration=5",
    ): "did you mean 'iterations'",
    ("cost", "mats", "--models=2", "--in=1", "--out=1", "5"): "'5' is not an option",
    ("plan", "nothing"): "'nothing' is not a commit in this repository",
    ("verify", "nothing"): "'nothing' is not a commit in this repository",
    ("verify",): "'HEAD' is not a merge of checkpoints; name a merge commit",
}


def test_errors_are_one_line_on_stderr(run, tmp_path, monkeypatch):
    repository = ModelRepository(tmp_path / "model", BASE)
    monkeypatch.chdir(repository.folder)
    for arguments, message in WRONG.items():
        status, out, err = run(*arguments)
        assert (status, out) == (2, ""), arguments
        assert err.startswith("gitmerge-eval: "), arguments
        assert message in err
        assert err.count("\n") == 1
    monkeypatch.chdir(tmp_path)
    for arguments in (("plan", "a"), ("verify",), ("init",), ("track", "x"), ("stats", "gram")):
        status, out, err = run(*arguments)
        assert (status, out) == (2, ""), arguments
        assert "is not in the work tree of a Git repository" in err
        assert err.count("\n") == 1


def test_wrong_usage_of_the_command_line_itself(run):
    for arguments in (("methods", "--jsn"), ("nothing",), ("plan",), ("cost", "ties")):
        status, out, err = run(*arguments)
        assert status == 2, arguments
        assert out == ""
        assert "Error" in err
        assert "Traceback" not in err


def test_help_and_version(run):
    assert run("--version")[:2] == (0, f"gitmerge-eval {__version__}\n")
    status, out, _ = run("--help")
    assert status == 0
    for command in ("init", "doctor", "track", "plan", "verify", "methods", "cost", "stats"):
        assert command in out


def test_init_track_doctor_and_undo(run, repository, monkeypatch):
    monkeypatch.chdir(repository.directory)
    status, out, _ = run("init")
    assert status == 0
    assert "set pull.octopus to theta" in out
    assert run("init")[1] == "everything is in place already\n"
    assert "tracked (.gitattributes is staged)" in run("track", "*.safetensors")[1]
    assert run("track", "*.safetensors", "*.bin")[1].splitlines() == [
        "*.safetensors: tracked already (.gitattributes is staged)",
        "*.bin: tracked (.gitattributes is staged)",
    ]
    status, out, _ = run("doctor", "--json")
    assert status == 0, out
    assert not [finding for finding in json.loads(out) if finding["status"] == "problem"]
    status, out, _ = run("init", "--undo")
    assert status == 0
    assert "unset pull.octopus" in out
    assert run("doctor")[0] == 1


def test_verify_ends_with_what_it_found(run, tmp_path, monkeypatch):
    repository = ModelRepository(tmp_path / "model", BASE)
    for name in ("a", "b"):
        repository.branch(name, grown(name * 3))
    repository.merge("a", "b")
    monkeypatch.chdir(repository.folder)
    status, out, _ = run("verify")
    assert status == 0
    assert f"{MODEL}: exact, 3 parameter groups" in out
    assert out.endswith(": verified\n")
    status, out, _ = run("verify", "--json")
    assert (status, json.loads(out)["sound"]) == (0, True)
    repository.save(grown("aaa"))
    repository.run("commit", "--quiet", "--all", "--amend", "--no-edit")
    status, out, _ = run("verify")
    assert status == 1
    assert "group 'bbb.weight' is missing" in out
    assert out.endswith(": NOT verified\n")
    message = repository.git.text("log", "-1", "--format=%B")
    gone = message.replace(repository.git.commit("a"), "1" * 40)
    repository.run("reset", "--quiet", "--hard", "HEAD@{1}")
    repository.run("commit", "--quiet", "--amend", "-m", gone)
    status, out, _ = run("verify")
    assert status == 2
    assert "the constituent 'a', commit 1111111111, is not in this clone" in out


def test_no_heavy_import_before_a_tensor_is_needed(tmp_path):
    environment = {**os.environ, **without_heavy_imports(tmp_path / "broken")}
    for arguments in (("methods", "--json"), ("--help",)):
        done = subprocess.run(
            ["gitmerge-eval", *arguments], env=environment, capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, "")
