"""Fine-tunes a model on a branch of its own, in a work tree of its own.

The user's branch, index and files are never touched: the base is checked out below the git
directory, trained there, and committed there, and the branch is the last thing that is made. What
an interrupted training has saved stays in that folder, and the same command goes on with it.
"""

from __future__ import annotations

import fcntl
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from urllib.parse import quote

from gitmerge_eval import benchmarks, statistics
from gitmerge_eval.checkpoints.statistics_index import index_path, is_statistic
from gitmerge_eval.errors import EvaluationError, GitMergeEvalError, UnknownName, UsageError
from gitmerge_eval.evaluation.declarations import (
    BENCHMARK_FILE,
    BenchmarkDeclaration,
    ConstituentDeclaration,
    benchmark_at,
)
from gitmerge_eval.evaluation.evaluating import resolved_device
from gitmerge_eval.evaluation.resolving import benchmark_of
from gitmerge_eval.git import worktrees
from gitmerge_eval.git.repository import NULL_ID, Repository
from gitmerge_eval.git.tracking import tracked
from gitmerge_eval.records import Benchmark

MULTITASK = "multitask"
"""The name for all held-in tasks together, and the branch of several tasks."""
FOLDER = "gitmerge-eval/training"
"""Below the git directory: a folder for each branch that is being trained."""
_REQUEST, _STATE, _TREE, _DONE = "request.json", "state", "tree", "trained.safetensors"

Progress = Callable[[str, int, int], None]
"""``progress(what, done, total)``: steps of training, or examples measured."""


@dataclass(frozen=True)
class TrainedBranch:
    """A branch with a model that was trained here."""

    branch: str
    commit: str
    base: str
    """The commit that it starts from."""
    tasks: tuple[str, ...]
    statistics: tuple[str, ...]
    seconds: float
    """Of this call; a training that went on took longer."""


@dataclass(frozen=True)
class _Request:
    """What determines the result; a saved state belongs to one."""

    base: str
    checkpoint: str
    tasks: tuple[str, ...]
    benchmark: str
    settings: str
    precision: str


def train(
    repository: Repository,
    tasks: Sequence[str],
    *,
    branch: str | None = None,
    base: str = "main",
    kinds: Sequence[str] = (),
    device: str = "auto",
    precision: str | None = None,
    restart: bool = False,
    progress: Progress = lambda what, done, total: None,
) -> TrainedBranch:
    """Fine-tune the model at ``base`` on ``tasks`` and commit it on a new branch.

    The repository's benchmark trains it, by its recipe. One task makes a constituent on a branch
    of the task's name, with its declaration; several, or ``multitask`` for all held-in tasks, make
    a model on the branch 'multitask'. ``kinds`` are statistics to compute for the constituent;
    ``precision`` is the recipe's where none is named.
    ``restart`` forgets what an interrupted training has saved.

    Raises UnknownName for an unknown task or statistic; UsageError where the work tree has changes
    that are not committed, the branch exists, or another training of it runs or was interrupted;
    EvaluationError where the benchmark cannot train. Branches and work tree are then as before.
    """
    start = time.perf_counter()
    origin = repository.commit(base)
    declaration, benchmark = _benchmark(repository, base)
    chosen = _tasks(benchmark, tasks)
    _check_kinds(kinds, chosen)
    name = branch or (chosen[0] if len(chosen) == 1 else MULTITASK)
    _check_repository(repository, name)
    path = benchmark.checkpoint
    blob = repository.blob_id(origin, path)
    if blob is None:
        raise UsageError(
            f"'{base}' has no '{path}' to start from; commit the base model there, or name "
            "another revision with --base"
        )
    request = _Request(
        origin,
        blob,
        chosen,
        benchmark.name,
        json.dumps(dict(declaration.settings)),
        precision or "",
    )
    with _own_folder(repository, name, request, restart) as folder:
        target = folder / _DONE
        with worktrees.detached(repository, folder / _TREE, origin) as tree:
            if not target.exists():
                _fine_tune(
                    benchmark,
                    tree.directory / path,
                    chosen,
                    target,
                    settings=declaration.settings,
                    device=resolved_device(repository, device),
                    **({"precision": precision} if precision else {}),
                    state=folder / _STATE,
                    progress=partial(progress, name),
                )
            shutil.copyfile(target, tree.directory / path)
            _describe(tree, benchmark, name, chosen, kinds, device, progress)
            commit = _commit(tree, benchmark, name, chosen, base)
            # Made only if it still is not there: two clones of a work tree may race.
            repository.run("update-ref", "-m", "benchmark train", _ref(name), commit, NULL_ID)
        shutil.rmtree(folder)
    return TrainedBranch(name, commit, origin, chosen, tuple(kinds), time.perf_counter() - start)


def _benchmark(repository: Repository, base: str) -> tuple[BenchmarkDeclaration, Benchmark]:
    declaration = benchmark_at(repository, base)
    if declaration is None:
        raise UsageError(
            f"'{base}' has no {BENCHMARK_FILE}, so there is nothing to train on; commit one with "
            "a line 'name = \"<benchmark>\"'"
        )
    benchmark = benchmark_of(repository, declaration)
    if benchmark.train is None:
        able = ", ".join(n for n, b in benchmarks.load().items() if b.train)
        raise EvaluationError(
            f"benchmark '{benchmark.name}' has no training of its own; train the model yourself "
            f"and commit it on a branch (those that have: {able})"
        )
    return declaration, benchmark


