"""An adapter seen as changes of its model's weights: one group for each ΔW, none for factors."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gitmerge_eval.checkpoints import bridge
from gitmerge_eval.checkpoints.checkpoint import Checkpoint
from gitmerge_eval.checkpoints.chunks import Chunk
from gitmerge_eval.checkpoints.lfs import ObjectStore
from gitmerge_eval.checkpoints.lora import Adapter, Pair
from gitmerge_eval.checkpoints.metadata import GroupRecord, Metadata

if TYPE_CHECKING:
    from torch import Tensor

Array = NDArray[Any]

PRODUCT = "product"
"""The update type of a group that is not stored, but computed from its factors."""
DTYPE = "float64"
"""What products are computed in."""
_STEP = 1 << 17


@dataclass(frozen=True)
class Product(GroupRecord):
    """ΔW = s·B·A as a group: ``object_id`` is equal where factors and scale are.

    Without factors it is zero: the adapter does not touch this weight.
    """

    down: GroupRecord | None = None
    up: GroupRecord | None = None
    scale: float = 0.0
    embedding: bool = False

    @property
    def stored(self) -> tuple[GroupRecord, ...]:
        """The records of the factors."""
        return tuple(record for record in (self.down, self.up) if record is not None)


def view(adapter: Adapter, stored: Metadata) -> Metadata:
    """The adapter's groups: a :class:`Product` for each pair, and the plain ones as they are."""
    groups: dict[str, GroupRecord] = {name: stored.groups[name] for name in adapter.plain}
    for weight, pair in adapter.pairs.items():
        groups[weight] = _product(pair, stored.groups[pair.down], stored.groups[pair.up])
    return Metadata(groups, stored.header)


def zero(like: GroupRecord) -> Product:
    """No change of the weight that ``like`` is the change of."""
    return Product(like.name, like.shape, DTYPE, (), "0" * 64, 0, PRODUCT)


def stored_records(records: Iterable[GroupRecord]) -> list[GroupRecord]:
    """The records of what is really stored: a product's factors in its place."""
    found: list[GroupRecord] = []
    for record in records:
        found += record.stored if isinstance(record, Product) else (record,)
    return found


def with_zeros(view_of: Metadata, all_products: Mapping[str, Product]) -> Metadata:
    """The view with zeros for the weights that this adapter does not touch."""
    missing = {n: zero(p) for n, p in all_products.items() if n not in view_of.groups}
    return Metadata({**view_of.groups, **missing}, view_of.header)


class ProductArray:
    """A ΔW that is computed part by part: the rows that are asked for, in float64."""

    def __init__(self, left: Tensor, right: Tensor) -> None:
        """ΔW = left · right as a matrix; further axes of its shape are in ``right``'s columns."""
        self._left, self._right = left, right
        self._columns = int(right.shape[1])

    @classmethod
    def of(cls, record: Product, store: ObjectStore, path: str | None = None) -> ProductArray:
        """The product's factors, read from ``store``; raises what :meth:`Checkpoint.read` does."""
        import torch

        if record.down is None or record.up is None:
            rows = record.shape[0]
            empty = torch.empty((0, prod(record.shape[1:])), dtype=torch.float64)
            return cls(torch.empty((rows, 0), dtype=torch.float64), empty)
        factors = Metadata({r.name: r for r in record.stored})
        down, up = (
            bridge.to_torch(Checkpoint(factors, store, path).read(r.name)).double().flatten(1)
            for r in (record.down, record.up)
        )
        up = up * record.scale
        return cls(down.T.contiguous(), up.T.contiguous()) if record.embedding else cls(up, down)

    def steps(self, chunk: Chunk) -> tuple[int, ...]:
        """Whole rows, about 2^17 elements at a time."""
        step = max(1, _STEP // chunk.width) * chunk.width
        return (*range(0, chunk.size, step), chunk.size)

    def read(self, chunk: Chunk, start: int, stop: int, out: Array) -> None:
        """The elements, in C order; padding is zero."""
        first, last = start // chunk.width, -(-stop // chunk.width)
        starts = chunk.starts[first:last]
        rows = np.zeros((len(starts), chunk.width))
        inside = starts >= 0
        if inside.any():
            origins = starts[inside]
            low, high = int(origins[0]), int(origins[-1]) + chunk.run
            top, bottom = low // self._columns, -(-high // self._columns)
            block = (self._left[top:bottom] @ self._right).numpy().reshape(-1)
            places = (origins - top * self._columns)[:, None] + np.arange(chunk.run)
            rows[inside, : chunk.run] = block[places]
        out[...] = rows.reshape(-1)[start - first * chunk.width : stop - first * chunk.width]


def _product(pair: Pair, down: GroupRecord, up: GroupRecord) -> Product:
    spelled = f"{down.object_id} {up.object_id} {pair.scale.hex()} {pair.embedding}"
    return Product(
        name=pair.weight,
        shape=pair.shape,
        dtype=DTYPE,
        signature=(),
        object_id=hashlib.sha256(spelled.encode()).hexdigest(),
        size=down.size + up.size,
        update_type=PRODUCT,
        down=down,
        up=up,
        scale=pair.scale,
        embedding=pair.embedding,
    )
