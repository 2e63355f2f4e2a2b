"""Pictures with labels in a data set that ``datasets`` has saved."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gitmerge_eval.benchmarks.declared.rows import Rows, check_column, label_text
from gitmerge_eval.errors import EvaluationError, UnknownName
from gitmerge_eval.records import Task

if TYPE_CHECKING:
    from open_clip.transform import PreprocessCfg

    from gitmerge_eval.benchmarks.clip.published import PublishedPictures


@dataclass(frozen=True, eq=False)
class PictureRows:
    """Rows with a picture and the name of its class."""

    rows: Rows
    image: str
    label: str
    tasks: Mapping[str, Task]
    preprocessing: PreprocessCfg
    identity: str

    def pictures(
        self, names: Sequence[str], domain: str, split: str, classes: Sequence[str]
    ) -> PublishedPictures:
        """As of :class:`~gitmerge_eval.benchmarks.clip.source.Source`; ``domain`` is a task."""
        import datasets
        from open_clip.transform import image_transform_v2

        from gitmerge_eval.benchmarks.clip.published import PublishedPictures

        data = self.rows.read(self.tasks[domain], split)
        for column in (self.image, self.label):
            check_column(data, column, self.rows.path)
        called = [label_text(data, self.label, value) for value in data[self.label][:]]
        for name in called:
            if name not in classes:
                raise EvaluationError(
                    f"'{self.rows.path}': {UnknownName.among('class', name, classes)}; add it to "
                    "'classes' in benchmark.toml"
                )
        # The bytes as they are stored; decoded only when they are asked for.
        stored = data.cast_column(self.image, datasets.Image(decode=False))[self.image][:]
        digest = hashlib.sha256()
        for picture in stored:
            digest.update(hashlib.sha256(_bytes(picture)).digest())
        columns = {"image": stored, "label": [classes.index(name) for name in called]}
        features = datasets.Features(
            image=datasets.Image(mode="RGB"), label=datasets.ClassLabel(names=list(classes))
        )
        return PublishedPictures(
            datasets.Dataset.from_dict(columns, features=features),
            image_transform_v2(self.preprocessing, is_train=False),
            f"{digest.hexdigest()} {self.preprocessing!r} {self.identity}",
        )


def _bytes(picture: Mapping[str, Any]) -> bytes:
    found = picture["bytes"]
    if not isinstance(found, bytes):
        raise EvaluationError(
            f"the data set names the picture '{picture['path']}' and does not hold it; save it "
            "with 'save_to_disk' again, which embeds the pictures"
        )
    return found
