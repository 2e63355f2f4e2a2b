"""Our hooks beside everybody else's: never lost, always called, taken away without a trace.

Git 2.54 and newer have hooks in the configuration, and ours are there. Older ones have one file
for an event: a hook that is already there moves aside and our script calls it first. Git-theta's
own hooks are set aside without being called, because with our filter they refuse every push of a
merge; they come back when ours go.
"""

from __future__ import annotations

import os
import shlex
from importlib import resources
from pathlib import Path

from gitmerge_eval.git import programs
from gitmerge_eval.git.changes import Changes
from gitmerge_eval.git.repository import Repository

EVENTS = ("prepare-commit-msg", "post-merge", "post-commit", "pre-push")
MARKER = b"# gitmerge-eval hook: "
CHAINED = ".gitmerge-eval-chained"
"""Ending of the name of a hook that ours calls first."""
ASIDE = ".gitmerge-eval-aside"
"""Ending of the name of a hook of git-theta's, which is not called."""
LFS_EVENTS = ("pre-push", "post-commit", "post-merge", "post-checkout")
SECTION = "hook.gitmerge-eval-"


def folder(repository: Repository) -> Path:
    """Where Git looks for hook files, ``core.hooksPath`` respected."""
    return repository.path("hooks")


def own_folder(repository: Repository) -> Path:
    """Where our scripts are that the configuration names."""
    return repository.common_directory / "gitmerge-eval" / "hooks"


def script(event: str) -> bytes:
    """The text of our hook, with this installation's program written in."""
    text = _shipped(event)
    return text.replace(b"@PROGRAM@", os.fsencode(programs.command()))


def _shipped(event: str) -> bytes:
    installed = resources.files("gitmerge_eval").joinpath("_hooks").joinpath(event)
    if installed.is_file():
        return installed.read_bytes()
    return Path(__file__).parents[2].joinpath("hooks", event).read_bytes()


def is_ours(path: Path) -> bool:
    """Whether a file is a hook that we wrote."""
    return MARKER in _content(path)


def is_git_theta(path: Path) -> bool:
    """Whether a file is git-theta's own hook and nothing else."""
    lines = [
        line.strip()
        for line in _content(path).splitlines()
        if line.strip() and not line.lstrip().startswith(b"#")
    ]
    return len(lines) == 1 and lines[0].startswith(b"git theta ")


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def wrapped(path: Path) -> Path | None:
    """Our hook under the name to which pre-commit moved it in order to call it, or None."""
    legacy = path.with_name(f"{path.name}.legacy")
    return legacy if is_ours(legacy) else None


def chained(path: Path) -> list[Path]:
    """The hooks that ours calls for the event of ``path``, oldest first."""
    return sorted(path.parent.glob(f"{path.name}{CHAINED}*"))


def state(repository: Repository, event: str) -> str:
    """'installed', 'outdated' (another version's or installation's) or 'absent'."""
    path = folder(repository) / event
    if repository.version >= programs.CONFIGURED_HOOKS:
        if repository.setting(f"{SECTION}{event}.event") != event:
            return "absent"
        path = own_folder(repository) / event
    ours = path if is_ours(path) else wrapped(path)
    if ours is None or not os.access(ours, os.X_OK):
        return "absent"
    return "installed" if _content(ours) == script(event) else "outdated"


def install(repository: Repository) -> Changes:
    """Install the hooks for every event; what is already right stays untouched."""
    changes = Changes()
    target = folder(repository)
    configured = repository.version >= programs.CONFIGURED_HOOKS
    for event in EVENTS:
        path = target / event
        if is_git_theta(path):
            changes += _set_aside(path)
        if configured:
            changes += _configure(repository, event)
        else:
            changes += _write(path, script(event))
    if not configured:
        changes += Changes(notices=_notices(repository, target))
    return changes


