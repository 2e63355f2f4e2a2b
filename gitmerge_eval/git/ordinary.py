"""Merges that are Git's own: no checkpoint takes part, so Git's programs do the whole of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NoReturn

from gitmerge_eval.git.repository import Repository


def hand_over(
    repository: Repository,
    bases: Sequence[str],
    head: str,
    remotes: Sequence[str],
    options: Sequence[str] = (),
) -> NoReturn:
    """Become ``git merge-recursive`` (one head) or ``git merge-octopus`` (more).

    The process is replaced, so that result, messages, exit status and reaction to signals are
    Git's. Octopus takes no options; Git itself ignores them there.
    """
    os.chdir(repository.directory)
    command = ["merge-octopus"] if len(remotes) > 1 else ["merge-recursive"]
    if len(remotes) == 1:
        command += [f"--{option}" for option in options]
    os.execvp("git", ["git", *command, *bases, "--", head, *remotes])
