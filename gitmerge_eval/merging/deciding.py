"""What becomes of each checkpoint path in a merge of several heads, before anything is computed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from gitmerge_eval.checkpoints import statistics_index
from gitmerge_eval.checkpoints.lfs import ObjectStore
from gitmerge_eval.checkpoints.lora import configuration_of
from gitmerge_eval.errors import CheckpointError, InvalidOption, MergeRefused, MissingBase
from gitmerge_eval.git.conflicts import Origin
from gitmerge_eval.git.heads import Heads, base_for
from gitmerge_eval.git.repository import EMPTY_TREE, Repository
from gitmerge_eval.git.textmerge import StagedEntry
from gitmerge_eval.git.trees import Entry, changed_tensor_paths, entries, list_together, renames
from gitmerge_eval.merging.devices import choose_accumulate, choose_device
from gitmerge_eval.merging.expansion import Expansion, Part
from gitmerge_eval.merging.joint import Joint, join, open_base, open_parts
from gitmerge_eval.merging.models import Models, is_plain, refuse_both
from gitmerge_eval.merging.options import MergeOptions
from gitmerge_eval.merging.planning import CheckpointPlan, plan_checkpoint
from gitmerge_eval.merging.sources import Source, open_source


@dataclass(frozen=True)
class Decision:
    """What becomes of one checkpoint path."""

    path: str
    """The model's: its file's, or its index' where it is in several."""
    kind: str
    """taken (whole, from one head), removed, merged, or conflict."""
    files: Mapping[str, Entry | None] = field(default_factory=dict)
    """What becomes of the model's files; those of the first head that changed it, where it is
    merged; in a conflict what the work tree is to show where HEAD has it under an older name."""
    origin: str = ""
    """The commit that it is taken from."""
    plan: CheckpointPlan | None = None
    joint: Joint | None = None
    """Who takes part in the merge, in the order of the heads."""
    stages: Mapping[str, tuple[StagedEntry, ...]] = field(default_factory=dict)
    """Of the files that are in conflict."""
    message: str = ""
    known: frozenset[str] = frozenset()
    """Every file that the model has in any of the commits."""
    disputed: CheckpointPlan | None = None
    """In a conflict of groups: the merge that they stand in the way of."""
    sides: Mapping[str, Origin] = field(default_factory=dict)
    """In such a conflict: where base, ours and theirs are."""

    @property
    def sources(self) -> list[Source]:
        """The constituents of the merge in the order of the heads, not in the plan's own."""
        plan = self.plan or self.disputed
        if plan is None or self.joint is None:
            return []
        by_commit = {source.commit: source for source in plan.constituents}
        return [by_commit[part.commit] for part in self.joint.parts]


@dataclass(frozen=True)
class Tensors:
    """All the paths of a merge that hold tensors, and what becomes of them."""

    decisions: tuple[Decision, ...]
    statistics: frozenset[str]
    """Changed statistics files; they follow their checkpoints."""
    indexes: frozenset[str]
    """The statistics indexes that take part."""
    files: Mapping[str, Mapping[str, Entry]] = field(default_factory=dict)
    """commit -> its files, for HEAD, the heads and the bases."""

    @property
    def paths(self) -> frozenset[str]:
        """Every path that is ours in this merge."""
        checkpoints = {path for decision in self.decisions for path in decision.known}
        return frozenset(checkpoints | self.statistics | self.indexes)

    @property
    def plain(self) -> frozenset[str]:
        """Those of our paths that are ordinary text: configurations and indexes."""
        return self.indexes | {path for path in self.paths if is_plain(path)}

    @property
    def plans(self) -> tuple[CheckpointPlan, ...]:
        """The merges to compute."""
        return tuple(d.plan for d in self.decisions if d.plan is not None)


def touched(repository: Repository, heads: Heads) -> set[str]:
    """The checkpoints and statistics that any head changed."""
    base = heads.bases[0] if heads.bases else None
    return changed_tensor_paths(repository, base, (heads.head, *heads.remotes))


def needs_us(repository: Repository, heads: Heads, paths: set[str]) -> bool:
    """Whether a merge without an explicit method has more than Git's own work to do.

    With one head and no model changed on both sides there is nothing to average: Git takes the
    changed version. Two shards of one model are one model.
    """
    if not paths or len(heads.remotes) > 1:
        return bool(paths)
    base = entries(repository, heads.bases[0]) if heads.bases else {}
    ours, theirs = (entries(repository, c) for c in (heads.head, heads.remotes[0]))
    models = Models(repository)
    statistics = {path for path in paths if statistics_index.is_statistic(path)}
    versions = [
        [models.files(model, files) for files in (base, ours, theirs)]
        for model in models.group(paths - statistics, (base, ours, theirs))
    ]
    versions += [
        [{path: files[path]} if path in files else {} for files in (base, ours, theirs)]
        for path in statistics
    ]
    return any(own != original and other != original for original, own, other in versions)


