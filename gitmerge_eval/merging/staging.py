"""Puts a model whose conflict is resolved into the work tree and the index.

Both stay as they are until everything is computed. The index is changed last and at once: a run
that is killed before leaves the conflict as it was, and can be repeated.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from gitmerge_eval.checkpoints.checkpoint import smudge
from gitmerge_eval.checkpoints.lfs import ObjectStore
from gitmerge_eval.errors import MergeRefused
from gitmerge_eval.git import journal, landing
from gitmerge_eval.git.conflicts import Stages, object_ids
from gitmerge_eval.git.entering import enter
from gitmerge_eval.git.landing import PreparedFile
from gitmerge_eval.git.repository import Repository
from gitmerge_eval.git.scratch import scratch_folder
from gitmerge_eval.git.trees import Entry, index_lines
from gitmerge_eval.merging import computing
from gitmerge_eval.merging.devices import Resources
from gitmerge_eval.merging.fetching import fetch
from gitmerge_eval.merging.merge_report import MergeReport
from gitmerge_eval.merging.models import is_plain
from gitmerge_eval.merging.planning import CheckpointPlan

_MARKER = b"<<<<<<< "


@dataclass(frozen=True)
class Staged:
    """A merged model that is in work tree and index."""

    files: tuple[tuple[str, str], ...]
    """(blob, path) of each of its files."""
    report: MergeReport


@dataclass(frozen=True)
class _Result:
    prepared: Mapping[str, PreparedFile]
    """Files that hold tensors."""
    plain: Mapping[str, tuple[Entry, bytes]]
    """An index or a configuration."""

    @property
    def entries(self) -> dict[str, Entry]:
        tensors = {path: file.entry for path, file in self.prepared.items()}
        return {**tensors, **{path: entry for path, (entry, _) in self.plain.items()}}


def stage(
    repository: Repository,
    plan: CheckpointPlan,
    stages: Mapping[str, Stages],
    known: Iterable[str],
    *,
    resources: Resources,
    progress: computing.Progress = computing.silent,
) -> Staged:
    """Compute the plan and write the model's files; ``known`` are those of any of its versions.

    Raises MergeRefused where a file would be overwritten that is none of the versions in conflict,
    and what computing raises.
    """
    store = ObjectStore(repository)
    fetch(store, [plan])
    with scratch_folder(repository) as scratch:
        folder = scratch / "model"
        folder.mkdir()
        done = computing.compute(plan, store, resources=resources, folder=folder, progress=progress)
        result = _prepared(repository, store, done, stages, folder)
        removed = {path for path in known if path not in result.entries}
        _check_files(repository, {**dict.fromkeys(removed), **result.entries}, stages)
        _land(repository, result, removed, stages, scratch)
    files = tuple((entry.object_id, path) for path, entry in sorted(result.entries.items()))
    return Staged(files, done.report)


def _prepared(
    repository: Repository,
    store: ObjectStore,
    done: computing.Computed,
    stages: Mapping[str, Stages],
    folder: Path,
) -> _Result:
    prepared = {}
    for number, (path, metadata) in enumerate(done.files.tensors.items()):
        data = metadata.serialize()
        content = done.files.contents.get(path)
        if content is None:
            content = folder / f"{number}.smudged"
            smudge(data, store, content, path=path)
        stored = folder / f"{number}.json"
        stored.write_bytes(data)
        entry = Entry(_mode(stages.get(path, {})), repository.write_blob(data))
        prepared[path] = PreparedFile(entry, content, stored)
    plain = {
        path: (Entry(_mode(stages.get(path, {})), repository.write_blob(data)), data)
        for path, data in done.files.plain.items()
    }
    return _Result(prepared, plain)


def _mode(versions: Stages) -> str:
    return next((versions[side].mode for side in ("ours", "theirs") if side in versions), "100644")


def _check_files(
    repository: Repository, results: Mapping[str, Entry | None], stages: Mapping[str, Stages]
) -> None:
    """MergeRefused where a file is neither a version of the conflict nor what it is to become."""
    for path, entry in results.items():
        file = journal.at(repository, path)
        if not file.is_file():
            continue
        allowed = {*object_ids(stages.get(path, {})).values(), entry.object_id if entry else ""}
        allowed |= {repository.blob_id("", path) or ""}
        if is_plain(path) and _MARKER in file.read_bytes():
            continue  # as Git left it: text in conflict
        if repository.text("hash-object", f"--path={path}", "--", path) not in allowed:
            raise MergeRefused(
                f"'{path}' in the work tree is neither side's version, and would be overwritten; "
                f"stage it with 'git add {path}' if it is the result, or else move it away"
            )


def _land(
    repository: Repository,
    result: _Result,
    removed: Iterable[str],
    stages: Mapping[str, Stages],
    scratch: Path,
) -> None:
    index = Path(os.environ.get("GIT_INDEX_FILE") or repository.path("index"))
    before = journal.index_entries(repository)
    copy = scratch / "index"
    shutil.copy2(index, copy)
    environment = {"GIT_INDEX_FILE": str(copy)}
    for path, file in result.prepared.items():
        landing.place(repository, path, file)
    for path, (_, data) in result.plain.items():
        journal.at(repository, path).write_bytes(data)
    for path in removed:
        journal.at(repository, path).unlink(missing_ok=True)
    # Files in conflict are not taken out first, so that Git remembers their stages ('git ls-files
    # --resolve-undo'); the others are, because of Git's shortcuts by size and time.
    gone = {path: None for path in (*result.entries, *removed) if path not in stages}
    gone |= dict.fromkeys(removed)
    if gone:
        lines = index_lines(gone)
        repository.run("update-index", "-z", "--index-info", stdin=lines, environment=environment)
    enter(repository, {p: f.metadata for p, f in result.prepared.items()}, copy, scratch)
    for path in result.plain:
        repository.run("update-index", "--add", "--", path, environment=environment)
    landing.swap_index(repository, index, copy, before)
