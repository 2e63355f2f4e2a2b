"""Merges several heads: ordinary files as Git does, checkpoints by method; commits nothing.

Everything that can fail or takes time happens in :func:`prepare`, which touches neither index nor
work tree; :func:`gitmerge_eval.git.landing.land` then does the short rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gitmerge_eval.checkpoints.checkpoint import smudge
from gitmerge_eval.checkpoints.lfs import ObjectStore
from gitmerge_eval.checkpoints.metadata import Metadata
from gitmerge_eval.errors import MergeRefused
from gitmerge_eval.git import trailers
from gitmerge_eval.git.heads import Heads
from gitmerge_eval.git.landing import Landing, PreparedFile, land
from gitmerge_eval.git.process import Process
from gitmerge_eval.git.repository import Repository
from gitmerge_eval.git.scratch import scratch_folder
from gitmerge_eval.git.sparse import kept_out
from gitmerge_eval.git.textmerge import TextMerge, merge_text
from gitmerge_eval.git.trees import Entry, write_tree
from gitmerge_eval.merging import combining, computing, deciding
from gitmerge_eval.merging.deciding import Tensors
from gitmerge_eval.merging.options import MergeOptions
from gitmerge_eval.records import MergeReport


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
    tensors = deciding.decide(repository, heads, options, paths)
    text = merge_text(repository, heads, tensors.paths, options.git)
    with scratch_folder(repository) as folder:
        prepared = _Preparation(repository, heads, tensors, folder)
        prepared.compute(options.device, progress)
        landing = prepared.landing(text)
        _leave_state(repository, heads, options, prepared)
        try:
            land(repository, landing, merger)
        except BaseException:
            trailers.remove_state(repository)
            raise
    model_conflicts = [d for d in tensors.decisions if d.kind == "conflict"]
    return Merged(
        tuple(sorted({*text.conflicts, *(d.path for d in model_conflicts)})),
        (*text.messages, *(d.message for d in model_conflicts), *prepared.remarks),
        tuple(prepared.reports),
    )


class _Preparation:
    """The files of one merge, prepared in a scratch folder."""

    def __init__(
        self, repository: Repository, heads: Heads, tensors: Tensors, folder: Path
    ) -> None:
        self.repository, self.heads, self.tensors, self.folder = repository, heads, tensors, folder
        self.store = ObjectStore(repository)
        self.files: dict[str, PreparedFile] = {}
        self.entries: dict[str, Entry | None] = {}
        self.indexes: dict[str, Entry] = {}
        self.blobs: dict[str, str] = {}
        self.reports: list[MergeReport] = []
        self.remarks: list[str] = []

    def compute(self, device: str, progress: computing.Progress) -> None:
        """Compute every merge and its statistics, and prepare the files that change."""
        self._fetch()
        for decision in self.tensors.decisions:
            if decision.plan:
                content = self._scratch()
                done = computing.compute(
                    decision.plan, self.store, device=device, content=content, progress=progress
                )
                mode = decision.entry.mode if decision.entry else "100644"
                blob = self._prepare(decision.path, done.metadata, mode, content)
                self.blobs[decision.path] = blob
                self.reports.append(done.report)
            elif decision.kind != "conflict" or decision.entry:
                self._take(decision.path, decision.entry)
        self._settle_statistics()

    def landing(self, text: TextMerge) -> Landing:
        """The trees and files for the critical section."""
        head_files = self.tensors.files[self.heads.head]
        tensor_paths = self.tensors.paths - self.tensors.indexes
        as_head = {path: head_files.get(path) for path in tensor_paths}
        conflicts = {d.path: d.stages for d in self.tensors.decisions if d.kind == "conflict"}
        unresolved = {p: self.entries.get(p) or head_files.get(p) for p in conflicts}
        indexes = {path: self.indexes.get(path) for path in self.tensors.indexes}
        removed = {path for path, entry in self.entries.items() if entry is None}
        return Landing(
            head=self.heads.head,
            tree=write_tree(self.repository, text.tree, {**self.entries, **unresolved, **indexes}),
            ordinary_tree=write_tree(self.repository, text.tree, {**as_head, **indexes}),
            prepared=self.files,
            removed=frozenset(removed - self.tensors.indexes),
            conflicts={**text.conflicts, **conflicts},
            skipped=kept_out(self.repository, {p: f.entry for p, f in self.files.items()}),
        )

    def _fetch(self) -> None:
        """All missing objects in one go: for the merges, the files they write, the statistics."""
        parts: list[Metadata] = []
        for plan in self.tensors.plans:
            parts += [source.metadata for source in plan.constituents]
            parts += [s.metadata for c in plan.constituents for s in c.statistics.values()]
            parts += [plan.base.metadata] if plan.base else []
            parts += [source.metadata for source in plan.references.values()]
        self.store.fetch(record for part in parts for record in part.groups.values())

    def _settle_statistics(self) -> None:
        settled = combining.settle(
            self.repository, self.store, self.heads, self.tensors, self.blobs
        )
        for path, entry in settled.entries.items():
            self._take(path, entry)
        for path, metadata in settled.combined.items():
            self._prepare(path, metadata, "100644", None)
        for path, data in settled.indexes.items():
            self.indexes[path] = Entry("100644", self.repository.write_blob(data))
        self.remarks += settled.remarks

    def _take(self, path: str, entry: Entry | None) -> None:
        """A version that one head already has: nothing to do where that head is HEAD."""
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
    repository: Repository, heads: Heads, options: MergeOptions, prepared: _Preparation
) -> None:
    """What the hooks need to write the trailers; stale states are told by HEAD and MERGE_HEAD."""
    trailers.remove_state(repository)
    plans = prepared.tensors.plans
    if not plans:
        return
    named = {
        source.commit: trailers.NamedCommit(source.commit, source.label)
        for plan in plans
        for source in plan.constituents
    }
    order = [commit for commit in heads.candidates if commit in named]
    record = trailers.MergeTrailers(
        method=options.method.name,
        options=trailer_options(plans[0].options, plans[0].spec.accumulate, options),
        bases=tuple(dict.fromkeys(plan.base.commit for plan in plans if plan.base)),
        constituents=tuple((commit, named[commit].name) for commit in order),
        models=tuple((prepared.blobs[plan.spec.path], plan.spec.path) for plan in plans),
        specs=tuple((plan.spec.digest, plan.spec.path) for plan in plans),
    )
    trailers.write_state(
        repository,
        trailers.MergeState(
            head=heads.head,
            remotes=heads.remotes,
            trailers=record.lines(),
            constituents=tuple(named[commit] for commit in order),
            models=tuple(
                trailers.MergedModel(p.spec.path, prepared.blobs[p.spec.path], p.spec.digest)
                for p in plans
            ),
        ),
    )


def trailer_options(
    values: Mapping[str, object], accumulate: str, options: MergeOptions
) -> dict[str, object]:
    """All of a merge's options by their names on the command line, defaults included."""
    names = {parameter.name: parameter.option for parameter in options.method.hyperparameters}
    shown = {names[name]: value for name, value in values.items() if value is not None}
    return {**shown, "accumulate": accumulate}
