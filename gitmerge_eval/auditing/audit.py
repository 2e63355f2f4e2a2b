"""Verify a range of history: the use case behind ``gitmerge-eval verify main..HEAD``.

Without recomputation nothing but commits and metadata is read: no tensor, no work tree, no network
(but for a partial clone's own), so that a server's hook can do it in the quarantine of a push.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from gitmerge_eval.auditing import models, statistics
from gitmerge_eval.auditing.contents import Contents
from gitmerge_eval.auditing.findings import (
    ACCEPTED,
    UNKNOWN,
    WRONG,
    Audit,
    Finding,
    Recomputed,
    exists,
    named,
)
from gitmerge_eval.checkpoints.lfs import ObjectStore
from gitmerge_eval.checkpoints.metadata import GroupRecord
from gitmerge_eval.errors import CheckpointError, CorruptObject, GitError, InvalidOption
from gitmerge_eval.git import history
from gitmerge_eval.git.history import RecordedCommit
from gitmerge_eval.git.repository import FULL_ID, Repository
from gitmerge_eval.merging.computing import Progress, silent
from gitmerge_eval.merging.devices import DEFAULT_RESOURCES, Resources

ALLOW_KEY = "merge-eval.allow"
"""Commits that a reviewer has accepted, by full id; a configuration key with several values."""


@dataclass(frozen=True)
class Depth:
    """How closely an audit looks."""

    recompute: bool = False
    """Compute every recorded merge again, and hash every tensor that the commits bring."""
    objects: bool = False
    """Whether every tensor is in this repository's own store: for a server that keeps them."""
    fresh: bool = False
    """Compute also what is known from an earlier merge."""
    resources: Resources = DEFAULT_RESOURCES


def audit(
    repository: Repository,
    revisions: Sequence[str],
    depth: Depth | None = None,
    *,
    allowed: Iterable[str] = (),
    progress: Progress = silent,
) -> Audit:
    """What is to be said of the commits that ``git rev-list revisions`` lists.

    The faults of the ``allowed`` commits, and of those in the configuration, are accepted. Raises
    GitError and InvalidOption for an allowed commit that is none.
    """
    repository = repository.as_committed()
    running = _Auditing(repository, depth or Depth(), progress)
    accepted = {_accepted(repository, commit) for commit in allowed} | _configured(repository)
    commits = history.commits(repository, revisions) if revisions else []
    findings = [
        replace(finding, verdict=ACCEPTED)
        if finding.verdict == WRONG and finding.commit in accepted
        else finding
        for finding in running.run(commits)
    ]
    return Audit(len(commits), running.merges, tuple(findings), tuple(running.recomputed))


def _accepted(repository: Repository, commit: str) -> str:
    try:
        return repository.commit(commit)
    except GitError as error:
        raise GitError(f"--allow: {error}") from None


def _configured(repository: Repository) -> set[str]:
    found = set(repository.run("config", "--get-all", ALLOW_KEY, check=False).text.split())
    for commit in found:
        # A name could be moved to something that nobody has looked at.
        if not FULL_ID.fullmatch(commit):
            raise InvalidOption(f"'{ALLOW_KEY}' is '{commit}'; give the full id of a commit")
    return found


@dataclass
class _Auditing:
    """One audit under way."""

    repository: Repository
    depth: Depth
    progress: Progress
    merges: int = 0
    recomputed: list[Recomputed] = field(default_factory=list)
    _looked_at: set[str] = field(default_factory=set)
    """Objects, and those that commits' parents had already."""

    def run(self, commits: Sequence[RecordedCommit]) -> Iterator[Finding]:
        """The findings, commit by commit."""
        contents = Contents(self.repository)
        marked = models.marked(self.repository, commits)
        contents.expect(
            blob
            for one in commits
            for path in marked.get(one.commit, ())
            for blob in (*one.changes[path].old, one.changes[path].new)
            if exists(blob)
        )
        ends = history.ends_of_history(self.repository)
        parents = {parent for one in commits for parent in one.parents}
        tips = [one.commit for one in commits if one.commit not in parents]
        for number, one in enumerate(commits):
            paths = marked.get(one.commit, set())
            if one.commit in ends and models.unnamed(one, paths):
                yield from _cut_off(self.repository, one)
            attested = models.attested(self.repository, one)
            self.merges += attested or (one.is_merge and bool(paths))
            whole = not ends
            yield from models.in_models(self.repository, one, paths, contents, complete=whole)
            yield from statistics.in_statistics(self.repository, one, complete=whole, tips=tips)
            yield from self._objects(one, paths, contents)
            if self.depth.recompute and attested:
                yield from self._recompute(one)
            self.progress("commits", number + 1, len(commits))

    def _objects(
        self, one: RecordedCommit, paths: set[str], contents: Contents
    ) -> Iterator[Finding]:
        """Tensors that a commit brings and that are not there, or not what their name says."""
        if not (self.depth.objects or self.depth.recompute):
            return
        store = ObjectStore(self.repository, recheck=True)
        for path in sorted(paths):
            change = one.changes[path]
            for blob in change.old:
                self._looked_at |= {g.object_id for g in contents.groups(blob).values()}
            groups = contents.groups(change.new)
            new = {n: g for n, g in groups.items() if g.object_id not in self._looked_at}
            self._looked_at |= {group.object_id for group in new.values()}
            if self.depth.recompute:
                yield from self._hashed(one, path, new, store)
            elif missing := store.missing(group.object_id for group in new.values()):
                yield Finding.of(
                    one, path, "object",
                    f"names {len(missing)} tensors that are not in this repository's store "
                    f"({named(missing)}); they have to be pushed before the commit, which "
                    "'gitmerge-eval init' sets up a hook for",
                )  # fmt: skip

    def _hashed(
        self, one: RecordedCommit, path: str, groups: dict[str, GroupRecord], store: ObjectStore
    ) -> Iterator[Finding]:
        try:
            store.fetch(groups.values())  # all at once
        except CheckpointError as error:
            yield Finding.of(one, path, "not-here", str(error), UNKNOWN)
        absent = set(store.missing(group.object_id for group in groups.values()))
        here = {name: g for name, g in groups.items() if g.object_id not in absent}
        for number, (name, group) in enumerate(here.items()):
            try:
                store.verified(group.object_id, group.size)
            except CorruptObject as error:
                yield Finding.of(one, path, "object", f"group '{name}': {error}")
            self.progress(f"hashing {path}", number + 1, len(here))

    def _recompute(self, one: RecordedCommit) -> Iterator[Finding]:
        from gitmerge_eval import verifying

        assert one.record is not None
        found = verifying.recomputed(
            self.repository,
            one.record,
            one.commit,
            resources=self.depth.resources,
            fresh=self.depth.fresh,
            progress=self.progress,
        )
        for each in found:
            self.recomputed.append(
                Recomputed(one.commit, each.path, each.verdict, each.groups, each.reused)
            )
            verdict = UNKNOWN if each.verdict == "unknown" else WRONG
            kind = "not-here" if verdict == UNKNOWN else "not-the-merge"
            for problem in each.problems:
                yield Finding.of(one, each.path, kind, problem, verdict)


def _cut_off(repository: Repository, one: RecordedCommit) -> Iterator[Finding]:
    """A merge that looks like a first commit, since a shallow clone ends with it."""
    if history.true_parents(repository, one.commit) > 1:
        yield Finding.of(
            one, "", "not-here",
            "is a merge whose parents are not in this shallow clone; run 'git fetch --unshallow'",
            UNKNOWN,
        )  # fmt: skip
