"""Two revisions of models side by side: scores, and group by group how far apart and whither.

Groups that are equal in both are not read, and no figure has a part of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

from gitmerge_eval.checkpoints import statistics_index
from gitmerge_eval.checkpoints.changes import GroupChange, changes
from gitmerge_eval.checkpoints.lfs import ObjectStore
from gitmerge_eval.checkpoints.modules import modules, natural
from gitmerge_eval.errors import UnknownName, UsageError
from gitmerge_eval.git.repository import Repository
from gitmerge_eval.git.trailers import merge_of_ours
from gitmerge_eval.git.trees import entries, tensor_paths
from gitmerge_eval.inspecting.contributions import WHOLE
from gitmerge_eval.inspecting.reading import Array, Progress, Sums, Wanted, measured, slot
from gitmerge_eval.inspecting.scores import TaskPair, side_by_side
from gitmerge_eval.merging import adapters
from gitmerge_eval.merging.computing import silent
from gitmerge_eval.merging.models import Models
from gitmerge_eval.merging.planning import FLOATING
from gitmerge_eval.merging.sources import Source, open_source

_A, _B, _DIFFERENCE, _TASK_A, _TASK_B = range(5)
"""The vectors that are measured: a, b, b - a, and where there is a base p a - p and b - p."""


@dataclass(frozen=True)
class Difference:
    """Figures of one group, of a module, or of all groups that differ."""

    elements: int
    norm_a: float
    norm_b: float
    relative: float | None
    """‖b - a‖ / ‖a‖; None where a is 0."""
    cosine: float | None
    """Of a and b."""
    largest: float
    """max |b - a|."""
    non_finite: int
    """Elements that are not finite in a or b; they count as 0."""
    task_cosine: float | None = None
    """Of a - p and b - p, over the groups that the base has; None where one of them is 0."""
    sign_conflict: float | None = None
    """The part of the elements that both moved from the base in which the signs are opposite."""


@dataclass(frozen=True)
class ModelComparison:
    """One model in both revisions."""

    path: str
    states: Mapping[str, int]
    """State -> number of groups: equal, changed, added, removed, reshaped."""
    modules: Mapping[str, Difference]
    """Module -> its figures; first the whole model's."""
    groups: Mapping[str, Difference]
    others: tuple[GroupChange, ...]
    """What is not measured: added, removed, reshaped, or not of floating numbers."""
    remark: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "path": self.path,
            "states": dict(self.states),
            "modules": {name: vars(found) for name, found in self.modules.items()},
            "groups": {name: vars(found) for name, found in self.groups.items()},
            "others": [
                {"group": o.name, "state": o.state, "what": o.described} for o in self.others
            ],
            "remark": self.remark or None,
        }


@dataclass(frozen=True)
class Comparison:
    """Two revisions."""

    a: str
    b: str
    base: str | None
    scores: tuple[TaskPair, ...]
    models: tuple[ModelComparison, ...]
    remarks: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "a": self.a,
            "b": self.b,
            "base": self.base,
            "scores": [{**vars(pair), "difference": pair.difference} for pair in self.scores],
            "models": [model.as_dict() for model in self.models],
            "remarks": list(self.remarks),
        }


def compare(
    repository: Repository,
    first: str,
    second: str,
    *,
    base: str | None = None,
    checkpoint: str | None = None,
    progress: Progress = silent,
) -> Comparison:
    """Compare the models of two revisions, or one of them: ``checkpoint``.

    Task vectors are from ``base``, by default the merge base. Raises UsageError where there is
    nothing to compare, GitError for an unknown revision, and what reading tensors raises.
    """
    a, b = repository.commit(first), repository.commit(second)
    origin, remarks = _base(repository, a, b, base)
    files = {commit: entries(repository, commit) for commit in (a, b)}
    models = Models(repository)
    paths = {
        path
        for commit, known in files.items()
        for path in tensor_paths(repository, commit, known)
        if not statistics_index.is_statistic(path)
    }
    found = sorted(models.group(paths, files.values()))
    if checkpoint is not None and checkpoint not in found:
        raise UnknownName.among("checkpoint", checkpoint, found)
    wanted = found if checkpoint is None else [checkpoint]
    if not wanted:
        raise UsageError(
            f"neither '{first}' nor '{second}' has a checkpoint; 'gitmerge-eval track' makes a "
            "file one"
        )
    compared = []
    for path in wanted:
        missing = [
            name
            for name, commit in ((first, a), (second, b))
            if not models.files(path, files[commit])
        ]
        if missing:
            remark = f"'{missing[0]}' does not have it"
            compared.append(ModelComparison(path, {}, {}, {}, (), remark))
            continue
        one, other = (open_source(repository, c, path, n) for c, n in ((a, first), (b, second)))
        original = _original(repository, models, origin, path)
        compared.append(_model(repository, path, original, one, other, progress))
    scores, said = side_by_side(repository, (a, b), wanted)
    return Comparison(a, b, origin, tuple(scores), tuple(compared), (*remarks, *said))


