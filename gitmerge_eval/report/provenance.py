"""The sections about methods and about this branch: what a method needs, and what was merged."""

from __future__ import annotations

from gitmerge_eval import methods, statistics
from gitmerge_eval.evaluation.gathering import Result
from gitmerge_eval.evaluation.reporting import STATUSES
from gitmerge_eval.git.repository import Repository
from gitmerge_eval.inspecting.history import ModelMerge, merges, method_text
from gitmerge_eval.records import MergeMethod
from gitmerge_eval.report.content import Column, Row, Section, Table, Trace, listed

MOST_MERGES = 100


def prerequisites() -> Section:
    """What each method needs, as its declaration says: the paper's Table 2."""
    columns = (
        Column("method"), Column("pretrained model"), Column("statistics of each model"),
        Column("data for them"), Column("to be chosen"), Column("merging a d×k layer, FLOPs"),
        Column("its statistics, FLOPs"), Column("reference"),
    )  # fmt: skip
    text = (
        "With default options. M models, T tokens; what is to be chosen wants validation data, or "
        "a guess.",
    )
    rows = tuple(_needs(method) for method in methods.load().values())
    table = Table("Prerequisites", columns, rows)
    return Section("prerequisites", "What each method needs", text, tables=(table,))


def _needs(method: MergeMethod) -> Row:
    values = method.options({})
    kinds = method.statistics(values)
    data = any(statistics.get(kind).needs_data for kind in kinds)
    swept = [f"{p.option} {p.symbol}".strip() for p in method.hyperparameters if p.sweep]
    return Row(
        (
            method.name,
            "needed" if method.needs_base(values) else "no",
            ", ".join(kinds) or "none",
            "needed" if data else "no",
            ", ".join(swept) or "nothing",
            method.flops_formula,
            method.statistics_formula or "none",
            method.reference,
        )
    )


def history(repository: Repository) -> tuple[Section, list[Result]]:
    """The merges of models that HEAD has, latest first, and their results."""
    name, title = "history", "Merges on this branch"
    rows, results = [], []
    known = repository.succeeds("rev-parse", "--verify", "--quiet", "HEAD")
    for merge in merges(repository, limit=MOST_MERGES) if known else ():
        traces: tuple[Trace, ...] = ()
        if merge.note is not None:  # of one that cannot be read, gathering makes a remark
            result = Result("merge", merge.commit, merge.note, recorded=merge.date)
            results.append(result)
            traces = (Trace.of(result),)
        rows.append(Row(_merge_cells(merge), traces))
    if not rows:
        return Section(
            name, title, missing="This branch has no merge of models.",
            command="git merge --strategy-option=method=<method> <branches>",
        ), []  # fmt: skip
    columns = (
        Column("date"), Column("commit"), Column("subject"), Column("method"), Column("of"),
        Column("held-in", "score"), Column("of individual", "ratio"),
        Column("generalization", "score"), Column("of pretrained", "ratio"),
    )  # fmt: skip
    unknown = sum(not row.traces for row in rows)
    text = (
        f"{unknown} of {len(rows)} have no evaluation in a note: 'gitmerge-eval evaluate <commit>' "
        "makes one.",
    ) if unknown else ()  # fmt: skip
    table = Table("Latest first", columns, tuple(rows))
    return Section(name, title, text, tables=(table,)), results


def _merge_cells(merge: ModelMerge) -> tuple[object, ...]:
    note = merge.note
    scores = [
        value
        for status in STATUSES
        for value in ((note.average(status), note.normalised(status)) if note else (None, None))
    ]
    names = listed([name for _, name in merge.trailers.constituents])
    method = method_text(merge.trailers)
    return (merge.date, merge.commit[:10], merge.subject, method, names, *scores)