def _tasks(benchmark: Benchmark, given: Sequence[str]) -> tuple[str, ...]:
    if list(given) == [MULTITASK]:
        return tuple(task.name for task in benchmark.tasks if task.status == "held-in")
    chosen = tuple(dict.fromkeys(given))
    for name in chosen:
        if benchmark.task(name).status == "unavailable":
            raise UsageError(f"task '{name}' of benchmark '{benchmark.name}' has no data")
    if not chosen:
        raise UsageError("no task is named; name one, several, or 'multitask' for all held-in ones")
    return chosen


def _check_kinds(kinds: Sequence[str], tasks: Sequence[str]) -> None:
    known = statistics.names()
    for kind in kinds:
        if kind not in known:
            raise UnknownName.among("statistic", kind, known)
    if kinds and len(tasks) > 1:
        raise UsageError(
            f"statistics are of a constituent, which has one task, not {len(tasks)}; leave out "
            "--statistics"
        )


def _ref(branch: str) -> str:
    return f"refs/heads/{branch}"


def _check_repository(repository: Repository, branch: str) -> None:
    """What would only be found after hours of training."""
    worktrees.require_own_environment("a training")
    if not repository.succeeds("check-ref-format", _ref(branch)):
        raise UsageError(f"'{branch}' is not a name for a branch; name another with --branch")
    if repository.succeeds("show-ref", "--verify", "--quiet", _ref(branch)):
        raise UsageError(
            f"the branch '{branch}' exists; name another with --branch, or remove it with "
            f"'git branch -D {branch}'"
        )
    if not repository.succeeds("var", "GIT_COMMITTER_IDENT"):
        raise UsageError(
            "Git does not know who commits; set 'git config user.name' and 'user.email'"
        )
    changed = repository.text("status", "--porcelain", "--untracked-files=no")
    if changed:
        raise UsageError(
            f"'{changed.splitlines()[0][3:]}' has changes that are not committed, and a training "
            "starts from a commit; commit or stash them"
        )


@contextmanager
def _own_folder(
    repository: Repository, branch: str, request: _Request, restart: bool
) -> Iterator[Path]:
    """The folder of this branch's training, which nobody else has meanwhile."""
    parent = repository.common_directory / FOLDER
    parent.mkdir(parents=True, exist_ok=True)
    folder = parent / quote(branch, safe="")
    with (parent / f"{folder.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"another process trains '{branch}' in this repository") from None
        if restart:
            worktrees.discard(repository, folder)
        wanted = json.dumps(asdict(request), indent=2)
        file = folder / _REQUEST
        if file.exists() and file.read_text(encoding="utf-8") != wanted:
            raise UsageError(
                f"an interrupted training of '{branch}' had another base, benchmark, precision or "
                "other tasks; give the same again, or begin anew with --restart"
            )
        folder.mkdir(exist_ok=True)
        file.write_text(wanted, encoding="utf-8")
        yield folder


def _fine_tune(
    benchmark: Benchmark, base: Path, tasks: Sequence[str], target: Path, **how: object
) -> None:
    """What the benchmark does, or an EvaluationError in a line: it may raise anything."""
    assert benchmark.train is not None
    partial_target = target.with_suffix(".partial")
    try:
        benchmark.train(base, tasks, partial_target, **how)
    except GitMergeEvalError:
        raise
    except Exception as error:
        raise EvaluationError(
            f"benchmark '{benchmark.name}' could not train on {', '.join(tasks)}: "
            f"{type(error).__name__}: {error}"
        ) from error
    partial_target.replace(target)


def _describe(
    tree: Repository,
    benchmark: Benchmark,
    name: str,
    tasks: Sequence[str],
    kinds: Sequence[str],
    device: str,
    progress: Progress,
) -> None:
    """The declaration and statistics of a constituent; nothing for a model of several tasks."""
    _remove_inherited_statistics(tree, benchmark.checkpoint)
    if len(tasks) > 1:
        return
    declaration = ConstituentDeclaration(
        name.rsplit("/", 1)[-1],
        benchmark.name,
        tasks[0],
        benchmark.checkpoint,
        description=_described(benchmark, tasks[0]),
    )
    file = tree.directory / declaration.path
    file.parent.mkdir(exist_ok=True)
    file.write_text(declaration.toml(), encoding="utf-8")
    if kinds:
        from gitmerge_eval import collecting

        tree.run("add", "--all")
        collecting.collect(
            tree,
            list(kinds),
            constituent=declaration.name,
            base=tree.commit("HEAD"),
            device=device,
            progress=progress,
        )


def _remove_inherited_statistics(tree: Repository, checkpoint: str) -> None:
    """Those of the base's model would be stale."""
    stale = [path for path in tracked(tree) if is_statistic(path)]
    if stale:
        tree.run("rm", "--quiet", "--force", "--", *stale, index_path(checkpoint))


def _described(benchmark: Benchmark, task: str) -> str:
    return ", ".join(f"{axis} {value}" for axis, value in benchmark.task(task).skills.items())


def _commit(
    tree: Repository, benchmark: Benchmark, name: str, tasks: Sequence[str], base: str
) -> str:
    if len(tasks) == 1:
        title = f"{name}: fine-tuned on its training split"
        body = f"{_described(benchmark, tasks[0])}; from {base}."
    else:
        title = f"{name}: fine-tuned on {len(tasks)} tasks together"
        body = f"{', '.join(tasks)}; from {base}."
    tree.run("add", "--all")
    tree.run("commit", "--quiet", "--file=-", stdin=f"{title}\n\n{body}\n")
    return tree.commit("HEAD")
