"""DomainNet's pictures as they are published, read through ``datasets`` when they are needed.

A folder with ``<domain>/<class>/<picture>.jpg`` and the lists ``<domain>_train.txt`` and
``<domain>_test.txt``, whose lines are ``clipart/bird/clipart_029_000001.jpg 29``.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gitmerge_eval.benchmarks.domainnet import DOMAINS
from gitmerge_eval.errors import EvaluationError, InvalidOption, UnknownName

if TYPE_CHECKING:
    import datasets

SPLITS = ("train", "validation", "test")
FOLDER_VARIABLE = "GITMERGE_EVAL_DOMAINNET"
"""Names the folder, whatever a repository's ``benchmark.toml`` says."""
_WANTED = (
    "download the six domains' pictures (the cleaned version) with their lists from DomainNet's "
    f"page, ai.bu.edu/M3SDA, unpack them into one folder, and name it by the setting 'data' or "
    f"by {FOLDER_VARIABLE}"
)


@dataclass(frozen=True)
class Picture:
    """One line of a list."""

    path: str
    """Relative to DomainNet's folder, with forward slashes."""
    name: str
    """Its class."""


@dataclass(frozen=True)
class DomainNet:
    """The published pictures in ``folder``, with a validation split of our own.

    ``validation`` is the share of each class's training pictures in a domain that belongs to that
    split, at least one where there are two. Which ones depends on ``seed`` and their paths.
    Raises EvaluationError for a folder that is not there.
    """

    folder: Path
    seed: int = 0
    validation: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.validation < 1:
            raise InvalidOption(
                f"the validation share is {self.validation}, which is not a number in (0, 1)"
            )
        if not self.folder.is_dir():
            raise EvaluationError(f"there is no folder '{self.folder}' with DomainNet; {_WANTED}")

    def pictures(self, domain: str, classes: Sequence[str], split: str) -> tuple[Picture, ...]:
        """The pictures of ``classes`` in a domain and split, class by class, sorted by path.

        A class may have none: the published painting_train.txt lacks t-shirt. Raises UnknownName
        for a domain or split, EvaluationError for a list that is missing or is not one, and where
        no class has a picture.
        """
        if split not in SPLITS:
            raise UnknownName.among("split of DomainNet", split, SPLITS)
        listed = _listed(self.folder, domain, "test" if split == "test" else "train")
        found: list[Picture] = []
        for name in classes:
            paths = listed.get(name, ())
            chosen = paths if split == "test" else self._part(paths, split)
            found += [Picture(path, name) for path in chosen]
        if not found:
            raise EvaluationError(
                f"'{self.folder}' has no picture of {', '.join(classes)} in the {split} split of "
                f"{domain}; correct the lists or the categories"
            )
        return tuple(found)

    def _part(self, paths: Sequence[str], split: str) -> tuple[str, ...]:
        ordered = sorted(paths, key=self._place)
        count = max(1, round(self.validation * len(paths))) if len(paths) > 1 else 0
        return tuple(sorted(ordered[:count] if split == "validation" else ordered[count:]))

    def _place(self, path: str) -> bytes:
        return hashlib.sha256(f"{self.seed}/{path}".encode()).digest()

    def dataset(
        self, domain: str, classes: Sequence[str], split: str, labels: Sequence[str]
    ) -> datasets.Dataset:
        """The same pictures as a data set with the columns image (decoded when read) and label.

        ``labels`` are the names that a label is a position in. Raises EvaluationError for pictures
        that the lists name and the folder lacks, and what :meth:`pictures` raises.
        """
        try:
            import datasets
        except ModuleNotFoundError as error:
            raise EvaluationError(
                "pictures are read by the package 'datasets', which is not installed; run "
                "\"pip install 'gitmerge-eval[pictures]'\""
            ) from error

        chosen = self.pictures(domain, classes, split)
        self._check_there(domain, chosen)
        columns = {
            "image": [str(self.folder / picture.path) for picture in chosen],
            "label": [labels.index(picture.name) for picture in chosen],
        }
        features = datasets.Features(
            image=datasets.Image(mode="RGB"), label=datasets.ClassLabel(names=list(labels))
        )
        return datasets.Dataset.from_dict(columns, features=features)

    def _check_there(self, domain: str, chosen: Sequence[Picture]) -> None:
        # A folder is listed once: asking for each file takes minutes on a network's disk.
        there = {
            name: {entry.name for entry in os.scandir(self.folder / domain / name)}
            if (self.folder / domain / name).is_dir()
            else set()
            for name in {picture.name for picture in chosen}
        }
        missing = [p.path for p in chosen if p.path.rpartition("/")[2] not in there[p.name]]
        if missing:
            raise EvaluationError(
                f"'{self.folder}' lacks '{missing[0]}', which a list names ({len(missing)} of "
                f"{len(chosen)} are missing); unpack DomainNet's {domain}.zip there"
            )

    def fingerprint(self, domain: str, classes: Sequence[str], split: str) -> str:
        """SHA-256 over the paths and sizes of the pictures, not over all their bytes.

        DomainNet's files never change; a folder with other pictures has other sizes.
        """
        chosen = self.pictures(domain, classes, split)
        self._check_there(domain, chosen)
        sizes = ((p.path, (self.folder / p.path).stat().st_size) for p in chosen)
        text = "".join(f"{path}\0{size}\n" for path, size in sizes)
        return hashlib.sha256(text.encode()).hexdigest()


@functools.lru_cache(maxsize=32)
def _listed(folder: Path, domain: str, part: str) -> Mapping[str, tuple[str, ...]]:
    """class -> its pictures' paths, from one published list."""
    if domain not in DOMAINS:
        raise UnknownName.among("domain of DomainNet", domain, DOMAINS)
    file = folder / f"{domain}_{part}.txt"
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise EvaluationError(f"there is no list '{file}'; {_WANTED}") from error
    found: dict[str, list[str]] = {}
    for number, line in enumerate(lines, 1):
        path, _, label = line.rpartition(" ")
        parts = path.split("/")
        if len(parts) != 3 or parts[0] != domain or not label.isdecimal() or ".." in parts:
            raise EvaluationError(
                f"'{file}', line {number}, is '{line[:80]}' and not "
                f"'{domain}/<class>/<picture>.jpg <number>'"
            )
        found.setdefault(parts[1], []).append(path)
    for name, paths in found.items():
        if len(set(paths)) < len(paths):
            raise EvaluationError(f"'{file}' names a picture of '{name}' twice; download it again")
    return {name: tuple(sorted(paths)) for name, paths in found.items()}


def opened(settings: Mapping[str, Any], *, validation: float) -> DomainNet:
    """DomainNet as ``benchmark.toml`` or the environment says where it is.

    The settings are ``data``, the folder, and ``seed``, which chooses the validation split.
    """
    # The variable first: a repository's file may name a folder of somebody else's machine.
    folder = os.environ.get(FOLDER_VARIABLE) or settings.get("data")
    if not folder or not isinstance(folder, str):
        raise EvaluationError(f"it is not known where DomainNet is; {_WANTED}")
    return DomainNet(Path(folder).expanduser(), int(settings.get("seed", 0)), validation)
