"""A checkpoint in lines for a terminal: one version as a list of modules, two as what differs.

From metadata alone. What is estimated is marked with ≈ (:mod:`gitmerge_eval.checkpoints.changes`).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from math import prod

from gitmerge_eval.checkpoints.changes import (
    GroupChange,
    by_module,
    changes,
    estimated_difference,
    estimated_norm,
)
from gitmerge_eval.checkpoints.metadata import GroupRecord, Metadata
from gitmerge_eval.checkpoints.modules import modules, natural

MOST_LINES = 30
"""Modules of one version: of a merge of many, Git shows each that differs once for every parent."""
MOST_DIFFERING = 60
"""Modules of two versions."""
MOST_NAMES = 20
"""Groups of one state that are named."""
_LONGEST = 100
"""Characters of a value of the file's own metadata that are shown."""
_DIGITS = 10


def one(metadata: Metadata) -> list[str]:
    """A version as lines, of which only those of changed modules differ from another version's."""
    records = list(metadata.groups.values())
    lines = [f"checkpoint: {_summary(records)}"]
    lines += [f"__metadata__ {safe(k)}: {_short(v)}" for k, v in metadata.header.items()]
    cut = modules(metadata.groups, MOST_LINES)
    members: dict[str, list[GroupRecord]] = {}
    for record in records:
        members.setdefault(cut[record.name], []).append(record)
    for module in sorted(members, key=natural):
        found = members[module]
        norm = estimated_norm(found)
        length = "" if norm is None else f", norm ≈ {norm:.4g}"
        lines.append(f"{safe(module)}: {_summary(found)}{length}, {_digest(found)}")
    return lines


def both(old: Metadata | None, new: Metadata | None) -> list[str]:
    """What differs between two versions; of one that is missing, the other's lines."""
    if old is None or new is None:
        there = old or new
        if there is None:
            return []
        word = "added" if old is None else "deleted"
        return [f"{word} {one(there)[0]}", *(f"  {line}" for line in one(there)[1:])]
    every = changes(old, new)
    counts = Counter(change.state for change in every)
    states = [f"{counts[s]} {s}" for s in ("changed", "added", "removed", "reshaped", "equal")
              if counts[s]]  # fmt: skip
    lines = [f"{_plural(len(every), 'parameter group')}: {', '.join(states)}"]
    lines += _headers(old, new)
    cut = modules((change.name for change in every), MOST_DIFFERING)
    moved = {
        module: found
        for module, found in by_module(every, cut).items()
        if any(change.state == "changed" for change in found)
    }
    if moved:
        whole = [change for found in moved.values() for change in found]
        lines.append(f"relative change {_relative(whole)} of the modules below")
        width = min(max(map(len, moved)), 60)
        lines += [f"  {safe(m):<{width}}  {_changed(found)}" for m, found in moved.items()]
    for state in ("added", "removed", "reshaped"):
        lines += _named(state, [change for change in every if change.state == state])
    return lines


def _changed(found: Sequence[GroupChange]) -> str:
    count = sum(change.state == "changed" for change in found)
    elements = sum(prod(change.new.shape) for change in found if change.new)
    return f"{_relative(found)}  {count} of {_plural(len(found), 'group')}, {elements:,} parameters"


def _relative(found: Iterable[GroupChange]) -> str:
    """About ‖b - a‖ / ‖a‖ over the groups that both versions have."""
    here = [change for change in found if change.state in ("equal", "changed")]
    apart = estimated_difference(here)
    norm = estimated_norm(change.old for change in here if change.old)
    return "≈ ?" if apart is None or not norm else f"≈ {apart / norm:.2g}"


def _named(state: str, found: Sequence[GroupChange]) -> Iterator[str]:
    for change in found[:MOST_NAMES]:
        yield f"  {state}: {safe(change.name)} {change.described}"
    if len(found) > MOST_NAMES:
        yield f"  {state}: {len(found) - MOST_NAMES} more"


def _headers(old: Metadata, new: Metadata) -> Iterator[str]:
    for key in sorted({*old.header, *new.header}):
        before, after = old.header.get(key), new.header.get(key)
        if before != after:
            shown = [_short(value) if value is not None else "none" for value in (before, after)]
            yield f"  __metadata__ {safe(key)}: {' → '.join(shown)}"


def _summary(records: Sequence[GroupRecord]) -> str:
    elements = sum(prod(record.shape) for record in records)
    dtypes = ", ".join(sorted({record.dtype for record in records}))
    groups = _plural(len(records), "group")
    return f"{groups}, {elements:,} parameters{f', {dtypes}' if dtypes else ''}"


def _digest(records: Iterable[GroupRecord]) -> str:
    content = "".join(f"{r.name}\0{r.dtype}{r.shape}\0{r.object_id}\n" for r in records)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _short(value: str) -> str:
    shown = safe(value)
    if len(shown) <= _LONGEST:
        return shown
    digest = hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]
    return f"{shown[:_LONGEST]}… ({len(value):,} characters, {digest})"


def safe(text: str) -> str:
    r"""Text that cannot steer a terminal: a name in a checkpoint may be anybody's.

    >>> print(safe(f"layer{chr(27)}[31m"))
    layer\x1b[31m
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
