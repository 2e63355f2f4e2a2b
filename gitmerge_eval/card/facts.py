"""What is known of a merge that its card is to say: from its trailers, its parts, and its note."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass

from gitmerge_eval.card import licences
from gitmerge_eval.errors import EvaluationError, GitMergeEvalError, UsageError
from gitmerge_eval.evaluation import evaluating
from gitmerge_eval.evaluation.declarations import (
    BenchmarkDeclaration,
    ConstituentDeclaration,
    benchmark_at,
)
from gitmerge_eval.evaluation.note import EvaluationNote
from gitmerge_eval.evaluation.parts import declarations_of, parts_of
from gitmerge_eval.evaluation.resolving import benchmark_of
from gitmerge_eval.git.repository import Repository
from gitmerge_eval.git.trailers import METHOD, MergeTrailers, merge_of_ours
from gitmerge_eval.merging.expansion import Part
from gitmerge_eval.records import Benchmark

ADAPTER = "adapter_config.json"
DATA_SET = "dataset"
"""The key of ``[data]`` in benchmark.toml that names a data set of the Hub."""
_LOOKED_AT = 100


@dataclass(frozen=True)
class Leaf:
    """A model that was merged and is no merge itself."""

    name: str
    commit: str
    declaration: ConstituentDeclaration | None
    """None where its branch declares nothing for this checkpoint."""

    @property
    def licence(self) -> str | None:
        """What it is under; one with a name of its own counts by that name."""
        own = self.declaration
        if own is None or own.licence is None:
            return None
        return (own.licence_name or own.licence) if own.licence.lower() == "other" else own.licence


@dataclass(frozen=True)
class Facts:
    """All that a card says."""

    name: str
    commit: str
    path: str
    merge: MergeTrailers
    spec: str
    leaves: tuple[Leaf, ...]
    notes: tuple[EvaluationNote, ...]
    """The evaluations of this very checkpoint, test data first."""
    benchmark: Benchmark | None
    declaration: BenchmarkDeclaration | None
    is_adapter: bool
    remarks: tuple[str, ...]
    """What could not be found out, and how it can."""

    @property
    def licences(self) -> licences.Combined:
        """What the licences of all parts come to."""
        return licences.combined([licences.Part(leaf.name, leaf.licence) for leaf in self.leaves])

    @property
    def datasets(self) -> list[str]:
        """The data sets of the Hub that the repository's benchmark names."""
        data = self.declaration.own.get("data", {}) if self.declaration else {}
        found = data.get(DATA_SET) if isinstance(data, dict) else None
        return [found] if isinstance(found, str) else []


def facts_of(
    repository: Repository, revision: str, *, name: str = "", checkpoint: str = ""
) -> Facts:
    """What is known of the merge at ``revision``.

    Raises UsageError where it is no merge of ours or ``checkpoint`` none of its models,
    EvaluationError where a constituent is not here or its file malformed, and GitError for an
    unknown revision.
    """
    commit, merge = _merge(repository, revision)
    path = _path(repository, commit, merge, checkpoint)
    parts = parts_of(repository, [(commit, revision)], path)
    remarks: list[str] = []
    leaves = tuple(_leaf(repository, part, path, remarks) for part in parts)
    notes = _notes(repository, commit, path, remarks)
    declaration, benchmark = _benchmark(repository, commit, remarks)
    beside = posixpath.join(posixpath.dirname(path), ADAPTER)
    return Facts(
        name or repository.directory.resolve().name, commit, path, merge,
        next((digest for digest, of in merge.specs if of == path), ""),
        leaves, notes, benchmark, declaration,
        repository.blob_id(commit, beside) is not None, tuple(remarks),
    )  # fmt: skip


def _merge(repository: Repository, revision: str) -> tuple[str, MergeTrailers]:
    """The merge at ``revision``, or the latest before it whose model is still there: the README
    with the card is itself a commit."""
    asked = repository.commit(revision)
    found = repository.text(
        "log", f"--max-count={_LOOKED_AT}", f"--grep=^{METHOD}: ", "--format=%H", asked
    )
    for commit in found.split():
        merge = merge_of_ours(repository, commit)
        if merge and any(repository.blob_id(asked, path) == blob for blob, path in merge.models):
            return commit, merge
    raise UsageError(
        f"'{revision}' ({asked[:10]}) has no merged model: neither it nor a commit before it has "
        "trailers of ours that name the model it has; give a merge commit ('git log --merges' "
        "lists them)"
    )


def _path(repository: Repository, commit: str, merge: MergeTrailers, wanted: str) -> str:
    """The path that the model goes by: of one in several files, that of its index."""
    known = sorted({path for _, path in merge.specs} or {path for _, path in merge.models})
    if wanted and wanted not in known:
        raise UsageError(f"'{wanted}' was not merged here; merged were {', '.join(known)}")
    if not wanted and len(known) > 1:
        raise UsageError(
            f"{len(known)} models were merged ({', '.join(known)}); name one with --checkpoint"
        )
    path = wanted or known[0]
    blob = repository.blob_id(commit, path)
    if (blob, path) not in merge.models:
        raise UsageError(
            f"'{path}' in {commit[:10]} is not the model that its trailers name; 'gitmerge-eval "
            f"verify {commit[:10]}' says more"
        )
    return path


def _leaf(repository: Repository, part: Part, path: str, remarks: list[str]) -> Leaf:
    declared = declarations_of(repository, part)
    own = [one for one in declared if one.checkpoint == path]
    if len(own) != 1:
        what = "no constituents/<name>.toml" if not own else f"{len(own)} files in constituents/"
        remarks.append(
            f"'{part.name}' ({part.commit[:10]}) has {what} for '{path}', so that its task, its "
            "licence and its place on the Hub are not known; its branch needs one"
        )
    return Leaf(part.name, part.commit, own[0] if len(own) == 1 else None)


def _notes(
    repository: Repository, commit: str, path: str, remarks: list[str]
) -> tuple[EvaluationNote, ...]:
    try:
        found = evaluating.show(repository, commit)
    except EvaluationError as error:
        remarks.append(f"the note cannot be read, so that there are no results: {error}")
        return ()
    blob = repository.blob_id(commit, path)
    own = [note for note in found if (note.path, note.checkpoint) == (path, blob)]
    if len(own) < len(found):
        remarks.append("the note also has results of another checkpoint, which are left out")
    if not own:
        remarks.append(
            f"there are no results of it here; run 'gitmerge-eval evaluate {commit[:10]}', or, "
            "where somebody else did, 'gitmerge-eval notes sync'"
        )
    return tuple(sorted(own, key=lambda note: note.split != "test"))


def _benchmark(
    repository: Repository, commit: str, remarks: list[str]
) -> tuple[BenchmarkDeclaration | None, Benchmark | None]:
    """What the repository is evaluated on; as the branch says it that was merged into."""
    declaration = None
    for revision in (f"{commit}^1", commit):
        try:
            declaration = benchmark_at(repository, revision)
            if declaration is not None:
                return declaration, benchmark_of(repository, declaration)
        except GitMergeEvalError as error:
            remarks.append(f"the benchmark is not known, so that its kind is not said: {error}")
            return declaration, None
    return None, None


def unnamed(leaves: Sequence[Leaf]) -> list[str]:
    """The names of those that declare no place on the Hub."""
    return [leaf.name for leaf in leaves if leaf.declaration is None or not leaf.declaration.hub]
