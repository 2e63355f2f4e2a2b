"""The benchmark that a repository's declaration means: an installed one, or one declared in full.

Code comes from installed packages alone, and the folder that a declaration's files are looked for
in from the user: the environment, or this clone's configuration, which no branch can change.
"""

from __future__ import annotations

import os
from pathlib import Path

from gitmerge_eval import benchmarks
from gitmerge_eval.errors import EvaluationError, GitError, UsageError
from gitmerge_eval.evaluation.declarations import (
    BENCHMARK_FILE,
    BenchmarkDeclaration,
    benchmark_in,
)
from gitmerge_eval.git.repository import Repository
from gitmerge_eval.records import Benchmark

DATA_KEY = "merge-eval.data"
DATA_VARIABLE = "GITMERGE_EVAL_DATA"
"""The folder with the user's data; it goes before the configuration."""
HARNESS_KEY = "merge-eval.lm-eval-tasks"
HARNESS_VARIABLE = "GITMERGE_EVAL_LM_EVAL_TASKS"
"""The folder with the user's own tasks for lm-eval, which are code; as above."""


def benchmark_of(repository: Repository, declaration: BenchmarkDeclaration) -> Benchmark:
    """The benchmark of a declaration.

    Raises UnknownName for a name that is not installed, and EvaluationError for a malformed
    declaration of a benchmark of the user's own.
    """
    if not declaration.own:
        return benchmarks.get(declaration.name)
    from gitmerge_eval.benchmarks.declared.benchmark import benchmark

    harness = harness_folder(repository) if "lm_eval" in declaration.own else None
    return benchmark(declaration.own, declaration.where, data_folder(repository), harness)


def declared_here() -> Benchmark | None:
    """The benchmark that the current repository's work tree declares in full, if it does.

    Raises EvaluationError where the declaration is malformed.
    """
    try:
        repository = Repository.here()
    except GitError:
        return None
    declaration = benchmark_in(repository.directory)
    return benchmark_of(repository, declaration) if declaration and declaration.own else None


def check_recipe(name: str) -> None:
    """UsageError where ``name`` is the benchmark that the current repository declares: it has no
    recipe, and its models are trained and merged in that very repository."""
    if name in benchmarks.names():
        return
    declared = declared_here()
    if declared and declared.name == name:
        raise UsageError(
            f"'{name}' is this repository's own, by {BENCHMARK_FILE}: it has no recipe to build "
            "another repository from; train models here with 'gitmerge-eval benchmark train "
            "<task>', and merge their branches with 'git merge', which measures"
        )


def data_folder(repository: Repository) -> Path | None:
    """Where the user's data are, or None where nobody says it."""
    named = os.environ.get(DATA_VARIABLE) or repository.setting(DATA_KEY)
    return Path(named).expanduser() if named else None


def harness_folder(repository: Repository) -> Path | None:
    """Where the user's own tasks for lm-eval are, or None where nobody says it.

    Raises EvaluationError for a folder that is not there, and for one in or around a work tree of
    this repository: a merged branch would bring the code that evaluates it.
    """
    named = os.environ.get(HARNESS_VARIABLE) or repository.setting(HARNESS_KEY)
    if not named:
        return None
    folder = Path(named).expanduser()
    remedy = f"name another with 'git config {HARNESS_KEY} <folder>' or by {HARNESS_VARIABLE}"
    if not folder.is_absolute() or not folder.is_dir():
        raise EvaluationError(
            f"the folder with tasks for lm-eval is '{folder}', which is no absolute path of a "
            f"folder; {remedy}"
        )
    listing = repository.text("worktree", "list", "--porcelain")
    lines = listing.splitlines()
    for tree in (line.partition(" ")[2] for line in lines if line.startswith("worktree ")):
        there = Path(tree).resolve()
        # Around one is as bad as in it: lm-eval looks for tasks in all folders below.
        if folder.resolve().is_relative_to(there) or there.is_relative_to(folder.resolve()):
            raise EvaluationError(
                f"the tasks for lm-eval are in '{folder}', which a checkout of this repository may "
                f"write into, and they are code; {remedy}"
            )
    return folder.resolve()
