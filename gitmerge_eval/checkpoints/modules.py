"""The modules of a model: its parameter groups put together by the beginnings of their names."""

from __future__ import annotations

import re
from collections.abc import Iterable

MOST_MODULES = 100
TOP = "(top)"
"""The module of the groups whose names have one part, and of all where there is no better cut."""


def modules(names: Iterable[str], most: int = MOST_MODULES) -> dict[str, str]:
    """group -> its module: the first d parts of its name without the last, joined by dots.

    d is the greatest that gives at most ``most`` modules. It depends on the names alone, so that
    two versions of a model are cut alike.

    >>> modules(["layer.0.weight", "layer.0.bias", "layer.1.weight", "scale"])["layer.0.bias"]
    'layer.0'
    >>> sorted(set(modules(["layer.0.weight", "layer.1.weight", "scale"], most=2).values()))
    ['(top)', 'layer']
    """
    parents = {name: re.split(r"[./]", name)[:-1] for name in names}
    deepest = max(map(len, parents.values()), default=0)
    for depth in range(deepest, 0, -1):
        found = {name: ".".join(parts[:depth]) or TOP for name, parts in parents.items()}
        if len(set(found.values())) <= most:
            return found
    return dict.fromkeys(parents, TOP)


def natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts names with numbers as people do.

    >>> sorted(["layer.10", "layer.9", "head"], key=natural)
    ['head', 'layer.9', 'layer.10']
    """
    parts = re.split(r"([0-9]+)", name)  # every second one is a number
    return [(int(part), "") if i % 2 else (-1, part) for i, part in enumerate(parts)]
