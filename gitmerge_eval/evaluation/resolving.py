"""The benchmark that a repository's declaration means: an installed one, or one declared in full.

Code comes from installed packages alone, and the folder that a declaration's files are looked for
in from the user: the environment, or this clone's configuration, which no branch can change.
"""

from __future__ import annotations

import os
from pathlib import Path

from gitmerge_eval import benchmarks
from gitmerge_eval.evaluation.declarations import BenchmarkDeclaration
from gitmerge_eval.git.repository import Repository
from gitmerge_eval.records import Benchmark

DATA_KEY = "merge-eval.data"
DATA_VARIABLE = "GITMERGE_EVAL_DATA"
"""The folder with the user's data; it goes before the configuration."""


def benchmark_of(repository: Repository, declaration: BenchmarkDeclaration) -> Benchmark:
    """The benchmark of a declaration.

    Raises UnknownName for a name that is not installed, and EvaluationError for a malformed
    declaration of a benchmark of the user's own.
    """
    if not declaration.own:
        return benchmarks.get(declaration.name)
    from gitmerge_eval.benchmarks.declared.benchmark import benchmark

    return benchmark(declaration.own, declaration.where, data_folder(repository))


def data_folder(repository: Repository) -> Path | None:
    """Where the user's data are, or None where nobody says it."""
    named = os.environ.get(DATA_VARIABLE) or repository.setting(DATA_KEY)
    return Path(named).expanduser() if named else None
