"""Which examples of the user's data belong to which split."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from gitmerge_eval.benchmarks.declared.table import Table
from gitmerge_eval.errors import UnknownName

SPLITS = ("train", "validation", "test")
Example = TypeVar("Example")


@dataclass(frozen=True)
class Splits:
    """Splits by name, or by shares of data that have none.

    By shares, which examples belong to which split depends on ``seed`` and on the example's name
    (a file's name, a row's number) alone, and each split's number is rounded.
    """

    names: Mapping[str, str] = field(default_factory=dict)
    shares: Mapping[str, float] = field(default_factory=dict)
    """Of validation and test; empty where the data have splits of their own."""
    seed: int = 0

    def name(self, split: str) -> str:
        """How the data call a split. Raises UnknownName for one that is none of SPLITS."""
        if split not in SPLITS:
            raise UnknownName.among("split", split, SPLITS)
        return self.names.get(split, split)

    def part(
        self, examples: Sequence[Example], split: str, name: Callable[[Example], str] | None = None
    ) -> list[Example]:
        """The examples of a split, in their order; all, where the data have splits."""
        if not self.shares:
            return list(examples)
        self.name(split)
        called = name or _file_name
        order = sorted(range(len(examples)), key=lambda i: self._place(called(examples[i])))
        counts = {s: round(share * len(examples)) for s, share in self.shares.items()}
        test, validation = counts.get("test", 0), counts.get("validation", 0)
        rows = {
            "test": order[:test],
            "validation": order[test : test + validation],
            "train": order[test + validation :],
        }
        return [examples[i] for i in sorted(rows[split])]

    def _place(self, name: str) -> bytes:
        return hashlib.sha256(f"{self.seed}/{name}".encode()).digest()


def _file_name(example: object) -> str:
    return example.name if isinstance(example, Path) else str(example)


def splits_of(table: Table, *, named: bool, seed: int) -> Splits:
    """What a table ``data`` says: 'splits' where its path or data set has some, else 'shares'."""
    names, shares = table.table("splits"), table.table("shares")
    names.check_keys(SPLITS)
    shares.check_keys(SPLITS[1:])
    if named and shares.values:
        raise shares.error("the data have splits of their own; leave out '{split}' or the shares")
    if not named and not shares.values:
        raise table.error(
            "neither is '{split}' in 'path' nor are there shares to make splits of; add "
            "'shares = { validation = 0.1, test = 0.2 }'"
        )
    parts = {key: shares.number(key, None, float, 0.001, 0.9) for key in shares.values}
    if sum(parts.values()) >= 1:
        raise shares.error("the shares leave nothing for training; make them smaller")
    return Splits({key: names.text(key) for key in names.values}, parts, seed)
