"""What a task is made of: pairs of texts, and options where one has to be chosen."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

from gitmerge_eval.records import Task, canonical_json

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Example:
    """One question to the model."""

    source: str
    """The encoder's text, with the prompt around it."""
    targets: tuple[str, ...]
    """Right answers; training learns the first."""
    options: tuple[str, ...] = ()
    """Of a multiple choice: all answers to choose from, the right one among them; else empty."""


class Source(Protocol):
    """Where a benchmark's examples come from."""

    @property
    def settings(self) -> Mapping[str, object]:
        """What ``benchmark.toml`` must say for the same examples to be found again."""

    def examples(self, task: Task, split: str) -> tuple[Example, ...]:
        """All examples of a task in one of SPLITS, in an order that is always the same."""

    def corpus(self) -> tuple[str, ...]:
        """Plain text to pretrain on; empty where the base is pretrained already."""


def fingerprint(examples: Sequence[Example]) -> str:
    """SHA-256 over everything that a score depends on: sources, targets and options, in order."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(canonical_json(asdict(example)).encode() + b"\n")
    return digest.hexdigest()
