"""Where a grid's pictures come from, as a vision tower sees them, read when they are asked for."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import torch
from torch import Tensor


class Pictures(Protocol):
    """Labelled pictures in a fixed order."""

    @property
    def labels(self) -> Tensor:
        """The class of each, shape (n,)."""

    def inputs(self, rows: Tensor) -> Tensor:
        """These of them, ready for the model: float32 (rows, 3, side, side), on the CPU."""

    def fingerprint(self, prompts: Sequence[Sequence[str]]) -> str:
        """A digest of pictures and labels, and of the prompts that they are classified by."""


class Source(Protocol):
    """Pictures by class, domain and split."""

    def pictures(
        self, names: Sequence[str], domain: str, split: str, classes: Sequence[str]
    ) -> Pictures:
        """All pictures of the classes ``names``; a label is a position in ``classes``.

        Raises UnknownName for a split that the source does not have, and EvaluationError where its
        files are not there.
        """


@functools.lru_cache(maxsize=1)
def _waiting() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(32, initializer=torch.set_num_threads, initargs=(1,))


class Joined:
    """Several cells' pictures, one after the other."""

    def __init__(self, parts: Sequence[Pictures]) -> None:
        self._parts = parts
        self._ends = torch.tensor([len(part.labels) for part in parts]).cumsum(0)
        self.labels = torch.cat([part.labels for part in parts])

    def inputs(self, rows: Tensor) -> Tensor:
        """As of :class:`Pictures`."""
        owners = torch.bucketize(rows, self._ends, right=True)
        wanted = [(owners == owner).nonzero()[:, 0] for owner in range(len(self._parts))]
        asked = [owner for owner, mine in enumerate(wanted) if len(mine)]

        def read(owner: int) -> Tensor:
            start = int(self._ends[owner]) - len(self._parts[owner].labels)
            return self._parts[owner].inputs(rows[wanted[owner]] - start)

        # At once: of many cells, each has too few rows to keep the readers of files busy.
        several = list(_waiting().map(read, asked))
        found = torch.empty(len(rows), *several[0].shape[1:])
        for owner, part in zip(asked, several, strict=True):
            found[wanted[owner]] = part
        return found

    def fingerprint(self, prompts: Sequence[Sequence[str]]) -> str:
        """As of :class:`Pictures`."""
        parts = [part.fingerprint(prompts) for part in self._parts]
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()