def _base(
    repository: Repository, a: str, b: str, given: str | None
) -> tuple[str | None, list[str]]:
    if given is not None:
        return repository.commit(given), []
    found = repository.run("merge-base", a, b, check=False).text or None
    if found is None:
        return None, ["no common ancestor, so there are no task vectors; name one with --base"]
    if found not in (a, b):
        return found, []
    later = merge_of_ours(repository, b if found == a else a)
    bases = [commit for commit in later.bases if commit not in (a, b)] if later else []
    if bases:  # a merge and one of its constituents
        return bases[0], []
    text = "one is an ancestor of the other, so there are no two task vectors; see --base"
    return None, [text]


def _original(repository: Repository, models: Models, base: str | None, path: str) -> Source | None:
    if base is None or not models.files(path, entries(repository, base)):
        return None
    return open_source(repository, base, path, "the base")


def _model(
    repository: Repository,
    path: str,
    base: Source | None,
    a: Source,
    b: Source,
    progress: Progress,
) -> ModelComparison:
    base, (a, b) = adapters.aligned(base, (a, b))
    every = changes(a.metadata, b.metadata)
    changed = [c for c in every if c.state == "changed" and c.old and c.old.dtype in FLOATING]
    others = tuple(c for c in every if c.state != "equal" and c not in changed)
    by_base = {change.name: _has(base, change) for change in changed}
    store = ObjectStore(repository)
    sums: dict[str, Sums] = {}
    for with_base in (True, False):
        sources = (a, b, base) if with_base and base else (a, b)
        groups = [
            Wanted(name, tuple(slot(source, name) for source in sources))
            for name, has in by_base.items()
            if has == with_base
        ]
        sums |= measured(store, groups, _vectors, what=f"reading {path}", progress=progress)
    cut = modules(change.name for change in every)
    members: dict[str, list[Sums]] = {}
    for name in sorted(sums, key=natural):
        members.setdefault(WHOLE, []).append(sums[name])
        members.setdefault(cut[name], []).append(sums[name])
    return ModelComparison(
        path,
        dict(Counter(change.state for change in every)),
        {module: _difference(parts) for module, parts in members.items()},
        {name: _difference([sums[name]]) for name in sorted(sums, key=natural)},
        others,
    )


def _has(base: Source | None, change: GroupChange) -> bool:
    record = base.metadata.groups.get(change.name) if base else None
    new = change.new
    return bool(record and new and (record.shape, record.dtype) == (new.shape, new.dtype))


def _vectors(tensors: Sequence[Array]) -> list[Array]:
    a, b, *base = tensors
    return [a, b, b - a, *(tensor - base[0] for tensor in (a, b) if base)]


def _difference(parts: Iterable[Sums]) -> Difference:
    found = list(parts)
    both = reduce(add, (part.of(_A, _B, _DIFFERENCE) for part in found))
    based = [part.of(_TASK_A, _TASK_B) for part in found if len(part.norms) > _TASK_A]
    tasks = reduce(add, based) if based else None
    norm_a, norm_b, apart = both.norms.tolist()
    return Difference(
        elements=both.elements,
        norm_a=norm_a,
        norm_b=norm_b,
        relative=apart / norm_a if norm_a else None,
        cosine=both.cosine(_A, _B),
        largest=float(both.largest[_DIFFERENCE]),
        non_finite=int(both.non_finite[_DIFFERENCE]),
        task_cosine=tasks.cosine(0, 1) if tasks else None,
        sign_conflict=tasks.conflict(0, 1) if tasks else None,
    )
