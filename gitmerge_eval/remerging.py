"""The merge that HEAD's model is, made again: without some constituents, or by another method.

The use case behind ``gitmerge-eval drop`` and ``gitmerge-eval remerge``. The result is an ordinary
commit on top of HEAD, computed and landed as a merge is, with the trailers of a merge.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from gitmerge_eval.checkpoints import statistics_index
from gitmerge_eval.checkpoints.lfs import ObjectStore
from gitmerge_eval.errors import (
    GitError,
    InvalidOption,
    MergeRefused,
    UnknownName,
)
from gitmerge_eval.evaluation.parts import own_declarations
from gitmerge_eval.git import journal, trailers
from gitmerge_eval.git.heads import Heads
from gitmerge_eval.git.repository import EMPTY_TREE, Repository
from gitmerge_eval.git.textmerge import TextMerge
from gitmerge_eval.git.trees import Entry, changed_tensor_paths, differing, entries, write_tree
from gitmerge_eval.merging import options as merge_options
from gitmerge_eval.merging.computing import Progress, silent
from gitmerge_eval.merging.deciding import Decision, Tensors, conflicts_in, with_statistics
from gitmerge_eval.merging.devices import choose_accumulate, choose_device
from gitmerge_eval.merging.expansion import Composite, Expansion, Part
from gitmerge_eval.merging.joint import join, open_base, open_parts
from gitmerge_eval.merging.merge import carry_out, check_state, fetched
from gitmerge_eval.merging.merge_report import MergeReport
from gitmerge_eval.merging.models import Models
from gitmerge_eval.merging.options import MergeOptions, text_of
from gitmerge_eval.merging.planning import plan_checkpoint

UNFINISHED = {
    "MERGE_HEAD": "a merge",
    "CHERRY_PICK_HEAD": "a cherry-pick",
    "REVERT_HEAD": "a revert",
    "rebase-merge": "a rebase",
    "rebase-apply": "a rebase",
}
"""What in the git directory says that something else has to be ended first."""

Items = Sequence[tuple[str, str | None]]


@dataclass(frozen=True)
class RemergedModel:
    """One model before and after."""

    path: str
    method: str
    constituents: tuple[str, ...]
    dropped: tuple[str, ...]
    before: str
    """The commit whose trailers say what it was."""


@dataclass(frozen=True)
class Remerged:
    """What was done, or in a dry run would be."""

    previous: str
    """HEAD before."""
    commit: str | None
    """HEAD now; None where nothing was committed."""
    models: tuple[RemergedModel, ...]
    removed: tuple[str, ...] = ()
    """Declarations of what was dropped."""
    remarks: tuple[str, ...] = ()
    reports: tuple[MergeReport, ...] = ()


def remerge(
    repository: Repository,
    names: Sequence[str] = (),
    items: Items = (),
    *,
    message: str | None = None,
    dry_run: bool = False,
    progress: Progress = silent,
) -> Remerged:
    """Merge HEAD's constituents but ``names`` again, by what ``items`` say or as they were.

    ``items`` are strategy options; without a method that of HEAD's merge counts, with its options.
    Raises UsageError for a wrong option or name, MergeRefused where HEAD's model is no merge, its
    last constituent would go, or work could be lost, and what merging raises. Until the new model
    is whole nothing is touched.
    """
    recovered = tuple(journal.recover(repository))
    remerging = _Remerging(repository, names, items)
    tensors = fetched(repository, remerging.decide)
    done = remerging.described(tensors)
    done = replace(done, remarks=(*recovered, *done.remarks))
    if remerging.is_what_head_is(tensors):
        said = "HEAD's model is this very merge already: nothing to do"
        return replace(done, removed=(), remarks=(*recovered, said))
    if dry_run:
        return done
    check_state(repository, {*tensors.paths, *done.removed})
    text = TextMerge(
        write_tree(repository, f"{remerging.head}^{{tree}}", dict.fromkeys(done.removed))
    )
    merged = carry_out(
        repository, remerging.heads, remerging.options, tensors, text,
        progress=progress, message=message or remerging.message,
    )  # fmt: skip
    commit = _commit(repository, message or remerging.message)
    return replace(
        done,
        commit=commit,
        remarks=(*done.remarks, *merged.messages),
        reports=merged.reports,
    )


def _commit(repository: Repository, message: str) -> str:
    """Commit what has landed, hooks and all; GitError where one of them refuses."""
    state = trailers.read_state(repository)
    with TemporaryDirectory(prefix="gitmerge-eval-") as folder:
        file = Path(folder) / "message"
        file.write_text(message, encoding="utf-8", errors="surrogateescape")
        if state is not None:
            trailers.apply_trailers(file, state, repository)
        done = repository.run(
            "commit", "--quiet", "--allow-empty", "--cleanup=verbatim", "--file", str(file),
            # Our own post-commit hook would ask for what comes next anyway.
            config={"merge-eval.evaluate": "off"},
            check=False,
        )  # fmt: skip
    if done.status:
        raise GitError(
            f"the new model is staged, and 'git commit' was refused ({done.status}): "
            f"{done.stderr or done.text}; complete it with 'git commit', or give it up with "
            "'git reset --hard'"
        )
    trailers.remove_state(repository)
    return repository.commit("HEAD")


class _Remerging:
    """One command, until it is known what it does."""

    def __init__(self, repository: Repository, names: Sequence[str], items: Items) -> None:
        _refuse_unfinished(repository)
        self.repository, self.items = repository, items
        self.head = repository.commit("HEAD")
        branch = repository.run("symbolic-ref", "--short", "--quiet", "HEAD", check=False).text
        self.heads = Heads((), self.head, (), {self.head: branch or "HEAD"}, False)
        self.expansion = Expansion(repository)
        self.files = entries(repository, self.head)
        self.composites = self._composites()
        self.leaves = {
            path: self.expansion.leaves(Part(self.head, self.heads.name(self.head), path))
            for path in self.composites
        }
        self.dropped = self._chosen(names)
        if names:
            # The other models stay as they are.
            gone = self.dropped.keys()
            self.composites = {
                path: composite
                for path, composite in self.composites.items()
                if any(leaf.commit in gone for leaf in self.leaves[path])
            }
        self.options = self._options()

    @property
    def message(self) -> str:
        """The commit's message, without trailers."""
        paths = ", ".join(self.composites)
        if self.dropped:
            listed = ", ".join(f"'{part.name}'" for part in self.dropped.values())
            return f"Drop {listed} from the merge of {paths}\n"
        return f"Merge {paths} again by {self.options.method.name}\n"

    def _composites(self) -> dict[str, Composite]:
        tensors = changed_tensor_paths(self.repository, None, [self.head])
        paths = {path for path in tensors if not statistics_index.is_statistic(path)}
        models = sorted(Models(self.repository).group(paths, [self.files]))
        found = {path: self.expansion.composite(self.head, path) for path in models}
        merges = {path: composite for path, composite in found.items() if composite}
        if not merges:
            listed = ", ".join(f"'{path}'" for path in models) or "no model at all"
            raise MergeRefused(
                f"HEAD's model is no merge ({listed}): no commit in its history has trailers that "
                "name it as it is. It was never merged, was changed after its merge, or lost its "
                "trailers; merge the branches with 'git merge -X method=<name> <branches>'"
            )
        return merges

    def _chosen(self, names: Iterable[str]) -> dict[str, Part]:
        """commit -> the leaf, for every name: in full, without what is before the last slash, or
        the commit's id."""
        known = {leaf.commit: leaf for leaves in self.leaves.values() for leaf in leaves}
        chosen: dict[str, Part] = {}
        for name in names:
            exact = [leaf for leaf in known.values() if leaf.name == name]
            near = [
                leaf
                for leaf in known.values()
                if leaf.name.rpartition("/")[2] == name
                or (len(name) >= 7 and leaf.commit.startswith(name))
            ]
            found = exact or near
            if not found:
                raise UnknownName.among("constituent", name, {leaf.name for leaf in known.values()})
            if len(found) > 1:
                ids = ", ".join(leaf.commit[:10] for leaf in found)
                raise InvalidOption(f"'{name}' are {len(found)} constituents; say which: {ids}")
            chosen[found[0].commit] = found[0]
        return chosen

    def _options(self) -> MergeOptions:
        """Those of the recorded merge, with what is given over them; of another method its own."""
        given = dict(self.items)
        settings = merge_options.settings(self.repository)
        if "method" in given:
            # What these merges are of is known; the configuration is for new ones.
            general = {k: v for k, v in settings.items() if k not in ("base", "constituents")}
            return merge_options.parse(self.items, general)
        records = [composite.record for composite in self.composites.values()]
        recorded = {(r.method, tuple(sorted(map(str, r.options.items())))) for r in records}
        if len(recorded) > 1:
            by = ", ".join(f"'{path}' by {c.record.method}" for path, c in self.composites.items())
            raise InvalidOption(
                f"these models were merged differently ({by}), and one commit names one method: "
                "choose it with -X method=<name>"
            )
        own = {k: v for k, v in records[0].options.items() if k != "constituents"}
        general = {k: v for k, v in settings.items() if k in ("device", "memory")}
        chosen = merge_options.recorded(records[0].method, own, self.items, general)
        if self.dropped and own.get("weights") is not None and "weights" not in given:
            raise InvalidOption(
                f"HEAD was merged with weights={text_of(own['weights'])}, one for each "
                "constituent; give those of the rest with -X weights=<numbers>"
            )
        return chosen

    def decide(self, without: ObjectStore | None) -> Tensors:
        """What becomes of every model; ``without`` is a store that could not fetch everything."""
        decisions = [self._decide(path, without) for path in self.composites]
        commits = {part.commit for one in decisions if one.joint for part in one.joint.parts}
        files: dict[str, Mapping[str, Entry]] = {self.head: self.files}
        files |= {commit: entries(self.repository, commit) for commit in sorted(commits)}
        return with_statistics(decisions, set(), files)

    def _decide(self, path: str, without: ObjectStore | None) -> Decision:
        whole = Part(self.head, self.heads.name(self.head), path)
        options = replace(self.options, constituents="leaves")
        joint = join(self.expansion, self.heads, options, [whole], without, self.dropped)
        base = open_base(self.repository, joint.base, path, self.head)
        joint, sources = open_parts(self.repository, joint, base)
        if not sources:
            listed = ", ".join(f"'{part.name}'" for part in self.dropped.values())
            raise MergeRefused(
                f"nothing is left of '{path}' without {listed}: the last constituent cannot be "
                "dropped; take the merge back with 'git revert -m 1', or the base's model with "
                f"'git checkout {joint.base or '<base>'} -- {path}'"
            )
        choose_device(self.options.resources.device, self.options.method)
        plan = plan_checkpoint(
            self.repository, path, self.options, base, sources,
            choose_accumulate(self.options.accumulate),
        )  # fmt: skip
        if reason := conflicts_in(plan):
            raise MergeRefused(f"'{path}': {reason}")
        own = self.expansion.files(self.head, path)
        return Decision(path, "merged", own, self.head, plan, joint, known=frozenset({path, *own}))

    def is_what_head_is(self, tensors: Tensors) -> bool:
        """Whether every model is already the merge that was decided."""
        return all(
            (plan.spec.digest, self.composites[plan.spec.path].path)
            in self.composites[plan.spec.path].record.specs
            for plan in tensors.plans
        )

    def described(self, tensors: Tensors) -> Remerged:
        """What will be done."""
        models = tuple(
            RemergedModel(
                decision.path,
                self.options.method.name,
                tuple(source.label for source in decision.sources),
                tuple(
                    leaf.name for leaf in self.leaves[decision.path] if leaf.commit in self.dropped
                ),
                self.composites[decision.path].commit,
            )
            for decision in tensors.decisions
        )
        removed, remarks = self._files_of_dropped(tensors.paths)
        return Remerged(self.head, None, models, tuple(removed), tuple(remarks))

    def _files_of_dropped(self, ours: frozenset[str]) -> tuple[list[str], list[str]]:
        """The declarations that go with what is dropped, and what is said of its other files."""
        removed, remarks = [], []
        for part in self.dropped.values():
            if not self.repository.has_commit(part.commit):
                remarks.append(f"the commit of '{part.name}' is not here: its files stay")
                continue
            brought = self._brought_by(part) - ours
            own, declared = entries(self.repository, part.commit), self._declared_by(part)
            gone = {path for path in declared & brought if self.files[path] == own[path]}
            removed += sorted(gone)
            if changed := declared & brought - gone:
                remarks.append(
                    f"{_listed(changed)} of '{part.name}' was changed since: it stays; remove it "
                    "where it declares nothing else"
                )
            if others := brought - declared:
                remarks.append(f"what '{part.name}' brought beside stays: {_listed(others)}")
        return removed, remarks

    def _brought_by(self, part: Part) -> set[str]:
        """The ordinary files of HEAD that the branch of ``part`` alone added or changed."""
        base = part.base if part.base and self.repository.has_commit(part.base) else EMPTY_TREE
        before, own = entries(self.repository, base), entries(self.repository, part.commit)
        kept = {leaf.commit for leaves in self.leaves.values() for leaf in leaves}
        others = [
            entries(self.repository, commit)
            for commit in sorted(kept - self.dropped.keys())
            if self.repository.has_commit(commit)
        ]
        tensors = changed_tensor_paths(self.repository, base, [part.commit])
        return {
            path
            for path in differing(self.repository, base, part.commit) - tensors
            if path in self.files
            and self.files[path] != before.get(path)
            and not statistics_index.is_statistic(path)
            and all(other.get(path) != own.get(path) for other in others)
        }

    def _declared_by(self, part: Part) -> set[str]:
        return set(own_declarations(self.repository, part))


def _listed(paths: Collection[str]) -> str:
    shown = sorted(paths)
    more = f" and {len(shown) - 10} more" if len(shown) > 10 else ""
    return ", ".join(shown[:10]) + more


def _refuse_unfinished(repository: Repository) -> None:
    for name, what in UNFINISHED.items():
        if repository.path(name).exists():
            raise MergeRefused(
                f"{what} is not finished; conclude it or give it up (see 'git status'), then "
                "repeat the command"
            )
