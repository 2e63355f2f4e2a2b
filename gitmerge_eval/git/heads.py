"""Who takes part in a merge: the heads, their names, their base."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from gitmerge_eval.errors import MergeRefused, MissingBase
from gitmerge_eval.git.repository import Repository

_OPTIONS_WITH_A_VALUE = frozenset(
    [
        "-m",
        "--message",
        "-F",
        "--file",
        "-s",
        "--strategy",
        "-X",
        "--strategy-option",
        "--into-name",
        "--cleanup",
    ]
)


@dataclass(frozen=True)
class Heads:
    """The commits of one merge as Git hands them to a strategy."""

    bases: tuple[str, ...]
    """Merge bases, without repetition; none for unrelated histories."""
    head: str
    remotes: tuple[str, ...]
    names: dict[str, str]
    """commit -> what the user called it."""
    head_is_subsumed: bool
    """Whether HEAD is an ancestor of the other heads: then it is the base and no constituent."""

    @property
    def candidates(self) -> tuple[str, ...]:
        """The commits that may be constituents: HEAD unless it is subsumed, then the others."""
        return self.remotes if self.head_is_subsumed else (self.head, *self.remotes)

    def name(self, commit: str) -> str:
        """The name for messages and trailers."""
        return self.names.get(commit, commit[:10])


def gather(repository: Repository, bases: Sequence[str], remotes: Sequence[str]) -> Heads:
    """The heads of a running ``git merge``; Git names them in GITHEAD_<commit>."""
    head = repository.commit("HEAD")
    branch = repository.run("symbolic-ref", "--short", "--quiet", "HEAD", check=False).text
    fetched = _fetched_names(repository)
    names = {}
    for commit in remotes:
        name = os.environ.get(f"GITHEAD_{commit}", commit)
        # 'git pull' calls every head by its id.
        names[commit] = fetched.get(commit, commit[:10]) if name == commit else name
    names[head] = branch or "HEAD"
    return _arrange(repository, bases, head, remotes, names)


def arranged(repository: Repository, remotes: Sequence[str]) -> Heads:
    """The heads of a merge that Git's own strategy makes: ``remotes`` into HEAD."""
    head = repository.commit("HEAD")
    bases = repository.run("merge-base", "--all", "--octopus", head, *remotes, check=False)
    return _arrange(repository, bases.text.split(), head, remotes, {})


def _fetched_names(repository: Repository) -> dict[str, str]:
    r"""commit -> branch of what the last fetch brought, by FETCH_HEAD's lines
    ``<commit>\t[not-for-merge]\tbranch '<name>' of <url>``."""
    try:
        lines = repository.path("FETCH_HEAD").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return {}
    parts = (line.split("\t") for line in lines)
    return {
        fields[0]: match[1]
        for fields in parts
        if len(fields) == 3 and (match := re.match(r"(?:branch|tag) '([^']+)'", fields[2]))
    }


def resolve(repository: Repository, revisions: Sequence[str]) -> Heads:
    """The heads that ``git merge revisions…`` would merge now (for a dry run)."""
    head = repository.commit("HEAD")
    commits = {repository.commit(revision): revision for revision in revisions}
    fresh = [c for c in commits if not repository.succeeds("merge-base", "--is-ancestor", c, head)]
    if not fresh:
        raise MergeRefused(f"{', '.join(revisions)}: already merged into HEAD; nothing to do")
    independent = repository.text("merge-base", "--independent", *fresh).split()
    remotes = [commit for commit in fresh if commit in independent]
    bases = repository.run("merge-base", "--all", "--octopus", head, *remotes, check=False)
    names = {commit: commits[commit] for commit in remotes}
    branch = repository.run("symbolic-ref", "--short", "--quiet", "HEAD", check=False).text
    names[head] = branch or "HEAD"
    return _arrange(repository, bases.text.split(), head, remotes, names)


def named_by_user(command: Sequence[str]) -> list[str]:
    """The heads in the command line of a ``git merge``.

    Git reduces the heads before it starts a strategy and does not tell it what it left out; the
    command line of its process still has all of them.

    >>> named_by_user(["git", "merge", "-X", "method=ties", "-m", "both", "fruit", "bird"])
    ['fruit', 'bird']
    """
    rest = iter(command[command.index("merge") + 1 :] if "merge" in command else ())
    found = []
    for word in rest:
        if word in _OPTIONS_WITH_A_VALUE:
            next(rest, None)
        elif not word.startswith("-") and word != "FETCH_HEAD":
            found.append(word)
    return found


def left_out(repository: Repository, revisions: Sequence[str], heads: Heads) -> list[str]:
    """Which of ``revisions`` take no part in the merge, and why, in words."""
    found = []
    for revision, commit in zip(revisions, repository.commits(revisions), strict=True):
        if not commit or commit in heads.remotes or commit == heads.head:
            continue
        if repository.succeeds("merge-base", "--is-ancestor", commit, heads.head):
            found.append(f"'{revision}' is merged already: it takes no part in this merge")
        else:
            found.append(f"'{revision}' is contained in another head: it takes no part of its own")
    return found


def _arrange(
    repository: Repository,
    bases: Sequence[str],
    head: str,
    remotes: Sequence[str],
    names: dict[str, str],
) -> Heads:
    independent = repository.text("merge-base", "--independent", head, *remotes).split()
    # An octopus merge names the same base once for each pair of heads.
    return Heads(tuple(dict.fromkeys(bases)), head, tuple(remotes), names, head not in independent)


def base_for(repository: Repository, heads: Heads, path: str, revision: str | None) -> str | None:
    """The commit whose checkpoint at ``path`` is θ_p: ``revision``, or the heads' merge base.

    Raises MissingBase where a criss-cross history has several bases with different checkpoints,
    since none of them is more the base than the others.
    """
    if revision:
        return repository.commit(revision)
    blobs = {repository.blob_id(base, path) for base in heads.bases}
    if len(blobs) > 1:
        listed = ", ".join(base[:10] for base in heads.bases)
        raise MissingBase(
            f"'{path}' differs between the merge bases {listed}; "
            "choose one with --strategy-option=base=<commit>"
        )
    return heads.bases[0] if heads.bases else None
