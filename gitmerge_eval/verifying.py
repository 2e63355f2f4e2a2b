"""Recomputes a merge commit from its trailers and compares it object by object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from gitmerge_eval.checkpoints.metadata import Metadata
from gitmerge_eval.checkpoints.scratch_store import ScratchStore
from gitmerge_eval.errors import (
    CorruptObject,
    GitError,
    GitMergeEvalError,
    MergeRefused,
    MissingObject,
    UsageError,
)
from gitmerge_eval.git import trailers
from gitmerge_eval.git.repository import Repository
from gitmerge_eval.git.trailers import MergeTrailers
from gitmerge_eval.git.trees import changed_tensor_paths, differing, moved_whole
from gitmerge_eval.merging import combining
from gitmerge_eval.merging import options as merge_options
from gitmerge_eval.merging.choices import decided
from gitmerge_eval.merging.comparing import compare, written_model
from gitmerge_eval.merging.computing import Progress, compute, silent
from gitmerge_eval.merging.devices import DEFAULT_RESOURCES, Resources
from gitmerge_eval.merging.expansion import Composite, Expansion, at, path_in, require
from gitmerge_eval.merging.joint import open_base, open_part
from gitmerge_eval.merging.models import is_plain
from gitmerge_eval.merging.planning import CheckpointPlan, plan_checkpoint
from gitmerge_eval.merging.sources import Source, open_source, value_of


@dataclass(frozen=True)
class Finding:
    """What was found out about one checkpoint of a merge."""

    path: str
    verdict: str
    """exact, within-tolerance, wrong, or unknown: something that is needed is not here."""
    problems: tuple[str, ...] = ()
    groups: int = 0
    reused: int = 0
    """Groups of which an earlier computation in this repository is known; not computed again."""


@dataclass(frozen=True)
class Verification:
    """What was found out about one merge commit."""

    commit: str
    findings: tuple[Finding, ...] = ()
    problems: tuple[str, ...] = field(default=())

    @property
    def sound(self) -> bool:
        """Whether all is known to be right."""
        return not self.problems and all(
            f.verdict not in ("wrong", "unknown") for f in self.findings
        )

    @property
    def undecided(self) -> bool:
        """Whether nothing was found wrong, and not everything could be looked at."""
        return not self.sound and not (
            self.problems or any(f.verdict == "wrong" for f in self.findings)
        )


def verify(
    repository: Repository,
    revision: str,
    *,
    resources: Resources = DEFAULT_RESOURCES,
    fresh: bool = False,
    progress: Progress = silent,
) -> Verification:
    """Recompute the merge at ``revision``; with ``fresh`` also what is known from earlier.

    Elementwise methods must give the same objects; regmean and mats may differ by
    :data:`~gitmerge_eval.merging.comparing.TOLERANCE`. Nothing is stored. Raises UsageError where
    the commit is no merge of checkpoints at all.
    """
    commit = repository.commit(revision)
    record = trailers.read(repository, commit)
    if record is None:
        return _without_trailers(repository, commit, revision)
    problems = _unrecorded(repository, commit, record)
    for blob, path in record.models:
        actual = repository.blob_id(commit, path)
        if actual != blob:
            problems.append(
                f"'{path}' is {(actual or 'absent')[:10]}, but its trailer Merge-Model says "
                f"{blob[:10]}: the model was changed after the merge, or the trailers were copied"
            )
    findings = recomputed(
        repository, record, commit, resources=resources, fresh=fresh, progress=progress
    )
    return Verification(commit, findings, tuple(problems))


def recomputed(
    repository: Repository,
    record: MergeTrailers,
    commit: str,
    *,
    resources: Resources = DEFAULT_RESOURCES,
    fresh: bool = False,
    progress: Progress = silent,
) -> tuple[Finding, ...]:
    """What computing the models of ``record`` again says of those that ``commit`` has."""
    return tuple(
        _recompute(repository, record, path, commit, resources, fresh, progress)
        for path in models_of(repository, record, commit)
    )


def models_of(repository: Repository, record: MergeTrailers, commit: str) -> list[str]:
    """The models that the trailers speak of and the commit has, by the paths they go by."""
    specified = [path for _, path in record.specs]
    listed = specified or [path for _, path in record.models if not is_plain(path)]
    return [path for path in listed if repository.blob_id(commit, at(repository, commit, path))]


def _without_trailers(repository: Repository, commit: str, revision: str) -> Verification:
    parents = repository.text("log", "-1", "--format=%P", commit, "--").split()
    if len(parents) < 2:
        raise UsageError(f"'{revision}' is not a merge of checkpoints; name a merge commit")
    paths = _merged_paths(repository, commit, parents)
    if not paths:
        raise UsageError(f"'{revision}' is a merge, but no checkpoint was merged in it")
    return Verification(
        commit,
        problems=tuple(
            f"'{path}' differs from all parents, and no trailer says how it was merged; it was "
            "merged as text or by hand"
            for path in sorted(paths)
        ),
    )


def _unrecorded(repository: Repository, commit: str, record: MergeTrailers) -> list[str]:
    parents = repository.text("log", "-1", "--format=%P", commit, "--").split()
    known = {path for _, path in record.models}
    return [
        f"'{path}' differs from all parents, but no trailer Merge-Model names it"
        for path in sorted(_merged_paths(repository, commit, parents) - known)
        if "/statistics/" not in f"/{path}"
    ]


def _merged_paths(repository: Repository, commit: str, parents: Sequence[str]) -> set[str]:
    """The checkpoints that no parent has; one that a parent has elsewhere was only renamed."""
    if len(parents) < 2:
        return set()
    changed = set.intersection(*(differing(repository, parent, commit) for parent in parents))
    return {
        path
        for path in changed & changed_tensor_paths(repository, None, [commit])
        if not moved_whole(repository, parents, commit, str(repository.blob_id(commit, path)))
    }


def _recompute(
    repository: Repository,
    record: MergeTrailers,
    path: str,
    commit: str,
    resources: Resources,
    fresh: bool,
    progress: Progress,
) -> Finding:
    try:
        plan = plan_from(repository, record, path, commit)
        recorded = next((digest for digest, where in record.specs if where == path), None)
        problems = []
        ours = record.tool == MergeTrailers(record.method).tool
        # Another version may have had other options and counts its numeric versions for itself.
        if ours and recorded is not None and recorded != plan.spec.digest:
            problems.append(
                "its trailer Merge-Spec is not the digest of the trailers' method, options and "
                "constituents: one of them was edited"
            )
        with TemporaryDirectory(prefix="gitmerge-eval-") as folder:
            # A proof rests on no earlier check.
            store = ScratchStore(repository, Path(folder), recheck=True)
            done = compute(plan, store, resources=resources, fresh=fresh, progress=progress)
            written = written_model(repository, commit, path, done.files)
            exact, wrong = compare(plan, done.files, written, store, rounded=not ours)
            if ours:
                wrong += _false_sums(plan, written.source, store)
        problems += wrong
        verdict = "wrong" if problems else "exact" if exact else "within-tolerance"
        groups = len(written.source.metadata.groups)
        return Finding(path, verdict, tuple(problems), groups, done.report.cost.reused_groups)
    except (GitError, MissingObject, CorruptObject) as error:
        return Finding(path, "unknown", (f"cannot be recomputed here: {error}",))
    except GitMergeEvalError as error:
        return Finding(path, "wrong", (f"cannot be recomputed: {error}",))


def _false_sums(plan: CheckpointPlan, written: Source, store: ScratchStore) -> list[str]:
    """Statistics of the merge that are not what its constituents' add up to."""
    wrong = []
    for kind, statistic in written.statistics.items():
        expected = combining.summed(store, plan, kind)
        if expected is None or _values(expected) == _values(statistic.metadata):
            continue
        wrong.append(
            f"statistic '{kind}' is not the sum of the constituents', which a merge by "
            f"'{plan.spec.method}' has; one that was computed on the merged model belongs into a "
            "commit of its own"
        )
    return wrong


