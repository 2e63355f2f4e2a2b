"""The sections about methods and about this branch: what a method needs, and what was merged."""

from __future__ import annotations

from gitmerge_eval import methods, statistics
from gitmerge_eval.errors import EvaluationError
from gitmerge_eval.evaluation import evaluating
from gitmerge_eval.evaluation.gathering import Result
from gitmerge_eval.evaluation.note import EvaluationNote
from gitmerge_eval.evaluation.reporting import STATUSES, options_text
from gitmerge_eval.evaluation.subjects import merge_of_ours
from gitmerge_eval.git.repository import Repository
from gitmerge_eval.git.trailers import METHOD, MergeTrailers
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
    listing = repository.run(
        "log", f"--grep=^{METHOD}: ", f"--max-count={MOST_MERGES}", "--format=%H%x00%cs%x00%s",
        check=False,
    ).text  # fmt: skip
    rows, results = [], []
    for line in listing.splitlines():
        commit, date, subject = line.split("\0", 2)
        merge = merge_of_ours(repository, commit)
        if merge is None:
            continue
        note = _note(repository, commit)
        traces: tuple[Trace, ...] = ()
        if note is not None:
            result = Result("merge", commit, note, recorded=date)
            results.append(result)
            traces = (Trace.of(result),)
        rows.append(Row(_merge_cells(commit, date, subject, merge, note), traces))
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


def _note(repository: Repository, commit: str) -> EvaluationNote | None:
    try:
        found = evaluating.show(repository, commit)
    except EvaluationError:
        return None  # gathering makes a remark of it
    return next((note for note in reversed(found) if note.split == "test"), None)


def _merge_cells(
    commit: str, date: str, subject: str, merge: MergeTrailers, note: EvaluationNote | None
) -> tuple[object, ...]:
    own = methods.load().get(merge.method)
    known = {p.option: p.default for p in own.hyperparameters} if own else {}
    changed = {k: v for k, v in merge.options.items() if k in known and v != known[k]}
    method = f"{merge.method} ({options_text(changed)})" if changed else merge.method
    method += ", chosen by a sweep" if merge.sweep else ""
    scores = [
        value
        for status in STATUSES
        for value in ((note.average(status), note.normalised(status)) if note else (None, None))
    ]
    names = listed([name for _, name in merge.constituents])
    return (date, commit[:10], subject, method, names, *scores)
