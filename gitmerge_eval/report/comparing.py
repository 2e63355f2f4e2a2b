"""The sections that compare methods: scores against each other, scores against cost, all tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gitmerge_eval.costs import Cost
from gitmerge_eval.evaluation.gathering import Comparison, Result
from gitmerge_eval.evaluation.note import EvaluationNote
from gitmerge_eval.evaluation.published import Published
from gitmerge_eval.evaluation.reporting import STATUSES, options_text
from gitmerge_eval.records import Benchmark
from gitmerge_eval.report.content import Column, Row, Section, Table, Trace
from gitmerge_eval.report.figures import Grid, Guide, Panel, Point

BASELINES = ("pretrained", "multitask")
SWEEP = "gitmerge-eval sweep --methods all <heads>"
_SCORES = (Column("held-in", "score"), Column("of individual", "ratio"),
           Column("generalization", "score"), Column("of pretrained", "ratio"))  # fmt: skip


def scores(comparison: Comparison | None, published: Sequence[Published]) -> Section:
    """Held-in against generalization, every method a point: the paper's Figure 2."""
    name, title = "scores", "Held-in against generalization"
    if comparison is None and not published:
        return Section(
            name, title, missing="No merge has been evaluated in this repository.", command=SWEEP
        )
    panels, tables, text = [], [], []
    if comparison is not None:
        note = comparison.first
        panels.append(_scores_panel(comparison, note))
        tables.append(_scores_table(comparison, note))
        text += _said(comparison, note)
    for source in dict.fromkeys(row.source for row in published):
        rows = [row for row in published if row.source == source]
        panels += _published_panel(source, rows)
        tables.append(_published_table(source, rows))
    return Section(name, title, tuple(text), tuple(panels), tuple(tables))


def _scores_panel(comparison: Comparison, note: EvaluationNote) -> Panel:
    points = []
    for method, result in comparison.shown().items():
        x, y = (result.note.average(status) for status in STATUSES)
        if x is not None and y is not None:
            points.append(Point(method, x, y))
    for model in BASELINES:
        x, y = (note.average(status, model) for status in STATUSES)
        if x is not None and y is not None:
            points.append(Point(model, x, y))
    individual = note.average("held-in", "individual")
    guides = () if individual is None else (Guide(individual, "individual models"),)
    return Panel(
        f"held-in, {note.metric}", f"generalization, {note.metric}", points=points, guides=guides
    )


def _scores_table(comparison: Comparison, note: EvaluationNote) -> Table:
    rows = [
        Row((method, *_averages(result.note), options_text(result.options)), (Trace.of(result),))
        for method, result in comparison.shown().items()
    ]
    beside = max(comparison.results, key=lambda r: r.note is note)
    for model in ("pretrained", "individual", "multitask"):
        held_in, general = (note.average(status, model) for status in STATUSES)
        if held_in is not None or general is not None:
            references = [note.average("held-in", "individual"),
                          note.average("generalization", "pretrained")]  # fmt: skip
            ratios = [
                value / by if value is not None and by else None
                for value, by in zip((held_in, general), references, strict=True)
            ]
            cells = (model, held_in, ratios[0], general, ratios[1], "baseline")
            rows.append(Row(cells, (Trace.of(beside),)))
    columns = (Column("model"), *_SCORES, Column("options"))
    return Table(f"{note.benchmark}, {note.split} split, {note.metric}", columns, tuple(rows))


def _averages(note: EvaluationNote) -> tuple[float | None, ...]:
    return tuple(
        value for status in STATUSES for value in (note.average(status), note.normalised(status))
    )


def _said(comparison: Comparison, note: EvaluationNote) -> list[str]:
    shown = comparison.shown()
    found = comparison.correlation
    complete = [r for r in shown.values() if len(_known(r.note)) == len(STATUSES)]
    methods = "1 method" if len(complete) == 1 else f"{len(complete)} methods"
    text = [
        f"Pearson correlation of held-in and generalization over the methods: {found}."
        if found
        else f"No correlation of held-in and generalization: {methods} with both scores, "
        "and three are needed."
    ]
    chosen = [method for method, result in shown.items() if result.chosen]
    if len(chosen) == len(shown):
        text.append("Each method with the options that a sweep chose, on data kept for that.")
    elif chosen:
        text.append(
            f"Options chosen by a sweep, on data kept for that: {', '.join(chosen)}. "
            "The others have their defaults, or what was merged last."
        )
    else:
        text.append("Each method with its default options, or those that were merged last.")
    return text


def _published_panel(source: str, rows: Sequence[Published]) -> list[Panel]:
    points = [
        Point(row.as_ours, row.held_in, row.generalization, row.method)
        for row in rows
        if row.held_in is not None and row.generalization is not None
    ]
    metric = next((f", {row.metric}" for row in rows if row.metric), "")
    title = f"Published: {source}"
    return [Panel(f"held-in{metric}", f"generalization{metric}", title, points)] if points else []


def _published_table(source: str, rows: Sequence[Published]) -> Table:
    columns = (Column("method"), Column("options"), Column("benchmark"),
               Column("held-in", "score"), Column("generalization", "score"))  # fmt: skip
    cells = [
        Row((row.method, row.options, row.benchmark, row.held_in, row.generalization))
        for row in rows
    ]
    return Table(f"Published numbers, not measured here: {source}", columns, tuple(cells))


