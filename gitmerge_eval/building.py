"""Build a benchmark's model repository with real Git, and try the literal merge on it.

The same benchmark and seed give the same commits: the recipe's trainings are deterministic, and
author, committer and dates are the recipe's own.
"""

from __future__ import annotations

import os
import shlex
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gitmerge_eval import benchmarks
from gitmerge_eval.checkpoints.lora import configuration_of
from gitmerge_eval.checkpoints.statistics_index import index_path
from gitmerge_eval.errors import EvaluationError, GitError, UsageError
from gitmerge_eval.evaluation.declarations import (
    BENCHMARK_FILE,
    BenchmarkDeclaration,
    ConstituentDeclaration,
)
from gitmerge_eval.git import configuration, programs, tracking
from gitmerge_eval.git.repository import Repository

if TYPE_CHECKING:
    from gitmerge_eval.benchmarks import BuiltModels
    from gitmerge_eval.records import Benchmark

BuildProgress = Callable[[str, int, int], object]
"""``progress(what, done, total)``: a step of training, or an example measured."""
MULTITASK = "multitask"
FIRST_COMMIT = 1_767_225_600
"""2026-01-01 00:00:00 UTC; every further commit is a minute later."""
AUTHOR = ("gitmerge-eval", "benchmark@gitmerge-eval.invalid")
_PLAIN = {"commit.gpgSign": "false", "core.autocrlf": "false", "advice.detachedHead": "false"}


@dataclass(frozen=True)
class BuiltRepository:
    """A model repository that was built from a benchmark's recipe."""

    directory: Path
    benchmark: str
    seed: int
    constituents: tuple[str, ...]
    """The branches, one for each constituent."""
    commits: dict[str, str]
    """branch -> commit."""
    seconds: float


@dataclass(frozen=True)
class Tour:
    """What a quickstart made, and what can be tried next."""

    built: BuiltRepository
    merge: str
    """The merge commit."""
    next_commands: tuple[tuple[str, str], ...]
    """(command, what it shows)."""


def build(
    name: str,
    directory: Path,
    *,
    seed: int = 0,
    settings: Mapping[str, object] | None = None,
    device: str | None = None,
    precision: str | None = None,
    progress: BuildProgress | None = None,
) -> BuiltRepository:
    """Make the Git-Theta repository of the benchmark ``name`` in ``directory``.

    ``settings`` are the benchmark's, beside the seed; ``device`` and ``precision`` are given to
    its trainings where they are named.

    'main' has the base model, each constituent's branch its fine-tuned model, declaration and
    statistics, and 'multitask' the model trained on all of their tasks. Raises UnknownName for an
    unknown benchmark, EvaluationError for one without a recipe, UsageError where ``directory``
    has something in it. A failure, or an interrupt, leaves nothing behind.
    """
    benchmark = benchmarks.get(name)
    if benchmark.build is None:
        raise EvaluationError(
            f"benchmark '{name}' has no recipe to build a repository from; choose one of "
            f"{', '.join(n for n, b in benchmarks.load().items() if b.build)}"
        )
    start = time.perf_counter()
    means = {"device": device, "precision": precision}
    named = {key: value for key, value in means.items() if value is not None}
    with _empty_folder(directory):
        recipe = _Recipe.begin(benchmark, directory)
        trained = recipe.repository.common_directory / "gitmerge-eval" / "trained"
        models = benchmark.build(
            trained, settings={"seed": seed, **(settings or {})}, progress=progress, **named
        )
        assert isinstance(models, benchmarks.BuiltModels)
        commits = recipe.commit_all(models, seed)
        shutil.rmtree(trained)
    return BuiltRepository(
        directory=directory,
        benchmark=name,
        seed=seed,
        constituents=tuple(models.constituents),
        commits=commits,
        seconds=time.perf_counter() - start,
    )


