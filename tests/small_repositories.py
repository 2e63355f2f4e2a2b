"""Model repositories whose merges need no torch: built once for each module, then copied.

Each branch adds a parameter group of its own, so that nothing has to be computed.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from pathlib import Path

import torch
from models import ModelRepository

from gitmerge_eval.git.repository import Repository

LINES = "".join(f"line {number}\n" for number in range(20))
BASE = {"frozen": torch.zeros(3)}


def edited(name: str, line: int) -> str:
    return LINES.replace(f"line {line}\n", f"by {name}\n")


def grown(*names: str) -> dict[str, torch.Tensor]:
    """The base model with one more group for each name."""
    return {**BASE, **{f"{name}.weight": torch.full((2,), float(len(name))) for name in names}}


def built(folder: Path, *names: str) -> ModelRepository:
    """main and a branch for each name: a group, a file and an edited line of its own."""
    repository = ModelRepository(folder, BASE, text=LINES)
    for number, name in enumerate(names):
        files = {f"{name}.txt": "new\n", "notes.txt": edited(name, 5 * number)}
        repository.branch(name, grown(name), files=files)
    settle(repository)
    return repository


def settle(repository: ModelRepository) -> None:
    """Make copies of the folder clean at once: times in seconds, and an index that is younger."""
    repository.git.run("config", "core.checkStat", "minimal")
    repository.git.run("config", "core.trustctime", "false")
    time.sleep(1.1)
    repository.git.run("update-index", "--refresh")


def opened(folder: Path) -> ModelRepository:
    """The repository that is in ``folder`` already."""
    repository = ModelRepository.__new__(ModelRepository)
    repository.folder, repository.git = folder, Repository(folder)
    return repository


def copied(template: ModelRepository, target: Path) -> ModelRepository:
    shutil.copytree(template.folder, target, symlinks=True)
    return opened(target)


def without_heavy_imports(folder: Path) -> dict[str, str]:
    """An environment in which importing torch, numba or git_theta fails."""
    for name in ("torch", "numba", "git_theta", "open_clip"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "__init__.py").write_text(f"raise RuntimeError('{name} was imported')\n")
    return {"PYTHONPATH": os.fspath(folder)}


def left_over(folder: Path) -> set[str]:
    """What is in our folder of a git directory beside the installation's record and the caches."""
    names = {path.name for path in folder.iterdir()}
    known = re.compile(r"installed\.json|(groups|objects|results)\.sqlite.*")
    return {name for name in names if not known.fullmatch(name)}
