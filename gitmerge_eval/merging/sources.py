"""The models that take part in a merge, opened: metadata and statistics, no tensor.

A model may be one file, an adapter with its configuration, or several shards with an index; what
comes out is one set of groups.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

from gitmerge_eval.checkpoints import lora, lora_configuration, lora_view, sharded, statistics_index
from gitmerge_eval.checkpoints.checkpoint import Checkpoint, clean
from gitmerge_eval.checkpoints.lfs import ObjectStore
from gitmerge_eval.checkpoints.lora import Adapter
from gitmerge_eval.checkpoints.metadata import GroupRecord, Metadata, is_metadata
from gitmerge_eval.checkpoints.sharded import ShardIndex
from gitmerge_eval.checkpoints.statistics_index import StatisticEntry
from gitmerge_eval.errors import CheckpointError, MergeRefused
from gitmerge_eval.git.repository import NULL_ID, Repository
from gitmerge_eval.merging.models import shard_paths, single_of
from gitmerge_eval.records import Constituent


@dataclass(frozen=True)
class StatisticSource:
    """A statistic of one constituent, with the metadata of its file."""

    kind: str
    blob: str
    entry: StatisticEntry
    metadata: Metadata
    changed: tuple[str, ...] = ()
    """The companions that are others in this commit than those that it was computed with."""

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
    """The object id of the model as one file; equal models have equal ones."""
    metadata: Metadata
    """Its groups: of all shards; of an adapter the products of its factors."""
    statistics: Mapping[str, StatisticSource] = field(default_factory=dict)
    stored: Metadata | None = None
    """What is in its files, where that is not ``metadata``."""
    index: ShardIndex | None = None
    """Of a model in several files."""
    adapter: Adapter | None = None
    configuration: str = ""
    """The object id of an adapter's configuration, where that is a file."""
    models: int = 1
    """How many models it stands for, whose merge it is."""

    @property
    def identity(self) -> str:
        """What determines its groups' values: file and configuration."""
        return f"{self.blob}+{self.configuration}" if self.configuration else self.blob

    @property
    def files(self) -> Metadata:
        """What is stored: an adapter's factors instead of their products."""
        return self.stored or self.metadata

    def has_fresh(self, kind: str) -> bool:
        """Whether its statistic of that kind is of this checkpoint, with what lies beside it."""
        found = self.statistics.get(kind)
        return found is not None and found.entry.checkpoint == self.blob and not found.changed

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
        return Constituent(self.commit, self.label, self.identity, blobs, self.models)


def open_source(repository: Repository, commit: str, path: str, label: str) -> Source:
    """The model at ``commit:path``, with the statistics beside it.

    ``path`` is a checkpoint's, or that of the index of one in several files, which may be in one
    file in this commit. Raises MergeRefused where there is no such file and CheckpointError where
    it is not readable.
    """
    blob = repository.blob_id(commit, path)
    if blob is None and sharded.is_index(path):
        there = single_of(path)
        blob = repository.blob_id(commit, there)
    else:
        there = path
    if blob is None:
        raise MergeRefused(f"'{label}' has no checkpoint '{path}'")
    statistics = _open_statistics(repository, commit, path, label)
    try:
        if sharded.is_index(there):
            source = _open_shards(repository, commit, path, label, blob)
        else:
            metadata = metadata_of(repository, blob)
            source = Source(label, commit, there, blob, metadata)
            source = as_adapter(repository, source)
    except CheckpointError as error:
        raise error.within(f"'{path}' of '{label}'") from None
    return replace(source, statistics=statistics)


def zeros(like: Source) -> Source:
    """The base of adapters where no commit has one: the model without any change."""
    nothing = Metadata({}, like.metadata.header)
    return Source(
        "the base", "", like.path, NULL_ID, nothing, stored=nothing, adapter=Adapter({}, ())
    )


def metadata_of(repository: Repository, blob: str) -> Metadata:
    """A checkpoint's metadata by its blob, tracked or not; CheckpointError for anything else."""
    content = repository.blob(blob)
    # A file that was committed before it was tracked is stored now as tracking would have.
    return Metadata.parse(
        content if is_metadata(content) else clean(content, ObjectStore(repository))
    )


def _open_shards(repository: Repository, commit: str, path: str, label: str, blob: str) -> Source:
    index = ShardIndex.parse(repository.blob(blob), path)
    pure = PurePosixPath(path)
    folder = [] if str(pure.parent) == "." else [f"{pure.parent}/"]
    listed = repository.run("ls-tree", "-z", "--full-tree", commit, "--", *folder).fields
    there = {line.split("\t", 1)[1]: line.split()[2] for line in listed}
    parts = {
        PurePosixPath(shard).name: metadata_of(repository, there[shard])
        for shard in shard_paths(path, index)
        if shard in there
    }
    others = [PurePosixPath(other).name for other in there if sharded.index_of(other) == path]
    whole = sharded.unite(index, parts, others)
    # As if it were one file: so the same model has one identity, however it is cut.
    identity = repository.run("hash-object", "--stdin", stdin=whole.serialize()).text
    return Source(label, commit, path, identity, whole, index=index)


def as_adapter(repository: Repository, source: Source) -> Source:
    """The source as an adapter's changes of weights, if it is one.

    Raises MalformedCheckpoint for adapters that cannot be multiplied out.
    """
    stored = source.metadata
    if not lora.has_factors(stored.groups):
        return source
    beside, settings, configuration = lora.configuration_of(source.path), None, ""
    if beside and (found := repository.blob_id(source.commit, beside)):
        configuration = found
        settings = lora_configuration.parse(repository.blob(found), beside)
    elif not lora.is_adapter(stored.groups):
        return source
    store = ObjectStore(repository)

    def scalar(name: str) -> float:
        store.fetch([stored.groups[name]])
        return float(Checkpoint(stored, store, source.path).read(name).reshape(-1)[0])

    adapter = lora.read_adapter(stored.groups, stored.header, settings, scalar)
    return replace(
        source,
        metadata=lora_view.view(adapter, stored),
        stored=stored,
        adapter=adapter,
        configuration=configuration,
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
    beside = PurePosixPath(path).parent
    folder = beside / statistics_index.FOLDER
    here = functools.cache(functools.partial(repository.blob_id, commit))  # of folders, too
    found = {}
    for kind, entry in index.get(PurePosixPath(path).name, {}).items():
        blob = repository.blob_id(commit, str(folder / entry.path))
        if blob is None:
            continue
        try:
            metadata = Metadata.parse(repository.blob(blob))
        except CheckpointError as error:
            raise error.within(f"statistic '{kind}' of '{path}' of '{label}'") from None
        changed = tuple(
            str(beside / name)
            for name, identity in entry.companions.items()
            if (here(str(beside / name)) or "") != identity
        )
        found[kind] = StatisticSource(kind, blob, entry, metadata, changed)
    return found


def value_of(record: GroupRecord) -> tuple[str, str, tuple[int, ...]]:
    """What makes two records the same tensor."""
    return record.object_id, record.dtype, record.shape
