"""cross-lingual: the language tasks of arXiv 2409.18314, Table 1, with mT5-xl-lm-adapt.

Skills are a task and a language; a constituent is the base fully fine-tuned on one task in one
language. Data sets and weights come from the user's folders or the hub; recipe, prompts and what to
get: ``benchmark_repos/cross-lingual``. The settings in ``benchmark.toml``, beside ``seed``, are
``data``, the folder with the data sets, and ``weights``, the folder of the base with its tokenizer.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gitmerge_eval.benchmarks import read_recipe, recipe_folder
from gitmerge_eval.benchmarks.learning.settings import seed_of
from gitmerge_eval.benchmarks.texts.declaring import declare, need
from gitmerge_eval.errors import EvaluationError, InvalidOption
from gitmerge_eval.records import Benchmark, Task

if TYPE_CHECKING:
    from gitmerge_eval.benchmarks.texts.grid import Grid

NAME = "cross-lingual"
SETTINGS = ("name", "seed", "data", "weights")
"""What ``benchmark.toml`` may say."""
WEIGHTS_VARIABLE = "GITMERGE_EVAL_MT5"
"""Names the folder of the base, whatever a repository's ``benchmark.toml`` says."""


def benchmark(recipe: Mapping[str, Any], folder: Path) -> Benchmark:
    """The benchmark of a recipe, whose model configuration lies in ``folder``."""
    tasks = tuple(
        Task(
            f"{kind}-{language}",
            {"task": kind, "language": language},
            _status(recipe, kind, language),
            metric=recipe["metrics"][kind],
        )
        for kind in recipe["skills"]["task"]
        for language in recipe["skills"]["language"]
    )

    def make_grid(settings: Mapping[str, Any]) -> Grid:
        # transformers reads mT5's spiece.model by the last two.
        need("datasets", "sentencepiece", "google.protobuf")
        from gitmerge_eval.benchmarks.corpora.published import Published
        from gitmerge_eval.benchmarks.corpora.reading import FOLDER_VARIABLE
        from gitmerge_eval.benchmarks.seq2seq.family import FAMILY
        from gitmerge_eval.benchmarks.texts.grid import Grid
        from gitmerge_eval.benchmarks.texts.tokens import PretrainedTokens

        seed = seed_of(settings, SETTINGS)
        # The variables first: a repository's file may name folders of somebody else's machine.
        data = _folder(settings, "data", FOLDER_VARIABLE)
        weights = _folder(settings, "weights", WEIGHTS_VARIABLE)
        longest = int(recipe["evaluation"]["longest_source"])
        name = str(recipe["base"])
        return Grid(
            NAME,
            recipe,
            folder,
            tasks,
            Published(seed, recipe, data, {"seed": seed} | dict(settings)),
            lambda: PretrainedTokens(weights or name, longest),
            FAMILY,
            base=lambda: weights or _fetched(name),
        )

    return declare(
        NAME, recipe["title"], tasks, make_grid, "arXiv 2409.18314, section 4 and appendix C"
    )


def _status(recipe: Mapping[str, Any], kind: str, language: str) -> str:
    if recipe["held_in"][kind] == language:
        return "held-in"
    available = language in recipe["generalization"][kind]
    return "generalization" if available else "unavailable"


def _folder(settings: Mapping[str, Any], key: str, variable: str) -> Path | None:
    named = os.environ.get(variable) or settings.get(key)
    if named is not None and not isinstance(named, str):
        raise InvalidOption(f"the benchmark's '{key}' is {named!r}, which is not a folder's name")
    return Path(named).expanduser() if named else None


def _fetched(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=["*.safetensors"]))
    except Exception as error:  # whatever a connection, a cache or the hub may come up with
        raise EvaluationError(
            f"the base '{name}' is not here, and the hub did not give it "
            f"({type(error).__name__}); get it with 'hf download {name} --local-dir FOLDER' and "
            f"name the folder by the setting 'weights' in benchmark.toml or by {WEIGHTS_VARIABLE}"
        ) from error


BENCHMARK = benchmark(read_recipe(NAME), recipe_folder(NAME))
