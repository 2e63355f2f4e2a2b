"""What a clone's configuration must say, and how it gets there and away again.

Everything is in the repository's own configuration. The values that were there before are kept in
``gitmerge-eval/installed.json`` in the common git directory until :func:`uninstall`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from gitmerge_eval.git import hooks, notes, programs, scratch, showing, tracking
from gitmerge_eval.git.changes import Changes
from gitmerge_eval.git.repository import Repository

RECORD = "gitmerge-eval/installed.json"
EVALUATE = "merge-eval.evaluate"
"""sync (the default), background or off; never set by us."""


@dataclass(frozen=True)
class Setting:
    """A key of the configuration with the values that we need it to have."""

    key: str
    values: tuple[str, ...]
    alone: bool = True
    """Whether no other value may stand beside ours."""


@dataclass(frozen=True)
class Before:
    """What a key was before the first installation, and what we made of it."""

    before: tuple[str, ...]
    after: tuple[str, ...]
    alone: bool = True


def settings(repository: Repository) -> tuple[Setting, ...]:
    """Everything that must be configured in this clone."""
    own = programs.command()
    # Git expands % in these commands, except in filter.<name>.process.
    expanded = own.replace("%", "%%")
    return (
        Setting("pull.octopus", ("theta",)),
        # Merge and pull read the last value, cherry-pick and rebase the first.
        Setting("pull.twohead", ("ort", "theta")),
        # A fast-forward would skip an explicit method in silence; plain pulls still may.
        Setting("merge.ff", ("false",)),
        Setting("pull.ff", ("true",)),
        Setting("filter.theta.process", (f"{own} filter",)),
        Setting("filter.theta.clean", (f"{expanded} filter clean %f",)),
        Setting("filter.theta.smudge", (f"{expanded} filter smudge %f",)),
        Setting("filter.theta.required", ("true",)),
        Setting("merge.theta.name", ("merge checkpoints group by group",)),
        Setting("merge.theta.driver", (f"{expanded} driver %O %A %B %P",)),
        Setting("merge.theta.recursive", ("binary",)),
        Setting(showing.COMMAND, (f"{own} differ both",)),
        Setting(showing.TEXTCONV, (f"{own} differ one",)),
        # A pattern: 'git log' and 'git commit --amend' warn of a ref that is not there yet.
        Setting("notes.displayRef", (f"{notes.REF}*",), alone=False),
        Setting("notes.rewriteRef", (f"{notes.REF}*",), alone=False),
        Setting(f"notes.{notes.NAME}.mergeStrategy", ("cat_sort_uniq",)),
        *(
            Setting(f"remote.{remote}.fetch", (refspec(remote),), alone=False)
            for remote in fetching_remotes(repository)
        ),
    )


def refspec(remote: str) -> str:
    """How the notes of a remote are fetched, beside ours and never over them.

    The pattern matters: 'git fetch' fails on a configured ref without one that the remote lacks.
    """
    return f"+{notes.REF}*:refs/notes/{remote}/{notes.NAME}*"


def fetching_remotes(repository: Repository) -> list[str]:
    """The remotes that fetch branches into refs of their own: no mirrors, no bare addresses."""
    found = []
    for remote in repository.text("remote").splitlines():
        specs = local_values(repository, f"remote.{remote}.fetch")
        if specs and not any(spec.lstrip("+").startswith("refs/*:") for spec in specs):
            found.append(remote)
    return found


def overwriting(repository: Repository) -> list[tuple[str, str]]:
    """(key, refspec) of every way of fetching that puts a remote's notes over this clone's."""
    found = []
    for remote in repository.text("remote").splitlines():
        key = f"remote.{remote}.fetch"
        for spec in local_values(repository, key):
            source, _, target = spec.lstrip("+").partition(":")
            if spec.startswith("+") and source == target and fnmatchcase(notes.REF, target):
                found.append((key, spec))
    return found


def local_values(repository: Repository, key: str) -> tuple[str, ...]:
    """All values of a key in the repository's own configuration."""
    found = repository.run("config", "--local", "-z", "--get-all", key, check=False)
    return tuple(os.fsdecode(found.stdout).split("\0")[:-1])


