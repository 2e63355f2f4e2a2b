"""Groups that git-theta stored as an update of an earlier value: sparse, low-rank, IA3, plugins.

The only module that imports git_theta. Its handlers say how an update is applied; the objects and
the metadata of earlier commits come from our own store, hash-checked and without a subprocess for
each group.
"""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gitmerge_eval.checkpoints.encoding import decode
from gitmerge_eval.checkpoints.lfs import ObjectStore
from gitmerge_eval.checkpoints.metadata import DENSE, GroupRecord, Metadata
from gitmerge_eval.errors import MalformedCheckpoint

Array = NDArray[Any]


def read(record: GroupRecord, store: ObjectStore, path: str | None) -> Array:
    """The value of a group that is an update: all updates since the last dense value, applied.

    ``path`` is the checkpoint's path in the repository. MalformedCheckpoint where the chain of
    updates does not lead to a dense value of the same shape and dtype.
    """
    if path is None:
        raise _malformed(record, "and the checkpoint's path in the repository is not known")
    updates = []
    current = record
    while current.update_type != DENSE:
        updates.append(current)
        current = _previous(current, store, path)
    value = decode(store.read(current.object_id, current.size), current)
    for update in reversed(updates):
        value = _apply(update, store, value)
    if value.shape != record.shape or value.dtype.name != record.dtype:
        raise _malformed(record, f"and gives {value.dtype.name} {value.shape}")
    return value


def _previous(record: GroupRecord, store: ObjectStore, path: str) -> GroupRecord:
    if record.last_commit is None:
        raise _malformed(record, "and names no commit that it builds on")
    blob = store.repository.blob_id(record.last_commit, path)
    if blob is None:
        raise _malformed(record, f"of '{path}' in {record.last_commit[:12]}, which is not here")
    earlier = Metadata.parse(store.repository.blob(blob)).groups.get(record.name)
    if earlier is None:
        raise _malformed(record, f"and {record.last_commit[:12]} does not have the group")
    return earlier


def _apply(record: GroupRecord, store: ObjectStore, previous: Array) -> Array:
    from git_theta import params, updates

    try:
        handler = updates.get_update_handler(record.update_type)
    except KeyError:
        raise _malformed(record, "which no installed git-theta plugin applies") from None
    data = store.read(record.object_id, record.size)

    async def applied() -> Array:
        serializer = params.get_update_serializer()
        update = await serializer.deserialize(data)
        # What git_theta's Update.read hands to apply_update.
        update = update.get("parameter", update)
        return np.asarray(await handler(serializer).apply_update(update, previous))

    try:
        value = asyncio.run(applied())
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise _malformed(record, f"and applying it failed: {error}") from error
    return value


def _malformed(record: GroupRecord, why: str) -> MalformedCheckpoint:
    return MalformedCheckpoint(
        f"group {record.name!r} is stored as a '{record.update_type}' update {why}; check out the "
        "checkpoint with git-theta and commit it again as a dense one"
    )