def quickstart(
    directory: Path,
    *,
    name: str = "domainnet-classification-mini",
    heads: Sequence[str] = ("fruit-quickdraw", "bird-real"),
    method: str = "mats",
    seed: int = 0,
    progress: Callable[[], AbstractContextManager[BuildProgress | None]] = nullcontext,
    say: Callable[[str], None] = lambda line: None,
) -> Tour:
    """Build a benchmark's repository, merge ``heads`` with the literal command, show the result.

    ``progress`` is entered for the time of the building alone: what Git and its hooks show
    afterwards goes to the same terminal. ``say`` gets each command before it runs. Raises what
    :func:`build` raises, and GitError where the merge fails; the repository stays then.
    """
    say(f"Building '{name}' (seed {seed}) in {directory}")
    with progress() as show:
        built = build(name, directory, seed=seed, progress=show)
    repository = Repository(directory)
    _ensure_identity(repository)
    # Git looks for a merge strategy on PATH only, and this Python's scripts need not be there.
    path = f"{programs.scripts_folder()}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    # On a terminal Git would open an editor for the merge's message.
    environment = {"PATH": path, "GIT_MERGE_AUTOEDIT": "no"}
    commands = (
        ("merge", f"--strategy-option=method={method}", *heads),
        ("--no-pager", "log", "--notes=gitmerge-eval", "-1"),
        ("status",),
    )
    for command in commands:
        say(f"$ git {' '.join(command)}")
        status = repository.run_attached(*command, environment=environment)
        if status:
            raise GitError(
                f"'git {' '.join(command)}' ended with status {status}; the repository is still "
                f"there: look at it with 'cd {directory} && git status'"
            )
    return Tour(built, repository.commit("HEAD"), _next_commands(built, heads))


def _next_commands(built: BuiltRepository, heads: Sequence[str]) -> tuple[tuple[str, str], ...]:
    others = " ".join(built.constituents)
    return (
        (f"cd {shlex.quote(str(built.directory))}", "go into the repository"),
        ("gitmerge-eval verify HEAD", "compute the merge again and compare every object"),
        ("gitmerge-eval show HEAD --json", "the note of the evaluation as JSON"),
        ("git reset --hard HEAD~1", "undo the merge"),
        (f"gitmerge-eval plan -X method=ties {others}", "what a merge of all would do, and cost"),
        (f"git merge --strategy-option=method=ties {others}", "merge all constituents"),
    )


def _ensure_identity(repository: Repository) -> None:
    """Name a committer for this repository where the user has not set any."""
    if repository.succeeds("var", "GIT_COMMITTER_IDENT"):
        return
    repository.run("config", "user.name", AUTHOR[0])
    repository.run("config", "user.email", AUTHOR[1])


@contextmanager
def _empty_folder(directory: Path) -> Iterator[None]:
    """Make ``directory``, or take it where it is empty; on failure, undo all of that."""
    existed = directory.exists()
    if existed and (not directory.is_dir() or any(directory.iterdir())):
        raise UsageError(f"'{directory}' is not an empty folder; name another one")
    directory.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        if existed:
            for entry in directory.iterdir():
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        else:
            shutil.rmtree(directory, ignore_errors=True)
        raise