def uninstall(repository: Repository) -> Changes:
    """Take our hooks away and put back what was there before."""
    changes = Changes()
    places = {folder(repository), repository.common_directory / "hooks"}
    for target in sorted(places):
        for event in EVENTS:
            changes += _restore(target / event)
    for event in EVENTS:
        for variable in ("command", "event"):
            key = f"{SECTION}{event}.{variable}"
            if repository.succeeds("config", "--local", "--unset-all", key):
                changes += Changes(made=(f"unset {key}",))
        path = own_folder(repository) / event
        path.unlink(missing_ok=True)
    if own_folder(repository).is_dir():
        own_folder(repository).rmdir()
    return changes


def _configure(repository: Repository, event: str) -> Changes:
    path = own_folder(repository) / event
    made = _write(path, script(event)).made
    call = f'"$(git rev-parse --git-common-dir)"/gitmerge-eval/hooks/{shlex.quote(event)}'
    for variable, value in (("command", call), ("event", event)):
        key = f"{SECTION}{event}.{variable}"
        if repository.setting(key) != value:
            repository.run("config", "--local", "--replace-all", key, value)
            made += (f"set {key}",)
    # A file of ours from the time of an older Git would run a second time.
    made += _restore(folder(repository) / event).made if is_ours(folder(repository) / event) else ()
    return Changes(made=made)


def _write(path: Path, text: bytes) -> Changes:
    """Put our script at ``path``, an older version or a foreign hook out of its way."""
    ours = path if is_ours(path) else wrapped(path)
    if ours is not None:
        if _content(ours) == text and os.access(ours, os.X_OK):
            return Changes()
        _replace(ours, text)
        return Changes(made=(f"renewed the hook {ours.name}",))
    made: tuple[str, ...] = ()
    if path.exists() or path.is_symlink():
        aside = _free_name(path)
        os.replace(path, aside)
        made = (f"kept the hook {path.name} that was there, as {aside.name}; ours calls it",)
    path.parent.mkdir(parents=True, exist_ok=True)
    _replace(path, text)
    return Changes(made=(*made, f"installed the hook {path.name}"))


def _free_name(path: Path) -> Path:
    """Where a foreign hook moves to: the old place where it is the same hook, else a new one."""
    earlier = chained(path)
    for place in earlier:
        if _content(place) == _content(path):
            return place
    number = f"-{len(earlier) + 1}" if earlier else ""
    return path.with_name(f"{path.name}{CHAINED}{number}")


def _replace(path: Path, text: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(text)
    temporary.chmod(0o755)
    os.replace(temporary, path)


def _set_aside(path: Path) -> Changes:
    os.replace(path, path.with_name(f"{path.name}{ASIDE}"))
    return Changes(
        made=(f"set git-theta's hook {path.name} aside: with our filter it would refuse merges",)
    )


def _restore(path: Path) -> Changes:
    """Undo :func:`_write` and :func:`_set_aside` for one hook file."""
    made: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()
    ours = path if is_ours(path) else wrapped(path)
    earlier = chained(path)
    if ours is not None:
        ours.unlink()
        made += (f"removed the hook {path.name}",)
        if earlier:
            os.replace(earlier.pop(), ours)
            made += (f"put back the hook {path.name} that was there before",)
    for left in earlier:
        notices += (
            f"an older hook is kept as '{left}', because another one has taken the place of "
            f"{path.name}; delete it, or call it from there",
        )
    aside = path.with_name(f"{path.name}{ASIDE}")
    if aside.exists():
        if path.exists():
            notices += (f"git-theta's hook is kept as '{aside}', because {path.name} is taken",)
        else:
            os.replace(aside, path)
            made += (f"put back git-theta's hook {path.name}",)
    return Changes(made, notices)


def _notices(repository: Repository, target: Path) -> tuple[str, ...]:
    notices: tuple[str, ...] = ()
    shared = [event for event in LFS_EVENTS if is_ours(target / event)]
    if shared:
        notices += (
            f"'git lfs install' and 'git lfs update' will now say 'Hook already exists: "
            f"{shared[0]}' in this repository and end with status 2; that is harmless: git-lfs "
            "works and its own hooks are called; after 'git lfs update --force' run "
            "'gitmerge-eval init' again",
        )
    if target.resolve() != (repository.common_directory / "hooks").resolve():
        notices += (
            f"core.hooksPath is '{target}': the hooks were installed there, and other "
            "repositories that use this folder call them too, without effect",
        )
    return notices
