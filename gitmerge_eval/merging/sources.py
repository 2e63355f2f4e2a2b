"""The models that take part in a merge, opened: metadata and statistics, no tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from gitmerge_eval.checkpoints import statistics_index
from gitmerge_eval.checkpoints.checkpoint import clean
from gitmerge_eval.checkpoints.lfs import ObjectStore
from gitmerge_eval.checkpoints.metadata import GroupRecord, Metadata, is_metadata
from gitmerge_eval.checkpoints.statistics_index import StatisticEntry
from gitmerge_eval.errors import CheckpointError, MergeRefused
from gitmerge_eval.git.repository import Repository
from gitmerge_eval.records import Constituent


@dataclass(frozen=True)
class StatisticSource:
    """A statistic of one constituent, with the metadata of its file."""

    kind: str
    blob: str
    entry: StatisticEntry
    metadata: Metadata

    def record(self, group: str) -> GroupRecord | None:
        """The record of the tensor that belongs to ``group``, or None if it has none."""
        layout = self.entry.layout.get(group)
        return self.metadata.groups.get(layout["key"]) if layout else None


@dataclass(frozen=True)
class Source:
    """A checkpoint at a commit: a constituent, the base, or a reference."""

    label: str
    commit: str
    path: str
    blob: str
    metadata: Metadata
    statistics: Mapping[str, StatisticSource] = field(default_factory=dict)

    def equals(self, other: Source) -> bool:
        """Whether both hold the same tensors, however their files spell it."""
        own, others = self.metadata.groups, other.metadata.groups
        return own.keys() == others.keys() and all(
            value_of(own[name]) == value_of(others[name]) for name in own
        )

    @property
    def constituent(self) -> Constituent:
        """What a MergeSpec and the trailers record of it."""
        blobs = {kind: statistic.blob for kind, statistic in self.statistics.items()}
        return Constituent(self.commit, self.label, self.blob, blobs)


def open_source(repository: Repository, commit: str, path: str, label: str) -> Source:
    """The checkpoint at ``commit:path``, with the statistics beside it.

    Raises MergeRefused where there is no such file and CheckpointError where it is not readable.
    """
    blob = repository.blob_id(commit, path)
    if blob is None:
        raise MergeRefused(f"'{label}' has no checkpoint '{path}'")
    content = repository.blob(blob)
    try:
        # A file that was committed before it was tracked is stored now as tracking would have.
        stored = content if is_metadata(content) else clean(content, ObjectStore(repository))
        metadata = Metadata.parse(stored)
    except CheckpointError as error:
        raise error.within(f"'{path}' of '{label}'") from None
    return Source(
        label, commit, path, blob, metadata, _open_statistics(repository, commit, path, label)
    )


def _open_statistics(
    repository: Repository, commit: str, path: str, label: str
) -> dict[str, StatisticSource]:
    index_blob = repository.blob_id(commit, statistics_index.index_path(path))
    if index_blob is None:
        return {}
    try:
        index = statistics_index.parse(repository.blob(index_blob))
    except CheckpointError as error:
        raise error.within(f"'{statistics_index.index_path(path)}' of '{label}'") from None
    folder = PurePosixPath(path).parent / statistics_index.FOLDER
    found = {}
    for kind, entry in index.get(PurePosixPath(path).name, {}).items():
        blob = repository.blob_id(commit, str(folder / entry.path))
        if blob is not None:
            found[kind] = StatisticSource(kind, blob, entry, Metadata.parse(repository.blob(blob)))
    return found


def value_of(record: GroupRecord) -> tuple[str, str, tuple[int, ...]]:
    """What makes two records the same tensor."""
    return record.object_id, record.dtype, record.shape
