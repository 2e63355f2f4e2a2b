"""Rows of the user's own data: CSV and JSON lines by a path, or a data set of ``datasets``.

A data set is read from where ``Dataset.save_to_disk`` has put it, ``<data folder>/<name>/
<configuration>``: nothing is downloaded, and no script that a data set may bring is run.
"""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gitmerge_eval.benchmarks.declared import places
from gitmerge_eval.benchmarks.declared.splits import Splits
from gitmerge_eval.benchmarks.declared.table import Table
from gitmerge_eval.errors import EvaluationError, UnknownName
from gitmerge_eval.records import Task

if TYPE_CHECKING:
    import datasets

ENDINGS = (".csv", ".tsv", ".json", ".jsonl")


@dataclass(frozen=True)
class Rows:
    """Where a cell's rows are; all texts are templates of the axes and 'split'."""

    folder: Path | None
    splits: Splits
    path: str = ""
    """A file, or a saved data set's folder."""
    saved: bool = False
    where: Mapping[str, str] = field(default_factory=dict)
    """column -> the value that a row of the cell has there."""

    def read(self, task: Task, split: str) -> datasets.Dataset:
        """The rows of a cell. EvaluationError where there are none, or a file is not readable."""
        if task.status == "unavailable":
            raise EvaluationError(f"the task '{task.name}' is declared to be unavailable")
        values = {**task.skills, "split": self.splits.name(split)}
        there = places.located(self.folder, places.filled(self.path, values))
        found = self._saved(there, values["split"]) if self.saved else _file(there)
        wanted = {column: places.filled(text, values) for column, text in self.where.items()}
        for column in wanted:
            check_column(found, column, there)
        columns = {column: found[column][:] for column in wanted}
        rows = [
            row
            for row in range(len(found))
            if all(_named(found, c, columns[c][row]) == text for c, text in wanted.items())
        ]
        rows = self.splits.part(rows, split, str)
        if not rows:
            raise EvaluationError(f"'{there}' has no rows of {task.name} in the {split} split")
        return found.select(rows)

    def _saved(self, there: Path, split: str) -> datasets.Dataset:
        import datasets

        try:
            found = datasets.load_from_disk(str(there), keep_in_memory=False)
        except (OSError, ValueError) as error:
            raise EvaluationError(
                f"'{there}' is no data set that 'save_to_disk' of datasets has written: {error}"
            ) from error
        if isinstance(found, datasets.Dataset):
            return found
        if split not in found:
            raise EvaluationError(f"'{there}': {UnknownName.among('split', split, found)}")
        return found[split]


def label_text(data: datasets.Dataset, column: str, value: object) -> str:
    """A value as text: the name of a class where the column has classes."""
    return _named(data, column, value)


def _named(data: datasets.Dataset, column: str, value: object) -> str:
    name: Any = getattr(data.features[column], "int2str", None)
    return str(name(value)) if name and isinstance(value, int) else str(value)


def check_column(data: datasets.Dataset, column: str, where: object) -> None:
    """Raises EvaluationError for a column that the data do not have."""
    if column not in data.column_names:
        raise EvaluationError(
            f"'{where}': {UnknownName.among('column', column, data.column_names)}; correct it in "
            "benchmark.toml"
        )


def _file(file: Path) -> datasets.Dataset:
    import datasets

    ending = file.suffix.lower()
    # What datasets keeps of a file is not looked at again: a table of texts is read in no time.
    with tempfile.TemporaryDirectory() as cache:
        how: dict[str, Any] = {"cache_dir": cache, "keep_in_memory": True}
        try:
            if ending in (".csv", ".tsv"):
                separator = "\t" if ending == ".tsv" else ","
                with file.open(encoding="utf-8", newline="") as text:
                    header = next(csv.reader(text, delimiter=separator), [])
                # As they are written: '01' is no number here, and 'NA' an answer as any other.
                features = datasets.Features({c: datasets.Value("string") for c in header})
                return datasets.Dataset.from_csv(
                    str(file), features=features, sep=separator, keep_default_na=False, **how
                )
            return datasets.Dataset.from_json(str(file), **how)
        except Exception as error:
            # datasets wraps what its readers raise, by no common type.
            cause = error.__cause__ or error
            raise EvaluationError(
                f"'{file}' is not readable as {ending[1:]}: {str(cause).splitlines()[0]}"
            ) from error


def rows_of(table: Table, folder: Path | None, axes: Mapping[str, Any], seed: int) -> Rows:
    """What the table ``data`` of a declaration says of rows."""
    from gitmerge_eval.benchmarks.declared.splits import splits_of

    known = (*axes, "split")
    where = table.table("where")
    for column in where.values:
        places.check_template(where.text(column), where, column, known)
    conditions = {column: where.text(column) for column in where.values}
    if "dataset" in table.values:
        path = table.text("dataset")
        if "configuration" in table.values:
            path += "/" + table.text("configuration")
        places.check_path(path, table, "dataset", known)
        splits = splits_of(table, named="shares" not in table.values, seed=seed)
        return Rows(folder, splits, path, True, conditions)
    path = table.text("path")
    places.check_path(path, table, "path", known)
    if not path.lower().endswith(ENDINGS):
        raise table.error(f"'path' is '{path}'; name files that end with {', '.join(ENDINGS)}")
    named = any("split" in places.fields(t, table, "path") for t in (path, *conditions.values()))
    return Rows(folder, splits_of(table, named=named, seed=seed), path, False, conditions)
