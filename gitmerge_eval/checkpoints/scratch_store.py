"""A store whose new objects go away: for merges that are recomputed or only tried."""

from __future__ import annotations

from pathlib import Path

from gitmerge_eval.checkpoints.lfs import ObjectStore
from gitmerge_eval.git.repository import Repository


class ScratchStore(ObjectStore):
    """Reads the repository's objects and keeps new ones in a folder that goes away."""

    def __init__(self, repository: Repository, scratch: Path) -> None:
        super().__init__(repository)
        own = ObjectStore(repository)
        self._borrowed = [own.folder / "objects", *own._borrowed]
        self.folder = scratch
