"""What a model is made of: the models that are no merges themselves, through merges of merges.

A commit's model is a merge where the trailers of that commit, or of one in its history, say of this
very blob what it was merged from. So provenance belongs to the content: commits after the merge,
renames, an amended message, a revert of a revert and a branch that was taken whole all keep it,
and a model that was changed after its merge has none. Trailers are claims; ``verify`` proves them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from gitmerge_eval.checkpoints.sharded import is_index
from gitmerge_eval.errors import GitError
from gitmerge_eval.git import trailers
from gitmerge_eval.git.repository import Repository
from gitmerge_eval.git.trailers import MergeTrailers, Parts
from gitmerge_eval.git.trees import Entry, entries, renames
from gitmerge_eval.merging.models import Models, is_plain, single_of
from gitmerge_eval.merging.sources import open_source


@dataclass(frozen=True)
class Part:
    """One model that takes part in a merge."""

    commit: str
    name: str
    path: str
    """Where the commit has it."""
    base: str | None = None
    """The base of the merge that it comes from, where it comes from one."""
    models: int = 1
    """How many models it stands for, as the merge of them that it is."""


@dataclass(frozen=True)
class Composite:
    """A model that is a merge."""

    commit: str
    """Whose trailers say so; the model may have come to other commits since."""
    record: MergeTrailers
    path: str
    """What the trailers call it."""

    @property
    def parts(self) -> Parts | None:
        """What it was merged from, where that is not all that the trailers name."""
        return next((one for one in self.record.parts if one.path == self.path), None)

    @property
    def base(self) -> str | None:
        """The commit of its base; the last one, as a merge of several models names them."""
        if self.parts:
            return self.record.bases[self.parts.base - 1] if self.parts.base else None
        return self.record.bases[-1] if self.record.bases else None


@dataclass(frozen=True)
class _Claim:
    """What a commit's trailers say where the model with the files ``own`` is its merge."""

    own: Mapping[str, Entry]
    main: str
    """The path whose blob they name."""

    @property
    def pattern(self) -> str:
        return f"{trailers.MODEL}: {self.own[self.main].object_id} "


Whole = Callable[[Part, Composite], Part | None]
"""``whole(part, composite)``: what to take instead of the constituents; None: take those."""


def at(repository: Repository, commit: str, path: str) -> str:
    """Where ``commit`` has a model: one that is in several files elsewhere may be in one."""
    if is_index(path) and repository.blob_id(commit, path) is None:
        return single_of(path)
    return path


def path_in(repository: Repository, commit: str, path: str, like: str) -> str | None:
    """Where ``commit`` has what ``like`` has at ``path``: a branch may have renamed it."""
    if repository.blob_id(commit, at(repository, commit, path)) is not None:
        return path
    moved = renames(repository, commit, [like])[like]
    return next((old for old, new in moved.items() if new == path), None)


