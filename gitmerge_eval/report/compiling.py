"""A report is put together: what is gathered, laid out in sections, with its sources."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timezone

from gitmerge_eval import __version__
from gitmerge_eval.errors import EvaluationError, UnknownName
from gitmerge_eval.evaluation.declarations import benchmark_at
from gitmerge_eval.evaluation.gathering import Comparison, Gathered, Result, gather
from gitmerge_eval.evaluation.reporting import options_text
from gitmerge_eval.git.repository import Repository
from gitmerge_eval.records import Benchmark, canonical_json
from gitmerge_eval.report import comparing, provenance, studies
from gitmerge_eval.report.content import Report, Section, Source, Trace, listed


def compile_report(repository: Repository, *, split: str = "test") -> Report:
    """Everything that ``repository`` knows of merged models, as a report.

    Methods are compared on the constituents that most methods were measured on. Raises GitError in
    a repository without a commit, and EvaluationError where the results cache cannot be opened.
    """
    commit = repository.commit("HEAD")
    gathered = gather(repository)
    comparisons = gathered.comparisons(split)
    main = comparisons[0] if comparisons else None
    benchmark = _benchmark(repository, main)
    merges, merged = provenance.history(repository)
    sections = (
        comparing.scores(main, gathered.published),
        comparing.cost(main),
        studies.sensitivity(gathered, main),
        studies.scaling(gathered, main),
        comparing.tasks(main, benchmark),
        provenance.prerequisites(),
        merges,
    )
    return Report(
        title=repository.directory.resolve().name,
        branch=repository.text("rev-parse", "--abbrev-ref", "HEAD"),
        commit=commit,
        made=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        tool=f"gitmerge-eval {__version__}",
        summary=_summary(main, comparisons, split),
        sections=sections,
        sources=_sources(sections, [*gathered.results, *merged]),
        remarks=_remarks(gathered),
    )


def _benchmark(repository: Repository, comparison: Comparison | None) -> Benchmark | None:
    """The benchmark that the results are of, where it is installed; its grid is wanted."""
    if comparison is None:
        return None
    from gitmerge_eval.evaluation.resolving import benchmark_of

    try:
        declaration = benchmark_at(repository, "HEAD")
        found = benchmark_of(repository, declaration) if declaration else None
    except (EvaluationError, UnknownName):
        return None  # a page without a heat map
    return found if found is not None and found.name == comparison.first.benchmark else None


def _summary(
    main: Comparison | None, comparisons: list[Comparison], split: str
) -> tuple[tuple[str, str], ...]:
    if main is None:
        return (("results", f"none on the {split} split"),)
    note = main.first
    others = [result for other in comparisons[1:] for result in other.results]
    rest = (
        f"; 'gitmerge-eval results' has {_count(others, 'result')} of other constituents too"
        if others
        else ""
    )
    return (
        ("benchmark", f"{note.benchmark}, {note.split} split, {note.metric}"),
        ("constituents", f"{len(main.constituents)}: {listed(main.constituents, 12)}"),
        (
            "tasks",
            ", ".join(
                f"{sum(s.status == status for s in note.scores)} {status}"
                for status in ("held-in", "generalization")
            ),
        ),
        ("measured", f"{_count(main.results, 'result')} of {_count(main.methods, 'method')}{rest}"),
    )


def _count(things: Sequence[object], noun: str) -> str:
    return f"{len(things)} {noun}" + ("" if len(things) == 1 else "s")


def _sources(sections: Iterable[Section], results: Iterable[Result]) -> tuple[Source, ...]:
    """An entry for each trace that a table has, in the order in which they are met."""
    known: dict[tuple[str, str], Result] = {}
    for result in results:
        key = (result.note.spec or "", result.data)
        # A merge's commit says more than a study's digest.
        if key not in known or result.source == "merge":
            known[key] = result
    wanted: dict[tuple[str, str], Trace] = {}
    for section in sections:
        for table in section.tables:
            traces = [trace for row in table.rows for trace in row.traces]
            wanted |= {(trace.spec, trace.data): trace for trace in (*table.traces, *traces)}
    return tuple(_source(known[key]) for key in wanted if key in known)


def _source(result: Result) -> Source:
    note = result.note
    return Source(
        trace=Trace.of(result),
        method=result.method,
        options=options_text(note.options),
        constituents=note.constituents,
        checkpoint=note.checkpoint,
        evaluator=f"{note.benchmark}, evaluator {note.evaluator_version}, {note.split} split",
        settings=canonical_json(dict(note.settings)),
        scores=tuple(replace(score) for score in note.scores),
    )


def _remarks(gathered: Gathered) -> tuple[str, ...]:
    from_notes = [remark for result in gathered.results for remark in result.note.remarks]
    return tuple(dict.fromkeys((*gathered.remarks, *from_notes)))
