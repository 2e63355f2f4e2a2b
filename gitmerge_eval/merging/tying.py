"""Tied tensors: groups that are one parameter under several names.

safetensors has no aliases, so a program that ties an embedding to an output layer saves the tensor
twice, or leaves a name out. Two groups are tied where they are equal in the base and in every
constituent; then they have to be equal in the result too. See docs/decisions/tied-tensors.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from gitmerge_eval.merging.sources import Source, value_of

if TYPE_CHECKING:
    from gitmerge_eval.merging.planning import GroupPlan

TIED = "tied"
"""The state of a group that is not computed because another one is."""


def tie(
    groups: Sequence[GroupPlan], sources: Sequence[Source], known: Callable[[str], bool]
) -> tuple[GroupPlan, ...]:
    """The groups, of each set of tied ones only one to be computed.

    That is the first by name of those for which ``known`` is true, the statistics that the method
    needs being there, else the first by name.
    """
    sets: dict[tuple[object, ...], list[GroupPlan]] = {}
    for group in groups:
        if group.state == "merged":
            records = [source.metadata.groups.get(group.name) for source in sources]
            values = tuple(value_of(record) if record else None for record in records)
            sets.setdefault(values, []).append(group)
    tied_to: dict[str, str] = {}
    for alike in sets.values():
        if len(alike) > 1:
            names = sorted(
                (group.name for group in alike), key=lambda name: (not known(name), name)
            )
            tied_to.update(dict.fromkeys(names[1:], names[0]))
    return tuple(
        replace(group, state=TIED, tied_to=tied_to[group.name], remark="tied to another group")
        if group.name in tied_to
        else group
        for group in groups
    )
