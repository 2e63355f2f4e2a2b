"""Notes fetched from a remote and pushed to it, whatever the repository's own refspecs say."""

from __future__ import annotations

import os
from dataclasses import dataclass

from gitmerge_eval.errors import GitError, UnknownName, UsageError
from gitmerge_eval.git import notes
from gitmerge_eval.git.repository import Completed, Repository

RACES = ("fetch first", "non-fast-forward", "cannot lock ref", "failed to update ref", "stale info")
"""What Git says of a push where somebody else has pushed just before."""


def remote_of(repository: Repository, name: str = "") -> str:
    """The remote called ``name``; else the one that this branch is pushed to, else the only one.

    Raises UnknownName for one that is not configured, and UsageError where none can be told.
    """
    known = repository.text("remote").splitlines()
    if name:
        if name not in known:
            raise UnknownName.among("remote", name, known)
        return name
    branch = repository.run("symbolic-ref", "--quiet", "--short", "HEAD", check=False).text
    keys = (f"branch.{branch}.pushRemote", "remote.pushDefault", f"branch.{branch}.remote")
    asked = [repository.setting(key) for key in keys]
    for found in (*asked, "origin", *(known if len(known) == 1 else [])):
        if found in known:
            return found
    raise UsageError(
        f"name one of the remotes {', '.join(known)}: this branch is pushed to none of them"
        if known
        else "this repository has no remote; add one with 'git remote add'"
    )


@dataclass(frozen=True)
class Remote:
    """A configured remote, and the way to the notes that it has."""

    repository: Repository
    name: str
    attended: bool = True
    """Whether somebody is there to type a password."""

    @property
    def tracking(self) -> str:
        """Where its notes are in this clone, as they were last seen."""
        return f"refs/notes/{self.name}/{notes.NAME}"

    def tip(self) -> str | None:
        """The commit of the notes that it has, asked now; None where it has none.

        Raises GitError where it cannot be reached.
        """
        listed = self._run("ls-remote", self.name, notes.REF)
        if listed.status:
            raise self._unreachable(listed.stderr)
        return listed.text.split()[0] if listed.text else None

    def fetch(self, *, tracked: bool = True) -> None:
        """Fetch its notes into :attr:`tracking`, or only their objects.

        Raises GitError where it cannot be reached.
        """
        # The empty refmap: a configured '+refs/notes/*:refs/notes/*' would be honoured otherwise,
        # and put the remote's notes over ours.
        done = self._run(
            "fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules",
            "--refmap=", self.name, f"+{notes.REF}:{self.tracking}" if tracked else notes.REF,
        )  # fmt: skip
        if done.status:
            raise self._unreachable(done.stderr)

    def push(self, commit: str) -> bool:
        """Push this clone's notes, as of ``commit``; False where it has others in the meantime.

        Never forced, and without hooks: the pre-push hook is what may have called this. Raises
        GitError where the remote refuses them or cannot be reached.
        """
        done = self._run(
            "push", "--porcelain", "--no-verify", "--recurse-submodules=no", self.name,
            f"{commit}:{notes.REF}",
        )  # fmt: skip
        if done.status == 0:
            self.repository.run("update-ref", self.tracking, commit)
            return True
        refused = [line for line in done.text.splitlines() if line.startswith("!")]
        if any(race in line for line in refused for race in RACES):
            return False
        if not refused:
            raise self._unreachable(done.stderr)
        why = refused[0].split("\t")[-1]
        raise GitError(
            f"'{self.name}' does not take the notes {notes.REF}: {why}; they stay in this clone. "
            "Ask whoever runs it to allow refs/notes, or exchange results by 'gitmerge-eval "
            "results export'"
        )

    def _run(self, *arguments: str) -> Completed:
        environment = {} if self.attended else {"GIT_TERMINAL_PROMPT": "0"}
        own_ssh = {"GIT_SSH", "GIT_SSH_COMMAND"} & os.environ.keys()
        if not (self.attended or own_ssh or self.repository.setting("core.sshCommand")):
            environment["GIT_SSH_COMMAND"] = "ssh -o BatchMode=yes"
        return self.repository.run(*arguments, check=False, environment=environment)

    def _unreachable(self, said: str) -> GitError:
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        clear = (line for line in lines if line.startswith(("fatal:", "ssh:", "error:")))
        why = next(clear, "".join(lines[:1])) or "it does not answer"
        return GitError(
            f"cannot exchange notes with '{self.name}': {why}; this clone's notes are as they "
            "were. When it can be reached, run 'gitmerge-eval notes sync' again"
        )
