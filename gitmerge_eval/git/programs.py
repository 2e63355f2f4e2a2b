"""Where the programs are: ours, as Git must call them, and those that we need."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from gitmerge_eval.errors import PrerequisiteError

MAIN = "gitmerge-eval"
STRATEGY = "git-merge-theta"
OLDEST_GIT = (2, 38)
"""Older versions do not restore the work tree after a strategy that gave up."""
CONFIGURED_HOOKS = (2, 54)
"""From here on hooks can be configured instead of being written to a folder."""


def scripts_folder() -> Path:
    """The folder of the running Python's console scripts."""
    return Path(sysconfig.get_path("scripts"))


def location(name: str = MAIN) -> str:
    """How to call one of our programs from anywhere: its plain name or its absolute path.

    The plain name serves where the program is found without the activated virtual environment,
    whose folder leaves PATH with the shell that activated it.
    """
    script = scripts_folder() / name
    plain = shutil.which(name, path=os.pathsep.join(_lasting_path()))
    if plain and (not script.exists() or Path(plain).resolve() == script.resolve()):
        return name
    return str(script)


def command(name: str = MAIN) -> str:
    """:func:`location`, quoted for the shell that Git runs it with."""
    return shlex.quote(location(name))


def _lasting_path() -> list[str]:
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    if sys.prefix == sys.base_prefix:
        return folders
    own = scripts_folder().resolve()
    return [folder for folder in folders if folder and Path(folder).resolve() != own]


def strategy_notice() -> str | None:
    """What the user has to do so that Git finds the merge strategy, or None where it does."""
    if shutil.which(STRATEGY):
        return None
    folder = scripts_folder()
    activate = folder / "activate"
    remedy = f'run: export PATH={shlex.quote(str(folder))}:"$PATH"'
    if activate.exists():
        remedy = f"activate the virtual environment (. {shlex.quote(str(activate))}), or {remedy}"
    return (
        f"Git looks for the merge strategy '{STRATEGY}' on PATH only, and it is not there: "
        f"'git merge' and 'git pull' will fail with 'Could not find merge strategy'; {remedy}"
    )


def version_of(*command_line: str) -> tuple[int, ...] | None:
    """The first dotted number that a program prints, or None where it cannot be run."""
    try:
        done = subprocess.run(command_line, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    found = re.search(r"\d+(?:\.\d+)+", done.stdout)
    return tuple(int(part) for part in found.group().split(".")) if found else None


def dotted(version: tuple[int, ...]) -> str:
    """``(2, 39, 5)`` as '2.39.5'."""
    return ".".join(str(part) for part in version)


def installation(package: str) -> str:
    """The command that installs a system package here."""
    for manager, line in (
        ("apt-get", "sudo apt-get install"),
        ("dnf", "sudo dnf install"),
        ("pacman", "sudo pacman -S"),
        ("zypper", "sudo zypper install"),
        ("apk", "sudo apk add"),
        ("brew", "brew install"),
        ("conda", "conda install -c conda-forge"),
    ):
        if shutil.which(manager):
            return f"{line} {package}"
    return f"install '{package}' with the system's package manager"


def require() -> tuple[int, ...]:
    """Git's version; PrerequisiteError where Git is too old or git-lfs is missing."""
    git = version_of("git", "version")
    if git is None or git < OLDEST_GIT:
        have = f"this is {dotted(git)}" if git else "there is none on PATH"
        raise PrerequisiteError(
            f"Git {dotted(OLDEST_GIT)} or newer is needed and {have}; update it: "
            f"{installation('git')} (nothing was changed)"
        )
    if version_of("git", "lfs", "version") is None:
        raise PrerequisiteError(
            "git-lfs is needed to store and exchange the models' tensors and is not installed; "
            f"run: {installation('git-lfs')} (nothing was changed)"
        )
    return git
