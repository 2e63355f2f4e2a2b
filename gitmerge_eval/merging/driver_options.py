"""What the configuration asks of the merge driver: ``merge-eval.driver.<option>``, all checked.

A driver has no command line of its own; ``git -c merge-eval.driver.scale=0.5 cherry-pick …`` is
one. What is given so and cannot be meant is refused; what lies in a configuration file may also
be for another method than the one that is used.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from gitmerge_eval import methods
from gitmerge_eval.errors import UnknownName, UsageError
from gitmerge_eval.git.repository import Repository
from gitmerge_eval.merging import options as merge_options
from gitmerge_eval.merging.options import MergeOptions
from gitmerge_eval.merging.task_vector import TASK_VECTOR
from gitmerge_eval.records import MergeMethod

SECTION = "merge-eval.driver"
GENERAL = tuple(name for name in merge_options.GENERAL if name != "base")
"""Git itself says what the base is."""


@dataclass(frozen=True)
class _Given:
    value: str
    here: bool
    """Whether it was given for this very command."""


def configured(repository: Repository) -> MergeOptions:
    """The driver's method and options; UnknownName, UsageError or InvalidOption, with the key."""
    found = _settings(repository, SECTION)
    name = found.pop("method").value if "method" in found else TASK_VECTOR.name
    known = _known(_method(name))
    # What lies in a file may be for another method, which a command chooses.
    items = {
        option: given.value
        for option, given in found.items()
        if given.here or option in known or not merge_options.owners(option)
    }
    return build(name, items)


def misplaced(repository: Repository) -> list[str]:
    """What was given for this command and is read by merges only, in words."""
    known = {*merge_options.GENERAL, *(p.option for p in TASK_VECTOR.hyperparameters)}
    return [
        f"'merge-eval.{option}' is for merges; the driver's is '{SECTION}.{option}'"
        for option, given in _settings(repository, "merge-eval").items()
        if given.here and (option in known or merge_options.owners(option))
    ]


def build(name: str, items: Mapping[str, str]) -> MergeOptions:
    """The options of a driver's merge by the method called ``name``; errors as above."""
    method = _method(name)
    for option in items:
        if option not in _known(method):
            _refuse(option, method)
    own = {p.option: items[p.option] for p in method.hyperparameters if p.option in items}
    method.options(own)
    others = [(option, value) for option, value in items.items() if option not in own]
    return replace(merge_options.parse(others), method=method, given=own)


def _method(name: str) -> MergeMethod:
    if name == TASK_VECTOR.name:
        return TASK_VECTOR
    known = methods.load()
    if name not in known:
        raise UnknownName.among("merge method", name, [*known, TASK_VECTOR.name])
    return known[name]


def _known(method: MergeMethod) -> list[str]:
    return [*GENERAL, *(parameter.option for parameter in method.hyperparameters)]


def _refuse(option: str, method: MergeMethod) -> None:
    if option == "base":
        raise UsageError(
            "option 'base' cannot be chosen here: Git says what the base is; 'git merge "
            "--strategy-option=base=<revision>' can"
        )
    if owners := merge_options.owners(option):
        raise UsageError(
            f"method '{method.name}' has no option '{option}'; it belongs to {', '.join(owners)}: "
            f"choose one of them ({SECTION}.method)"
        )
    every = {name for other in methods.load().values() for name in _known(other)}
    raise UnknownName.among(f"{SECTION} option", option, every | {*_known(method)})


def _settings(repository: Repository, section: str) -> dict[str, _Given]:
    """option -> what counts of the keys right below ``section``."""
    pattern = f"^{section}\\.[^.]*$"
    done = repository.run("config", "-z", "--show-scope", "--get-regexp", pattern, check=False)
    fields = os.fsdecode(done.stdout).split("\0")[:-1]
    found = {}
    for scope, line in _pairs(fields):
        key, _, value = line.partition("\n")
        found[key.removeprefix(f"{section}.")] = _Given(value, scope == "command")
    return found


def _pairs(fields: list[str]) -> Iterable[tuple[str, str]]:
    return zip(fields[0::2], fields[1::2], strict=True)
