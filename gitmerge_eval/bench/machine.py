"""Names the machine that a benchmark ran on, and the versions that matter."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from gitmerge_eval import __version__
from gitmerge_eval.errors import PrerequisiteError


def described() -> dict[str, str]:
    """What was measured where and when, by name, in the order in which it is shown."""
    found = {
        "date": datetime.date.today().isoformat(),
        "processor": _first("/proc/cpuinfo", "model name") or platform.processor() or "unknown",
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{int(_first('/proc/meminfo', 'MemTotal').split()[0]) / 1e6:.0f} GB",
        "device": _accelerator(),
        "system": f"{platform.system()} {platform.release()}",
        "load before": f"{os.getloadavg()[0]:.1f}",
        "python": platform.python_version(),
        "gitmerge-eval": __version__,
        "torch": _version("torch"),
        "numpy": _version("numpy"),
        "git": _said(["git", "--version"]).removeprefix("git version "),
        "git-lfs": _said(["git", "lfs", "version"]).split(" ")[0].removeprefix("git-lfs/"),
        "git-theta": _version("git-theta"),
        "mergekit": _version("mergekit"),
    }
    return {name: value for name, value in found.items() if value}


def required_space(folder: Path, needed_bytes: int) -> None:
    """PrerequisiteError unless ``folder``'s file system has that much room."""
    status = os.statvfs(folder)
    free = status.f_bavail * status.f_frsize
    if free < needed_bytes:
        raise PrerequisiteError(
            f"the benchmark needs about {needed_bytes / 1e9:.1f} GB in '{folder}', which has "
            f"{free / 1e9:.1f} GB free; name another folder with --folder, or a smaller --size"
        )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _first(path: str, name: str) -> str:
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""


def _said(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip().partition("\n")[0] if done.returncode == 0 else ""


def _accelerator() -> str:
    """The GPU's name as its driver says it; nothing where there is none."""
    return _said(["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"])
