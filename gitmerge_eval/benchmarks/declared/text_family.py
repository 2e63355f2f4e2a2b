"""The family 'transformers', encoder-decoders that answer texts with texts, and what it shares."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gitmerge_eval.benchmarks.declared import numbers, places
from gitmerge_eval.benchmarks.declared.clip_family import Declared
from gitmerge_eval.benchmarks.declared.rows import Rows, check_column, label_text, rows_of
from gitmerge_eval.benchmarks.declared.table import Table
from gitmerge_eval.benchmarks.learning.functions import Functions
from gitmerge_eval.benchmarks.learning.settings import seed_of
from gitmerge_eval.benchmarks.texts.declaring import checked
from gitmerge_eval.benchmarks.texts.examples import Example
from gitmerge_eval.benchmarks.texts.metrics import ACCURACY, METRICS
from gitmerge_eval.errors import EvaluationError
from gitmerge_eval.records import Task

if TYPE_CHECKING:
    from gitmerge_eval.benchmarks.texts.examples import Source
    from gitmerge_eval.benchmarks.texts.family import Family
    from gitmerge_eval.benchmarks.texts.grid import Grid
    from gitmerge_eval.benchmarks.texts.tokens import Tokens

KEYS = ("model", "tokenizer", "evaluation")
DATA_KEYS = ("path", "splits", "shares", "dataset", "configuration", "where", "target", "options")
SourceOf = Callable[[int], "Source"]
"""``source(seed)``."""


FamilyOf = Callable[[], "Family[Any]"]
"""Imports torch when it is called."""


def metrics(table: Table) -> tuple[str, ...]:
    """The metrics that tasks may have."""
    return METRICS


def by_axis(
    table: Table, key: str, axes: Mapping[str, Sequence[str]], skills: Mapping[str, str]
) -> Any:
    """A cell's value of ``key``: the same for all, or by the values of one axis.

    ``metric = "accuracy"``, or ``metric = { axis = "task", nli = "accuracy", qa = "…" }``.
    """
    found = table.values.get(key)
    if found is None:
        raise table.error(f"'{key}' is not there; add '{key} = \"…\"'")
    if not isinstance(found, dict):
        return found
    own = table.table(key)
    axis = own.text("axis")
    if axis not in axes:
        raise own.unknown("axis", axis, axes)
    own.check_keys(("axis", *axes[axis]))
    if skills[axis] not in found:
        raise own.error(f"there is nothing for '{skills[axis]}'; add '{skills[axis]} = …'")
    return found[skills[axis]]


@dataclass(frozen=True)
class Question:
    """How a cell's rows become examples."""

    source: str
    """A template of columns and axes."""
    target: str
    """The column with the answer, or with several."""
    options: tuple[str, ...] = ()
    """All answers to choose from; for accuracy."""


@dataclass(frozen=True)
class TextRows:
    """Rows of the user's as examples."""

    rows: Rows
    questions: Mapping[str, Question]
    """By task."""
    settings: Mapping[str, object] = field(default_factory=dict)

    def examples(self, task: Task, split: str) -> tuple[Example, ...]:
        """As of :class:`~gitmerge_eval.benchmarks.texts.examples.Source`."""
        question = self.questions[task.name]
        data = self.rows.read(task, split)
        columns = places.fields(question.source, Table({}, ""), "source")
        for column in (question.target, *(c for c in columns if c not in task.skills)):
            check_column(data, column, self.rows.path)
        return tuple(self._example(task, question, data, row) for row in data)

    def _example(
        self, task: Task, question: Question, data: Any, row: Mapping[str, Any]
    ) -> Example:
        value = row[question.target]
        several = value if isinstance(value, list) else [value]
        if question.options and all(type(v) is int for v in several):
            # A class as a number: a position among the options.
            several = [question.options[v] for v in several if 0 <= v < len(question.options)]
        targets = tuple(label_text(data, question.target, v) for v in several if v is not None)
        if not targets or (question.options and not set(targets) & set(question.options)):
            raise EvaluationError(
                f"a row of {task.name} has '{question.target}' {str(value)[:60]!r}, which is no "
                f"answer{' among ' + ', '.join(question.options) if question.options else ''}; "
                "correct the data, or 'options' in benchmark.toml"
            )
        return Example(
            places.filled(question.source, {**row, **task.skills}), targets, question.options
        )

    def corpus(self) -> tuple[str, ...]:
        """No text: the base is the user's."""
        return ()


def _encoder_decoders() -> Family[Any]:
    from gitmerge_eval.benchmarks.seq2seq.family import FAMILY

    return FAMILY


def functions(
    table: Table,
    of: Declared,
    family: FamilyOf = _encoder_decoders,
    *,
    source: SourceOf | None = None,
    base: str | None = None,
) -> Identified:
    """The benchmark's functions; the declaration is checked now, the data when they are read.

    ``source`` goes before the table ``data``; ``base`` is the folder of the model that adapters
    change.
    """
    model = table.text("model")
    places.check_path(model, table, "model", ())
    rows = source or source_of(table, of)
    tokenizer = _tokenizer(table)
    recipe = _recipe(table, model, trained=source is None and base is None)

    def grid(settings: Mapping[str, Any]) -> Grid:
        from gitmerge_eval.benchmarks.texts.grid import Grid

        seed = seed_of(settings)
        _check_configuration(places.located(of.folder, model))
        assert of.folder is not None
        return Grid(
            of.name,
            recipe,
            of.folder,
            of.tasks,
            rows(seed),
            lambda: _tokens(tokenizer, of.folder),
            family(),
        )

    def files() -> Sequence[Path]:
        paths = (model, tokenizer.values.get("folder"), base)
        return [places.located(of.folder, path) for path in paths if path]

    return Identified(checked(grid), files)


