"""Models in several files: the index that says which tensor is in which shard.

``model.safetensors.index.json`` beside ``model-00001-of-00002.safetensors`` and so on. Format of
huggingface_hub, ``serialization/_torch.py``; written as transformers and diffusers write it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from gitmerge_eval.errors import MalformedCheckpoint

if TYPE_CHECKING:
    from gitmerge_eval.checkpoints.metadata import GroupRecord, Metadata

_INDEX = re.compile(r"(?P<stem>[^/]+)\.safetensors\.index(?P<variant>\.[\w-]+)?\.json")
_SHARD = re.compile(r"(?P<stem>.+?)-\d{5,6}-of-\d{5,6}(?P<variant>\.[\w-]+)?\.safetensors")


@dataclass(frozen=True)
class ShardIndex:
    """Which file has which tensor, and what else the index says."""

    weight_map: Mapping[str, str]
    """tensor -> file name, in the index's folder."""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shards(self) -> tuple[str, ...]:
        """The file names, sorted."""
        return tuple(sorted(set(self.weight_map.values())))

    @classmethod
    def parse(cls, data: bytes, where: str = "the index") -> ShardIndex:
        """The index in ``data``; MalformedCheckpoint unless it maps names to plain file names."""
        document = _document(data, where)
        weight_map, metadata = document.get("weight_map"), document.get("metadata", {})
        if not isinstance(weight_map, dict) or not isinstance(metadata, dict):
            raise MalformedCheckpoint(
                f"'{where}' has no 'weight_map' of tensors to files; save the model again"
            )
        for name, file in weight_map.items():
            if not isinstance(file, str) or not _is_plain(file):
                raise MalformedCheckpoint(
                    f"'{where}' says that {name!r} is in {file!r}, which is not the name of a "
                    "safetensors file in its folder; save the model again"
                )
        if not weight_map:
            raise MalformedCheckpoint(f"'{where}' names no tensor; save the model again")
        return cls(weight_map, metadata)

    def serialize(self) -> bytes:
        """The document as transformers and diffusers write it."""
        document = {"metadata": dict(self.metadata), "weight_map": dict(self.weight_map)}
        return f"{json.dumps(document, indent=2, sort_keys=True)}\n".encode()


def is_index(path: str) -> bool:
    """Whether ``path`` is named as an index of safetensors shards.

    >>> is_index("a/model.safetensors.index.json"), is_index("index.json")
    (True, False)
    """
    return _INDEX.fullmatch(PurePosixPath(path).name) is not None


def index_of(path: str) -> str | None:
    """The index that a shard's name belongs to, or None for a name that is no shard's.

    >>> index_of("a/model-00001-of-00002.safetensors")
    'a/model.safetensors.index.json'
    """
    found = _SHARD.fullmatch(PurePosixPath(path).name)
    if found is None:
        return None
    name = f"{found['stem']}.safetensors.index{found['variant'] or ''}.json"
    return str(PurePosixPath(path).with_name(name))


def unite(
    index: ShardIndex, shards: Mapping[str, Metadata], others: Iterable[str] = ()
) -> Metadata:
    """The groups of all shards as those of one model, with the first shard's header.

    ``shards``: file name -> its metadata; ``others``: further files that are named like shards of
    this model. Raises MalformedCheckpoint for a shard that is missing or not named by the index, a
    tensor that is in two shards, not where the index says, or not in the index.
    """
    missing = [file for file in index.shards if file not in shards]
    if missing:
        raise MalformedCheckpoint(
            f"the index names the shard '{missing[0]}', which is not there; commit all shards of "
            "the model"
        )
    unnamed = sorted({*shards, *others} - set(index.shards))
    if unnamed:
        raise MalformedCheckpoint(
            f"'{unnamed[0]}' is named like a shard, and the index does not speak of it; remove it "
            "if it is left from an earlier save, else save the model again"
        )
    groups: dict[str, GroupRecord] = {}
    for file in index.shards:
        for name, record in shards[file].groups.items():
            if name in groups:
                raise MalformedCheckpoint(
                    f"{name!r} is in '{index.weight_map.get(name)}' and in '{file}'; a tensor is "
                    "to be in one shard, so save the model again"
                )
            if index.weight_map.get(name) != file:
                said = index.weight_map.get(name)
                raise MalformedCheckpoint(
                    f"{name!r} is in '{file}', and the index says "
                    f"{f'that it is in {said!r}' if said else 'nothing of it'}; commit index and "
                    "shards as they were saved together"
                )
            groups[name] = record
    absent = sorted(set(index.weight_map) - set(groups))
    if absent:
        raise MalformedCheckpoint(
            f"the index says that {absent[0]!r} is in '{index.weight_map[absent[0]]}', which does "
            "not have it; commit index and shards as they were saved together"
        )
    from gitmerge_eval.checkpoints.metadata import Metadata

    return Metadata(groups, shards[index.shards[0]].header)


def arrange(
    base: ShardIndex | None, versions: Sequence[ShardIndex], result: Mapping[str, GroupRecord]
) -> ShardIndex:
    """The index of a merged model.

    The base's shards are kept (those of the first version where there is no base, or those of all
    versions where they agree on others); a new group goes to the shard of that name of the first
    version that has it, or the last one. ``total_size`` and ``total_parameters`` follow.
    """
    kept = base or versions[0]
    first = versions[0].weight_map
    if all(version.weight_map == first for version in versions):
        kept = versions[0]
    shards, weight_map = kept.shards, {}
    for name in sorted(result):
        named = (index.weight_map.get(name) for index in (kept, *versions))
        weight_map[name] = next((file for file in named if file in shards), shards[-1])
    metadata = dict(kept.metadata)
    metadata["total_size"] = sum(record.nbytes for record in result.values())
    if "total_parameters" in metadata and set(result) != set(kept.weight_map):
        metadata["total_parameters"] = sum(prod(record.shape) for record in result.values())
    return ShardIndex(weight_map, metadata)


def divide(index: ShardIndex, model: Metadata) -> dict[str, Metadata]:
    """file name -> the metadata of that shard of ``model``."""
    from gitmerge_eval.checkpoints.metadata import Metadata

    parts: dict[str, dict[str, GroupRecord]] = {file: {} for file in index.shards}
    for name, record in model.groups.items():
        parts[index.weight_map[name]][name] = record
    return {file: Metadata(groups, model.header) for file, groups in parts.items()}


def _is_plain(file: str) -> bool:
    return (
        file.endswith(".safetensors")
        and not set(file) & set("/\\\0\n\r")
        and file not in (".safetensors", "..safetensors")
        and file.isprintable()
    )


def _document(data: bytes, where: str) -> dict[str, Any]:
    def unique(pairs: Collection[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a name occurs twice")
        return found

    def refuse(text: str) -> None:
        raise ValueError(f"{text} is not JSON")

    try:
        found = json.loads(data.decode(), object_pairs_hook=unique, parse_constant=refuse)
        json.dumps(found, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise MalformedCheckpoint(
            f"'{where}' is not JSON ({error}); was it merged as text or left in conflict? Restore "
            "it from a commit"
        ) from error
    if not isinstance(found, dict):
        raise MalformedCheckpoint(f"'{where}' is not a JSON object; save the model again")
    return found
