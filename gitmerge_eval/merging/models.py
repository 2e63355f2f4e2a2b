"""Which files are one model: a checkpoint, an adapter with its configuration, shards and index."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import PurePosixPath

from gitmerge_eval.checkpoints import lora, sharded
from gitmerge_eval.checkpoints.sharded import ShardIndex
from gitmerge_eval.errors import MergeRefused
from gitmerge_eval.git.repository import Repository
from gitmerge_eval.git.trees import Entry

_INDEX = ".safetensors.index"

Files = Mapping[str, Entry]
"""path -> Entry of all files of one commit."""


class Models:
    """Finds the models of one repository; a model goes by the path of its index, or of its file."""

    def __init__(self, repository: Repository) -> None:
        self.repository = repository
        self._index = lru_cache(maxsize=256)(self._parsed)

    def group(self, paths: Iterable[str], commits: Iterable[Files]) -> set[str]:
        """The models that the checkpoints at ``paths`` are, or are parts of, in any of the commits.

        MalformedCheckpoint where an index beside one of them is not one.
        """
        wanted, known = sorted(paths), list(commits)
        folders = {PurePosixPath(path).parent for path in wanted}
        indexes = [
            [p for p in files if _INDEX in p and PurePosixPath(p).parent in folders]
            for files in known
        ]
        return {self._model_of(path, known, indexes) for path in wanted}

    def _model_of(self, path: str, commits: list[Files], indexes: list[list[str]]) -> str:
        pure = PurePosixPath(path)
        for files, beside in zip(commits, indexes, strict=True):
            for index in beside:
                if PurePosixPath(index).parent == pure.parent and sharded.is_index(index):
                    shards = self._index(files[index].object_id, index).weight_map.values()
                    if pure.name in shards:
                        return index
        if (named := sharded.index_of(path)) and any(named in files for files in commits):
            return named
        index = str(pure.with_name(f"{pure.name}.index.json"))
        having = [files for files in commits if index in files]
        # The same model in one file on some branches and in several on others.
        return index if having and not any(path in files for files in having) else path

    def files(self, model: str, commit: Files) -> dict[str, Entry]:
        """The files of ``model`` in a commit; none where the commit does not have it.

        MalformedCheckpoint where its index is not one.
        """
        if not sharded.is_index(model):
            wanted = [model, lora.configuration_of(model) or model] if model in commit else []
        elif model in commit:
            index = self._index(commit[model].object_id, model)
            wanted = [model, *shard_paths(model, index)]
        else:
            wanted = [single_of(model)]
        return {path: commit[path] for path in wanted if path in commit}

    def _parsed(self, blob: str, path: str) -> ShardIndex:
        return ShardIndex.parse(self.repository.blob(blob), path)


def shard_paths(model: str, index: ShardIndex) -> tuple[str, ...]:
    """Where the shards of the model with the index at ``model`` lie."""
    return tuple(str(PurePosixPath(model).with_name(name)) for name in index.shards)


def single_of(model: str) -> str:
    """The file that would hold the sharded ``model`` as a whole.

    >>> single_of("a/model.safetensors.index.json")
    'a/model.safetensors'
    """
    pure = PurePosixPath(model)
    return str(pure.with_name(f"{pure.name.partition('.safetensors.index')[0]}.safetensors"))


def is_plain(path: str) -> bool:
    """Whether a model's file is ordinary text, which no filter stores."""
    return sharded.is_index(path) or PurePosixPath(path).name == lora.CONFIGURATION


def refuse_both(model: str, commit: Files, label: str) -> None:
    """MergeRefused where a commit has a model in one file and in several."""
    if sharded.is_index(model) and model in commit and single_of(model) in commit:
        raise MergeRefused(
            f"'{label}' has both '{single_of(model)}' and shards with '{model}', which loaders "
            "take for one model; remove the one that is left from an earlier save"
        )
