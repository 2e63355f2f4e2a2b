"""Our merge methods as plugins of git-theta, whose own merge driver then offers them in its menu.

git-theta loads the classes named in the entry-point group ``git_theta.plugins.merges`` when
``git-theta-merge`` starts, asks the user for a method and its arguments group by group, and calls
it with one group of ours, theirs and the base. So a plugin can offer what is a function of one
group: the methods without statistics. TIES' threshold over the whole model cannot be had from one
group; the two methods that have one say in their names that theirs is the group's.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from git_theta import metadata as theta
from git_theta.merges import Merge, MergeArgument
from git_theta.utils import DiffState, NoResult

from gitmerge_eval import methods
from gitmerge_eval.checkpoints.lfs import ObjectStore
from gitmerge_eval.checkpoints.metadata import GroupRecord, Metadata
from gitmerge_eval.errors import GitMergeEvalError, MergeRefused
from gitmerge_eval.git.repository import Repository
from gitmerge_eval.hyperparameters import Hyperparameter
from gitmerge_eval.merging import driver_options, task_vector
from gitmerge_eval.merging.computing import compute
from gitmerge_eval.merging.devices import choose_accumulate
from gitmerge_eval.merging.planning import plan_checkpoint
from gitmerge_eval.merging.sources import Source
from gitmerge_eval.merging.task_vector import TASK_VECTOR
from gitmerge_eval.records import MergeMethod

_ELSEWHERE = frozenset(
    {
        *(DiffState.ADDED_A, DiffState.ADDED_B, DiffState.ADDED_BOTH),
        *(DiffState.DELETED_A, DiffState.DELETED_B, DiffState.DELETED_BOTH),
    }
)
"""States in which a version is missing, so that there is nothing to compute."""
_LARGEST = {float: sys.float_info.max, int: 2**62}


class _MethodOfOurs(Merge):  # type: ignore[misc]
    """A merge of one parameter group by one of our methods."""

    DESCRIPTION = NAME = SHORT_CUT = ""
    INACTIVE_STATES = _ELSEWHERE
    method: MergeMethod
    asked: tuple[Hyperparameter, ...] = ()

    @classmethod
    def merge_arguments(cls) -> list[MergeArgument]:
        """What git-theta asks for: it knows no defaults, so that only what matters is asked."""
        return [
            MergeArgument(
                name=parameter.name,
                description=f"{parameter.help} (here: {parameter.default:g} by default)",
                type=parameter.type,
                range=_range(parameter),
            )
            for parameter in cls.asked
        ]

    def merge(
        self,
        param_name: tuple[str, ...],
        paramA: theta.ParamMetadata | None,  # noqa: N803
        paramB: theta.ParamMetadata | None,  # noqa: N803
        paramO: theta.ParamMetadata | None,  # noqa: N803
        *others: object,
        **arguments: float,
    ) -> theta.ParamMetadata | type[NoResult]:
        """The merged group; NoResult, with the reason on stderr, makes git-theta ask again.

        ``others`` are git-theta's: the three models' metadata, three dictionaries for values that
        plugins may share, and the model's path.
        """
        options = {parameter.option: repr(arguments[parameter.name]) for parameter in self.asked}
        try:
            if paramA is None or paramB is None or paramO is None:
                # git-theta also calls a group changed that one side deleted.
                raise MergeRefused("one side has deleted the group; take ours, theirs or the base")
            sides = [_record(param_name, side) for side in (paramO, paramA, paramB)]
            return _parameter(merged(self.method, options, sides, str(others[-1])))
        except (GitMergeEvalError, OSError) as error:
            print(f"gitmerge-eval: {'/'.join(param_name)}: {error}", file=sys.stderr, flush=True)
            return NoResult


def merged(
    method: MergeMethod, options: Mapping[str, str], sides: list[GroupRecord], path: str
) -> GroupRecord:
    """Base, ours and theirs of one group, merged as a model of that group alone; the result is in
    the store. Raises MergeRefused where shapes or dtypes differ, and what computing raises."""
    repository = Repository.here()
    store = ObjectStore(repository)
    base, *constituents = (
        Source(label, "", path, record.object_id, Metadata({record.name: record}))
        for label, record in zip(("the base", "ours", "theirs"), sides, strict=True)
    )
    chosen = driver_options.build(method.name, options)
    accumulate = choose_accumulate(chosen.accumulate)
    plan = plan_checkpoint(repository, path, chosen, base, constituents, accumulate)
    if method is TASK_VECTOR:
        plan = task_vector.settled(plan, store)
    if conflicts := plan.in_state("conflict"):
        raise MergeRefused(f"{conflicts[0].remark}; take ours, theirs or the base")
    (record,) = compute(plan, store).metadata.groups.values()
    return record


def _range(parameter: Hyperparameter) -> tuple[float, float]:
    """Without a range git-theta accepts no answer at all."""
    largest = _LARGEST[parameter.type]
    low = -largest if parameter.minimum is None else parameter.minimum
    return low, largest if parameter.maximum is None else parameter.maximum


def _record(name: tuple[str, ...], parameter: theta.ParamMetadata) -> GroupRecord:
    document: Any = parameter.serialize()
    for key in reversed(name):
        document = {key: document}
    text = json.dumps(document, cls=theta.MetadataEncoder)
    (record,) = Metadata.parse(text.encode()).groups.values()
    return record


def _parameter(record: GroupRecord) -> theta.ParamMetadata:
    document = json.loads(Metadata({record.name: record}).serialize())
    (parameter,) = theta.Metadata.from_metadata_dict(document).flatten().values()
    return parameter


def _plugin(
    method: MergeMethod, shortcut: str, *asked: str, name: str = "", title: str = ""
) -> type[_MethodOfOurs]:
    parameters = {parameter.name: parameter for parameter in method.hyperparameters}
    return type(
        f"Merge_{method.name.replace('-', '_')}",
        (_MethodOfOurs,),
        {
            "__doc__": method.title,
            "NAME": name or method.name,
            "SHORT_CUT": shortcut,
            "DESCRIPTION": f"{title or method.title} (gitmerge-eval)",
            "method": method,
            "asked": tuple(parameters[option] for option in asked),
        },
    )


_PER_GROUP = "with the threshold of each parameter group instead of the whole model's"
TaskVector = _plugin(TASK_VECTOR, "tv", "scale")
Average = _plugin(methods.get("average"), "mean")
Slerp = _plugin(methods.get("slerp"), "slerp", "t")
TaskArithmetic = _plugin(methods.get("task-arithmetic"), "ta", "scale")
Dare = _plugin(methods.get("dare"), "dare", "scale", "drop_rate", "seed")
TiesPerGroup = _plugin(
    methods.get("ties"), "ties", "scale", "density",
    name="ties-per-group", title=f"TIES {_PER_GROUP}",
)  # fmt: skip
DareTiesPerGroup = _plugin(
    methods.get("dare-ties"), "dties", "scale", "drop_rate", "density", "seed",
    name="dare-ties-per-group", title=f"DARE-TIES {_PER_GROUP}",
)  # fmt: skip
