"""Small model repositories for tests: real git, real filter, real hooks, made-up tensors."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors.torch
import torch

from gitmerge_eval import collecting
from gitmerge_eval.checkpoints.lfs import ObjectStore
from gitmerge_eval.git import configuration, tracking
from gitmerge_eval.git.repository import Repository
from gitmerge_eval.records import StatisticFile

Tensors = dict[str, torch.Tensor]
MODEL = "model.safetensors"


def base_model(dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensors:
    """Two linear layers, a vector, a scalar, an integer, and a group that nobody changes."""
    generator = torch.Generator().manual_seed(seed)

    def values(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    return {
        "first.weight": values(6, 5),
        "second.weight": values(4, 6),
        "first.bias": values(6),
        "scale": values(),
        "steps": torch.tensor([1, 2], dtype=torch.int64),
        "frozen.weight": values(3, 3),
    }


def fine_tuned(base: Tensors, seed: int, size: float = 0.3) -> Tensors:
    """A constituent: everything floating but 'frozen.weight' moves."""
    generator = torch.Generator().manual_seed(1000 + seed)

    def moved(tensor: torch.Tensor) -> torch.Tensor:
        step = size * torch.randn(tensor.shape, generator=generator)
        return (tensor.double() + step).to(tensor.dtype)

    return {
        name: moved(tensor)
        if tensor.is_floating_point() and not name.startswith("frozen")
        else tensor
        for name, tensor in base.items()
    }


def statistics_for(model: Tensors, seed: int) -> dict[str, dict[str, np.ndarray]]:
    """Made-up Fisher diagonals and Gram matrices (as full float32 matrices)."""
    generator = np.random.default_rng(seed)
    floating = {name: t for name, t in model.items() if t.is_floating_point()}
    fisher = {
        name: generator.gamma(1.0, size=tuple(t.shape)).astype(np.float32)
        for name, t in floating.items()
    }
    gram = {}
    for name, tensor in floating.items():
        if tensor.ndim == 2 and not name.startswith("frozen"):
            inputs = generator.normal(size=(40, tensor.shape[1]))
            gram[name] = (inputs.T @ inputs / 40).astype(np.float32)
    return {"fisher": fisher, "gram": gram}


class ModelRepository:
    """A repository with a checkpoint on main and a branch for each constituent."""

    def __init__(self, folder: Path, base: Tensors | None = None, *, text: str = "base\n") -> None:
        subprocess.run(["git", "init", "--quiet", str(folder)], check=True)
        self.git = Repository(folder)
        self.folder = folder
        configuration.install(self.git)
        tracking.track(self.git, "*.safetensors")
        (folder / "notes.txt").write_text(text)
        if base is not None:
            self.save(base)
        self.commit("base model")

    def save(self, tensors: Tensors, path: str = MODEL) -> None:
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
        safetensors.torch.save_file(contiguous, target, {"format": "pt"})

    def commit(self, message: str = "a change") -> str:
        self.git.run("add", "--all")
        self.git.run("commit", "--quiet", "--allow-empty", "-m", message)
        return self.git.text("rev-parse", "HEAD")

    def branch(
        self,
        name: str,
        tensors: Tensors | None = None,
        statistics: Mapping[str, Mapping[str, np.ndarray]] | None = None,
        *,
        files: Mapping[str, str] | None = None,
        start: str = "main",
    ) -> str:
        """A branch from ``start`` with one commit; HEAD is ``start`` again afterwards."""
        self.git.run("switch", "--quiet", "--create", name, start)
        if tensors is not None:
            self.save(tensors)
        for path, content in (files or {}).items():
            (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / path).write_text(content)
        if statistics:
            self.add_statistics(statistics)
        commit = self.commit(f"{name}: fine-tuned")
        self.git.run("switch", "--quiet", start)
        return commit

    def add_statistics(self, statistics: Mapping[str, Mapping[str, np.ndarray]]) -> None:
        blob = collecting.checkpoint_blob(self.git, ObjectStore(self.git), MODEL)
        files = [statistic_file(kind, tensors) for kind, tensors in statistics.items()]
        collecting.write_statistics(self.git, MODEL, blob, files)

    def merge(self, *arguments: str, status: int | None = 0) -> subprocess.CompletedProcess[str]:
        """The real ``git merge``; fails the test unless it ends with ``status``."""
        return self.run("merge", *arguments, status=status)

    def run(self, *arguments: str, status: int | None = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["git", *arguments], cwd=self.folder, capture_output=True, text=True, timeout=300
        )
        if status is not None:
            assert done.returncode == status, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def tensors(self, revision: str | None = None) -> Tensors:
        """The checkpoint in the work tree, or as Git would check out ``revision``."""
        if revision is None:
            return safetensors.torch.load_file(self.folder / MODEL)
        data = self.git.run("cat-file", "--filters", f"{revision}:{MODEL}").stdout
        return safetensors.torch.load(data)

    def state(self) -> tuple[object, ...]:
        """HEAD, refs, index and work tree, byte for byte."""
        files = {
            path.relative_to(self.folder): path.read_bytes()
            for path in sorted(self.folder.rglob("*"))
            if path.is_file() and ".git" not in path.relative_to(self.folder).parts
        }
        return (
            self.git.text("rev-parse", "HEAD"),
            self.git.text("for-each-ref"),
            self.git.run("ls-files", "--stage", "-z").stdout,
            files,
            self.git.path("MERGE_HEAD").exists(),
        )


def statistic_file(kind: str, tensors: Mapping[str, np.ndarray]) -> StatisticFile:
    from gitmerge_eval.statistics.gram import pack_symmetric

    stored = {name: torch.from_numpy(array) for name, array in tensors.items()}
    layout: dict[str, dict[str, object]] = {name: {"key": name} for name in stored}
    if kind == "gram":
        stored = {name: pack_symmetric(tensor) for name, tensor in stored.items()}
        layout = {name: {"key": name, "input_axis": 1} for name in stored}
    return StatisticFile(kind, stored, layout, 40, 40, f"made-up {kind}", "f" * 64)