def is_installed(repository: Repository) -> bool:
    """Whether :func:`install` has been here."""
    return (repository.common_directory / RECORD).exists()


def install(repository: Repository) -> Changes:
    """Make this clone ready: configuration, hooks, and checkpoints still in their raw form.

    Idempotent: where all is as it should be nothing is written and the changes are empty. Raises
    PrerequisiteError, with nothing changed, where Git is too old or git-lfs is missing, and
    GitError where the configuration cannot be written.
    """
    programs.require()
    record = _read_record(repository)
    wanted = settings(repository)
    steps = []
    for setting in wanted:
        now = local_values(repository, setting.key)
        after = setting.values if setting.alone else _with(now, setting.values)
        if now == after and setting.key in record:
            continue
        record[setting.key] = Before(_original(record.get(setting.key), now), after, setting.alone)
        if now != after:
            steps.append((setting.key, after))
    # Written first: whatever interrupts us, what was there before is known.
    _write_record(repository, record)
    for key, after in steps:
        _set(repository, key, after)
    changes = Changes(made=tuple(f"set {key} to {' and '.join(after)}" for key, after in steps))
    changes += hooks.install(repository)
    changes += tracking.check_out_raw(repository)
    notice = programs.strategy_notice()
    return changes + Changes(notices=(notice,) if notice else ())


def uninstall(repository: Repository) -> Changes:
    """Put the configuration and the hooks back as they were before :func:`install`.

    What somebody else has changed since stays as it is now, and is said. Idempotent.
    """
    made: list[str] = []
    notices: list[str] = []
    for key, saved in _read_record(repository).items():
        now = local_values(repository, key)
        if now == saved.after:
            restored = saved.before
        elif saved.alone:
            if now:
                notices.append(f"{key} stays '{' '.join(now)}': it was changed after the set-up")
            continue
        else:
            ours = set(saved.after) - set(saved.before)
            restored = tuple(value for value in now if value not in ours)
        if now != restored:
            _set(repository, key, restored)
            made.append(
                f"set {key} back to {' and '.join(restored)}" if restored else f"unset {key}"
            )
    (repository.common_directory / RECORD).unlink(missing_ok=True)
    if made and repository.setting("filter.theta.clean") is None and tracking.tracked(repository):
        notices.append(
            "no filter is left for the checkpoints, and Git will call them modified: do not commit "
            "them before 'gitmerge-eval init' or 'git theta install'"
        )
    return Changes(tuple(made), tuple(notices)) + hooks.uninstall(repository)


def _original(saved: Before | None, now: tuple[str, ...]) -> tuple[str, ...]:
    """What to put back one day: what was there first, unless somebody has set it anew since."""
    return saved.before if saved is not None and now == saved.after else now


def _with(now: tuple[str, ...], values: tuple[str, ...]) -> tuple[str, ...]:
    return (*now, *(value for value in values if value not in now))


def _set(repository: Repository, key: str, values: tuple[str, ...]) -> None:
    if not values:
        repository.run("config", "--local", "--unset-all", key)
    for number, value in enumerate(values):
        repository.run("config", "--local", "--add" if number else "--replace-all", key, value)


def _read_record(repository: Repository) -> dict[str, Before]:
    try:
        content = json.loads((repository.common_directory / RECORD).read_text())
        return {
            key: Before(tuple(entry["before"]), tuple(entry["after"]), entry["alone"])
            for key, entry in content["settings"].items()
        }
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _write_record(repository: Repository, record: Mapping[str, Before]) -> None:
    path: Path = repository.common_directory / RECORD
    text = json.dumps(
        {
            "settings": {
                key: {"before": entry.before, "after": entry.after, "alone": entry.alone}
                for key, entry in record.items()
            }
        },
        indent=1,
    )
    if path.exists() and path.read_text() == text:
        return
    scratch.write_state(path, text)
