"""The sections of many merges by one method: other hyperparameters, other numbers of models."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

from gitmerge_eval import methods
from gitmerge_eval.evaluation.gathering import Comparison, Gathered, Result
from gitmerge_eval.evaluation.reporting import STATUSES, options_text
from gitmerge_eval.hyperparameters import Hyperparameter
from gitmerge_eval.records import canonical_json
from gitmerge_eval.report.comparing import SWEEP
from gitmerge_eval.report.content import Column, Row, Section, Table, Trace
from gitmerge_eval.report.figures import Line, Panel

SCALE = "gitmerge-eval scale <heads>"
SPLITS = ("test", "validation")


def sensitivity(gathered: Gathered, comparison: Comparison | None) -> Section:
    """Scores over the values of each method's hyperparameter: the paper's Figure 4."""
    name, title = "hyperparameters", "Hyperparameter sensitivity"
    panels, rows = [], []
    for method in comparison.methods if comparison else ():
        for parameter in methods.load()[method].hyperparameters if method in methods.load() else ():
            line = _longest(gathered, comparison, method, parameter)
            if len(line) > 1:
                panels.append(_sensitivity_panel(method, parameter, line))
                rows += _sensitivity_rows(method, parameter, line)
    if not panels:
        missing = "No method has been measured with more than one value of a hyperparameter."
        return Section(name, title, missing=missing, command=SWEEP)
    columns = (
        Column("method"), Column("option"), Column("value", "number"), Column("other options"),
        Column("split"), Column("held-in", "score"), Column("generalization", "score"),
        Column("chosen"),
    )  # fmt: skip
    text = ("A dotted line marks the value that a sweep chose.",)
    return Section(name, title, text, tuple(panels), (Table("All values", columns, tuple(rows)),))


def _longest(
    gathered: Gathered, comparison: Comparison | None, method: str, parameter: Hyperparameter
) -> list[Result]:
    """The most results that differ in ``parameter`` alone, by its value; test data go first."""
    best: list[Result] = []
    if parameter.type not in (int, float) or comparison is None:
        return best
    for split in SPLITS:
        groups: dict[str, dict[float, Result]] = defaultdict(dict)
        for other in gathered.comparisons(split):
            if not _same_models(other, comparison):
                continue
            for result in sorted(other.of(method), key=lambda r: (r.chosen, r.recorded)):
                value = result.note.options.get(parameter.option)
                if isinstance(value, (int, float)):
                    groups[_but(result, parameter.option)][value] = result
        longest = max(groups.values(), key=len, default={})
        if len(longest) > len(best):
            best = [longest[value] for value in sorted(longest)]
    return best


def _same_models(one: Comparison, other: Comparison) -> bool:
    return (one.models, one.first.benchmark, one.first.settings, one.first.path) == (
        other.models, other.first.benchmark, other.first.settings, other.first.path,
    )  # fmt: skip


def _but(result: Result, option: str) -> str:
    return canonical_json({k: v for k, v in result.note.options.items() if k != option})


def _sensitivity_panel(method: str, parameter: Hyperparameter, line: Sequence[Result]) -> Panel:
    note = line[0].note
    lines = []
    for status in STATUSES:
        found = [
            (r.note.options[parameter.option], y)
            for r in line
            if (y := r.note.average(status)) is not None
        ]
        if found:
            lines.append(Line(status, [x for x, _ in found], [y for _, y in found]))
    symbol = f" {parameter.symbol}" if parameter.symbol else ""
    split = "" if note.split == "test" else f", {note.split} split"
    return Panel(
        f"{parameter.option}{symbol}", f"{note.metric}{split}", method, lines=lines,
        marked=[r.note.options[parameter.option] for r in line if r.chosen],
    )  # fmt: skip


def _sensitivity_rows(method: str, parameter: Hyperparameter, line: Sequence[Result]) -> list[Row]:
    rows = []
    for result in line:
        others = {k: v for k, v in result.options.items() if k != parameter.option}
        cells = (
            method, parameter.option, result.note.options[parameter.option], options_text(others),
            result.note.split, *(result.note.average(status) for status in STATUSES),
            "chosen" if result.chosen else "",
        )  # fmt: skip
        rows.append(Row(cells, (Trace.of(result),)))
    return rows


# --- the number of models ------------------------------------------------------------------------


def scaling(gathered: Gathered, comparison: Comparison | None) -> Section:
    """Scores over the number of merged models: the paper's Figure 6."""
    name, title = "models", "The number of models"
    samples = _samples(gathered, comparison)
    if len({models for _, models in samples}) < 2:
        missing = "No method has been measured with different numbers of models."
        return Section(name, title, missing=missing, command=SCALE)
    order = [m for m in methods.load() if any(m == method for method, _ in samples)]
    order += sorted({method for method, _ in samples} - set(order))
    metric = next(iter(samples.values()))[0].note.metric
    panels = []
    for status in STATUSES:
        lines = [line for method in order if (line := _scaling_line(method, samples, status))]
        if lines:
            panels.append(Panel("models merged", f"{status}, {metric}", lines=lines))
    columns = (
        Column("method"), Column("models", "count"), Column("samples", "count"),
        Column("held-in", "score"), Column("± sd", "score"), Column("of individual", "ratio"),
        Column("generalization", "score"), Column("± sd ", "score"),
        Column("of pretrained", "ratio"),
    )  # fmt: skip
    rows = [
        Row((method, models, len(found), *_spread(found)), tuple(Trace.of(r) for r in found))
        for method in order
        for (owner, models), found in sorted(samples.items())
        if owner == method
    ]
    text = (
        "Means over samples of constituents; each sample of m models is that of m-1 and one "
        "more. Bars are one standard deviation of the samples to each side.",
    )
    return Section(name, title, text, tuple(panels), (Table("Means", columns, tuple(rows)),))


def _samples(
    gathered: Gathered, comparison: Comparison | None
) -> dict[tuple[str, int], list[Result]]:
    """(method, number of models) -> its results in the scaling that has most of them."""
    found: dict[str, dict[tuple[str, int], list[Result]]] = {}
    for result in gathered.results:
        if result.source != "scale" or result.note.split != "test":
            continue
        if comparison and result.note.benchmark != comparison.first.benchmark:
            continue
        by = found.setdefault(result.where, defaultdict(list))
        by[result.method, len(result.note.constituents)].append(result)
    return max(found.values(), key=lambda by: sum(map(len, by.values())), default={})


def _scaling_line(
    method: str, samples: dict[tuple[str, int], list[Result]], status: str
) -> Line | None:
    x, y, low, high = [], [], [], []
    for (owner, models), found in sorted(samples.items()):
        values = [v for r in found if (v := r.note.average(status)) is not None]
        if owner == method and values:
            middle, around = fmean(values), _deviation(values) or 0.0
            x.append(float(models))
            y.append(middle)
            low.append(middle - around)
            high.append(middle + around)
    return Line(method, x, y, low, high) if x else None


def _spread(found: Sequence[Result]) -> list[Any]:
    """Mean, standard deviation and normalised mean, for each status."""
    cells: list[float | None] = []
    for status in STATUSES:
        values = [v for r in found if (v := r.note.average(status)) is not None]
        ratios = [v for r in found if (v := r.note.normalised(status)) is not None]
        cells += [
            fmean(values) if values else None,
            _deviation(values),
            fmean(ratios) if ratios else None,
        ]
    return cells


def _deviation(values: Sequence[float]) -> float | None:
    return stdev(values) if len(values) > 1 else None