@dataclass
class _Recipe:
    """The repository while it is built."""

    benchmark: Benchmark
    repository: Repository
    made: int = 0

    @classmethod
    def begin(cls, benchmark: Benchmark, directory: Path) -> _Recipe:
        repository = Repository(directory)
        repository.run("init", "--quiet", "--initial-branch=main")
        own = directory / ".git"
        if not own.is_dir() or not repository.git_directory.samefile(own):
            raise UsageError(
                f"the variable GIT_DIR names another repository, '{repository.git_directory}'; "
                "unset it to build a new one"
            )
        configuration.install(repository)
        return cls(benchmark, repository)

    def commit_all(self, models: BuiltModels, seed: int) -> dict[str, str]:
        """Every branch; leaves 'main' checked out."""
        settings = models.settings or {"seed": seed}
        commits = {"main": self._commit_base(models, settings)}
        for task, checkpoint in models.constituents.items():
            commits[task] = self._commit_constituent(models, task, checkpoint)
        self.repository.run("switch", "--quiet", "--create", MULTITASK, "main", config=_PLAIN)
        self._take(models.multitask)
        commits[MULTITASK] = self._commit(
            f"{MULTITASK}: fine-tuned on all {len(models.constituents)} tasks together",
            f"The baseline of the merges: {', '.join(models.constituents)}.",
        )
        self.repository.run("switch", "--quiet", "main", config=_PLAIN)
        return commits

    def _commit_base(self, models: BuiltModels, settings: Mapping[str, object]) -> str:
        directory = self.repository.directory
        tracking.track(self.repository, "*.safetensors")
        tracking.merge_by_driver(self.repository, index_path(self.benchmark.checkpoint))
        declaration = BenchmarkDeclaration(self.benchmark.name, settings)
        (directory / BENCHMARK_FILE).write_text(declaration.toml(), encoding="utf-8")
        (directory / "README.md").write_text(_readme(self.benchmark, models), encoding="utf-8")
        self._take(models.base)
        return self._commit(
            f"Pretrained base model of {self.benchmark.name}",
            "Every constituent is a branch that starts here.",
        )

    def _commit_constituent(self, models: BuiltModels, task: str, checkpoint: Path) -> str:
        from gitmerge_eval.checkpoints.lfs import ObjectStore
        from gitmerge_eval.collecting import companions_of, trimmed, write_statistics

        path = self.benchmark.checkpoint
        self.repository.run("switch", "--quiet", "--create", task, "main", config=_PLAIN)
        self._take(checkpoint)
        declaration = ConstituentDeclaration(
            task, self.benchmark.name, task, path, description=self._described(task)
        )
        file = self.repository.directory / declaration.path
        file.parent.mkdir(exist_ok=True)
        file.write_text(declaration.toml(), encoding="utf-8")
        commit = self._commit(
            f"{task}: fine-tuned on its training split", f"{self._described(task)}."
        )
        statistics = list(models.statistics.get(task, ()))
        if statistics:
            blob = self.repository.blob_id("HEAD", path)
            assert blob is not None
            if configuration_of(path) is None:  # an adapter's changes are few already
                store = ObjectStore(self.repository)
                statistics.append(trimmed(self.repository, store, path, blob, "main"))
            companions = companions_of(self.repository, path, self.benchmark)
            write_statistics(self.repository, path, blob, statistics, companions)
            kinds = ", ".join(sorted(statistic.kind for statistic in statistics))
            commit = self._commit(
                f"{task}: statistics for merging", f"Computed on this branch's model: {kinds}."
            )
        return commit

    def _described(self, task: str) -> str:
        skills = self.benchmark.task(task).skills
        return ", ".join(f"{axis} {value}" for axis, value in skills.items())

    def _take(self, checkpoint: Path) -> None:
        """The checkpoint and the companions in its folder into the work tree."""
        target = self.repository.directory / self.benchmark.checkpoint
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(checkpoint, target)
        for name in self.benchmark.companions:
            source = checkpoint.parent / name
            if source.is_dir():
                shutil.rmtree(target.parent / name, ignore_errors=True)
                shutil.copytree(source, target.parent / name)
            elif source.is_file():
                (target.parent / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target.parent / name)

    def _commit(self, title: str, body: str) -> str:
        date = f"{FIRST_COMMIT + 60 * self.made} +0000"
        self.made += 1
        name, address = AUTHOR
        environment = {
            f"GIT_{role}_{what}": value
            for role in ("AUTHOR", "COMMITTER")
            for what, value in (("NAME", name), ("EMAIL", address), ("DATE", date))
        }
        self.repository.run("add", "--all", config=_PLAIN)
        self.repository.run(
            "commit", "--quiet", "--no-verify", "--cleanup=whitespace", "--file=-",
            stdin=f"{title}\n\n{body}\n", environment=environment, config=_PLAIN,
        )  # fmt: skip
        return self.repository.commit("HEAD")


def _readme(benchmark: Benchmark, models: BuiltModels) -> str:
    branches = "\n".join(
        f"- `{task}`: fine-tuned on {', '.join(benchmark.task(task).skills.values())}"
        for task in models.constituents
    )
    two = " ".join(list(models.constituents)[:2])
    others = ", ".join(f"`{name}`" for name in benchmark.companions)
    beside = f", and {others} are what it works with" if others else ""
    return f"""# {benchmark.title}

Models of the benchmark `{benchmark.name}`, to be merged. `{benchmark.checkpoint}` on `main` is the
pretrained base{beside}.
Each branch has one fine-tuned model, the statistics that some methods of merging
need (`statistics/`), and a file in `constituents/` that says which task it is for:

{branches}

`{MULTITASK}` has the model that was trained on all of these tasks at once, to compare with.

    git merge --strategy-option=method=ties {two}
    git log --notes=gitmerge-eval -1
"""