def source_of(table: Table, of: Declared, *, scored: bool = True) -> SourceOf:
    """The rows of the table ``data``, as the prompts ask about them.

    Only where they are ``scored`` are there options to choose from.
    """
    data = table.table("data", needed=True)
    data.check_keys(DATA_KEYS)
    prompts = table.table("prompts", needed=True)
    prompts.check_keys(("source",))
    questions = {task.name: _question(prompts, data, of, task, scored) for task in of.tasks}
    rows_of(data, of.folder, of.axes, 0)
    return lambda seed: TextRows(
        rows_of(data, of.folder, of.axes, seed), questions, settings={"seed": seed}
    )


class Identified(Functions):
    """Fingerprints that cover configuration and tokenizer, too."""

    def __init__(
        self, grid: Callable[[Mapping[str, Any]], Grid], files: Callable[[], Sequence[Path]]
    ) -> None:
        super().__init__("texts", grid)
        self.files = files

    def fingerprint(self, task: str, split: str, settings: Mapping[str, Any] | None = None) -> str:
        """A digest of the cell's texts and of the files that they are read with."""
        digest = hashlib.sha256(self.cell_fingerprint(task, split, settings).encode())
        for there in self.files():
            files = sorted(there.iterdir()) if there.is_dir() else [there]
            for file in files:
                if file.is_file():
                    status = file.stat()
                    digest.update(_digest_of(file, status.st_size, status.st_mtime_ns))
        return digest.hexdigest()

    def cell_fingerprint(self, task: str, split: str, settings: Mapping[str, Any] | None) -> str:
        """A digest of the cell's texts alone."""
        return super().fingerprint(task, split, settings)


@functools.cache
def _digest_of(file: Path, size: int, modified: int) -> bytes:
    """Of the file's bytes; read once, unless size or time say that it is another."""
    digest = hashlib.sha256()
    with file.open("rb") as content:
        while part := content.read(1 << 22):
            digest.update(part)
    return digest.digest()


def _question(prompts: Table, data: Table, of: Declared, task: Task, scored: bool) -> Question:
    source = by_axis(prompts, "source", of.axes, task.skills)
    target = by_axis(data, "target", of.axes, task.skills)
    for key, value, table in (("source", source, prompts), ("target", target, data)):
        if not isinstance(value, str) or not value:
            raise table.error(f"'{key}' of {task.name} is {value!r}; give a text")
    places.check_template(source, prompts, "source")
    options: Any = ()
    if scored and task.metric == ACCURACY:
        options = by_axis(data, "options", of.axes, task.skills)
        if not isinstance(options, list) or not all(isinstance(o, str) and o for o in options):
            raise data.error(
                f"'options' of {task.name} is {options!r}; list the answers that a model chooses "
                'from, \'options = ["yes", "no"]\''
            )
    return Question(source, target, tuple(options))


def _recipe(table: Table, model: str, *, trained: bool) -> dict[str, Any]:
    evaluation = table.table("evaluation")
    evaluation.check_keys(("batch", "longest_answer"))
    training: dict[str, Any] = {}
    if trained or "fine_tuning" in table.values:
        own = _training(table, "fine_tuning")
        several = _training(table, "multitask") if "multitask" in table.values else own
        training = {"fine_tuning": own, "multitask": several}
    statistics = {"split": "train", "batch": 16, "chunk": 8, "accumulate": "float64"}
    return {
        "model": model,
        **training,
        "statistics": statistics | numbers.statistics(table.table("statistics")),
        "evaluation": {
            "batch": evaluation.number("batch", 32, int, 1),
            "longest_answer": evaluation.number("longest_answer", 64, int, 1),
        },
    }


def _training(table: Table, key: str) -> dict[str, Any]:
    found = numbers.schedule(table.table(key, needed=True))
    looks = numbers.stopping(table.table("stopping"))
    return found | ({**looks, "looked_at": 500} if looks else {})


def _tokenizer(table: Table) -> Table:
    """A published tokenizer's folder below the data folder, or the characters of the user's."""
    own = table.table("tokenizer", needed=True)
    own.check_keys(("folder", "longest", "characters", "markers"))
    if ("folder" in own.values) == ("characters" in own.values):
        raise own.error("give either 'folder', a tokenizer's, or 'characters'")
    if "folder" in own.values:
        places.check_path(own.text("folder"), own, "folder", ())
        own.number("longest", 512, int, 2)
    else:
        own.text("characters")
    return own


def _tokens(table: Table, folder: Path | None) -> Tokens:
    from gitmerge_eval.benchmarks.texts.tokens import CharacterTokens, PretrainedTokens

    if "folder" in table.values:
        there = places.located(folder, table.text("folder"))
        return PretrainedTokens(there, table.number("longest", 512, int, 2))
    markers = table.texts("markers") if "markers" in table.values else ()
    return CharacterTokens(markers, table.text("characters"))


def _check_configuration(file: Path) -> None:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EvaluationError(
            f"'{file}' is not a configuration of transformers: {error}"
        ) from error
    if not isinstance(found, dict) or "model_type" not in found or "auto_map" in found:
        raise EvaluationError(
            f"'{file}' is not a configuration of a model of transformers' own; it has a "
            "'model_type' and no 'auto_map'"
        )
