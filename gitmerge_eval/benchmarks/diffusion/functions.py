"""A benchmark of this family as the contract wants it; imports no torch before it is used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gitmerge_eval.benchmarks.learning.functions import Functions, Settings, axes_of
from gitmerge_eval.errors import EvaluationError
from gitmerge_eval.records import Benchmark, Task

if TYPE_CHECKING:
    from gitmerge_eval.benchmarks import BuiltModels
    from gitmerge_eval.benchmarks.diffusion.grid import Grid

JUDGE = "judge.safetensors"
"""The miniature's open_clip model that judges pictures, beside the adapter."""
CHECKPOINT = "adapter_model.safetensors"
_PACKAGES = ("diffusers", "peft", "transformers", "tokenizers")


def _explained(grid_of: Callable[[Settings], Grid]) -> Callable[[Settings], Grid]:
    """EvaluationError where the packages of the extra 'diffusion' are not installed."""

    def grid(settings: Settings) -> Grid:
        try:
            return grid_of(settings)
        except ModuleNotFoundError as error:
            if error.name not in _PACKAGES:
                raise
            raise EvaluationError(
                f"generation needs the package '{error.name}'; install the extra: "
                "pip install 'gitmerge-eval[diffusion]'"
            ) from error

    return grid


def summarise(
    outputs: Mapping[str, Mapping[str, Path]],
    *,
    sheet: Path | None = None,
    settings: Settings | None = None,
    split: str = "test",
) -> Mapping[str, float]:
    """As :attr:`Benchmark.summarise`: all that it needs was kept with the scores."""
    from gitmerge_eval.benchmarks.diffusion import scoring

    return scoring.summarise(outputs, sheet=sheet)


def declared(
    name: str,
    title: str,
    tasks: tuple[Task, ...],
    grid_of: Callable[[Settings], Grid],
    build_of: Callable[..., BuiltModels],
    companions: tuple[str, ...],
) -> Benchmark:
    """The benchmark of a grid of categories and domains.

    ``build_of(grid, directory, **how)`` builds its models.
    """
    functions = Functions("diffusion", _explained(grid_of))

    def build(directory: Path, *, settings: Settings | None = None, **how: Any) -> BuiltModels:
        return build_of(functions.grid(settings), directory, **how)

    return Benchmark(
        name=name,
        title=title,
        axes=axes_of(tasks),
        tasks=tasks,
        metric="CLIP score",
        evaluator_version="1",
        evaluate=functions.evaluate,
        fingerprint=functions.fingerprint,
        collect=functions.collect,
        checkpoint=CHECKPOINT,
        companions=companions,
        build=build,
        train=functions.train,
        summarise=summarise,
        reference="arXiv 2409.18314, section 5 and appendix C.2",
        family="diffusers",
    )
