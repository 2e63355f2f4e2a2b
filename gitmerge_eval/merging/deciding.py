"""What becomes of each checkpoint path in a merge of several heads, before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gitmerge_eval.checkpoints import statistics_index
from gitmerge_eval.errors import MergeRefused
from gitmerge_eval.git.heads import Heads, base_for
from gitmerge_eval.git.repository import EMPTY_TREE, Repository
from gitmerge_eval.git.textmerge import StagedEntry
from gitmerge_eval.git.trees import Entry, changed_tensor_paths, entries, renames
from gitmerge_eval.merging.engine import choose_accumulate, choose_device
from gitmerge_eval.merging.options import MergeOptions
from gitmerge_eval.merging.planning import CheckpointPlan, plan_checkpoint
from gitmerge_eval.merging.sources import Source, open_source


@dataclass(frozen=True)
class Decision:
    """What becomes of one checkpoint path."""

    path: str
    kind: str
    """taken (whole, from one head), removed, merged, or conflict."""
    entry: Entry | None = None
    """Of a path that is taken; in a conflict the version that the work tree is to show, HEAD's,
    where HEAD has it under an older name."""
    origin: str = ""
    """The commit that it is taken from."""
    plan: CheckpointPlan | None = None
    stages: tuple[StagedEntry, ...] = ()
    message: str = ""


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
        checkpoints = {decision.path for decision in self.decisions}
        return frozenset(checkpoints | self.statistics | self.indexes)

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

    With one head and no path changed on both sides there is nothing to average: Git takes the
    changed version.
    """
    if not paths or len(heads.remotes) > 1:
        return bool(paths)
    base = entries(repository, heads.bases[0]) if heads.bases else {}
    ours, theirs = (entries(repository, c) for c in (heads.head, heads.remotes[0]))
    return any(
        ours.get(path) != base.get(path) and theirs.get(path) != base.get(path) for path in paths
    )


def decide(repository: Repository, heads: Heads, options: MergeOptions, paths: set[str]) -> Tensors:
    """Decide every path, with the plan of each merge; nothing is touched.

    Raises PrerequisiteError, InvalidOption and MergeRefused (a checkpoint renamed differently, or
    in conflict between more than two heads).
    """
    commits = dict.fromkeys([heads.head, *heads.remotes, *heads.bases])
    files = {commit: entries(repository, commit) for commit in commits}
    statistics = {path for path in paths if statistics_index.is_statistic(path)}
    moved = _renamed(repository, heads, paths - statistics)
    decisions: list[Decision] = []
    for path in sorted((paths - statistics - set(moved)) | set(moved.values())):
        old_path = next((old for old, new in moved.items() if new == path), path)
        decisions.append(_decide_path(repository, heads, options, files, path, old_path))
    decisions += [Decision(old, "removed") for old in sorted(moved)]
    folders = {statistics_index.index_path(decision.path) for decision in decisions}
    folders |= {path.rpartition("/")[0] + "/index.json" for path in statistics}
    indexes = frozenset(path for path in folders if any(path in known for known in files.values()))
    listed = statistics | {
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
    for commit in heads.candidates:
        for old, new in renames(repository, heads.bases[0], commit).items():
            if old in paths and new in paths and moved.setdefault(old, new) != new:
                raise MergeRefused(
                    f"'{old}' is renamed to '{moved[old]}' on one branch and to '{new}' on "
                    "another; rename it on one of them first"
                )
    return moved


def _decide_path(
    repository: Repository,
    heads: Heads,
    options: MergeOptions,
    files: Mapping[str, Mapping[str, Entry]],
    path: str,
    old_path: str,
) -> Decision:
    base_commit = base_for(repository, heads, old_path, options.base)
    base_files = entries(repository, base_commit or EMPTY_TREE)
    original = base_files.get(old_path)
    versions = {
        commit: files[commit].get(path) or files[commit].get(old_path)
        for commit in heads.candidates
    }
    changed = {commit: entry for commit, entry in versions.items() if entry != original}
    distinct = list(dict.fromkeys(changed.values()))
    if not changed:
        return Decision(path, "taken", original, base_commit or "")
    if None in distinct:
        if len(distinct) == 1:
            return Decision(path, "removed")
        return _conflict(
            heads, path, original, versions, "deleted on one branch, changed on another"
        )
    origin, entry = next(iter(changed.items()))
    if len(distinct) == 1 and not options.explicit:
        return Decision(path, "taken", entry, origin)
    sources = [_open(repository, heads, c, path, old_path, files) for c in changed]
    base = None
    if base_commit and original:
        base = open_source(repository, base_commit, old_path, "the base")
        # Stored anew since, with other metadata, it is still the base's model.
        sources = [source for source in sources if not source.equals(base)]
        if not sources:
            return Decision(path, "taken", entry, origin)
    if options.device != "auto":
        choose_device(options.device, options.method)  # refuses a GPU that is not there
    accumulate = choose_accumulate(options.accumulate)
    plan = plan_checkpoint(repository, path, options, base, sources, accumulate)
    if conflicts := plan.in_state("conflict"):
        listed = "\n".join(f"  {group.name}: {group.remark}" for group in conflicts[:20])
        more = f"\n  … and {len(conflicts) - 20} more" if len(conflicts) > 20 else ""
        return _conflict(
            heads,
            path,
            original,
            versions,
            f"{len(conflicts)} parameter groups cannot be merged:\n{listed}{more}\n"
            "  bring these groups to one shape and dtype on one of the branches, then merge again",
        )
    return Decision(path, "merged", entry, origin, plan)


def _open(
    repository: Repository,
    heads: Heads,
    commit: str,
    path: str,
    old_path: str,
    files: Mapping[str, Mapping[str, Entry]],
) -> Source:
    there = path if path in files[commit] else old_path
    return open_source(repository, commit, there, heads.name(commit))


def _conflict(
    heads: Heads,
    path: str,
    original: Entry | None,
    versions: Mapping[str, Entry | None],
    reason: str,
) -> Decision:
    if len(heads.remotes) > 1:
        # Three stages cannot hold it, and Git would have nobody to ask.
        raise MergeRefused(f"'{path}': {reason}")
    sides = ((heads.head, 2), (heads.remotes[0], 3))
    stages = [StagedEntry(original, 1)] if original else []
    for commit, stage in sides:
        entry = versions.get(commit, original)
        if entry is not None:
            stages.append(StagedEntry(entry, stage))
    return Decision(
        path,
        "conflict",
        versions.get(heads.head),
        stages=tuple(stages),
        message=f"CONFLICT (model): '{path}': {reason}",
    )
