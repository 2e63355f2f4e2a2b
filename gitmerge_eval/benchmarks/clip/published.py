"""DomainNet's published pictures as a source, through open_clip's own preprocessing."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from torch import Tensor

from gitmerge_eval.benchmarks.domainnet.reading import DomainNet
from gitmerge_eval.errors import EvaluationError

if TYPE_CHECKING:
    import datasets


@functools.lru_cache(maxsize=1)
def _readers() -> ThreadPoolExecutor:
    # Pillow decodes and scales without the interpreter's lock: threads are enough, and torch, which
    # normalises, must not start as many again in each of them.
    return ThreadPoolExecutor(os.cpu_count() or 1, initializer=torch.set_num_threads, initargs=(1,))


@dataclass(frozen=True, eq=False)
class PublishedPictures:
    """Files that are decoded, scaled and cropped whenever they are asked for."""

    data: datasets.Dataset
    """With the columns image and label."""
    preprocess: Callable[[Any], Tensor]
    origin: str
    """A digest of the files and of how they are preprocessed."""

    @functools.cached_property
    def labels(self) -> Tensor:
        """The class of each, shape (n,)."""
        return torch.tensor(self.data["label"][:])

    def inputs(self, rows: Tensor) -> Tensor:
        """As of :class:`~gitmerge_eval.benchmarks.clip.source.Pictures`.

        Raises EvaluationError for a file that is no picture.
        """
        return torch.stack(list(_readers().map(self._input, rows.tolist())))

    def _input(self, row: int) -> Tensor:
        try:
            return self.preprocess(self.data[row]["image"])
        except (OSError, ValueError) as error:
            raise EvaluationError(f"a picture of the data cannot be read: {error}") from error

    def fingerprint(self, prompts: Sequence[Sequence[str]]) -> str:
        """SHA-256 over the files' paths and sizes, the preprocessing, the labels and prompts."""
        text = repr((self.origin, self.labels.tolist(), prompts))
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class PublishedSource:
    """DomainNet, preprocessed as the model's weights want it, in evaluation's way for training too.

    Training sees no random crops: what the paper trained with is not said there, and a picture
    that is always the same makes a training repeatable.
    """

    domainnet: DomainNet
    preprocessing: PreprocessCfg

    def pictures(
        self, names: Sequence[str], domain: str, split: str, classes: Sequence[str]
    ) -> PublishedPictures:
        """As of :class:`~gitmerge_eval.benchmarks.clip.source.Source`."""
        data = self.domainnet.dataset(domain, names, split, classes)
        files = self.domainnet.fingerprint(domain, names, split)
        return PublishedPictures(
            data,
            image_transform_v2(self.preprocessing, is_train=False),
            f"{files} {self.preprocessing!r}",
        )
