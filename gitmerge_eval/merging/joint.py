"""Who takes part in the merge of one model: the heads, or what those are made of that are merges.

With leaves in the place of merges, one head after the other gives what all at once would have given
(docs/decisions/joint-merges.md).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from gitmerge_eval.checkpoints.lfs import ObjectStore
from gitmerge_eval.errors import CheckpointError, PrerequisiteError
from gitmerge_eval.git.heads import Heads, base_for
from gitmerge_eval.git.repository import Repository
from gitmerge_eval.merging.expansion import (
    Composite,
    Expansion,
    Part,
    path_in,
    uniquely_named,
)
from gitmerge_eval.merging.options import MergeOptions, shown
from gitmerge_eval.merging.sources import Source, open_source

HEADS, LEAVES, COMBINED = "heads", "leaves", "combined"


@dataclass(frozen=True)
class Joint:
    """The constituents of one model's merge, in the order of the heads."""

    parts: tuple[Part, ...]
    base: str | None = None
    """The commit of the base, where leaves take part."""
    expanded: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """head -> what takes part in its place."""
    combined: Mapping[str, tuple[Part, ...]] = field(default_factory=dict)
    """commit of a constituent that stands for several models -> these."""
    missing: str = ""
    """Why, in words; '' where it was asked for."""
    kept: tuple[str, ...] = ()
    """Heads that are merges and take part as they are, as was asked for."""
    notices: tuple[str, ...] = ()

    @property
    def is_of_leaves(self) -> bool:
        """Whether a head is there by what it is made of."""
        return bool(self.expanded or self.combined)


def open_part(repository: Repository, part: Part) -> Source:
    """The model of a constituent, with what it stands for."""
    found = open_source(repository, part.commit, part.path, part.name)
    return replace(found, models=part.models)


def open_parts(
    repository: Repository, joint: Joint, base: Source | None
) -> tuple[Joint, list[Source]]:
    """The models of those constituents that differ from ``base``, and the joint of these alone."""
    opened = [(part, open_part(repository, part)) for part in joint.parts]
    # Stored anew since, with other metadata, it is still the base's model.
    opened = [pair for pair in opened if base is None or not pair[1].equals(base)]
    kept = replace(joint, parts=tuple(part for part, _ in opened))
    return kept, [source for _, source in opened]


def open_base(repository: Repository, commit: str | None, path: str, like: str) -> Source | None:
    """The model that ``commit`` has where ``like`` has one at ``path``, as the base of a merge;
    None where there is none."""
    there = None if commit is None else path_in(repository, commit, path, like)
    if commit is None or there is None:
        return None
    return open_source(repository, commit, there, "the base")


def join(
    expansion: Expansion,
    heads: Heads,
    options: MergeOptions,
    parts: Sequence[Part],
    without: ObjectStore | None = None,
    dropped: Collection[str] = (),
) -> Joint:
    """What takes part where ``parts`` are the heads that changed the model.

    Leaves of the ``dropped`` commits take none. ``without`` is a store that could not fetch
    everything: merges of what it lacks are combined. Raises PrerequisiteError where a leaf cannot
    be had and the method cannot do without it, and MissingBase where the leaves have several bases
    that differ.
    """
    return _Joining(expansion, heads, options, without, frozenset(dropped)).join(parts)