# --- cost ----------------------------------------------------------------------------------------

_AXES: tuple[tuple[str, Callable[[Cost], float]], ...] = (
    ("FLOPs, merging and statistics", lambda cost: cost.flops + cost.statistics_flops),
    # Without the groups that were known it is not what merging takes.
    ("seconds of merging", lambda cost: 0.0 if cost.reused_groups else cost.seconds),
)


def cost(comparison: Comparison | None) -> Section:
    """Scores against what a merge took: the paper's Figure 3."""
    name, title = "cost", "What a merge costs"
    known = _costed(comparison)
    if not known:
        return Section(
            name, title, missing="No merge here has its cost beside its scores.", command=SWEEP
        )
    assert comparison is not None
    metric = comparison.first.metric
    panels = []
    for label, measure in _AXES:
        for status in STATUSES:
            points = [
                Point(method, measure(spent), y)
                for method, (result, spent) in known.items()
                if (y := result.note.average(status)) is not None and measure(spent) > 0
            ]
            if points:
                panels.append(Panel(label, f"{status}, {metric}", points=points, logarithmic=True))
    columns = (
        Column("method"), Column("merging", "flops"), Column("statistics", "flops"),
        Column("seconds", "seconds"), Column("merges in the pass", "count"),
        Column("peak memory", "bytes"), Column("read", "bytes"), Column("written", "bytes"),
        Column("groups reused", "count"), Column("device"), Column("held-in", "score"),
        Column("generalization", "score"),
    )  # fmt: skip
    rows = tuple(
        Row(
            (method, spent.flops, spent.statistics_flops, spent.seconds, spent.shared,
             spent.peak_memory_bytes, spent.read_bytes, spent.written_bytes, spent.reused_groups,
             spent.device,
             *(result.note.average(status) for status in STATUSES)),
            (Trace.of(result),),
        )
        for method, (result, spent) in known.items()
    )  # fmt: skip
    text = (
        "FLOPs are the counts of the paper's Table 3; seconds and memory were measured. Several "
        "merges may be computed in one pass: each has an equal share of its seconds. Those "
        "of a merge that reused groups of an earlier one are not what its method takes, nor drawn.",
    )
    return Section(name, title, text, tuple(panels), (Table("Cost", columns, rows),))


def _costed(comparison: Comparison | None) -> dict[str, tuple[Result, Cost]]:
    """The result that stands for each method, with a cost: its own, or that of the same merge.

    One that reused nothing goes first: it is what the method takes.
    """
    if comparison is None:
        return {}
    found = {}
    for method, result in comparison.shown().items():
        same = [r for r in comparison.of(method) if r.note.spec == result.note.spec]
        known = [(r, r.cost) for r in (result, *reversed(same)) if r.cost]
        if known:
            found[method] = min(known, key=lambda pair: pair[1].reused_groups > 0)
    return found


# --- tasks ---------------------------------------------------------------------------------------


def tasks(comparison: Comparison | None, benchmark: Benchmark | None) -> Section:
    """Every task: a heat map of the grid with held-in cells outlined, and all methods' scores."""
    name, title = "tasks", "Task by task"
    if comparison is None:
        return Section(
            name, title, missing="No merge has been evaluated in this repository.", command=SWEEP
        )
    shown = comparison.shown()
    method, result = max(shown.items(), key=lambda item: sum(_known(item[1].note)))
    panels = [] if benchmark is None else _grids(benchmark, method, result.note)
    first = comparison.first
    columns = (
        Column("task"), Column("status"),
        *(Column(name, "score") for name in (*shown, "pretrained", "individual", "multitask")),
    )  # fmt: skip
    by_task = {m: {s.task: s.merged for s in r.note.scores} for m, r in shown.items()}
    rows = tuple(
        Row(
            (
                s.task, s.status, *(by_task[m].get(s.task) for m in shown),
                s.pretrained, s.individual, s.multitask,
            )
        )
        for s in first.scores
    )  # fmt: skip
    traces = tuple(Trace.of(r) for r in shown.values())
    table = Table("All tasks", columns, rows, traces)
    shows = (
        f"The heat map shows {method}, whose two averages have the largest sum; held-in cells are "
        "outlined."
    )
    if not panels:
        shows = "This benchmark's tasks are no grid of two skills, so there is no heat map."
    return Section(name, title, (shows,), tuple(panels), (table,))


def _known(note: EvaluationNote) -> list[float]:
    return [value for status in STATUSES if (value := note.average(status)) is not None]


def _grids(benchmark: Benchmark, method: str, note: EvaluationNote) -> list[Grid]:
    if len(benchmark.axes) != 2:
        return []
    rows, columns = sorted(benchmark.axes, key=lambda axis: -len(benchmark.axes[axis]))
    places = {t.name: (t.skills[rows], t.skills[columns]) for t in benchmark.tasks}
    values = {places[s.task]: s.merged for s in note.scores if s.task in places}
    held_in = {places[s.task] for s in note.scores if s.status == "held-in" and s.task in places}
    used = [[skill for skill in benchmark.axes[axis] if any(place[i] == skill for place in values)]
            for i, axis in enumerate((rows, columns))]  # fmt: skip
    title = f"{method}, {note.metric} ({rows} by {columns})"
    return [Grid(used[0], used[1], values, frozenset(held_in), title)] if values else []
