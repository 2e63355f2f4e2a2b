"""Repositories whose models are a handful of numbers, for tests of evaluation."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from gitmerge_eval.checkpoints.checkpoint import store_array
from gitmerge_eval.checkpoints.lfs import ObjectStore
from gitmerge_eval.checkpoints.metadata import Metadata
from gitmerge_eval.evaluation.declarations import BenchmarkDeclaration, ConstituentDeclaration
from gitmerge_eval.git import configuration, tracking
from gitmerge_eval.git.repository import Repository
from gitmerge_eval.git.trailers import MergeTrailers

PLAIN = Path(__file__).parent / "plain"
"""The folder of an installed package that provides the benchmark 'plain'."""
SKILLS = ("fruit", "bird", "tool", "quickdraw", "real", "sketch")
MODELS = {
    "main": (20, 22, 24, 26, 28, 30),
    "fruit-quickdraw": (90, 10, 12, 80, 14, 16),
    "bird-real": (11, 96, 13, 15, 84, 17),
    "tool-sketch": (5, 6, 88, 7, 8, 92),
    "multitask": (85, 87, 60, 75, 77, 50),
}
MERGED = (70, 72, 30, 64, 66, 33)


def score(values: tuple[float, ...], task: str) -> float:
    """The score that a model of 'plain' has on a task."""
    skills = dict(zip(SKILLS, values, strict=True))
    return sum(skills[skill] for skill in task.split("-")) / 2


def model(repository: Repository, values: tuple[float, ...]) -> bytes:
    """The metadata of a checkpoint with these skills; its tensors go to the object store."""
    store = ObjectStore(repository)
    records = (
        store_array(name, np.array([value], np.float32), store)
        for name, value in zip(SKILLS, values, strict=True)
    )
    return Metadata({record.name: record for record in records}, {}).serialize()


class Evaluated:
    """A repository of the benchmark 'plain': main, three constituents, multitask."""

    def __init__(self, directory: Path, commits: Mapping[str, str]) -> None:
        self.repository = Repository(directory)
        self.commits = dict(commits)
        self.log = directory.parent / "evaluations.log"

    @classmethod
    def make(cls, directory: Path) -> Evaluated:
        directory.mkdir()
        made = cls(directory, {})
        repository = made.repository
        repository.run("init", "--quiet")
        declaration = BenchmarkDeclaration("plain", {"seed": 3})
        made.put("main", {"benchmark.toml": declaration.toml()}, MODELS["main"])
        for name in ("fruit-quickdraw", "bird-real", "tool-sketch"):
            repository.run("switch", "-q", "-c", name, "main")
            own = ConstituentDeclaration(name, "plain", name, "model.safetensors")
            made.put(name, {own.path: own.toml()}, MODELS[name])
        repository.run("switch", "-q", "-c", "multitask", "main")
        made.put("multitask", {}, MODELS["multitask"])
        repository.run("switch", "-q", "main")
        return made

    @classmethod
    def tracked(cls, directory: Path) -> Evaluated:
        """With the strategy, the filter and the hooks; the branches have the tracked models."""
        made = cls.make(directory)
        configuration.install(made.repository)
        tracking.track(made.repository, "*.safetensors")
        made.repository.run("config", "merge-eval.device", "cpu")
        made.put("tracked", {})
        names = ("fruit-quickdraw", "bird-real", "tool-sketch")
        for name in names:
            made.repository.run("switch", "-q", name)
            made.repository.run("rebase", "-q", "main")
        made.repository.run("switch", "-q", "main")
        made.commits = {name: made.repository.commit(name) for name in (*names, "main")}
        return made

    def copy(self, directory: Path) -> Evaluated:
        """The same repository in another place."""
        shutil.copytree(self.repository.directory, directory)
        return Evaluated(directory, self.commits)

    def put(
        self, name: str, files: Mapping[str, str], values: tuple[float, ...] | None = None
    ) -> str:
        """Commit files, and a model, on the branch that is checked out."""
        for path, text in files.items():
            file = self.repository.directory / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        if values is not None:
            data = model(self.repository, values)
            (self.repository.directory / "model.safetensors").write_bytes(data)
        self.repository.run("add", "--all")
        self.repository.run("commit", "-q", "--allow-empty", "-m", name)
        self.commits[name] = self.repository.commit("HEAD")
        return self.commits[name]

    def merge(
        self,
        heads: tuple[str, ...] = ("fruit-quickdraw", "bird-real"),
        values: tuple[float, ...] = MERGED,
        **changes: object,
    ) -> str:
        """A merge commit of ``heads`` on main, as the strategy and the hook would make it."""
        repository = self.repository
        start = repository.commit("HEAD")
        ids = [repository.commit(head) for head in heads]
        (repository.directory / "model.safetensors").write_bytes(model(repository, values))
        for head in ids:
            repository.run("checkout", "-q", head, "--", "constituents")
        repository.run("add", "--all")
        message = "merge\n\n" + "\n".join(self.trailers(heads, **changes).lines()) + "\n"
        parents = [word for parent in (start, *ids) for word in ("-p", parent)]
        tree = repository.text("write-tree")
        merged = repository.run("commit-tree", tree, *parents, stdin=message).text
        repository.run("reset", "-q", "--hard", merged)
        return merged

    def trailers(self, heads: tuple[str, ...], **changes: object) -> MergeTrailers:
        """The trailers of a merge of ``heads`` whose model is the one in the index."""
        blob = self.repository.blob_id("", "model.safetensors")
        fields = {
            "method": "mats",
            "options": {"iterations": 20},
            "bases": (self.commits["main"],),
            "constituents": tuple((self.repository.commit(head), head) for head in heads),
            "models": ((blob, "model.safetensors"),),
            "specs": (("5" * 64, "model.safetensors"),),
        }
        return MergeTrailers(**{**fields, **changes})

    @property
    def computed(self) -> list[str]:
        """The tasks that were evaluated, in order, once for each model."""
        return [line.split()[1] for line in self.lines]

    @property
    def lines(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []
