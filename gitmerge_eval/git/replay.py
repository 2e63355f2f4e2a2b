"""The merge that ``git rebase --rebase-merges`` is making again, and what its heads were called.

Git gives the merge of the todo list neither the strategy options nor the names of the first time;
its message has the trailers of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from gitmerge_eval.git import trailers
from gitmerge_eval.git.heads import Heads
from gitmerge_eval.git.repository import Repository
from gitmerge_eval.git.trailers import MergeTrailers

STRATEGY = "git rebase --rebase-merges --strategy=theta"
"""What calls the strategy for every merge."""

_DONE = "rebase-merge/done"
_MERGE = re.compile(r"(?:merge|m) -[cC] ([0-9a-f]{4,64}) (.+?)(?: # .*)?", re.ASCII)


@dataclass(frozen=True)
class Replay:
    """A merge of ours that a rebase has come to."""

    commit: str
    """As it was before."""
    record: MergeTrailers
    labels: tuple[str, ...]
    """What the todo list calls the heads that are merged into HEAD."""


def replayed(repository: Repository) -> Replay | None:
    """The merge of ours that the rebase under way is making again; None where none is."""
    try:
        done = repository.path(_DONE).read_text(errors="surrogateescape").split("\n")
    except OSError:
        return None
    last = next((line.strip() for line in reversed(done) if line.strip()), "")
    match = _MERGE.fullmatch(last)
    if match is None:
        return None
    commit = repository.commit(match[1])
    record = trailers.read(repository, commit)
    return Replay(commit, record, tuple(match[2].split())) if record else None


def renamed(repository: Repository, heads: Heads, replay: Replay) -> Heads:
    """The heads by the names that they had in the first merge, else by their labels.

    The parents of a merge are its heads in their order; HEAD is one of them unless Git left it out.
    """
    parents = repository.text("rev-parse", f"{replay.commit}^@").split()
    known = dict(replay.record.constituents)
    everyone = [heads.head, *heads.remotes]
    old = dict(zip(reversed(everyone), reversed(parents), strict=False))
    names = dict(heads.names)
    for commit, label in zip(heads.remotes, replay.labels, strict=False):
        names[commit] = known.get(old.get(commit, ""), label)
    if old.get(heads.head) in known:
        names[heads.head] = known[old[heads.head]]
    return replace(heads, names=names)


def base_given(repository: Repository, replay: Replay) -> str | None:
    """The base, where the first merge had another than that of its heads: it was asked for."""
    parents = repository.text("rev-parse", f"{replay.commit}^@").split()
    natural = repository.run("merge-base", "--all", "--octopus", *parents, check=False).text.split()
    if not natural or not replay.record.bases or set(replay.record.bases) & set(natural):
        return None
    paths = [path for _, path in replay.record.models]
    for base in replay.record.bases:
        if any(
            repository.blob_id(base, path) not in {repository.blob_id(n, path) for n in natural}
            for path in paths
        ):
            return base
    return None