def decide(
    repository: Repository,
    heads: Heads,
    options: MergeOptions,
    paths: set[str],
    without: ObjectStore | None = None,
) -> Tensors:
    """Decide every path, with the plan of each merge; nothing is touched.

    ``without`` is a store that lacks tensors which are not to be had. Raises PrerequisiteError,
    InvalidOption and MergeRefused (a checkpoint renamed differently, or in conflict between more
    than two heads).
    """
    commits = dict.fromkeys([heads.head, *heads.remotes, *heads.bases])
    list_together(repository, commits)
    files = {commit: entries(repository, commit) for commit in commits}
    statistics = {path for path in paths if statistics_index.is_statistic(path)}
    moved = _renamed(repository, heads, paths - statistics)
    models, expansion = Models(repository), Expansion(repository)
    grouped = models.group(paths - statistics, files.values())
    # The shards of a model are not followed: it is gone from one place, and new in another.
    moved = {old: new for old, new in moved.items() if {old, new} <= grouped}
    decisions = []
    for path in sorted(grouped - set(moved)):
        old = next((old for old, new in moved.items() if new == path), path)
        one = _Deciding(repository, heads, options, files, models, path, old, expansion, without)
        decisions.append(one.decide())
    decisions += [
        Decision(old, "removed", dict.fromkeys(gone), known=frozenset(gone))
        for old in sorted(moved)
        for gone in [[old, *filter(None, [configuration_of(old)])]]
    ]
    plans = [decision.plan for decision in decisions if decision.plan]
    if options.rank and plans and not any(plan.outline for plan in plans):
        merged = ", ".join(f"'{plan.spec.path}'" for plan in plans)
        raise InvalidOption(f"option 'rank' is for adapters, and {merged} is none; leave it out")
    for leaf in {part.commit for one in decisions if one.joint for part in one.joint.parts}:
        # Their statistics may be in an index that no head has any more.
        files.setdefault(leaf, entries(repository, leaf))
    return with_statistics(decisions, statistics, files)


def with_statistics(
    decisions: Sequence[Decision], changed: set[str], files: Mapping[str, Mapping[str, Entry]]
) -> Tensors:
    """The decisions, with the statistics that take part: ``changed`` ones, and all that lie beside
    them or beside the decided checkpoints in any of the commits."""
    folders = {statistics_index.index_path(decision.path) for decision in decisions}
    folders |= {path.rpartition("/")[0] + "/index.json" for path in changed}
    indexes = frozenset(path for path in folders if any(path in known for known in files.values()))
    listed = changed | {
        path
        for known in files.values()
        for path in known
        if statistics_index.is_statistic(path)
        and path.endswith(".safetensors")
        and f"{path.rpartition('/')[0]}/index.json" in indexes
    }
    return Tensors(tuple(decisions), frozenset(listed), indexes, files)


def _renamed(repository: Repository, heads: Heads, paths: set[str]) -> dict[str, str]:
    """Base path -> new path of checkpoints that a head renamed; else a rename looks like a
    deletion in one head and a change in another."""
    moved: dict[str, str] = {}
    if not heads.bases:
        return moved
    for renamed in renames(repository, heads.bases[0], heads.candidates).values():
        for old, new in renamed.items():
            if old in paths and new in paths and moved.setdefault(old, new) != new:
                raise MergeRefused(
                    f"'{old}' is renamed to '{moved[old]}' on one branch and to '{new}' on "
                    "another; rename it on one of them first"
                )
    return moved


