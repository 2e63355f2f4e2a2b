"""A benchmark of this family as the contract wants it; imports no torch before it is used."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from gitmerge_eval.benchmarks.learning.functions import Functions, Settings, axes_of
from gitmerge_eval.records import Benchmark, Task

if TYPE_CHECKING:
    from gitmerge_eval.benchmarks.clip.grid import Grid


def declared(
    name: str, title: str, tasks: tuple[Task, ...], grid_of: Callable[[Settings], Grid]
) -> Benchmark:
    """The benchmark of a grid of categories and domains."""
    functions = Functions("clip", grid_of)
    return Benchmark(
        name=name,
        title=title,
        axes=axes_of(tasks),
        tasks=tasks,
        metric="accuracy",
        evaluator_version="1",
        evaluate=functions.evaluate,
        fingerprint=functions.fingerprint,
        collect=functions.collect,
        build=functions.build,
        train=functions.train,
        reference="arXiv 2409.18314, section 4 and appendix C.1",
        family="open_clip",
    )
