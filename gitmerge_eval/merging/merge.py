"""Merges several heads: ordinary files as Git does, checkpoints by method; commits nothing.

Everything that can fail or takes time happens in :func:`prepare`, which touches neither index nor
work tree; :func:`gitmerge_eval.git.landing.land` then does the short rest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from gitmerge_eval.checkpoints.checkpoint import smudge
from gitmerge_eval.checkpoints.lfs import ObjectStore
from gitmerge_eval.checkpoints.metadata import Metadata
from gitmerge_eval.errors import MergeRefused, MissingObject
from gitmerge_eval.git import conflicts, trailers
from gitmerge_eval.git.heads import Heads
from gitmerge_eval.git.landing import Landing, PreparedFile, land
from gitmerge_eval.git.process import Process
from gitmerge_eval.git.repository import Repository
from gitmerge_eval.git.scratch import scratch_folder
from gitmerge_eval.git.sparse import kept_out
from gitmerge_eval.git.textmerge import TextMerge, merge_text
from gitmerge_eval.git.trees import Entry, write_tree
from gitmerge_eval.merging import combining, computing, deciding, provenance
from gitmerge_eval.merging.deciding import Decision, Tensors
from gitmerge_eval.merging.devices import Resources, choose_device
from gitmerge_eval.merging.fetching import fetch
from gitmerge_eval.merging.merge_report import MergeReport
from gitmerge_eval.merging.options import MergeOptions
from gitmerge_eval.merging.peak import peak_memory
from gitmerge_eval.merging.planning import CheckpointPlan


@dataclass(frozen=True)
class Merged:
    """What a merge left in index and work tree."""

    conflicts: tuple[str, ...]
    messages: tuple[str, ...]
    reports: tuple[MergeReport, ...]


def check_state(repository: Repository, paths: set[str]) -> None:
    """MergeRefused where work could be lost: staged or local changes, an autostashed checkpoint."""
    repository.run("update-index", "-q", "--refresh", check=False)
    if not repository.succeeds("diff-index", "--cached", "--quiet", "HEAD", "--"):
        raise MergeRefused("your index has staged changes; commit or stash them before you merge")
    dirty = paths & set(repository.run("diff-files", "--name-only", "-z").fields)
    if dirty:
        raise MergeRefused(
            f"your changes to {', '.join(sorted(dirty))} would be overwritten by the merge; "
            "commit or stash them first"
        )
    stash = repository.run("rev-parse", "--verify", "--quiet", "MERGE_AUTOSTASH", check=False).text
    if stash:
        stashed = repository.run("diff", "--name-only", "-z", f"{stash}^", stash).fields
        if lost := sorted(paths & set(stashed)):
            raise MergeRefused(
                f"the autostash holds changes to {', '.join(lost)}, which would be merged a second "
                "time when it is applied; commit them first"
            )


def merge(
    repository: Repository,
    heads: Heads,
    options: MergeOptions,
    paths: set[str],
    merger: Process | None = None,
    progress: computing.Progress = computing.silent,
) -> Merged:
    """Merge ``heads`` into index and work tree, or leave both as they are.

    ``paths`` are the checkpoints and statistics that any head touched, ``merger`` the ``git
    merge`` that will commit the result. Raises what planning, engine and landing raise, all before
    the first side effect.
    """
    check_state(repository, paths)
    tensors = decided(repository, heads, options, paths)
    text = merge_text(repository, heads, tensors.paths, options.git)
    return carry_out(repository, heads, options, tensors, text, merger, progress)


def carry_out(
    repository: Repository,
    heads: Heads,
    options: MergeOptions,
    tensors: Tensors,
    text: TextMerge,
    merger: Process | None = None,
    progress: computing.Progress = computing.silent,
    message: str | None = None,
) -> Merged:
    """Compute what was decided and bring it into index and work tree, or leave both as they are.

    With a ``message`` it waits there as a squashed merge does, for a ``git commit`` that takes
    message and trailers. Raises what engine and landing raise, before the first side effect.
    """
    with scratch_folder(repository) as folder:
        prepared = _Preparation(repository, heads, tensors, folder)
        prepared.compute(options.resources, progress)
        landing = prepared.landing(text)
        _leave_state(repository, heads, options, prepared, squash=message is not None)
        # Before, so that no kill leaves a conflict without it: it counts when the stages are there.
        for decision in tensors.decisions:
            _remember(repository, decision, options)
        squashed = repository.path("SQUASH_MSG")
        try:
            if message is not None:
                squashed.write_text(message, encoding="utf-8", errors="surrogateescape")
            land(repository, landing, merger)
        except BaseException:
            trailers.remove_state(repository)
            if message is not None:
                squashed.unlink(missing_ok=True)
            raise
    model_conflicts = [d for d in tensors.decisions if d.kind == "conflict"]
    return Merged(
        tuple(sorted({*text.conflicts, *(d.path for d in model_conflicts)})),
        (
            *text.messages,
            *(d.message for d in model_conflicts),
            *provenance.told(tensors.decisions, heads=message is None),
            *prepared.remarks,
        ),
        tuple(prepared.reports),
    )


def decided(
    repository: Repository, heads: Heads, options: MergeOptions, paths: set[str]
) -> Tensors:
    """What becomes of every path, with all tensors that it takes in the store.

    Merges whose leaves cannot be had stand for these where the method allows it. Raises what
    deciding raises, and MissingObject.
    """

    def decide(without: ObjectStore | None) -> Tensors:
        return deciding.decide(repository, heads, options, paths, without=without)

    return fetched(repository, decide)


def fetched(repository: Repository, decide: Callable[[ObjectStore | None], Tensors]) -> Tensors:
    """What ``decide(None)`` decides, with all tensors that it takes in the store; where some cannot
    be had and merges were taken apart, ``decide(store)`` knows of what the store lacks."""
    store = ObjectStore(repository)
    tensors = decide(None)
    try:
        fetch(store, tensors.plans)
    except MissingObject:
        if not any(one.joint and one.joint.expanded for one in tensors.decisions):
            raise
        tensors = decide(store)
        fetch(store, tensors.plans)
    return tensors


class _Preparation:
    """The files of one merge, prepared in a scratch folder."""

    def __init__(
        self, repository: Repository, heads: Heads, tensors: Tensors, folder: Path
    ) -> None:
        self.repository, self.heads, self.tensors, self.folder = repository, heads, tensors, folder
        self.store = ObjectStore(repository)
        self.files: dict[str, PreparedFile] = {}
        self.entries: dict[str, Entry | None] = {}
        self.plain: dict[str, Entry | None] = {}
        self.blobs: dict[str, str] = {}
        """model -> its object id as of one file."""
        self.models: dict[str, tuple[tuple[str, str], ...]] = {}
        """model -> (blob, path) of each of its files."""
        self.reports: list[MergeReport] = []
        self.remarks: list[str] = []

    def compute(self, resources: Resources, progress: computing.Progress) -> None:
        """Compute every merge and its statistics, and prepare the files that change."""
        for decision in self.tensors.decisions:
            if decision.plan:
                self._merge(decision, decision.plan, resources, progress)
            else:
                for path, entry in decision.files.items():
                    self._take(path, entry)
        self._settle_statistics()

    def _merge(
        self,
        decision: Decision,
        plan: CheckpointPlan,
        resources: Resources,
        progress: computing.Progress,
    ) -> None:
        """One model's files, and none of those that only other versions have."""
        folder = self.folder / f"model-{len(self.blobs)}"
        folder.mkdir()
        with peak_memory(choose_device(resources.device, plan.method)) as peak:
            done = computing.compute(
                plan,
                self.store,
                resources=resources,
                folder=folder,
                is_there=self._is_there,
                progress=progress,
            )
        files, modes = done.files, {p: e.mode for p, e in decision.files.items() if e}
        produced: list[tuple[str, str]] = []
        for path, metadata in files.tensors.items():
            mode, data = modes.get(path, "100644"), metadata.serialize()
            blob = self.repository.write_blob(data)
            if self._is_there(path, data):
                self.entries[path] = Entry(mode, blob)
            else:
                self._prepare_bytes(path, data, mode, files.contents.get(path))
            produced.append((blob, path))
        for path, data in files.plain.items():
            blob = self.repository.write_blob(data)
            self.plain[path] = Entry(modes.get(path, "100644"), blob)
            produced.append((blob, path))
        for path in decision.known - {path for _, path in produced}:
            self._take(path, None)
        self.models[decision.path] = tuple(sorted(produced, key=lambda pair: pair[1]))
        self.blobs[decision.path] = self.repository.write_blob(files.whole.serialize())
        cost = replace(done.report.cost, peak_memory_bytes=peak.nbytes)
        self.reports.append(replace(done.report, cost=cost))

    def _is_there(self, path: str, data: bytes) -> bool:
        """Whether HEAD has this very version."""
        entry = self.tensors.files[self.heads.head].get(path)
        return entry is not None and self.repository.blob(entry.object_id) == data

    def landing(self, text: TextMerge) -> Landing:
        """The trees and files for the critical section."""
        head_files = self.tensors.files[self.heads.head]
        as_head = {p: head_files.get(p) for p in self.tensors.paths - self.tensors.plain}
        conflicts = {
            path: stages
            for decision in self.tensors.decisions
            for path, stages in decision.stages.items()
        }
        unresolved = {p: self.entries.get(p) or head_files.get(p) for p in conflicts}
        plain = {path: self.plain.get(path) for path in self.tensors.plain}
        removed = {path for path, entry in self.entries.items() if entry is None}
        return Landing(
            head=self.heads.head,
            tree=write_tree(self.repository, text.tree, {**self.entries, **unresolved, **plain}),
            ordinary_tree=write_tree(self.repository, text.tree, {**as_head, **plain}),
            prepared=self.files,
            removed=frozenset(removed - self.tensors.plain),
            conflicts={**text.conflicts, **conflicts},
            skipped=kept_out(self.repository, {p: f.entry for p, f in self.files.items()}),
        )

    def _settle_statistics(self) -> None:
        settled = combining.settle(
            self.repository, self.store, self.heads, self.tensors, self.blobs
        )
        for path, entry in settled.entries.items():
            self._take(path, entry)
        for path, metadata in settled.combined.items():
            self._prepare(path, metadata, "100644", None)
        for path, data in settled.indexes.items():
            self.plain[path] = Entry("100644", self.repository.write_blob(data))
        self.remarks += settled.remarks

    def _take(self, path: str, entry: Entry | None) -> None:
        """A version that one head already has: nothing to do where that head is HEAD."""
        if path in self.tensors.plain:
            self.plain[path] = entry
            return
        self.entries[path] = entry
        if entry is None or entry == self.tensors.files[self.heads.head].get(path):
            return
        # Its very bytes: also those of a file that was committed before there was a filter.
        self._prepare_bytes(path, self.repository.blob(entry.object_id), entry.mode, None)

    def _prepare(self, path: str, metadata: Metadata, mode: str, content: Path | None) -> str:
        return self._prepare_bytes(path, metadata.serialize(), mode, content)

    def _prepare_bytes(self, path: str, data: bytes, mode: str, content: Path | None) -> str:
        blob = self.repository.write_blob(data)
        if content is None:
            content = self._scratch()
            smudge(data, self.store, content, path=path)
        cleaned = content.with_suffix(".json")
        cleaned.write_bytes(data)
        self.entries[path] = Entry(mode, blob)
        self.files[path] = PreparedFile(Entry(mode, blob), content, cleaned)
        return blob

    def _scratch(self) -> Path:
        return self.folder / f"{len(self.files)}.checkpoint"