@dataclass(frozen=True)
class _Deciding:
    """One model of a merge."""

    repository: Repository
    heads: Heads
    options: MergeOptions
    commits: Mapping[str, Mapping[str, Entry]]
    models: Models
    path: str
    old_path: str
    """The model's path in the base, where heads have renamed it."""
    expansion: Expansion
    without: ObjectStore | None

    def decide(self) -> Decision:
        """What becomes of it."""
        try:
            base_commit = self._base_commit()
        except MissingBase:
            joint = self._join(self.heads.candidates)
            if not joint.is_of_leaves:
                raise
            base_commit = joint.base
        base_files = entries(self.repository, base_commit or EMPTY_TREE)
        original = self._in(base_files, "the base")
        versions = {
            commit: self._in(self.commits[commit], self.heads.name(commit))
            for commit in self.heads.candidates
        }
        head = self._in(self.commits[self.heads.head], self.heads.name(self.heads.head))
        known = {path for files in (original, head, *versions.values()) for path in files}
        decision = self._decide(base_commit, original, versions)
        if decision.kind in ("taken", "removed"):
            decision = replace(decision, files={**dict.fromkeys(known), **decision.files})
        return replace(decision, known=frozenset(known | {self.path}))

    def _decide(
        self,
        base_commit: str | None,
        original: Mapping[str, Entry],
        versions: Mapping[str, Mapping[str, Entry]],
    ) -> Decision:
        changed = {c: files for c, files in versions.items() if files != original}
        distinct = [f for i, f in enumerate(changed.values()) if f not in [*changed.values()][:i]]
        if not changed:
            return Decision(self.path, "taken", original, base_commit or "")
        if {} in distinct:
            if len(distinct) == 1:
                return Decision(self.path, "removed")
            return self._conflict(original, versions, "deleted on one branch, changed on another")
        origin, files = next(iter(changed.items()))
        if len(distinct) == 1 and not self.options.explicit:
            return Decision(self.path, "taken", files, origin)
        joint = self._join(changed)
        base = None
        if joint.is_of_leaves:
            base = open_base(self.repository, joint.base, self._path_in(origin), origin)
        elif base_commit and original:
            base = open_source(self.repository, base_commit, self.old_path, "the base")
        joint, sources = open_parts(self.repository, joint, base)
        if not sources:
            return Decision(self.path, "taken", files, origin)
        if self.options.resources.device != "auto":
            # Refuses a GPU that is not there.
            choose_device(self.options.resources.device, self.options.method)
        accumulate = choose_accumulate(self.options.accumulate)
        plan = plan_checkpoint(self.repository, self.path, self.options, base, sources, accumulate)
        if reason := conflicts_in(plan):
            conflict = self._conflict(original, versions, reason)
            message = conflict.message
            if plan.in_state("conflict"):
                message += ", or take one side of each with 'gitmerge-eval resolve'"
            return replace(
                conflict, disputed=plan, joint=joint, sides=self._sides(base), message=message
            )
        return Decision(self.path, "merged", files, origin, plan, joint)

    def _join(self, commits: Iterable[str]) -> Joint:
        """Who takes part where these heads have changed the model."""
        having = [c for c in commits if self.models.files(self._path_in(c), self.commits[c])]
        parts = [Part(c, self.heads.name(c), self._path_in(c)) for c in having]
        return join(self.expansion, self.heads, self.options, parts, self.without)

    def _path_in(self, commit: str) -> str:
        there = self.models.files(self.path, self.commits[commit])
        return self.path if there else self.old_path

    def _base_commit(self) -> str | None:
        """The commit of the base; MissingBase where several have other versions of any file."""
        found = base_for(self.repository, self.heads, self.old_path, self.options.base)
        if len(self.heads.bases) > 1:
            for base in self.heads.bases:
                for path in self.models.files(self.old_path, self.commits[base]):
                    base_for(self.repository, self.heads, path, self.options.base)
        return found

    def _in(self, commit: Mapping[str, Entry], label: str) -> dict[str, Entry]:
        """The model's files in a commit, by the names that the result has for them."""
        refuse_both(self.path, commit, label)
        try:
            there = self.models.files(self.path, commit)
            if there or self.path == self.old_path:
                return there
            renamed = {self.old_path: self.path}
            if (old := configuration_of(self.old_path)) and (new := configuration_of(self.path)):
                renamed[old] = new
            older = self.models.files(self.old_path, commit)
            return {renamed.get(path, path): entry for path, entry in older.items()}
        except CheckpointError as error:
            raise error.within(f"'{label}'") from None

    def _sides(self, base: Source | None) -> dict[str, Origin]:
        original = {"base": Origin(base.commit, base.path, base.label)} if base else {}
        ours, theirs = self.heads.head, self.heads.remotes[0]
        return {**original, "ours": self._origin(ours), "theirs": self._origin(theirs)}

    def _origin(self, commit: str) -> Origin:
        return Origin(commit, self._path_in(commit), self.heads.name(commit))

    def _conflict(
        self,
        original: Mapping[str, Entry],
        versions: Mapping[str, Mapping[str, Entry]],
        reason: str,
    ) -> Decision:
        if len(self.heads.remotes) > 1:
            # Three stages cannot hold it, and Git would have nobody to ask.
            raise MergeRefused(f"'{self.path}': {reason}")
        ours = versions.get(self.heads.head, original)
        theirs = versions.get(self.heads.remotes[0], original)
        stages = {}
        for path in sorted({*original, *ours, *theirs}):
            sides = ((original, 1), (ours, 2), (theirs, 3))
            if ours.get(path) != theirs.get(path):
                stages[path] = tuple(StagedEntry(s[path], n) for s, n in sides if path in s)
        return Decision(
            self.path,
            "conflict",
            dict(ours),
            stages=stages,
            message=f"CONFLICT (model): '{self.path}': {reason}",
        )


def conflicts_in(plan: CheckpointPlan) -> str:
    """Why the plan cannot be carried out, with the remedy; '' where it can."""
    if conflicts := plan.in_state("conflict"):
        listed = "\n".join(f"  {group.name}: {group.remark}" for group in conflicts[:20])
        more = f"\n  … and {len(conflicts) - 20} more" if len(conflicts) > 20 else ""
        return (
            f"{len(conflicts)} parameter groups cannot be merged:\n{listed}{more}\n"
            "  bring these groups to one shape and dtype on one of the branches, then merge again"
        )
    if plan.outline and plan.outline.differences:
        listed = "\n".join(f"  {difference}" for difference in plan.outline.differences)
        return (
            f"the adapters' configurations differ:\n{listed}\n"
            "  bring them to one value on one of the branches, then merge again"
        )
    return ""
