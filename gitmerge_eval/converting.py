"""Makes a safetensors file of a PyTorch pickle, which may come from anybody."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import gitmerge_eval
from gitmerge_eval.checkpoints.pickles import Request, Written
from gitmerge_eval.errors import MalformedCheckpoint, UsageError

_MEMORY_BYTES = 4 << 30
"""What torch itself may take, beside twice the file: a pickle from before 2020 is read whole."""
_SECONDS = 120
_BYTES_A_SECOND = 5_000_000


def default_target(source: Path) -> Path:
    """Where a converted model goes unless told: ``model.safetensors`` for ``model.pt``."""
    return source.with_suffix(".safetensors")


def convert(
    source: Path,
    target: Path | None = None,
    *,
    key: str = "",
    strip_prefix: str = "",
    drop: bool = False,
    force: bool = False,
) -> Written:
    """Write the tensors of ``source`` to ``target`` as safetensors, bit for bit.

    The file is read in a process of its own, with ``weights_only``, limited memory and limited
    time: nothing in it runs. ``key``, ``strip_prefix`` and ``drop`` are those of
    :class:`~gitmerge_eval.checkpoints.pickles.Request`. Raises UsageError where ``source`` is no
    file or ``target`` is there already (unless ``force``), and MalformedCheckpoint for what cannot
    be converted; nothing is written then.
    """
    target = target or default_target(source)
    if not source.is_file():
        raise UsageError(f"there is no file '{source}'")
    if target.exists() and not force:
        raise UsageError(f"'{target}' is there already; name another file, or use --force")
    if not target.parent.is_dir():
        raise UsageError(f"there is no folder '{target.parent}'; make it first")
    size = source.stat().st_size
    with TemporaryDirectory(prefix=".gitmerge-eval-", dir=target.parent) as folder:
        made = Path(folder) / target.name
        request = Request(
            source=os.fspath(source.absolute()),
            target=os.fspath(made.absolute()),
            key=key,
            strip_prefix=strip_prefix,
            drop=drop,
            memory_bytes=_MEMORY_BYTES + 2 * size,
        )
        written = _in_a_process(request, source, _SECONDS + size / _BYTES_A_SECOND)
        if force:
            made.replace(target)
        else:
            _put(made, target)
    return written


def _put(made: Path, target: Path) -> None:
    """Rename, but never over a file that came meanwhile."""
    try:
        target.hardlink_to(made)
    except FileExistsError:
        raise UsageError(
            f"'{target}' is there already; name another file, or use --force"
        ) from None
    except OSError:  # a file system without links
        made.replace(target)


def _in_a_process(request: Request, source: Path, seconds: float) -> Written:
    # From the package's own folder: in the current one, a file torch.py would be imported.
    command = [sys.executable, "-m", "gitmerge_eval.checkpoints.pickles"]
    try:
        done = subprocess.run(
            command,
            input=json.dumps(asdict(request)),
            capture_output=True,
            text=True,
            cwd=Path(gitmerge_eval.__file__).parents[1],
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise MalformedCheckpoint(
            f"'{source}' took more than {seconds:.0f} seconds to read, far more than a file of its "
            "size should; nothing was written"
        ) from None
    answer = {}
    with suppress(ValueError):
        answer = json.loads(done.stdout)
    if not answer:
        last = done.stderr.strip().rpartition("\n")[2]
        raise MalformedCheckpoint(
            f"reading '{source}' ended with status {done.returncode} "
            f"({last[:200] or 'out of memory, or killed'}); nothing was written"
        )
    if "error" in answer:
        # The process knows absolute paths only; the user's own words are shorter.
        raise MalformedCheckpoint(answer["error"].replace(request.source, os.fspath(source)))
    return Written(
        answer["tensors"], answer["nbytes"], tuple(answer["dropped"]), tuple(answer["notes"])
    )
