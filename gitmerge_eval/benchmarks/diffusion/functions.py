"""A grid's functions as a Benchmark has them; imports torch when one of them is called."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gitmerge_eval.errors import EvaluationError
from gitmerge_eval.records import Benchmark, StatisticFile, Task, canonical_json

if TYPE_CHECKING:
    from gitmerge_eval.benchmarks import BuiltModels
    from gitmerge_eval.benchmarks.diffusion.grid import Grid

Settings = Mapping[str, Any]
JUDGE = "judge.safetensors"
"""The miniature's open_clip model that judges pictures, beside the adapter."""
CHECKPOINT = "adapter_model.safetensors"
_PACKAGES = ("diffusers", "peft", "transformers", "tokenizers")


class Functions:
    """The functions of a benchmark; the grid of some settings, with its pictures, is made once.

    ``grid_of(settings)`` makes it, and ``build_of(grid, directory, **how)`` builds its models.
    Raises EvaluationError where the packages of the extra 'diffusion' are not installed.
    """

    def __init__(
        self, grid_of: Callable[[Settings], Grid], build_of: Callable[..., BuiltModels]
    ) -> None:
        self._grid_of = grid_of
        self._build_of = build_of
        self._grids: dict[str, Grid] = {}

    def grid(self, settings: Settings | None) -> Grid:
        """The grid of what ``benchmark.toml`` says."""
        key = canonical_json(dict(settings or {}))
        if key not in self._grids:
            try:
                self._grids[key] = self._grid_of(settings or {})
            except ModuleNotFoundError as error:
                if error.name not in _PACKAGES:
                    raise
                raise EvaluationError(
                    f"generation needs the package '{error.name}'; install the extra: "
                    "pip install 'gitmerge-eval[diffusion]'"
                ) from error
        return self._grids[key]

    def evaluate(
        self,
        checkpoint: Path,
        tasks: Sequence[str],
        *,
        settings: Settings | None = None,
        **how: Any,
    ) -> Mapping[str, float]:
        """As :attr:`Benchmark.evaluate`."""
        grid = self.grid(settings)
        from gitmerge_eval.benchmarks.diffusion import scoring

        return scoring.evaluate(grid, checkpoint, tasks, **how)

    def summarise(
        self,
        outputs: Mapping[str, Mapping[str, Path]],
        *,
        sheet: Path | None = None,
        settings: Settings | None = None,
        split: str = "test",
    ) -> Mapping[str, float]:
        """As :attr:`Benchmark.summarise`: all that it needs was kept with the scores."""
        from gitmerge_eval.benchmarks.diffusion import scoring

        return scoring.summarise(outputs, sheet=sheet)

    def fingerprint(self, task: str, split: str, settings: Settings | None = None) -> str:
        """As :attr:`Benchmark.fingerprint`."""
        return self.grid(settings).fingerprint(task, split)

    def collect(
        self,
        kind: str,
        checkpoint: Path,
        task: str,
        *,
        settings: Settings | None = None,
        **how: Any,
    ) -> StatisticFile:
        """As :attr:`Benchmark.collect`."""
        grid = self.grid(settings)
        from gitmerge_eval.benchmarks.diffusion import measuring
        from gitmerge_eval.benchmarks.learning.loop import reproducible

        with reproducible(grid.seed):  # as in the build, so that a statistic has the same bytes
            return measuring.collect(grid, kind, checkpoint, task, **how)

    def build(
        self, directory: Path, *, settings: Settings | None = None, **how: Any
    ) -> BuiltModels:
        """As :attr:`Benchmark.build`."""
        return self._build_of(self.grid(settings), directory, **how)

    def train(
        self,
        base: Path,
        tasks: Sequence[str],
        target: Path,
        *,
        settings: Settings | None = None,
        **how: Any,
    ) -> None:
        """As :attr:`Benchmark.train`."""
        grid = self.grid(settings)
        from gitmerge_eval.benchmarks.diffusion import building

        building.train(grid, base, tasks, target, **how)


def declared(
    name: str,
    title: str,
    tasks: tuple[Task, ...],
    functions: Functions,
    companions: tuple[str, ...],
) -> Benchmark:
    """The benchmark of a grid of categories and domains."""
    axes = {
        axis: tuple(dict.fromkeys(task.skills[axis] for task in tasks))
        for axis in ("category", "domain")
    }
    return Benchmark(
        name=name,
        title=title,
        axes=axes,
        tasks=tasks,
        metric="CLIP score",
        evaluator_version="1",
        evaluate=functions.evaluate,
        fingerprint=functions.fingerprint,
        collect=functions.collect,
        checkpoint=CHECKPOINT,
        companions=companions,
        build=functions.build,
        train=functions.train,
        summarise=functions.summarise,
        reference="arXiv 2409.18314, section 5 and appendix C.2",
    )
