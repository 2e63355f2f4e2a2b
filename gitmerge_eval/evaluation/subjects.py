"""What an evaluation is about: which model, which tasks, which other models beside it.

A merge of ours names its constituents in its trailers, and each constituent's own commit declares
its task. What the trailers cannot say (they may be copied to another commit) does not count: a
merge is ours where the model in its tree is the one that the trailers record.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from gitmerge_eval.checkpoints.sharded import is_index
from gitmerge_eval.errors import EvaluationError, GitError, UnknownName
from gitmerge_eval.evaluation.declarations import (
    BENCHMARK_FILE,
    BenchmarkDeclaration,
    ConstituentDeclaration,
    benchmark_at,
    constituents_at,
)
from gitmerge_eval.evaluation.parts import declarations_of, parts_of
from gitmerge_eval.evaluation.workspace import NO_COMPANIONS, Companions, companions_at
from gitmerge_eval.git import trailers
from gitmerge_eval.git.repository import Repository
from gitmerge_eval.git.trailers import MergeTrailers, merge_of_ours
from gitmerge_eval.records import Benchmark

if TYPE_CHECKING:
    from gitmerge_eval.merging.expansion import Part

MULTITASK_KEY = "merge-eval.multitask"
MULTITASK_BRANCHES = ("refs/heads/multitask", "refs/remotes/origin/multitask")


@dataclass(frozen=True)
class Leaf:
    """A constituent that is no merge itself, and what its branch declares."""

    commit: str
    declaration: ConstituentDeclaration


@dataclass(frozen=True)
class Subject:
    """The model to evaluate, and its tasks."""

    commit: str
    path: str
    blob: str
    merge: MergeTrailers | None
    leaves: tuple[Leaf, ...]
    benchmark: Benchmark
    declaration: BenchmarkDeclaration
    held_in: tuple[str, ...]
    generalization: tuple[str, ...]
    is_planned: bool = False
    """Whether it is a merge into ``commit`` that has not been made."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """Held-in tasks in the order of the constituents, then the others in grid order."""
        return self.held_in + self.generalization


@dataclass(frozen=True)
class Model:
    """A checkpoint, the part it plays ('merged' or a baseline), and the tasks to score it on."""

    role: str
    label: str
    blob: str
    tasks: tuple[str, ...]
    companions: Companions = NO_COMPANIONS
    file: Path | None = None
    """Where its checkpoint is, if it is in no blob; its ``blob`` is then a name for it."""

    @property
    def identity(self) -> str:
        """What its scores belong to: the checkpoint's blob, and a digest of its companions."""
        digest = self.companions.digest
        return f"{self.blob}+{digest}" if digest else self.blob


def subject_at(
    repository: Repository,
    revision: str,
    tasks: Sequence[str] | None = None,
    checkpoint: str | None = None,
) -> Subject:
    """The model at ``revision`` with the tasks of its constituents, or with ``tasks``.

    Raises EvaluationError where the benchmark, a constituent, a task or the checkpoint is missing
    or unknown, and GitError for an unknown revision.
    """
    commit = repository.commit(revision)
    declaration = _declaration(repository, commit)
    if declaration is None:
        raise EvaluationError(
            f"'{revision}' has no {BENCHMARK_FILE}, so there is nothing to evaluate it on; commit "
            "one with a line 'name = \"<benchmark>\"'"
        )
    benchmark = _benchmark(repository, declaration, revision)
    leaves: tuple[Leaf, ...] = ()
    path = checkpoint or benchmark.checkpoint
    if tasks is None:
        found = tuple(
            _leaves(repository, parts_of(repository, [(commit, revision)], path, merge=commit))
        )
        path, leaves = _of_one_model(found, checkpoint, declaration, revision)
        tasks = [leaf.declaration.task for leaf in leaves]
    _refuse_shards(path)
    blob = repository.blob_id(commit, path)
    if blob is None:
        raise EvaluationError(f"'{revision}' has no checkpoint '{path}'; name another revision")
    held_in = tuple(dict.fromkeys(tasks))
    merge = trailers.read(repository, commit)
    if merge is not None and (blob, path) not in merge.models:
        merge = None
    return Subject(
        commit, path, blob, merge, leaves, benchmark, declaration,
        held_in, _spanned(benchmark, held_in),
    )  # fmt: skip


