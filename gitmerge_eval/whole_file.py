"""Text files that the user asked for, written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from gitmerge_eval.errors import UsageError


def write_whole(path: Path, text: str) -> None:
    """Write ``text`` to ``path``; where that is a link, to the file that it leads to.

    Raises UsageError, with the file as it was, where its folder is missing or cannot be written.
    """
    target = path.resolve()
    folder = target.parent
    if not folder.is_dir():
        raise UsageError(
            f"cannot write '{path}': there is no folder '{folder}'; make it, or name another file"
        )
    if target.is_dir():
        raise UsageError(f"cannot write '{path}': it is a folder; name a file in it")
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        with partial.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
        if target.exists():
            partial.chmod(target.stat().st_mode & 0o7777)
        partial.replace(target)
    except OSError as error:
        raise UsageError(
            f"cannot write '{path}' in the folder '{folder}': {error.strerror}; make room or make "
            "it writable, or name another file"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
