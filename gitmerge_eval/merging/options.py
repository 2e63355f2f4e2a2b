"""What ``--strategy-option`` and the configuration ask for, checked before anything is touched."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gitmerge_eval import methods
from gitmerge_eval.errors import InvalidOption, UnknownName, UsageError
from gitmerge_eval.git.repository import Repository
from gitmerge_eval.merging.devices import DEFAULT_RESOURCES, Resources, parse_bytes
from gitmerge_eval.records import MergeMethod

DEFAULT_METHOD = "average"
ACCUMULATE = ("auto", "float32", "float64")
CONSTITUENTS = ("leaves", "heads", "combined")
GENERAL = {
    "method": "how checkpoints are merged",
    "base": "the revision whose checkpoint is θ_p (default: the merge base of all heads)",
    "constituents": "leaves, heads or combined: what takes part of a head that is a merge itself",
    "device": "auto, cpu, cuda or cuda:<n>",
    "accumulate": "auto, float32 or float64: the precision of sums",
    "rank": "the highest rank of a merged adapter's factors (default: whatever is exact)",
    "memory": "auto, or the bytes that the tensors in work may take together, such as 4G",
}
GIT_OPTIONS = {
    *("ours", "theirs", "ignore-space-change", "ignore-all-space", "ignore-space-at-eol"),
    *("ignore-cr-at-eol", "renormalize", "no-renormalize", "find-renames", "no-renames"),
    *("rename-threshold", "subtree", "diff-algorithm", "patience", "histogram", "minimal"),
}
"""Git's own options of merge strategies, passed on for ordinary files."""


@dataclass(frozen=True)
class MergeOptions:
    """The options of one merge, sorted by whose they are."""

    method: MergeMethod
    given: Mapping[str, str]
    """The method's options as text."""
    explicit: bool
    """Whether the method was named on the command line: then it is never skipped in silence."""
    git: tuple[str, ...] = ()
    base: str | None = None
    resources: Resources = DEFAULT_RESOURCES
    accumulate: str = "auto"
    rank: int | None = None
    """The highest rank of a merged adapter's factors."""
    constituents: str = "leaves"
    """What takes part of a head that is a merge itself."""

    @property
    def items(self) -> dict[str, str]:
        """All that matters to a merge but method and base, as on a command line."""
        general = {
            "accumulate": self.accumulate,
            "device": self.resources.device,
            "memory": self.resources.memory,
        }
        return {**self.given, **general, **({"rank": str(self.rank)} if self.rank else {})}


def parse(
    items: Sequence[tuple[str, str | None]], settings: Mapping[str, str] | None = None
) -> MergeOptions:
    """Sort and check ``(name, value)`` pairs; the last of equal names counts, as with Git.

    ``settings`` are defaults from the configuration (``merge-eval.method`` and so on). Raises
    UnknownName with a suggestion, or InvalidOption.
    """
    ours: dict[str, str] = {}
    git: dict[str, str | None] = {}
    for name, value in items:
        if name in GIT_OPTIONS:
            git[name] = value
        elif value is None:
            if name not in GENERAL and not owners(name):
                raise _unknown(name, None)
            raise InvalidOption(f"option '{name}' needs a value: {name}=<value>")
        else:
            ours[name] = value
    defaults = dict(settings or {})
    explicit = "method" in ours
    method = methods.get(ours.pop("method", defaults.pop("method", DEFAULT_METHOD)))
    general = {name: ours.pop(name) for name in list(ours) if name in GENERAL}
    general = {**{k: v for k, v in defaults.items() if k in GENERAL}, **general}
    own = {parameter.option for parameter in method.hyperparameters}
    for name in ours:
        if name not in own:
            raise _unknown(name, method)
    given = {**{k: v for k, v in defaults.items() if k in own}, **ours}
    method.options(given)
    return MergeOptions(
        method,
        given,
        explicit,
        tuple(name if value is None else f"{name}={value}" for name, value in git.items()),
        general.get("base"),
        Resources(_device(general.get("device", "auto")), _memory(general.get("memory", "auto"))),
        _choice("accumulate", general.get("accumulate", "auto"), ACCUMULATE),
        _rank(general["rank"]) if "rank" in general else None,
        _choice("constituents", general.get("constituents", "leaves"), CONSTITUENTS),
    )


def recorded(
    method: str,
    values: Mapping[str, object],
    items: Sequence[tuple[str, str | None]] = (),
    settings: Mapping[str, str] | None = None,
) -> MergeOptions:
    """The options of a merge that was made, as its trailers have them, with ``items`` over them."""
    given = {name for name, _ in items}
    own = [(name, text_of(value)) for name, value in values.items() if name not in given]
    return parse([("method", method), *own, *items], settings)


def shown(method: MergeMethod, values: Mapping[str, object]) -> dict[str, object]:
    """A method's options by their names on the command line, defaults included."""
    names = {parameter.name: parameter.option for parameter in method.hyperparameters}
    return {names[name]: value for name, value in values.items() if value is not None}


def text_of(value: object) -> str:
    """An option's value as it is given on the command line.

    >>> text_of(0.3), text_of((0.5, 0.5)), text_of("group")
    ('0.3', '0.5,0.5', 'group')
    """
    return ",".join(map(repr, value)) if isinstance(value, (list, tuple)) else str(value)


def settings(repository: Repository, section: str = "merge-eval") -> dict[str, str]:
    """``merge-eval.method`` and the like, or those of a section below it, as option -> value."""
    prefix = f"{section}."
    done = repository.run("config", "-z", "--get-regexp", f"^{section}\\.", check=False)
    pairs = (line.split("\n", 1) for line in done.fields)
    return {
        key.removeprefix(prefix): value
        for key, _, value in ((p[0], None, p[1] if len(p) > 1 else "true") for p in pairs)
        if "." not in key.removeprefix(prefix)
    }


def owners(option: str) -> list[str]:
    """The methods that have an option of this name."""
    return [
        method.name
        for method in methods.load().values()
        if any(option == parameter.option for parameter in method.hyperparameters)
    ]


def _unknown(name: str, method: MergeMethod | None) -> UsageError:
    if method and (having := owners(name)):
        return UsageError(
            f"method '{method.name}' has no option '{name}'; it belongs to {', '.join(having)}: "
            "choose the method with method=<name>"
        )
    known = [*GENERAL, *difflib.get_close_matches(name, GIT_OPTIONS, n=1)]
    if method:
        known += [parameter.option for parameter in method.hyperparameters]
    return UnknownName.among("strategy option", name, known)


def _choice(name: str, value: str, choices: Sequence[str]) -> str:
    if value not in choices:
        raise InvalidOption(
            f"option '{name}' is '{value}', which is not one of {', '.join(choices)}"
        )
    return value


def _rank(value: str) -> int:
    if not (value.isascii() and value.isdigit() and 0 < int(value) < 2**31):
        raise InvalidOption(f"option 'rank' is '{value}', which is not a whole number from 1")
    return int(value)


def _memory(value: str) -> str:
    if value != "auto":
        parse_bytes(value)
    return value


def _device(value: str) -> str:
    kind, _, index = value.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (index and not index.isdigit()):
        raise InvalidOption(
            f"option 'device' is '{value}', which is not one of auto, cpu, cuda, cuda:<n>"
        )
    return value