def planned_subject(
    repository: Repository,
    constituents: Sequence[tuple[str, str]],
    bases: Sequence[str],
    checkpoint: str | None = None,
) -> Subject:
    """The merge of ``constituents``, (commit, name) each, into HEAD before it is made.

    HEAD says what it would be evaluated on. Raises as :func:`subject_at` does.
    """
    commit = repository.commit("HEAD")
    declaration = _declaration(repository, commit)
    if declaration is None:
        raise EvaluationError(
            f"HEAD has no {BENCHMARK_FILE}, so there is nothing to evaluate a merge on; commit one "
            "with a line 'name = \"<benchmark>\"'"
        )
    benchmark = _benchmark(repository, declaration, "HEAD")
    base, known = bases[0] if bases else None, checkpoint or benchmark.checkpoint
    found = list(_leaves(repository, parts_of(repository, constituents, known, base)))
    path, leaves = _of_one_model(found, checkpoint, declaration, "HEAD")
    _refuse_shards(path)
    held_in = tuple(dict.fromkeys(leaf.declaration.task for leaf in leaves))
    merge = MergeTrailers(method="", bases=tuple(bases), constituents=tuple(constituents))
    return Subject(
        commit, path, repository.blob_id(commit, path) or "", merge, leaves, benchmark,
        declaration, held_in, _spanned(benchmark, held_in), is_planned=True,
    )  # fmt: skip


def models_of(repository: Repository, subject: Subject) -> tuple[list[Model], list[str]]:
    """The subject's model and, for a merge, its baselines; and what is missing of these, in words.

    The baselines are the pretrained model (the merge's base), each constituent on its own task,
    and the multitask model: the branch 'multitask', here or at origin, or the revision in the
    configuration key merge-eval.multitask. A generalization task for which a model of its own was
    trained, on a branch of the task's name, has an individual baseline too. Raises EvaluationError
    for companions of a model that are no plain files.
    """

    def model(role: str, label: str, commit: str, blob: str, tasks: tuple[str, ...]) -> Model:
        return _with_companions(repository, subject, commit, Model(role, label, blob, tasks))

    models = [model("merged", "merged", subject.commit, subject.blob, subject.tasks)]
    remarks: list[str] = []
    if subject.merge is None:
        return models, remarks
    parent = f"{subject.commit}^1"
    before = None if subject.is_planned else repository.blob_id(parent, BENCHMARK_FILE)
    if before not in (
        None,
        repository.blob_id(subject.commit, BENCHMARK_FILE),
    ):
        remarks.append(
            f"a merged branch changes {BENCHMARK_FILE}: this is by the one of before the merge"
        )
    base = subject.merge.bases[0] if subject.merge.bases else None
    multitask = _multitask(repository, remarks)
    for role, commit in (("pretrained", base), ("multitask", multitask)):
        if commit is None:
            continue
        blob = repository.blob_id(commit, subject.path)
        if blob is None:
            remarks.append(f"the {role} model ({commit[:10]}) has no '{subject.path}'")
        else:
            models.append(model(role, role, commit, blob, subject.tasks))
    for leaf in subject.leaves:
        name = leaf.declaration.name
        blob = repository.blob_id(leaf.commit, subject.path)
        if blob is None:
            remarks.append(f"constituent '{name}' has no '{subject.path}'")
        else:
            models.append(model("individual", name, leaf.commit, blob, (leaf.declaration.task,)))
    return models + list(_trained_on_it(repository, subject)), remarks


def _with_companions(repository: Repository, subject: Subject, commit: str, model: Model) -> Model:
    """``model`` with what its benchmark needs beside it, as ``commit`` has it."""
    wanted = subject.benchmark.companions
    return replace(model, companions=companions_at(repository, commit, subject.path, wanted))


def _trained_on_it(repository: Repository, subject: Subject) -> Iterator[Model]:
    """The individual models of generalization tasks, as ``benchmark train`` leaves them."""
    listed = repository.text(
        "for-each-ref", "--format=%(refname)", "refs/heads", "refs/remotes/origin"
    )
    known = set(listed.splitlines())
    for task in subject.generalization:
        for place in ("refs/heads/", "refs/remotes/origin/"):
            found = [f"{place}{b}" for b in (task, f"baselines/{task}") if f"{place}{b}" in known]
            models = [m for ref in found if (m := _model_of(repository, ref, subject, task))]
            if models:
                yield models[0]
                break


