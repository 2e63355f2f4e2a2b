"""git-theta's metadata: the JSON document that Git stores in a checkpoint's place.

For each parameter group it names shape, dtype, an LSH signature, the LFS object that holds the
value and how that value is stored. Format of git-theta 0.2.0, ``git_theta/metadata.py``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

from gitmerge_eval.checkpoints.dtypes import BY_NAME
from gitmerge_eval.errors import MalformedCheckpoint

LFS_VERSION = "https://git-lfs.github.com/spec/v1"
DENSE = "dense"
HEADER_FIELD = "safetensors_metadata"
"""The field of the first group's entry that keeps safetensors' own ``__metadata__``."""

_OBJECT_ID = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_SHAPE = re.compile(r"\((?:|\d{1,18},|\d{1,18}(?:, \d{1,18})+)\)")
_SIZE = re.compile(r"0|[1-9]\d{0,18}")
_MAXIMUM_RANK = 32
_MAXIMUM_SIGNATURE = 1024
_INT64 = range(-(2**63), 2**63)


@dataclass(frozen=True)
class GroupRecord:
    """What the metadata says of one parameter group."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    """NumPy's name: 'float32', 'bfloat16'."""
    signature: tuple[int, ...]
    """git-theta's Euclidean LSH of the value (:mod:`gitmerge_eval.checkpoints.lsh`)."""
    object_id: str
    """SHA-256 of the stored object, hexadecimal."""
    size: int
    """Bytes of the stored object."""
    update_type: str = DENSE
    last_commit: str | None = None
    """The commit an incremental update builds on; null for what we write ourselves."""
    keys: tuple[str, ...] = ()
    """The path in a nested checkpoint; empty where the name is the only key."""

    @property
    def nbytes(self) -> int:
        """Bytes of the value in memory: Π shape · item size."""
        return prod(self.shape) * BY_NAME[self.dtype].itemsize

    @property
    def path(self) -> tuple[str, ...]:
        """The keys that lead to the group's entry."""
        return self.keys or (self.name,)


@dataclass(frozen=True)
class Metadata:
    """A checkpoint's groups by name, and safetensors' own ``__metadata__``."""

    groups: Mapping[str, GroupRecord]
    header: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ordered = sorted(self.groups.values(), key=lambda record: record.path)
        object.__setattr__(self, "groups", {record.name: record for record in ordered})
        object.__setattr__(self, "header", dict(sorted(self.header.items())))

    @classmethod
    def parse(cls, data: bytes) -> Metadata:
        """The metadata in ``data``; MalformedCheckpoint names the entry that is not valid."""
        document = _load(data)
        groups: dict[str, GroupRecord] = {}
        header: dict[str, str] = {}
        for keys, entry in _entries(document, ()):
            record = _record(keys, entry)
            if record.name in groups:
                raise _malformed(record.name, "occurs twice, nested in different ways")
            groups[record.name] = record
            if HEADER_FIELD in entry:
                header |= _header(record.name, entry[HEADER_FIELD])
        return cls(groups, header)

    def serialize(self) -> bytes:
        """git-theta's JSON, byte for byte as its own filter writes it.

        ``last_commit`` is whatever the record has, so that an unchanged group keeps its entry.
        MalformedCheckpoint if there is a header and no group that could carry it.
        """
        if self.header and not self.groups:
            raise MalformedCheckpoint(
                "a checkpoint without tensors cannot keep header metadata; store a tensor, "
                "or remove '__metadata__'"
            )
        document: dict[str, Any] = {}
        header = dict(self.header)
        for record in self.groups.values():
            entry = _entry(record)
            if header:
                entry[HEADER_FIELD] = header
                header = {}
            level = document
            for key in record.path[:-1]:
                level = level.setdefault(key, {})
            level[record.path[-1]] = entry
        return json.dumps(document, indent=4).encode()


def is_metadata(data: bytes) -> bool:
    """Whether ``data`` is a JSON object, and thus metadata instead of a model.

    A safetensors file starts with eight bytes of length, so that it is never taken for one.
    """
    start = data[:64].lstrip(b" \t\r\n")
    if not start.startswith(b"{"):
        return False
    # A header length whose lowest byte is '{' is followed by NULs, which JSON never holds.
    return b"\0" not in data[:64]


def _malformed(name: str, what: str) -> MalformedCheckpoint:
    return MalformedCheckpoint(
        f"git-theta metadata: group {name!r} {what}; the file was damaged or merged as text, "
        "so restore it from a commit"
    )