def _leave_state(
    repository: Repository,
    heads: Heads,
    options: MergeOptions,
    prepared: _Preparation,
    *,
    squash: bool,
) -> None:
    """What the hooks need for trailers and note; stale states are told by HEAD and MERGE_HEAD."""
    trailers.remove_state(repository)
    decisions = [decision for decision in prepared.tensors.decisions if decision.plan]
    if not decisions:
        return
    record = provenance.recorded(options, decisions, prepared.models)
    # Of two models by one spec the first is the one that was computed.
    costs = {report.digest: asdict(report.cost) for report in reversed(prepared.reports)}
    merged = provenance.merged_models(prepared.tensors.plans, prepared.models)
    state = provenance.state_of(heads.head, heads.remotes, record, merged, costs, squash=squash)
    trailers.write_state(repository, state)


def _remember(repository: Repository, decision: Decision, options: MergeOptions) -> None:
    """How the groups of a model in conflict were to be merged, for 'gitmerge-eval resolve'."""
    if decision.disputed is None:
        return
    conflicts.remember(
        repository,
        conflicts.Conflict(
            decision.path,
            {
                path: {conflicts.SIDES[s.stage - 1]: s.entry.object_id for s in staged}
                for path, staged in decision.stages.items()
            },
            options.method.name,
            options.items,
            decision.sides,
            tuple(conflicts.Origin(s.commit, s.path, s.label, s.models) for s in decision.sources),
        ),
    )
