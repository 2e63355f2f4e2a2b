"""What merging branches would give: the use case behind ``gitmerge-eval preview``.

The merge is made by Git itself in a work tree of its own below the git directory, evaluated there,
and thrown away. The user's work tree, index, HEAD and refs are not touched; what stays are a commit
and tensors that nothing names, which ``git gc`` and ``gitmerge-eval gc`` remove.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gitmerge_eval.auditing.audit import audit
from gitmerge_eval.auditing.findings import Audit
from gitmerge_eval.errors import CheckpointError, EvaluationError, GitMergeEvalError, UsageError
from gitmerge_eval.evaluation import evaluating
from gitmerge_eval.evaluation.evaluating import ProgressCallback
from gitmerge_eval.evaluation.note import EvaluationNote
from gitmerge_eval.git import configuration, history, programs, scratch, trailers, worktrees
from gitmerge_eval.git.repository import Repository
from gitmerge_eval.git.trailers import MergeTrailers

MERGED, CONFLICT, REFUSED, NOTHING = "merged", "conflict", "refused", "nothing"
_WHO = "gitmerge-eval"
_CHATTER = ("hint:", "Merge with strategy", "Automatic merge", "Previous HEAD")
"""What Git says beside, of a merge that somebody would go on with."""
_SETTINGS = {
    "merge-eval.evaluate": "off",
    "commit.gpgSign": "false",
    # What somebody resolved once is not what these branches give.
    "rerere.enabled": "false",
}


@dataclass(frozen=True)
class Named:
    """A commit as the user named it."""

    name: str
    commit: str


@dataclass(frozen=True)
class Made:
    """What Git made of the merge."""

    outcome: str
    """merged, conflict, refused, or nothing: the branches are merged already."""
    messages: tuple[str, ...] = ()
    """What was said of models, of conflicts, or of why it was refused."""
    conflicts: tuple[str, ...] = ()
    commit: str = ""
    record: MergeTrailers | None = None
    """How a model was merged; None where none was, or one was taken as it is."""


@dataclass(frozen=True)
class Preview:
    """A merge that was made to be looked at."""

    into: Named
    heads: tuple[Named, ...]
    made: Made
    note: EvaluationNote | None = None
    before: EvaluationNote | None = None
    """The model that is there now, on the same tasks."""
    remarks: tuple[str, ...] = ()
    """Why something was not evaluated."""
    audit: Audit | None = None
    """Of the commits that the merge would bring, and of the merge."""

    @property
    def possible(self) -> bool:
        """Whether the merge goes through."""
        return self.made.outcome == MERGED


def preview(
    repository: Repository,
    heads: Sequence[str],
    *,
    into: str = "HEAD",
    options: Sequence[str] = (),
    split: str = "test",
    device: str = "auto",
    progress: ProgressCallback | None = None,
) -> Preview:
    """Merge ``heads`` into ``into`` by ``git merge -X options``, away from everything; evaluate it.

    Raises UsageError in a clone without ``gitmerge-eval init`` and GitError for an unknown
    revision. That the merge conflicts or is refused, and that it cannot be evaluated, is part of
    the result.
    """
    worktrees.require_own_environment("a preview")
    if not configuration.is_installed(repository):
        raise UsageError(
            "this clone is not set up, so that Git would merge models as text; run "
            "'gitmerge-eval init' first"
        )
    for word in (into, *heads):
        if word.startswith("-"):
            raise UsageError(f"'{word}' is no branch")
    branch = repository.text("rev-parse", "--abbrev-ref", "HEAD") if into == "HEAD" else into
    base = Named(branch, repository.commit(into))
    named = tuple(Named(head, repository.commit(head)) for head in heads)
    scratch.sweep(repository)
    with (
        scratch.scratch_folder(repository) as folder,
        worktrees.detached(repository, folder / "tree", base.commit) as tree,
    ):
        made = _merge(tree, heads, options)
    found = Preview(base, named, made)
    brought = [made.commit] if made.commit else [head.commit for head in named]
    revisions = history.arguments(repository, [*brought, f"^{base.commit}"])
    found = replace(found, audit=audit(repository, revisions))
    if found.possible:
        found = _evaluated(repository, found, split, device, progress)
    return found


def _merge(tree: Repository, heads: Sequence[str], options: Sequence[str]) -> Made:
    environment = {
        "PATH": f"{programs.scripts_folder()}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        # Nobody is asked for a name: the commit goes away.
        **{f"GIT_{role}_NAME": _WHO for role in ("AUTHOR", "COMMITTER")},
        **{f"GIT_{role}_EMAIL": f"{_WHO}@localhost" for role in ("AUTHOR", "COMMITTER")},
    }
    done = tree.run(
        *("merge", "--no-commit", "--no-ff", "--no-edit"),
        *(f"--strategy-option={option}" for option in options),
        *heads,
        environment=environment,
        config=_SETTINGS,
        check=False,
    )
    said = tuple(_said(done.stderr, tree.directory))
    conflicts = tuple(tree.run("diff", "--name-only", "--diff-filter=U", "-z").fields)
    if conflicts:
        # Of a model the groups are listed below, each in a line of its own.
        lines = done.text.splitlines()
        of_git = [line for line in lines if line.startswith(("CONFLICT", "  "))]
        return Made(CONFLICT, (*of_git, *said), conflicts)
    if done.status:
        return Made(REFUSED, said)
    if not trailers.merge_heads(tree):
        return Made(NOTHING, said)
    tree.run(
        *("commit", "--quiet", "--no-edit", "--no-verify"),
        environment=environment,
        config=_SETTINGS,
    )
    commit = tree.commit("HEAD")
    return Made(MERGED, said, (), commit, trailers.read(tree, commit))


def _said(errors: str, directory: Path) -> list[str]:
    """What Git and our strategy had to say, without the place where it happened."""
    lines = (line.removeprefix("gitmerge-eval: ").strip() for line in errors.splitlines())
    found = [line.replace(f"{directory}/", "").replace(str(directory), ".") for line in lines]
    return [line for line in found if line and not line.startswith(_CHATTER)]


def _evaluated(
    repository: Repository,
    found: Preview,
    split: str,
    device: str,
    progress: ProgressCallback | None,
) -> Preview:
    """With the scores of the merge and of what is there now, or why there are none."""

    def scored(commit: str, **how: Any) -> EvaluationNote:
        try:
            return evaluating.evaluate(
                repository,
                commit,
                split=split,
                device=device,
                progress=progress,
                write_note=False,
                **how,
            )
        except GitMergeEvalError:
            raise
        except Exception as error:
            # A benchmark may come from anybody and raise anything.
            raise EvaluationError(f"{type(error).__name__}: {error}") from error

    try:
        note = scored(found.made.commit)
    except (EvaluationError, CheckpointError) as error:
        return replace(found, remarks=(f"not evaluated: {error}",))
    tasks = [score.task for score in note.scores]
    try:
        before = scored(found.into.commit, tasks=tasks, checkpoint=note.path)
    except (EvaluationError, CheckpointError) as error:
        missing = f"what is there now is not evaluated: {error}"
        return replace(found, note=note, remarks=(*note.remarks, missing))
    return replace(found, note=note, before=before, remarks=note.remarks)
