"""Models in conflict: the stages in the index, and what whoever left them there remembers.

The index has the versions of a file and not how they were to be merged. So strategy and driver
leave a record below the git directory; it counts as long as the index has the very stages that it
names, so that no record has to be removed when a conflict ends in another way.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gitmerge_eval.git.repository import Repository
from gitmerge_eval.git.scratch import state_directory, write_state
from gitmerge_eval.git.trees import Entry
from gitmerge_eval.records import canonical_json

SIDES = ("base", "ours", "theirs")
"""What the stages 1, 2 and 3 hold."""
_NAME = "conflicts"
_KEPT = 1000
"""Records: those of conflicts that ended in another way stay until newer ones push them out."""

Stages = Mapping[str, Entry]
"""Side -> that version of a file; a side that has none is absent."""


@dataclass(frozen=True)
class Origin:
    """A version of a model: the commit and path that it lies at, and what the user calls it."""

    commit: str
    path: str
    label: str
    models: int = 1
    """How many models it stands for, as the merge of them that it is."""


@dataclass(frozen=True)
class Conflict:
    """How the two sides of a model in conflict were to be merged, and what has been chosen."""

    path: str
    """What the model goes by."""
    blobs: Mapping[str, Mapping[str, str]]
    """file -> side -> object id, as the index has to have them."""
    method: str
    options: Mapping[str, str] = field(default_factory=dict)
    """As on a command line."""
    sides: Mapping[str, Origin] = field(default_factory=dict)
    """Of a merge by the strategy; a driver knows of files only."""
    constituents: tuple[Origin, ...] = ()
    """Of a merge by the strategy: the sides that take part."""
    choices: Mapping[str, str] = field(default_factory=dict)
    """parameter group -> the side that it is taken from."""


def unmerged(repository: Repository) -> dict[str, dict[str, Entry]]:
    """file -> its versions, of everything that is in conflict."""
    found: dict[str, dict[str, Entry]] = {}
    for line in repository.run("ls-files", "--unmerged", "-z").fields:
        meta, path = line.split("\t", 1)
        mode, object_id, stage = meta.split()
        found.setdefault(path, {})[SIDES[int(stage) - 1]] = Entry(mode, object_id)
    return found


def remember(repository: Repository, conflict: Conflict) -> None:
    """Keep the record, in the place of an older one of that model."""
    others = [known for known in _read(repository) if known.path != conflict.path]
    _write(repository, [*others, conflict][-_KEPT:])


def forget(repository: Repository, path: str) -> None:
    """Drop the record of a model."""
    _write(repository, [known for known in _read(repository) if known.path != path])


def known(repository: Repository, stages: Mapping[str, Stages]) -> list[Conflict]:
    """The records of conflicts that the index has."""
    return _current(_read(repository), stages)


def taken_whole(repository: Repository, heads: Collection[str]) -> list[tuple[Conflict, str]]:
    """Models that were in conflict in the merge of ``heads`` into HEAD and that the index now has
    as one side has them, each with that side."""
    found = []
    for conflict in _read(repository):
        sides = {side: conflict.sides[side].commit for side in SIDES[1:] if side in conflict.sides}
        if len(sides) < 2 or sides["theirs"] not in heads:
            continue
        if sides["ours"] != repository.run("rev-parse", "HEAD", check=False).text:
            continue
        staged = {path: repository.blob_id("", path) for path in conflict.blobs}
        found += [
            (conflict, side)
            for side in sides
            if all(staged[path] == ids.get(side) for path, ids in conflict.blobs.items())
        ][:1]
    return found


def object_ids(stages: Stages) -> dict[str, str]:
    """Side -> object id."""
    return {side: entry.object_id for side, entry in stages.items()}


def conclusion(repository: Repository) -> str:
    """How the user ends what is under way, once nothing is in conflict any more; '' where that is
    nothing: after a stash, a patch, or a switch with local changes."""
    if repository.path("rebase-apply/applying").exists():
        return "git am --continue"
    if any(repository.path(name).exists() for name in ("rebase-merge", "rebase-apply")):
        return "git rebase --continue"
    for head, verb in (("CHERRY_PICK_HEAD", "cherry-pick"), ("REVERT_HEAD", "revert")):
        if repository.path(head).exists():
            return f"git {verb} --continue"
    return "git commit" if repository.path("MERGE_HEAD").exists() else ""


def _current(records: Iterable[Conflict], stages: Mapping[str, Stages]) -> list[Conflict]:
    return [
        conflict
        for conflict in records
        if conflict.blobs
        and all(object_ids(stages.get(p, {})) == dict(ids) for p, ids in conflict.blobs.items())
    ]


def _file(repository: Repository) -> Path:
    return state_directory(repository) / _NAME


def _read(repository: Repository) -> list[Conflict]:
    """What is remembered; nothing where that cannot be read: the driver's settings count then."""
    try:
        text = _file(repository).read_text(encoding="utf-8", errors="surrogateescape")
        return [_conflict(item) for item in json.loads(text)]
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return []


def _conflict(item: dict[str, Any]) -> Conflict:
    return Conflict(
        **{
            **item,
            "sides": {side: Origin(**origin) for side, origin in item["sides"].items()},
            "constituents": tuple(Origin(**origin) for origin in item["constituents"]),
        }
    )


def _write(repository: Repository, conflicts: list[Conflict]) -> None:
    path = _file(repository)
    if not conflicts:
        path.unlink(missing_ok=True)
        return
    write_state(path, canonical_json([asdict(conflict) for conflict in conflicts]) + "\n")