def _load(data: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            names = [key for key, _ in pairs]
            raise ValueError(f"{next(k for k in names if names.count(k) > 1)!r} occurs twice")
        return found

    def refuse(text: str) -> None:
        raise ValueError(f"{text} is not JSON")

    try:
        document = json.loads(data.decode(), object_pairs_hook=unique, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise MalformedCheckpoint(
            f"not git-theta metadata: {error}; was it merged as text or left in conflict?"
        ) from error
    if not isinstance(document, dict):
        raise MalformedCheckpoint("not git-theta metadata: the JSON document is not an object")
    return document


def _entries(
    level: Mapping[str, Any], prefix: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    for key, value in level.items():
        keys = (*prefix, key)
        if not isinstance(value, dict) or len(keys) > _MAXIMUM_RANK:
            raise _malformed("/".join(keys), "has no entry")
        if "lfs_metadata" in value:
            yield keys, value
        else:
            yield from _entries(value, keys)


def _record(keys: tuple[str, ...], entry: Mapping[str, Any]) -> GroupRecord:
    name = "/".join(keys)
    try:
        name.encode()
    except UnicodeEncodeError:
        raise _malformed(name, "has a name that is not Unicode text") from None
    if name == "__metadata__":
        raise _malformed(name, "has a name that safetensors reserves")
    parts = [entry.get(key) for key in ("tensor_metadata", "lfs_metadata", "theta_metadata")]
    if not all(isinstance(part, dict) for part in parts):
        raise _malformed(name, "lacks one of tensor_metadata, lfs_metadata, theta_metadata")
    tensor, lfs, theta = (part for part in parts if part is not None)
    object_id, size = lfs.get("oid"), lfs.get("size")
    if lfs.get("version") != LFS_VERSION:
        raise _malformed(name, "has an unknown LFS version")
    if not (isinstance(object_id, str) and _OBJECT_ID.fullmatch(object_id)):
        raise _malformed(name, "has an object id that is not 64 hexadecimal digits")
    if not (isinstance(size, str) and _SIZE.fullmatch(size)):
        raise _malformed(name, "has a size that is not a whole number")
    update_type, last_commit = theta.get("update_type"), theta.get("last_commit")
    if not (isinstance(update_type, str) and re.fullmatch(r"[\w.-]{1,100}", update_type)):
        raise _malformed(name, "has no update type")
    if last_commit is not None and not (
        isinstance(last_commit, str) and _COMMIT.fullmatch(last_commit)
    ):
        raise _malformed(name, "has a last commit that is not a commit id")
    return GroupRecord(
        name=name,
        shape=_shape(name, tensor.get("shape")),
        dtype=_dtype(name, tensor.get("dtype")),
        signature=_signature(name, tensor.get("hash")),
        object_id=object_id,
        size=int(size),
        update_type=update_type,
        last_commit=last_commit,
        keys=keys if len(keys) > 1 else (),
    )


def _shape(name: str, text: object) -> tuple[int, ...]:
    if not (isinstance(text, str) and _SHAPE.fullmatch(text)):
        raise _malformed(name, "has a shape that is not a tuple of whole numbers")
    shape = tuple(int(part) for part in text.strip("()").split(",") if part.strip())
    if len(shape) > _MAXIMUM_RANK or prod(shape) not in _INT64:
        raise _malformed(name, "has a shape too large for any computer")
    return shape


def _dtype(name: str, text: object) -> str:
    if not (isinstance(text, str) and text in BY_NAME):
        raise _malformed(name, f"has the unknown dtype {text!r}")
    return text


def _signature(name: str, values: object) -> tuple[int, ...]:
    if (
        not isinstance(values, list)
        or len(values) > _MAXIMUM_SIGNATURE
        or not all(type(value) is int and value in _INT64 for value in values)
    ):
        raise _malformed(name, "has a signature that is not a list of 64-bit integers")
    return tuple(values)


def _header(name: str, values: object) -> dict[str, str]:
    if not isinstance(values, dict) or not all(isinstance(v, str) for v in values.values()):
        raise _malformed(name, f"has a {HEADER_FIELD} that is not text by name")
    try:
        json.dumps(values, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise _malformed(name, f"has a {HEADER_FIELD} that is not Unicode text") from None
    return dict(values)


def _entry(record: GroupRecord) -> dict[str, Any]:
    return {
        "tensor_metadata": {
            "shape": str(record.shape),
            "dtype": record.dtype,
            "hash": list(record.signature),
        },
        "lfs_metadata": {
            "version": LFS_VERSION,
            "oid": record.object_id,
            "size": str(record.size),
        },
        "theta_metadata": {
            "update_type": record.update_type,
            "last_commit": record.last_commit,
        },
    }
