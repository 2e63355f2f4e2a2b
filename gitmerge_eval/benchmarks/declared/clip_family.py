"""The family 'open_clip': pictures, classes, and prompts that name them."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gitmerge_eval.benchmarks.declared import numbers, places
from gitmerge_eval.benchmarks.declared.rows import rows_of
from gitmerge_eval.benchmarks.declared.splits import splits_of
from gitmerge_eval.benchmarks.declared.table import Table
from gitmerge_eval.benchmarks.learning.functions import Functions
from gitmerge_eval.errors import EvaluationError
from gitmerge_eval.records import Task

if TYPE_CHECKING:
    from gitmerge_eval.benchmarks.clip.grid import Grid
    from gitmerge_eval.benchmarks.clip.source import Source

METRICS = ("accuracy",)
KEYS = ("model", "classes")
DATA_KEYS = ("path", "splits", "shares", "dataset", "configuration", "where", "image", "label")


def metrics(table: Table) -> tuple[str, ...]:
    """The metrics that tasks may have."""
    return METRICS


@dataclass(frozen=True)
class Declared:
    """What all that is below needs of a declaration."""

    name: str
    axes: Mapping[str, tuple[str, ...]]
    tasks: tuple[Task, ...]
    folder: Path | None
    """The user's data folder."""
    harness: Path | None = None
    """The folder with the user's own tasks for lm-eval."""


def functions(table: Table, of: Declared) -> Functions:
    """The benchmark's functions; the declaration is checked now, the data when they are read."""
    classes = table.texts("classes")
    for name in classes:
        places.check_name(name, table, "a class")
    model = table.text("model")
    if model.endswith(".json"):
        places.check_path(model, table, "model", ())
    recipe = _recipe(table, of.axes)
    source = _source(table.table("data", needed=True), of)
    # The family's grid has two axes, whatever the user's has: a cell is both a category and a
    # domain of its own there.
    cells = tuple(
        replace(task, skills={"category": task.name, "domain": task.name}) for task in of.tasks
    )

    def grid(settings: Mapping[str, Any]) -> Grid:
        from gitmerge_eval.benchmarks.clip.weights import preprocessing
        from gitmerge_eval.benchmarks.learning.settings import seed_of

        seed = seed_of(settings)
        configuration, identity = _configuration(of.folder, model)
        return _with_prompts(recipe, of.axes)(
            of.name,
            recipe,
            configuration,
            cells,
            {task.name: classes for task in of.tasks},
            tuple(task.name for task in of.tasks),
            source(preprocessing(configuration, None), identity, seed),
            seed,
            settings={"seed": seed},
        )

    return Functions("clip", grid)


def _recipe(table: Table, axes: Mapping[str, Any]) -> dict[str, Any]:
    prompts = table.table("prompts", needed=True)
    prompts.check_keys(("templates",))
    templates = prompts.texts("templates")
    for template in templates:
        places.check_template(template, prompts, "templates", (*axes, "class"))
        if "class" not in places.fields(template, prompts, "templates"):
            raise prompts.error(f"the template '{template}' has no class; add '{{class}}'")
    fine_tuning = numbers.schedule(table.table("fine_tuning", needed=True))
    recipe: dict[str, Any] = {
        "prompts": {"templates": templates},
        "fine_tuning": fine_tuning,
        "multitask": fine_tuning,
        "statistics": {"split": "train"} | numbers.statistics(table.table("statistics")),
    }
    if table.table("multitask").values:
        recipe["multitask"] = numbers.schedule(table.table("multitask"))
    if stopping := numbers.stopping(table.table("stopping")):
        recipe["stopping"] = stopping
    return recipe


SourceOf = Callable[[Any, str, int], "Source"]
"""``source(preprocessing, identity of the model's configuration, seed)``."""


def _source(table: Table, of: Declared) -> SourceOf:
    table.check_keys(DATA_KEYS)
    by_name = {task.name: task for task in of.tasks}
    if "dataset" in table.values:
        image, label = table.text("image", "image"), table.text("label", "label")
        rows_of(table, of.folder, of.axes, 0)

        def saved(preprocessing: Any, identity: str, seed: int) -> Source:
            from gitmerge_eval.benchmarks.declared.picture_rows import PictureRows

            rows = rows_of(table, of.folder, of.axes, seed)
            return PictureRows(rows, image, label, by_name, preprocessing, identity)

        return saved
    path = table.text("path")
    places.check_path(path, table, "path", (*of.axes, "split"))
    named = "split" in places.fields(path, table, "path")
    splits_of(table, named=named, seed=0)

    def files(preprocessing: Any, identity: str, seed: int) -> Source:
        from gitmerge_eval.benchmarks.declared.pictures import PictureFolders

        splits = splits_of(table, named=named, seed=seed)
        return PictureFolders(of.folder, path, splits, by_name, preprocessing, identity)

    return files


def _configuration(folder: Path | None, model: str) -> tuple[Path | str, str]:
    """The model for open_clip, and a text that says which one it is."""
    if not model.endswith(".json"):
        return model, model
    import open_clip

    from gitmerge_eval.benchmarks.declared.pictures import check_configuration

    file = places.located(folder, model)
    places.check_inside(file.parent if folder is None else folder, file)
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EvaluationError(f"'{file}' is not an open_clip configuration: {error}") from error
    wanted = ("embed_dim", "vision_cfg", "text_cfg")
    if not isinstance(found, dict) or any(key not in found for key in wanted):
        raise EvaluationError(
            f"'{file}' is not an open_clip configuration, which has {', '.join(wanted)}"
        )
    check_configuration(found, f"'{file}'")
    known = file.stem in open_clip.list_models()
    if known and open_clip.get_model_config(file.stem) != found:
        raise EvaluationError(
            f"open_clip has another model of the name '{file.stem}'; rename '{file}'"
        )
    return file, json.dumps(found, sort_keys=True)


def _with_prompts(recipe: Mapping[str, Any], axes: Mapping[str, Sequence[str]]) -> type[Grid]:
    """The grid whose classes have a prompt for each template and each combination of the axes that
    the template names."""
    from gitmerge_eval.benchmarks.clip.grid import Grid

    class Prompted(Grid):
        @functools.cached_property
        def prompts(self) -> list[list[str]]:
            return [
                [
                    places.filled(template, {"class": name.replace("_", " "), **values})
                    for template in recipe["prompts"]["templates"]
                    for values in combinations(template, axes)
                ]
                for name in self.classes
            ]

    return Prompted


def combinations(template: str, axes: Mapping[str, Sequence[str]]) -> list[dict[str, str]]:
    """The values of the axes that a template names, in every combination."""
    named = [a for a in axes if a in places.fields(template, Table({}, ""), "templates")]
    return [
        dict(zip(named, values, strict=True))
        for values in itertools.product(*(axes[axis] for axis in named))
    ]