def _model_of(repository: Repository, ref: str, subject: Subject, task: str) -> Model | None:
    wanted = (subject.benchmark.name, task, subject.path)
    try:
        declared = constituents_at(repository, ref).values()
        blob = repository.blob_id(ref, subject.path)
        if blob is None or wanted not in [(d.benchmark, d.task, d.checkpoint) for d in declared]:
            return None
        model = Model("individual", task, blob, (task,))
        return _with_companions(repository, subject, ref, model)
    except EvaluationError:
        return None  # a branch that takes no part need not be in order


def _benchmark(
    repository: Repository, declaration: BenchmarkDeclaration, revision: str
) -> Benchmark:
    from gitmerge_eval.evaluation.resolving import benchmark_of

    try:
        return benchmark_of(repository, declaration)
    except UnknownName as error:
        raise EvaluationError(
            f"{BENCHMARK_FILE} at '{revision}': {error}; install the package that provides it"
        ) from error


def _declaration(repository: Repository, commit: str) -> BenchmarkDeclaration | None:
    """What is evaluated on: of a merge of ours, what the branch says that was merged into.

    The other branches may be anybody's, and what one of them makes of the file must not decide how
    it is judged. A branch that has no such file is given one by the merge.
    """
    if merge_of_ours(repository, commit) is not None:
        found = benchmark_at(repository, f"{commit}^1")
        if found is not None:
            return found
    return benchmark_at(repository, commit)


def _check(leaf: Leaf, declaration: BenchmarkDeclaration, revision: str) -> None:
    own = leaf.declaration
    if own.benchmark != declaration.name:
        raise EvaluationError(
            f"constituent '{own.name}' is of the benchmark '{own.benchmark}', and "
            f"{BENCHMARK_FILE} at '{revision}' names '{declaration.name}'; correct '{own.path}' on "
            "its branch"
        )


def _spanned(benchmark: Benchmark, held_in: Sequence[str]) -> tuple[str, ...]:
    try:
        return tuple(task.name for task in benchmark.generalization(held_in))
    except UnknownName as error:
        raise EvaluationError(
            f"{error}; correct 'task' in the constituent's file constituents/<name>.toml"
        ) from error


def _leaves(repository: Repository, parts: Iterable[Part]) -> Iterator[Leaf]:
    for part in parts:
        declared = declarations_of(repository, part)
        if not declared:
            raise EvaluationError(
                f"'{part.name}' ({part.commit[:10]}) declares no task; commit a file "
                "constituents/<name>.toml with name, benchmark, task and checkpoint on its branch"
            )
        yield from (Leaf(part.commit, declaration) for declaration in declared)


def _of_one_model(
    found: Sequence[Leaf], checkpoint: str | None, declaration: BenchmarkDeclaration, revision: str
) -> tuple[str, tuple[Leaf, ...]]:
    """The checkpoint's path, and the constituents that have it, all of the declared benchmark."""
    path = _path(found, checkpoint, revision)
    leaves = tuple(leaf for leaf in found if leaf.declaration.checkpoint == path)
    for leaf in leaves:
        _check(leaf, declaration, revision)
    return path, leaves


def _refuse_shards(path: str) -> None:
    if is_index(path):
        raise EvaluationError(
            f"'{path}' is a model in several files, and benchmarks are given one; save it with a "
            "larger max_shard_size"
        )


def _path(leaves: Sequence[Leaf], checkpoint: str | None, revision: str) -> str:
    paths = sorted({leaf.declaration.checkpoint for leaf in leaves})
    if checkpoint is None and len(paths) == 1:
        return paths[0]
    if checkpoint is None:
        raise EvaluationError(
            f"the constituents of '{revision}' have {len(paths)} checkpoints ({', '.join(paths)}); "
            "say which one is to be evaluated"
        )
    if checkpoint not in paths:
        raise EvaluationError(
            f"no constituent of '{revision}' has the checkpoint '{checkpoint}'; they have "
            f"{', '.join(paths)}"
        )
    return checkpoint


def _multitask(repository: Repository, remarks: list[str]) -> str | None:
    named = repository.setting(MULTITASK_KEY)
    if named is not None:
        try:
            return repository.commit(named)
        except GitError as error:
            remarks.append(f"no multitask baseline: {error} ({MULTITASK_KEY})")
            return None
    for branch in MULTITASK_BRANCHES:
        try:
            return repository.commit(branch)
        except GitError:
            continue
    return None
