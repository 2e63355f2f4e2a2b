"""Repositories for tests of verify over a range: branches, a bare server, and a forge's merge."""

from __future__ import annotations

import subprocess
from pathlib import Path

import torch
from models import ModelRepository, base_model, fine_tuned, statistics_for
from small_repositories import settle

from gitmerge_eval.auditing.audit import Depth, audit
from gitmerge_eval.auditing.findings import Audit
from gitmerge_eval.git import history
from gitmerge_eval.git.repository import Repository

BASE = base_model()


def with_one(name: str, seed: int) -> dict[str, torch.Tensor]:
    """The base model with one group fine-tuned: two of these merge cleanly as text."""
    return {**BASE, name: fine_tuned(BASE, seed)[name]}


def built(folder: Path) -> ModelRepository:
    """main is the base; a and b changed all, left and right one group each, far apart."""
    made = ModelRepository(folder, BASE)
    for number, name in enumerate("ab"):
        made.branch(name, fine_tuned(BASE, number), statistics_for(BASE, number))
    made.branch("left", with_one("first.weight", 3))
    made.branch("right", with_one("second.weight", 4))
    settle(made)
    return made


def plain_server(repository: ModelRepository, folder: Path) -> Repository:
    """A bare repository with all branches, as any server has it: nothing of ours is configured."""
    subprocess.run(["git", "init", "--quiet", "--bare", folder], check=True)
    repository.run("remote", "add", "origin", str(folder))
    repository.run("push", "--quiet", "--all", "origin")
    return Repository(folder)


def forge(folder: Path, into: str, branch: str) -> str:
    """What a forge does to merge a pull request: in its bare repository, without a driver."""

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True
        )
        return done.stdout.split("\n")[0].strip()

    tree = git("merge-tree", "--write-tree", into, branch)
    message = f"Merge pull request #7 from {branch}"
    commit = git("commit-tree", tree, "-p", into, "-p", branch, "-m", message)
    git("update-ref", f"refs/heads/{into}", commit)
    return commit


def found(
    repository: ModelRepository | Repository,
    *words: str,
    allowed: tuple[str, ...] = (),
    **depth: bool,
) -> Audit:
    """What an audit of a range finds; of main..HEAD where none is named."""
    git = repository.git if isinstance(repository, ModelRepository) else repository
    revisions = history.arguments(git, words or ("main..HEAD",))
    return audit(git, revisions, Depth(**depth), allowed=allowed)


def kinds(result: Audit) -> list[tuple[str, str]]:
    """(kind, verdict) of each finding."""
    return [(finding.kind, finding.verdict) for finding in result.findings]


def amended(repository: ModelRepository, *arguments: str) -> None:
    """Put the work tree's state into the commit at HEAD."""
    repository.run("commit", "--quiet", "--amend", "--all", "--no-edit", *arguments)