class Expansion:
    """Takes the models of one repository apart."""

    def __init__(self, repository: Repository) -> None:
        self.repository = repository
        self._models = Models(repository)
        self._files = lru_cache(maxsize=256)(self._read)
        self._known = lru_cache(maxsize=1024)(self._find)
        self._simple: set[tuple[str, str]] = set()
        """Commit and path of models that are known to be no merges."""

    def composite(self, commit: str, path: str) -> Composite | None:
        """The merge that the model at ``commit:path`` is; None for one that is none."""
        return None if (commit, path) in self._simple else self._known(commit, path)

    def look_up(self, parts: Iterable[Part]) -> None:
        """Find out for many models at once whether any of them is a merge, which most are not."""
        claims = {
            (part.commit, part.path): claim
            for part in parts
            if (claim := self._claim(part.commit, part.path))
        }
        if not claims:
            return
        patterns = [f"--grep={claim.pattern}" for claim in claims.values()]
        commits = [commit for commit, _ in claims]
        asked = ("rev-list", "--max-count=1", "--fixed-strings", *patterns, *commits, "--")
        if not self.repository.text(*asked):
            self._simple |= claims.keys()

    def children(self, composite: Composite) -> tuple[Part, ...]:
        """What a merge was made of, as its trailers say: merges among them are not taken apart.

        Without :attr:`Composite.parts` these are the constituents that have the model, with other
        tensors than the base. One whose commit is not here counts.
        """
        record, base = composite.record, composite.base
        listed = composite.parts
        if listed is None:
            parts = (self._part(pair, composite) for pair in record.constituents)
            return tuple(p for p in parts if p is not None and self._differs(p, base, composite))
        chosen = ((record.constituents[n - 1], models) for n, models in listed.constituents)
        found = ((self._part(pair, composite), models) for pair, models in chosen)
        return tuple(replace(part, models=models) for part, models in found if part is not None)

    def leaves(self, part: Part, whole: Whole = lambda part, composite: None) -> tuple[Part, ...]:
        """What the model is made of in the end: itself, where it is no merge."""
        composite = self.composite(part.commit, part.path)
        if composite is None:
            return (part,)
        instead = whole(part, composite)
        if instead is not None:
            return (instead,)
        children = self.children(composite)
        return tuple(leaf for child in children for leaf in self.leaves(child, whole))

    def files(self, commit: str, path: str) -> dict[str, Entry]:
        """The files of the model at ``commit:path``; none where the commit has none."""
        return self._models.files(path, self._files(commit))

    def _read(self, commit: str) -> Mapping[str, Entry]:
        return entries(self.repository, commit)

    def _claim(self, commit: str, path: str) -> _Claim | None:
        if not self.repository.has_commit(commit):
            return None
        own = self.files(commit, path)
        if not own:
            return None
        # Of all files the one whose blob differs from merge to merge.
        return _Claim(own, path if path in own else at(self.repository, commit, path))

    def _find(self, commit: str, path: str) -> Composite | None:
        claim = self._claim(commit, path)
        if claim is None:
            return None
        grep = f"--grep={claim.pattern}"
        listed = self.repository.text(
            "rev-list", "--topo-order", "--fixed-strings", grep, commit, "--"
        )
        for candidate in listed.split():
            record = trailers.read(self.repository, candidate)
            there = record and _path_of(record, claim.main, claim.own)
            if record and there and record.constituents:
                return Composite(candidate, record, there)
        return None

    def _part(self, named: tuple[str, str], composite: Composite) -> Part | None:
        """A constituent; None where its commit has no such model."""
        commit, name = named
        path: str | None = composite.path
        if self.repository.has_commit(commit):
            path = path_in(self.repository, commit, composite.path, composite.commit)
        return None if path is None else Part(commit, name, path, composite.base)

    def _differs(self, part: Part, base: str | None, composite: Composite) -> bool:
        """Whether a constituent took part: one that has the base's tensors did not."""
        if base is None or not (
            self.repository.has_commit(base) and self.repository.has_commit(part.commit)
        ):
            return True
        there = path_in(self.repository, base, composite.path, composite.commit)
        if there is None:
            return True
        if self.files(base, there) == self.files(part.commit, part.path):
            return False
        original = open_source(self.repository, base, there, "the base")
        return not open_source(self.repository, part.commit, part.path, part.name).equals(original)


def _path_of(record: MergeTrailers, main: str, own: Mapping[str, Entry]) -> str | None:
    """What the trailers call the model with the files ``own``; None where it is another's.

    A single file may have been renamed since, with a configuration beside it.
    """
    recorded = {path: blob for blob, path in record.models}
    found: str | None = None
    if all(recorded.get(path) == entry.object_id for path, entry in own.items()):
        found = main
    elif not is_index(main) and {e.object_id for e in own.values()} <= set(recorded.values()):
        same = [path for path, blob in recorded.items() if blob == own[main].object_id]
        found = next((path for path in same if not is_plain(path)), None)
    if found is None:
        return None
    # In one file what is in several on other branches: it goes by its index.
    indexes = (path for _, path in record.specs if is_index(path) and single_of(path) == found)
    return next(indexes, found)


def require(repository: Repository, commit: str, what: str) -> None:
    """GitError where a commit is not in this clone."""
    if not repository.has_commit(commit):
        raise GitError(
            f"{what}, commit {commit[:10]}, is not in this clone; fetch it "
            "('git fetch --unshallow' in a shallow clone)"
        )


def uniquely_named(parts: Sequence[Part]) -> tuple[Part, ...]:
    """The parts with names of their own: where two share one, each has its commit's id beside.

    >>> two = [Part("1" * 40, "main", "m"), Part("2" * 40, "main", "m"), Part("3" * 40, "x", "m")]
    >>> [part.name for part in uniquely_named(two)]
    ['main@1111111111', 'main@2222222222', 'x']
    """
    names = [part.name for part in parts]
    return tuple(
        replace(part, name=f"{part.name}@{part.commit[:10]}")
        if names.count(part.name) > 1
        else part
        for part in parts
    )
