"""A merged checkpoint that has the old one's size and time is not taken for unchanged."""

from __future__ import annotations

import os
import subprocess
import sys

import torch
from models import MODEL, ModelRepository, base_model, fine_tuned

# The strategy with a clock that gives the new file the time of the old one.
STRATEGY = """#!{python}
import sys
from pathlib import Path
from types import SimpleNamespace

from gitmerge_eval import strategy
from gitmerge_eval.git import landing

old = Path({model!r}).stat().st_mtime
landing.time = SimpleNamespace(time=lambda: old + 2)
sys.exit(strategy.main())
"""


def test_the_index_names_the_merged_model_where_git_compares_size_and_time_only(tmp_path):
    base = base_model()
    repository = ModelRepository(tmp_path / "model", base)
    for number in range(2):
        repository.branch(f"b{number}", fine_tuned(base, number))
    repository.run("config", "core.checkStat", "minimal")
    repository.run("config", "core.trustctime", "false")
    # Old enough that the index is not racy, and known to it.
    model = repository.folder / MODEL
    os.utime(model, (model.stat().st_mtime - 100,) * 2)
    assert repository.run("status", "--porcelain").stdout == ""
    program = tmp_path / "bin" / "git-merge-theta"
    program.parent.mkdir()
    program.write_text(STRATEGY.format(python=sys.executable, model=str(model)))
    program.chmod(0o755)
    before = repository.git.blob_id("HEAD", MODEL)
    done = subprocess.run(
        ["git", "merge", "-Xmethod=average", "b0", "b1"],
        cwd=repository.folder,
        env={**os.environ, "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert repository.git.blob_id("HEAD", MODEL) != before
    for name, tensor in repository.tensors("HEAD").items():
        assert torch.equal(tensor, repository.tensors()[name]), name