def _values(metadata: Metadata) -> dict[str, object]:
    return {name: value_of(record) for name, record in metadata.groups.items()}


def plan_from(
    repository: Repository, record: MergeTrailers, path: str, merge: str
) -> CheckpointPlan:
    """The plan that the trailers of ``merge`` describe; errors name what is missing by now."""
    options = dict(record.options)
    accumulate = str(options.pop("accumulate", "float64"))
    chosen = merge_options.recorded(record.method, options)
    base, sources = sources_from(repository, record, path, merge)
    plan = plan_checkpoint(repository, path, chosen, base, sources, accumulate)
    return decided(plan, _resolutions(repository, record, path, merge))


def sources_from(
    repository: Repository, record: MergeTrailers, path: str, merge: str
) -> tuple[Source | None, list[Source]]:
    """The base and the constituents of the model at ``path`` of ``merge``, as its trailers name
    them; GitError where one is not in this clone."""
    composite = Composite(merge, record, path)
    if composite.base is not None:
        require(repository, composite.base, "the base")
    base = open_base(repository, composite.base, path, merge)
    parts = Expansion(repository).children(composite)
    for part in parts:
        require(repository, part.commit, f"the constituent '{part.name}'")
    sources = [open_part(repository, part) for part in parts]
    return base, sources


def _resolutions(
    repository: Repository, record: MergeTrailers, path: str, merge: str
) -> dict[str, Source]:
    """group -> the model that it was taken from, where it was in conflict."""
    found = {}
    parents = repository.text("log", "-1", "--format=%P", merge, "--").split()
    sides = {*parents, *record.bases, *(commit for commit, _ in record.constituents)}
    for commit, model, groups in record.resolutions:
        if model == path:
            if commit not in sides:
                raise MergeRefused(
                    f"its trailer Merge-Resolution takes groups from {commit[:10]}, which is no "
                    "side of the merge"
                )
            require(repository, commit, "a side of the conflict")
            there = path_in(repository, commit, path, merge) or path
            source = open_source(repository, commit, there, commit[:10])
            found.update(dict.fromkeys(groups, source))
    return found
