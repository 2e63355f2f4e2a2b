"""The option values that a sweep tries: the paper's (arXiv 2409.18314, Table 5), or one's own."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gitmerge_eval import methods
from gitmerge_eval.errors import InvalidOption, UnknownName
from gitmerge_eval.hyperparameters import Hyperparameter
from gitmerge_eval.merging.options import text_of
from gitmerge_eval.records import MergeMethod

Axes = Mapping[str, tuple[str, ...]]
"""option -> the values to try, as text."""


@dataclass(frozen=True)
class FamilyOfOptions:
    """Candidates of a method that differ in one hyperparameter, for which it shares work."""

    parameter: str | None
    """None: a candidate of its own."""
    given: tuple[Mapping[str, str], ...]
    """The explicit options of each candidate, in ascending order of the parameter."""


@dataclass(frozen=True)
class Grid:
    """What is tried for each method."""

    axes: Mapping[str, Axes]
    """method -> its axes."""
    taken_over: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    """method -> (option, the method whose best value of it is taken over)."""

    def families(
        self, method: str, best: Mapping[str, Mapping[str, str]]
    ) -> tuple[FamilyOfOptions, ...]:
        """The candidates of a method; ``best``: method -> the options of its best candidate."""
        declared, axes = methods.get(method), dict(self.axes[method])
        fixed = {
            option: best[other][option]
            for option, other in self.taken_over.get(method, ())
            if option in best.get(other, {})
        }
        shared = _shared(declared, axes)
        values = axes.pop(shared.option) if shared else ("",)
        families = []
        for others in itertools.product(*axes.values()):
            rest = {**fixed, **dict(zip(axes, others, strict=True))}
            given = tuple({**rest, **({shared.option: v} if shared else {})} for v in values)
            families.append(FamilyOfOptions(shared.name if shared else None, given))
        return tuple(families)

    def takes_from(self, method: str) -> set[str]:
        """The methods whose best values it takes over."""
        return {other for _, other in self.taken_over.get(method, ())}

    def size(self, method: str) -> int:
        """The number of candidates of a method."""
        return sum(len(family.given) for family in self.families(method, {}))

    def as_dict(self) -> dict[str, Any]:
        """All that determines which candidates there are."""
        return {"axes": {m: dict(a) for m, a in self.axes.items()}, "taken": dict(self.taken_over)}


def grid(names: Sequence[str], own: Sequence[str] = ()) -> Grid:
    """The grid of the methods ``names``, in the declared order; ``own`` are texts
    ``method.option=v1,v2,…`` that take the place of the paper's values for that method.

    Lists (weights) are separated by semicolons. Raises UnknownName or InvalidOption.

    >>> grid(["ties"], ["ties.density=0.1,0.2"]).axes
    {'ties': {'density': ('0.1', '0.2')}}
    """
    chosen = [method for method in methods.load().values() if method.name in names]
    for name in names:
        methods.get(name)
    given = _parsed(own)
    for name in given:
        if name not in names:
            raise InvalidOption(f"--grid names '{name}', which is not among the methods to try")
    axes = {method.name: given.get(method.name) or _papers(method) for method in chosen}
    taken = {
        method.name: tuple(
            (p.option, p.tuned_by)
            for p in method.hyperparameters
            if p.tuned_by in names and p.option not in axes[method.name]
        )
        for method in chosen
    }
    return Grid(axes, {name: pairs for name, pairs in taken.items() if pairs})


def _papers(method: MergeMethod) -> dict[str, tuple[str, ...]]:
    """The values that the paper sweeps; none where the method has nothing to tune."""
    swept = next(iter(method.sweeps), None)
    for parameter in method.hyperparameters:
        if parameter.name == swept and parameter.sweep:
            return {parameter.option: tuple(text_of(value) for value in parameter.sweep)}
    return {}


def _parsed(own: Sequence[str]) -> dict[str, dict[str, tuple[str, ...]]]:
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    for text in own:
        where, equals, values = text.partition("=")
        name, dot, option = where.partition(".")
        if not (equals and dot and values):
            raise InvalidOption(
                f"'{text}' is no grid; write <method>.<option>=<value>,<value>,…, such as "
                "ties.density=0.1,0.2"
            )
        parameter = _parameter(methods.get(name), option)
        listed = values.split(";" if parameter.type is tuple else ",")
        parsed = {parameter.parse(value): value.strip() for value in listed}
        ascending = sorted(parsed) if parameter.type in (int, float) else list(parsed)
        found.setdefault(name, {})[option] = tuple(parsed[value] for value in ascending)
    return found


def _parameter(method: MergeMethod, option: str) -> Hyperparameter:
    known = {parameter.option: parameter for parameter in method.hyperparameters}
    if option not in known:
        raise UnknownName.among(f"option of method '{method.name}'", option, known)
    return known[option]


def _shared(method: MergeMethod, axes: Axes) -> Hyperparameter | None:
    """The axis for which the method shares work, the longest of several."""
    known = [p for p in method.hyperparameters if p.name in method.sweeps and p.option in axes]
    return max(known, key=lambda parameter: len(axes[parameter.option]), default=None)
