"""What evaluations kept below the git directory and nothing refers to any more.

What was kept of a score (features, pictures) serves figures of all tasks together. It is wanted as
long as the score is in the cache and its checkpoint can be evaluated again, which is while its
blob is in the repository, as that of every commit with a note is. A sheet is wanted while the note
of a commit that is still here names it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gitmerge_eval.evaluation import summaries
from gitmerge_eval.evaluation.evaluating import FOLDER, OUTPUTS, results_path
from gitmerge_eval.evaluation.results import open_results
from gitmerge_eval.git import notes
from gitmerge_eval.git.reachable import existing
from gitmerge_eval.git.repository import Repository


@dataclass(frozen=True)
class Leftover:
    """A folder of one score, or a sheet."""

    path: str
    """From the common git directory."""
    size: int
    """Bytes."""


def remove(
    repository: Repository, cutoff: float, *, dry_run: bool
) -> tuple[tuple[Leftover, ...], tuple[str, ...]]:
    """Remove what nothing refers to and nobody wrote since ``cutoff``, seconds since 1970.

    Returns it, and in words why nothing could be removed: while an evaluation runs here, none of
    its files is known to be wanted yet.
    """
    folder = repository.common_directory / FOLDER
    kept = [*(folder / OUTPUTS).glob("*"), *(folder / summaries.SHEETS).glob("*.png")]
    if not kept:
        return (), ()
    with summaries.unused(folder) as free:
        if not free:
            return (), (
                "an evaluation is running here, so that what evaluations keep was left alone; "
                "run gc after it",
            )
        wanted = _wanted(repository, folder)
        found = []
        for path in sorted(set(kept) - wanted):
            with suppress(FileNotFoundError):
                files = [path, *path.rglob("*")]
                if max(file.stat().st_mtime for file in files) < cutoff:
                    size = sum(file.stat().st_size for file in files if file.is_file())
                    own = path.relative_to(repository.common_directory).as_posix()
                    found.append(Leftover(own, size))
        if not dry_run:
            for leftover in found:
                _remove(repository.common_directory / leftover.path)
        return tuple(found), ()


def _wanted(repository: Repository, folder: Path) -> set[Path]:
    sheets = {
        repository.common_directory / str(record.get("sheet")) for record in _records(repository)
    }
    if not results_path(repository).exists():
        return sheets
    with open_results(results_path(repository)) as results:
        keys = results.every()
    blobs = {key: key.checkpoint.partition("+")[0] for key in keys}
    here = set(existing(repository, set(blobs.values())))
    outputs = summaries.Outputs(folder / OUTPUTS)
    return sheets | {outputs.of(key) for key in keys if blobs[key] in here}


def _records(repository: Repository) -> Iterator[dict[str, Any]]:
    """The evaluations that notes of commits of this repository have, fetched ones included."""
    found = dict.fromkeys(notes.every(repository))
    here = set(existing(repository, {commit for _, commit in found}))
    for blob, commit in found:
        if commit in here:
            yield from notes.records(repository.blob(blob).decode(errors="replace"))


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
