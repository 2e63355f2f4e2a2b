"""``statistics/index.json``: what each statistic beside a checkpoint was computed on.

    {"model.safetensors": {"gram": {"path": "gram.safetensors", "checkpoint": "<blob id>", …}}}

Plain text, one entry for each checkpoint of the folder and each kind; merged by this tool.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath
from typing import Any

from gitmerge_eval.errors import MalformedCheckpoint

FOLDER = "statistics"


@dataclass(frozen=True)
class StatisticEntry:
    """One statistic: where it is, and what it is bound to."""

    path: str
    """The file's name inside the statistics folder."""
    checkpoint: str
    """Git object id of the metadata blob of the checkpoint that it was computed on."""
    data: str
    fingerprint: str
    examples: int
    tokens: int
    options: Mapping[str, Any] = field(default_factory=dict)
    layout: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """group -> {'key': tensor name in the file, 'input_axis': 0 or 1}."""
    version: int = 1
    companions: Mapping[str, str] = field(default_factory=dict)
    """What lay beside the checkpoint, by its path from there: a file's or folder's Git object id,
    '' for one that was missing. Empty where nothing is known of it."""


Index = dict[str, dict[str, StatisticEntry]]
"""checkpoint file name -> kind -> entry."""


def index_path(checkpoint: str) -> str:
    """The index that speaks of a checkpoint.

    >>> index_path("a/model.safetensors")
    'a/statistics/index.json'
    """
    return str(PurePosixPath(checkpoint).parent / FOLDER / "index.json")


def statistic_path(checkpoint: str, kind: str) -> str:
    """Where a statistic lies: ``statistics/<kind>.safetensors``, or with the checkpoint's stem in
    front where that is not ``model``, so that two checkpoints may share a folder.

    >>> statistic_path("model.safetensors", "gram")
    'statistics/gram.safetensors'
    >>> statistic_path("a/adapter.safetensors", "gram")
    'a/statistics/adapter.gram.safetensors'
    """
    path = PurePosixPath(checkpoint)
    prefix = "" if path.stem == "model" else f"{path.stem}."
    return str(path.parent / FOLDER / f"{prefix}{kind}.safetensors")


def is_statistic(path: str) -> bool:
    """Whether a path lies in a statistics folder."""
    return PurePosixPath(path).parent.name == FOLDER


def parse(text: bytes | str) -> Index:
    """The index in ``text``; MalformedCheckpoint says what is wrong with it."""
    try:
        content = json.loads(text)
        return {
            checkpoint: {kind: _checked(StatisticEntry(**entry)) for kind, entry in kinds.items()}
            for checkpoint, kinds in content.items()
        }
    except (ValueError, TypeError, AttributeError) as error:
        raise MalformedCheckpoint(
            f"statistics/index.json is not readable ({error}); compute the statistics again with "
            "'gitmerge-eval stats'"
        ) from None


def _checked(entry: StatisticEntry) -> StatisticEntry:
    """The entry, or a TypeError: the file may be anybody's."""
    for name, kind in (("path", str), ("checkpoint", str), ("layout", dict), ("companions", dict)):
        if not isinstance(getattr(entry, name), kind):
            raise TypeError(f"'{name}' is {getattr(entry, name)!r}")
    return entry


def serialize(index: Index) -> bytes:
    """Sorted, indented JSON with a final newline: equal indexes have equal bytes."""
    content = {
        checkpoint: {kind: _plain(entry) for kind, entry in kinds.items()}
        for checkpoint, kinds in index.items()
        if kinds
    }
    return (json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _plain(entry: StatisticEntry) -> dict[str, Any]:
    plain = asdict(entry)
    if not entry.companions:
        del plain["companions"]  # earlier versions do not know it
    return plain
