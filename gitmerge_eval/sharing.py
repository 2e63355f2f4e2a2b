"""Results that travel with Git: a clone's notes united with a remote's, and pushed to it."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable
from dataclasses import dataclass

from gitmerge_eval.errors import GitError
from gitmerge_eval.evaluation import note_records
from gitmerge_eval.git import configuration, note_exchange, note_union, notes, process
from gitmerge_eval.git.note_exchange import Remote
from gitmerge_eval.git.repository import Repository

PUSH_KEY = "merge-eval.push-notes"
ATTEMPTS = 6
"""How often somebody else may have pushed just before us."""
_PAUSE_SECONDS = 0.2


@dataclass(frozen=True)
class Synced:
    """What an exchange of notes did, or would do."""

    remote: str
    received: int = 0
    """Notes that were new to this clone, or newer than its own."""
    united: int = 0
    """Of those, the ones that both sides had written."""
    sent: int = 0
    """Notes that the remote lacked, or had older."""
    dry_run: bool = False
    notices: tuple[str, ...] = ()


def sync(
    repository: Repository, remote: str = "", *, dry_run: bool = False, attended: bool = True
) -> Synced:
    """Fetch the notes of ``remote``, unite them with this clone's, and push the result.

    Where somebody else pushes at the same time it is done again with theirs. Raises UnknownName or
    UsageError for a remote that is not there, and GitError where it is out of reach or refuses the
    notes; whatever had been united by then stays so, and nothing is lost.
    """
    there = Remote(repository, note_exchange.remote_of(repository, remote), attended)
    notices = tuple(
        f"{key} has '{spec}', which makes 'git fetch' throw away what is only in this clone; "
        "'gitmerge-eval doctor' has the remedy"
        for key, spec in configuration.overwriting(repository)
    )
    if dry_run:
        return _foreseen(there, notices)
    received = united = 0
    for attempt in range(ATTEMPTS):
        theirs = there.tip()
        if theirs is not None:
            there.fetch()
            theirs = note_union.tip(repository, there.tracking)
        if theirs is not None:
            union = note_union.unite(repository, theirs, note_records.table)
            received, united = received + union.received, united + union.united
        ours = note_union.tip(repository, notes.REF)
        if ours is None or ours == theirs:
            return Synced(there.name, received, united, 0, notices=notices)
        sent = note_union.newer(repository, ours, theirs)
        if there.push(ours):
            return Synced(there.name, received, united, sent, notices=notices)
        # Not all at once again: those who collided would collide anew.
        time.sleep(random.uniform(0, _PAUSE_SECONDS * (attempt + 1)))
    raise GitError(
        f"'{there.name}' has got other notes {ATTEMPTS} times while this clone's were being united "
        "with them; nothing is lost. Run 'gitmerge-eval notes sync' again"
    )


def _foreseen(there: Remote, notices: tuple[str, ...]) -> Synced:
    """What :func:`sync` would do: objects are fetched, and no ref is changed."""
    repository = there.repository
    theirs = there.tip()
    if theirs is not None:
        there.fetch(tracked=False)
    ours = note_union.tip(repository, notes.REF)
    union = note_union.foreseen(repository, theirs)
    sent = note_union.newer(repository, ours, theirs)
    return Synced(there.name, union.received, union.united, sent, True, notices)


def unite_fetched(repository: Repository) -> int:
    """Unite what any fetch has brought with this clone's notes; the number of notes received."""
    return sum(
        note_union.unite(repository, ref, note_records.table).received
        for ref in note_union.apart(repository)
    )


def beside_push(repository: Repository, remote: str, lines: Iterable[str]) -> str:
    """Send the notes beside a push to ``remote``, of which Git tells a pre-push hook ``lines``.

    What the hook calls. Returns a line for the user, or nothing. Never raises: notes may be
    anybody's, and the push of the commits does not depend on them.
    """
    try:
        return _beside_push(repository, remote, lines)
    except Exception as error:
        return (
            f"the notes were not pushed, only your commits are: {error or type(error).__name__} "
            f"('git config {PUSH_KEY} false' stops trying)"
        )


def _beside_push(repository: Repository, remote: str, lines: Iterable[str]) -> str:
    wanted = repository.run("config", "--type=bool", "--get", PUSH_KEY, check=False)
    if wanted.status not in (0, 1):
        return f"'{PUSH_KEY}' is no truth value; use true or false. No notes were pushed"
    ours = note_union.tip(repository, notes.REF)
    named = remote in repository.text("remote").splitlines()
    if wanted.text == "false" or ours is None or not named:
        return ""
    if ours == note_union.tip(repository, Remote(repository, remote).tracking):
        return ""
    # Somebody who pushes or deletes notes by name knows what he wants.
    if any(notes.REF in line.split() for line in lines) or _is_dry_run():
        return ""
    done = sync(repository, remote, attended=False)
    return f"notes: {said(done)}" if done.sent or done.received else ""


def said(done: Synced) -> str:
    """``3 received, 1 of them united with yours, 2 sent to origin``."""
    parts = [f"{done.received} received"] if done.received else []
    parts += [f"{done.united} of them united with yours"] if done.united else []
    parts += [f"{done.sent} sent to {done.remote}"] if done.sent else []
    return ", ".join(parts) or f"nothing new, here or at {done.remote}"


def _is_dry_run() -> bool:
    """Whether this is the hook of 'git push --dry-run', which runs hooks as any push does."""
    git = process.enclosing_git()
    words = git.command if git else []
    if "push" not in words:
        return False
    return any(
        word in ("--dry-run", "-n") or (word[:1] == "-" and word[1:2] != "-" and "n" in word[1:])
        for word in words[words.index("push") + 1 :]
    )