@dataclass
class _Joining:
    expansion: Expansion
    heads: Heads
    options: MergeOptions
    without: ObjectStore | None
    dropped: frozenset[str]
    combined: dict[str, tuple[Part, ...]] = field(default_factory=dict)
    missing: str = ""

    @property
    def repository(self) -> Repository:
        return self.expansion.repository

    def join(self, parts: Sequence[Part]) -> Joint:
        self.expansion.look_up(parts)
        merges = [p for p in parts if self.expansion.composite(p.commit, p.path)]
        if not merges:
            return Joint(tuple(parts))
        if self.options.constituents == HEADS:
            return Joint(tuple(parts), kept=tuple(part.name for part in merges))
        leaves = {
            part: tuple(
                leaf
                for leaf in self.expansion.leaves(part, self._whole)
                if leaf.commit not in self.dropped
            )
            for part in parts
        }
        found = tuple(leaf for part in parts for leaf in leaves[part])
        self._refuse_overlap(found)
        kept, notices = self._independent(found)
        named = uniquely_named(kept)
        names = {old.commit: new.name for old, new in zip(kept, named, strict=True)}
        expanded = {
            part.name: tuple(names[leaf.commit] for leaf in leaves[part] if leaf.commit in names)
            for part in merges
            if leaves[part] != (part,) and part.commit not in self.combined
        }
        return Joint(
            named,
            self._base(parts, merges, found),
            expanded,
            self.combined,
            self.missing,
            notices=(*notices, *self._twice(named)),
        )

    def _whole(self, part: Part, composite: Composite) -> Part | None:
        """The merge itself, where it was asked for or a leaf cannot be had."""
        if self.options.constituents == COMBINED:
            return self._combined(part, composite, "")
        lacking = [
            why
            for child in self.expansion.children(composite)
            if self.expansion.composite(child.commit, child.path) is None
            and child.commit not in self.dropped
            and (why := self._lacking(child))
        ]
        return self._combined(part, composite, lacking[0]) if lacking else None

    def _lacking(self, part: Part) -> str:
        """What of a leaf cannot be had, in words."""
        if not self.repository.has_commit(part.commit):
            return f"commit {part.commit[:10]} of '{part.name}' is not in this clone"
        if self.without is None:
            return ""
        source = open_source(self.repository, part.commit, part.path, part.name)
        files = [source.files, *(found.metadata for found in source.statistics.values())]
        wanted = [record.object_id for metadata in files for record in metadata.groups.values()]
        if any(True for _ in self.without.missing(wanted)):
            return f"tensors of '{part.name}' are neither here nor to be had from the remote"
        return ""

    def _combined(self, part: Part, composite: Composite, lacking: str) -> Part:
        children = self.expansion.children(composite)
        why = self._inexact(composite)
        if any(leaf.commit in self.dropped for leaf in self.expansion.leaves(part)):
            why = "what is dropped is a part of it"
        if why:
            listed = ", ".join(f"'{child.name}'" for child in children)
            first = f"; {lacking}" if lacking else ""
            raise PrerequisiteError(
                f"'{part.name}' is a merge of {listed}{first}, and it cannot stand for them: "
                f"{why}; fetch what is missing ('git fetch --unshallow' in a shallow clone), or "
                f"merge '{part.name}' as it is with --strategy-option=constituents={HEADS}"
            )
        self.combined[part.commit] = self.expansion.leaves(part)
        self.missing = self.missing or lacking
        return replace(part, models=sum(child.models for child in children))

    def _inexact(self, composite: Composite) -> str:
        """Why a merge with its statistics does not give what its constituents would; '' if so."""
        method, record = self.options.method, composite.record
        if not method.combined:
            return f"'{method.name}' needs the models themselves"
        if record.method != method.name:
            return f"it was merged by '{record.method}', and this is by '{method.name}'"
        wanted = shown(method, method.options(self.options.given))
        own = {name: record.options.get(name) for name in {*wanted, "weights", "rank"}}
        own = {name: value for name, value in own.items() if value is not None}
        if self.options.rank or {**own, "precision": 0} != {**wanted, "precision": 0}:
            return "it was merged with other options"
        if "weights" in wanted:
            return "its constituents have weights"
        children = self.expansion.children(composite)
        if any(c.models == 1 and self.expansion.composite(c.commit, c.path) for c in children):
            return "it was merged of merges as they were"
        if record.options.get("constituents") == HEADS:  # of merges that are not here, too
            return "it was merged of merges as they were"
        return ""

    def _refuse_overlap(self, parts: Sequence[Part]) -> None:
        """PrerequisiteError where a model would count by itself and in a merge that stands for
        it."""
        own: dict[str, str] = {}
        for part in parts:
            for leaf in self.combined.get(part.commit, (part,)):
                commits = [commit for commit in own if self._related(commit, leaf.commit)]
                if self.combined and commits and own[commits[0]] != part.name:
                    raise PrerequisiteError(
                        f"'{leaf.name}' takes part in both '{own[commits[0]]}' and '{part.name}', "
                        "and merges that stand for their constituents would count it twice; fetch "
                        "what is missing of these, or merge the heads as they are with "
                        f"--strategy-option=constituents={HEADS}"
                    )
                own[leaf.commit] = part.name

    def _related(self, one: str, other: str) -> bool:
        if one == other:
            return True
        if not (self.repository.has_commit(one) and self.repository.has_commit(other)):
            return False
        ancestor = ("merge-base", "--is-ancestor")
        return any(
            self.repository.succeeds(*ancestor, *pair) for pair in ((one, other), (other, one))
        )

    def _independent(self, parts: Sequence[Part]) -> tuple[tuple[Part, ...], tuple[str, ...]]:
        """Each leaf once, and none that another contains: Git reduces the heads of a merge so."""
        once = {part.commit: part for part in reversed(parts)}
        ordered = [once[commit] for commit in dict.fromkeys(part.commit for part in parts)]
        single = [
            p.commit for p in ordered if p.models == 1 and self.repository.has_commit(p.commit)
        ]
        if len(single) < 2:
            return tuple(ordered), ()
        left = self.repository.text("merge-base", "--independent", *single).split()
        gone = [part for part in ordered if part.commit in single and part.commit not in left]
        notices = tuple(
            f"'{part.name}' ({part.commit[:10]}) is contained in another constituent: it takes no "
            "part of its own"
            for part in gone
        )
        return tuple(part for part in ordered if part not in gone), notices

    def _twice(self, parts: Sequence[Part]) -> Iterable[str]:
        """What to say of constituents that are one model under two commits."""
        known: dict[str, str] = {}
        for part in parts:
            if not self.repository.has_commit(part.commit):
                continue
            files = self.expansion.files(part.commit, part.path)
            blobs = " ".join(entry.object_id for entry in files.values())
            if blobs in known:
                yield (
                    f"'{known[blobs]}' and '{part.name}' have the same model, which counts twice; "
                    "where it is one contribution, take one out with 'gitmerge-eval drop'"
                )
            known.setdefault(blobs, part.name)

    def _base(
        self, parts: Sequence[Part], merges: Sequence[Part], leaves: Sequence[Part]
    ) -> str | None:
        """The base that was asked for; else the one that all recorded merges and the heads agree
        on; else the merge base of all of them."""
        if self.options.base:
            return self.repository.commit(self.options.base)
        known = {part.commit for part in parts} | self.combined.keys()
        recorded = {leaf.base for leaf in leaves if leaf.commit not in known} | {
            composite.base
            for part in merges
            if (composite := self.expansion.composite(part.commit, part.path))
        }
        here = [base for base in recorded if base and self.repository.has_commit(base)]
        bases = list(dict.fromkeys([*self.heads.bases, *sorted(here)]))
        models = {self._model_at(base, parts[0]) for base in bases}
        if None in recorded:
            models.add(())
        if bases and len(models) == 1:
            return bases[0]
        commits = [leaf.commit for leaf in leaves if self.repository.has_commit(leaf.commit)]
        common = self.repository.run(
            "merge-base", "--all", "--octopus", *dict.fromkeys([*commits, *bases]), check=False
        ).text.split()
        # With the same care as for heads: several bases that differ are none.
        return base_for(
            self.repository, replace(self.heads, bases=tuple(common)), parts[0].path, None
        )

    def _model_at(self, commit: str, like: Part) -> tuple[tuple[str, str], ...]:
        there = path_in(self.repository, commit, like.path, like.commit)
        if there is None:
            return ()
        try:
            files = self.expansion.files(commit, there)
        except CheckpointError:
            return ((there, commit),)
        return tuple(sorted((entry.mode, entry.object_id) for entry in files.values()))
