"""The way to a Ray cluster, and what its workers are told of the repository."""

from __future__ import annotations

import importlib
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gitmerge_eval.checkpoints import transfer
from gitmerge_eval.errors import EvaluationError
from gitmerge_eval.git.repository import Repository
from gitmerge_eval.studies.on_node import Site

KNOCK_SECONDS = 10


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """The module ``ray``, connected; what was connected before stays so.

    Raises EvaluationError where Ray is not installed or no cluster is at ``address``.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray: Any = importlib.import_module("ray")
    except ModuleNotFoundError as error:
        raise EvaluationError(
            "--executor ray needs the package 'ray'; install the extra: "
            "pip install 'gitmerge-eval[ray]'"
        ) from error
    if ray.is_initialized():
        yield ray
        return
    # Ray puts the current folder on the workers' path, and a work tree may hold a torch.py. It is
    # their current folder, too: Intel's MKL ends a process whose folder is gone.
    with tempfile.TemporaryDirectory(prefix="gitmerge-eval-") as neutral:
        _connect(ray, address, neutral)
        try:
            yield ray
        finally:
            ray.shutdown()


def _connect(ray: Any, address: str, neutral: str) -> None:
    settings: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    if address:
        _knock(address)
    else:
        settings |= {"include_dashboard": False}
    before = Path.cwd()
    os.chdir(neutral)
    try:
        ray.init(address=address or "local", **settings)
    except (ConnectionError, ImportError, ValueError, RuntimeError) as error:
        raise _unreachable(address or "local", error) from error
    finally:
        os.chdir(before)


def _knock(address: str) -> None:
    """Ray itself tries for minutes to reach a head that is not there, and then ends the process."""
    host, colon, port = address.rpartition("://")[2].partition("/")[0].rpartition(":")
    if not (colon and port.isdigit()):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), KNOCK_SECONDS).close()
    except OSError as error:
        raise _unreachable(address, error) from error


def _unreachable(address: str, error: Exception) -> EvaluationError:
    reason = str(error).strip().partition("\n")[0]
    remedy = "start one with 'ray start --head', or leave out --ray-address"
    if address != "auto" and "RAY_AUTH_MODE" not in os.environ:
        # Ray looks for its token by itself where it looks for the cluster, and only there.
        remedy += "; one that asks for a token needs RAY_AUTH_MODE=token in the environment"
    return EvaluationError(f"no Ray cluster is to be had at '{address}' ({reason}); {remedy}")


def site(repository: Repository, folder: Path, clone: str) -> Site:
    """What workers are told of the repository."""
    remote = transfer.default_remote(repository)
    found = repository.text("remote", "get-url", remote) if remote else ""
    if found and (repository.directory / found).is_dir():
        found = os.fspath((repository.directory / found).resolve())
    return Site(os.fspath(repository.directory.resolve()), os.fspath(folder), found, clone)
