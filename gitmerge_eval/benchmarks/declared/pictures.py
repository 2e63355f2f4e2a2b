"""Pictures of the user's own: folders of files, or a data set that ``datasets`` has saved."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gitmerge_eval.benchmarks.declared import places
from gitmerge_eval.benchmarks.declared.splits import Splits
from gitmerge_eval.errors import EvaluationError, UnknownName
from gitmerge_eval.records import Task

if TYPE_CHECKING:
    from open_clip.transform import PreprocessCfg

    from gitmerge_eval.benchmarks.clip.published import PublishedPictures

ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")


@dataclass(frozen=True, eq=False)
class PictureFolders:
    """``<path of the cell>/<class>/*.jpg`` below the data folder."""

    folder: Path | None
    path: str
    """A template of the axes and 'split'."""
    splits: Splits
    tasks: Mapping[str, Task]
    preprocessing: PreprocessCfg
    identity: str
    """What, beside the pictures, a score depends on."""

    def pictures(
        self, names: Sequence[str], domain: str, split: str, classes: Sequence[str]
    ) -> PublishedPictures:
        """As of :class:`~gitmerge_eval.benchmarks.clip.source.Source`; ``domain`` is a task.

        Raises EvaluationError also for a folder that is no class, and a class without a folder is
        one without pictures.
        """
        import datasets
        from open_clip.transform import image_transform_v2

        from gitmerge_eval.benchmarks.clip.published import PublishedPictures

        task = self.tasks[domain]
        if task.status == "unavailable":
            raise EvaluationError(f"the task '{domain}' is declared to be unavailable")
        values = {**task.skills, "split": self.splits.name(split)}
        path = places.filled(self.path, values)
        there = places.located(self.folder, path)
        files = [
            (file, name)
            for name in self._classes(there, names)
            for file in self.splits.part(self._files(there / name), split)
        ]
        if not files:
            raise EvaluationError(
                f"'{there}' has no pictures of the {split} split; put them into folders of their "
                f"classes, {there}/<class>/*.jpg"
            )
        columns = {
            "image": [str(file) for file, _ in files],
            "label": [classes.index(name) for _, name in files],
        }
        features = datasets.Features(
            image=datasets.Image(mode="RGB"), label=datasets.ClassLabel(names=list(classes))
        )
        return PublishedPictures(
            datasets.Dataset.from_dict(columns, features=features),
            image_transform_v2(self.preprocessing, is_train=False),
            f"{_digest(files)} {self.preprocessing!r} {self.identity}",
        )

    def _classes(self, there: Path, known: Sequence[str]) -> tuple[str, ...]:
        if not there.is_dir():
            raise EvaluationError(f"'{there}' is no folder; give the folder that has the classes")
        found = sorted(entry.name for entry in there.iterdir() if entry.is_dir())
        for name in found:
            if name not in known and not name.startswith("."):
                raise EvaluationError(
                    f"'{there}' has a folder '{name}': {UnknownName.among('class', name, known)}; "
                    "add it to 'classes' in benchmark.toml, or move it away"
                )
        return tuple(name for name in known if name in found)

    def _files(self, folder: Path) -> list[Path]:
        assert self.folder is not None
        places.check_inside(self.folder, folder)
        found = []
        for entry in sorted(folder.iterdir()):
            if entry.name.lower().endswith(ENDINGS):
                if entry.is_symlink():
                    places.check_inside(self.folder, entry)
                found.append(entry)
        return found


def _digest(files: Sequence[tuple[Path, str]]) -> str:
    """SHA-256 over the pictures' bytes and classes, in order."""
    digest = hashlib.sha256()
    for file, name in files:
        status = file.stat()
        content = _content(file, status.st_size, status.st_mtime_ns)
        digest.update(f"{name}\0{content}\n".encode())
    return digest.hexdigest()


@functools.lru_cache(maxsize=1 << 16)
def _content(file: Path, size: int, changed: int) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def check_configuration(numbers: Mapping[str, Any], where: str) -> None:
    """Raises EvaluationError for an open_clip configuration that would be fetched from a hub."""
    for key, value in numbers.items():
        if key.startswith(("hf_", "timm_")) and value:
            raise EvaluationError(
                f"{where} has '{key}', for which open_clip would download from a hub; use a tower "
                "of open_clip's own"
            )
        if isinstance(value, dict):
            check_configuration(value, where)
