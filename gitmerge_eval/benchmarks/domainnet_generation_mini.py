"""domainnet-generation-mini: a tiny Stable Diffusion, and an adapter for each category and domain.

The grid of arXiv 2409.18314, section 5: skills are a category of objects and a visual domain; a
task is making pictures from the prompts 'a {domain} of a {class}' of one cell. Recipe and numbers:
``benchmark_repos/domainnet-generation-mini``.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gitmerge_eval.benchmarks import recipe_folder
from gitmerge_eval.records import Benchmark, StatisticFile, Task

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from gitmerge_eval.benchmarks import BuiltModels
    from gitmerge_eval.benchmarks.diffusion.grid import Grid
    from gitmerge_eval.benchmarks.diffusion.judging import Judge

NAME = "domainnet-generation-mini"
Settings = Mapping[str, Any]


class _Functions:
    """A recipe's functions; the grid of a seed, with its pictures, is made once."""

    def __init__(self, recipe: Mapping[str, Any], folder: Path, tasks: tuple[Task, ...]) -> None:
        self._recipe, self._folder, self._tasks = recipe, folder, tasks
        self._grids: dict[int, Grid] = {}

    def grid(self, settings: Settings | None) -> Grid:
        from gitmerge_eval.benchmarks import pictures
        from gitmerge_eval.benchmarks.clip.grid import seed_of
        from gitmerge_eval.benchmarks.diffusion.drawn import DrawnSource
        from gitmerge_eval.benchmarks.diffusion.grid import Grid

        seed = seed_of(settings or {})
        if seed not in self._grids:
            categories = {
                name: tuple(pictures.CATEGORIES[name])
                for name in self._recipe["skills"]["category"]
            }
            source = DrawnSource(NAME, self._recipe["pictures"], seed)
            self._grids[seed] = Grid(NAME, self._recipe, self._tasks, categories, source, seed)
        return self._grids[seed]

    def judge(self, folder: Path, device: str) -> Judge:
        from gitmerge_eval.benchmarks.diffusion.building import JUDGE
        from gitmerge_eval.benchmarks.diffusion.judging import OpenClip

        configuration = self._folder / str(self._recipe["judge"]["model"])
        return OpenClip.load(folder / JUDGE, configuration, device)

    def evaluate(
        self,
        checkpoint: Path,
        tasks: Sequence[str],
        *,
        settings: Settings | None = None,
        **how: Any,
    ) -> Mapping[str, float]:
        from gitmerge_eval.benchmarks.diffusion import scoring

        return scoring.evaluate(self.grid(settings), self.judge, checkpoint, tasks, **how)

    def summarise(
        self,
        outputs: Mapping[str, Mapping[str, Path]],
        *,
        sheet: Path | None = None,
        settings: Settings | None = None,
        split: str = "test",
    ) -> Mapping[str, float]:
        from gitmerge_eval.benchmarks.diffusion import scoring

        return scoring.summarise(outputs, sheet=sheet)

    def fingerprint(self, task: str, split: str, settings: Settings | None = None) -> str:
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
        from gitmerge_eval.benchmarks.diffusion import measuring

        return measuring.collect(self.grid(settings), kind, checkpoint, task, **how)

    def build(
        self, directory: Path, *, settings: Settings | None = None, **how: Any
    ) -> BuiltModels:
        from gitmerge_eval.benchmarks.diffusion import building

        return building.build(self.grid(settings), self._folder, directory, **how)


def benchmark(recipe: Mapping[str, Any], folder: Path) -> Benchmark:
    """The benchmark of a recipe, whose model configurations lie in ``folder``."""
    axes = {axis: tuple(values) for axis, values in recipe["skills"].items()}
    tasks = tuple(
        Task(
            f"{category}-{domain}",
            {"category": category, "domain": domain},
            "held-in" if recipe["held_in"].get(category) == domain else "generalization",
        )
        for category in axes["category"]
        for domain in axes["domain"]
    )
    functions = _Functions(recipe, folder, tasks)
    return Benchmark(
        name=NAME,
        title=recipe["title"],
        axes=axes,
        tasks=tasks,
        metric="CLIP score",
        evaluator_version="1",
        evaluate=functions.evaluate,
        fingerprint=functions.fingerprint,
        collect=functions.collect,
        checkpoint="adapter_model.safetensors",
        companions=("adapter_config.json", "judge.safetensors", "pipeline"),
        build=functions.build,
        summarise=functions.summarise,
        reference="arXiv 2409.18314, section 5 and appendix C.2",
    )


def load_recipe() -> Mapping[str, Any]:
    """The numbers of the recipe as it is shipped."""
    text = (recipe_folder(NAME) / "recipe.toml").read_text(encoding="utf-8")
    recipe: Mapping[str, Any] = tomllib.loads(text)
    return recipe


BENCHMARK = benchmark(load_recipe(), recipe_folder(NAME))
