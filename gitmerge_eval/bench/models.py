"""The models of ``bench merge``: as branches of a repository, and as plain files for the peers."""

from __future__ import annotations

import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path

from gitmerge_eval.bench import synthetic
from gitmerge_eval.bench.scratch import Clone, Scratch
from gitmerge_eval.bench.synthetic import MODEL, Float32Model

# A group with an embedding of 32,000 × 4,096 in bfloat16 has 262 MB.
_SHARD_BYTES = 2_000_000_000
# Normal numbers hardly compress; made-up Gram matrices of the tower have 0.8 of its size.
_STATISTIC_SHARE = {"fisher": 1.0, "gram": 0.8, "trimmed": 1.0}


class Models(ABC):
    """A base (0) and constituents (1, 2, …) of one architecture, written by number."""

    def __init__(self, described: str, size_bytes: int, largest_group_bytes: int) -> None:
        self.described = described
        self.bytes = size_bytes
        self.largest_group_bytes = largest_group_bytes
        self.averaged_by_numpy = False
        self._plain: Path | None = None

    @staticmethod
    def of(size_bytes: int, noise: str, *, sharded: bool) -> Models:
        """Models of about that size; UsageError where the size is too small."""
        return Sharded(size_bytes) if sharded else Towers(size_bytes, noise)

    def needed_bytes(self, count: int, kinds: Sequence[str], *, plain: bool) -> int:
        """The room that a run needs: branches, plain files, statistics, results."""
        share = 1 + plain + sum(_STATISTIC_SHARE[kind] for kind in kinds)
        return int(self.bytes * (share * (count + 1) + 4))

    def branches(self, count: int) -> list[str]:
        """The first ``count`` branches."""
        return [_branch(number) for number in range(1, count + 1)]

    def folder(self, number: int) -> Path:
        """Where the plain files of a model are."""
        assert self._plain is not None
        return self._plain / str(number)

    def file(self, number: int) -> Path:
        """The plain file of a model that has only one."""
        return self.folder(number) / MODEL

    @abstractmethod
    def write(self, folder: Path, number: int) -> None:
        """Write a model's files into ``folder``."""

    @abstractmethod
    def add_statistics(self, clone: Clone, number: int, kinds: Sequence[str]) -> None:
        """Put made-up statistics of a constituent beside it."""

    def build(
        self,
        scratch: Scratch,
        count: int,
        kinds: Sequence[str],
        *,
        plain: bool,
        say: Callable[[str], None],
    ) -> Clone:
        """A repository with the base on main and a branch for each of ``count`` constituents.

        The branches are made without a checkout. ``plain``: the same files are kept beside it.
        """
        clone = scratch.repository("repository", scratch.environment("gitmerge-eval"))
        clone.run("gitmerge-eval", "init")
        clone.run("gitmerge-eval", "track", "*.safetensors")
        self._plain = scratch.folder / "models" if plain else None
        self._put(clone, 0)
        clone.git("add", "--all")
        clone.git("commit", "--quiet", "-m", "base")
        base = clone.quietly("rev-parse", "HEAD")
        for number in range(1, count + 1):
            self._put(clone, number)
            if kinds:
                self.add_statistics(clone, number, kinds)
            clone.git("add", "--all")
            tree = clone.quietly("write-tree")
            commit = clone.quietly("commit-tree", tree, "-p", base, "-m", f"model {number}")
            clone.quietly("branch", _branch(number), commit)
            say(f"built model {number} of {count}")
        clone.quietly("reset", "--quiet", "--hard", base)
        clone.quietly("status", "--short")
        return clone

    def _put(self, clone: Clone, number: int) -> None:
        """Write a model into the work tree, and keep it as plain files where they are wanted."""
        if self._plain is None:
            self.write(clone.folder, number)
            return
        folder = self.folder(number)
        folder.mkdir(parents=True)
        self.write(folder, number)
        for file in folder.iterdir():
            shutil.copyfile(file, clone.folder / file.name)
            os.utime(clone.folder / file.name)

    def distance(self, merged: Path, output: Path) -> float:
        """The largest difference between the files that two folders have, element by element."""
        from gitmerge_eval.checkpoints.safetensors_file import SafetensorsFile

        ours, theirs = SafetensorsFile(merged / MODEL), SafetensorsFile(output / MODEL)
        return max(
            float(abs(ours.read(name) - theirs.read(name)).max(initial=0.0)) for name in ours.names
        )


class Towers(Models):
    """float32 vision towers, one file each."""

    def __init__(self, size_bytes: int, noise: str) -> None:
        self._model = Float32Model(synthetic.tower_of(size_bytes), noise=noise)
        groups = len(self._model.shapes)
        size = f"{self._model.bytes / 1e6:.0f} MB float32"
        super().__init__(
            f"{groups} groups, {size}, {noise} fine-tuning",
            self._model.bytes,
            synthetic.largest_group_bytes(self._model.shapes, 4),
        )
        self.averaged_by_numpy = True

    def write(self, folder: Path, number: int) -> None:
        """One file."""
        self._model.write(folder / MODEL, number)

    def add_statistics(self, clone: Clone, number: int, kinds: Sequence[str]) -> None:
        """Fisher diagonals and Gram matrices, stored as 'gitmerge-eval stats' stores them."""
        import torch

        from gitmerge_eval import collecting
        from gitmerge_eval.checkpoints.lfs import ObjectStore
        from gitmerge_eval.records import StatisticFile
        from gitmerge_eval.statistics.gram import pack_symmetric

        store = ObjectStore(clone.repository)
        blob = collecting.checkpoint_blob(clone.repository, store, MODEL)
        files = []
        for kind in kinds:
            arrays = (synthetic.fishers if kind == "fisher" else synthetic.grams)(
                self._model, number
            )
            tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
            layout: dict[str, dict[str, object]] = {name: {"key": name} for name in tensors}
            if kind == "gram":
                tensors = {name: pack_symmetric(tensor) for name, tensor in tensors.items()}
                layout = {name: {"key": name, "input_axis": 1} for name in tensors}
            files.append(StatisticFile(kind, tensors, layout, 1, 1, "made up", "0" * 64))
        collecting.write_statistics(clone.repository, MODEL, blob, files)


class Sharded(Models):
    """bfloat16 language models in shards; the base is all zeros, which needs no room."""

    def __init__(self, size_bytes: int) -> None:
        self._shapes = synthetic.language_model(size_bytes)
        size = synthetic.total_bytes(self._shapes, 2)
        super().__init__(
            f"{len(self._shapes)} groups, {size / 1e9:.1f} GB bfloat16 in shards",
            size,
            synthetic.largest_group_bytes(self._shapes, 2),
        )

    def needed_bytes(self, count: int, kinds: Sequence[str], *, plain: bool) -> int:
        """As other models, but for the base, whose zeros take no room in the repository."""
        return int(self.bytes * (count * (1 + plain) + plain + 4))

    def write(self, folder: Path, number: int) -> None:
        """Shards and their index."""
        synthetic.write_sharded(folder, self._shapes, _SHARD_BYTES, model=number)

    def add_statistics(self, clone: Clone, number: int, kinds: Sequence[str]) -> None:
        """UsageError: there are none for these models."""
        from gitmerge_eval.errors import UsageError

        raise UsageError(
            f"the sharded models have no statistics ({', '.join(kinds)}); choose other --methods"
        )


def _branch(number: int) -> str:
    return f"model-{number}"
