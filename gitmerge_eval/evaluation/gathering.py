"""Everything that a repository knows of merged models: notes of merges, runs, published numbers.

A result is an evaluation note wherever it came from, with its source and what it cost. Results are
laid side by side only where they are of the same constituents and were scored by the same evaluator
on the same data: that is a comparison.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gitmerge_eval import methods
from gitmerge_eval.costs import Cost
from gitmerge_eval.errors import EvaluationError
from gitmerge_eval.evaluation import evaluating, note_records
from gitmerge_eval.evaluation.correlation import Correlation, pearson
from gitmerge_eval.evaluation.note import EvaluationNote
from gitmerge_eval.evaluation.published import Published, open_published
from gitmerge_eval.evaluation.runs import Run, open_runs
from gitmerge_eval.git import note_union, notes, trailers
from gitmerge_eval.git.repository import Repository
from gitmerge_eval.records import canonical_json


@dataclass(frozen=True)
class Result:
    """One merged model's scores on one split, and where they are from."""

    source: str
    """'merge' (a commit's note), 'sweep' or 'scale'."""
    where: str
    """The merge commit, or the digest of the sweep or scaling."""
    note: EvaluationNote
    models: tuple[str, ...] = ()
    """The constituents' checkpoints, as sorted object ids; their names where an id is unknown."""
    cost: Cost | None = None
    sample: int = 0
    chosen: bool = False
    """Whether a sweep chose it as the best of its method, on data kept for that."""
    recorded: str = ""

    @property
    def method(self) -> str:
        """The method's name."""
        return self.note.method or ""

    @property
    def options(self) -> Mapping[str, Any]:
        """The method's own options that have a value, by their names on the command line."""
        own = methods.load().get(self.method)
        known = {p.option for p in own.hyperparameters} if own else set(self.note.options)
        given = self.note.options.items()
        return {name: value for name, value in given if name in known and value is not None}

    @property
    def data(self) -> str:
        """A digest of all the data that it was scored on: tasks with their fingerprints."""
        return data_digest(self.note)

    @property
    def has_defaults(self) -> bool:
        """Whether all options have the values that they have when nobody names them."""
        own = methods.load().get(self.method)
        return own is not None and all(
            self.note.options.get(p.option, p.default) == p.default for p in own.hyperparameters
        )


@dataclass(frozen=True)
class Comparison:
    """Results that may be laid side by side."""

    results: tuple[Result, ...]

    @property
    def first(self) -> EvaluationNote:
        """Any of its notes: benchmark, metric, split and baselines are the same in all."""
        return max(self.results, key=_baselines).note

    @property
    def constituents(self) -> tuple[str, ...]:
        """Their names, sorted."""
        return tuple(sorted(self.first.constituents))

    @property
    def models(self) -> tuple[str, ...]:
        """The constituents' checkpoints: a branch that was trained anew is another constituent."""
        return self.results[0].models

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods that there are results of, in the paper's order."""
        return _ordered({result.method for result in self.results})

    def of(self, method: str) -> tuple[Result, ...]:
        """A method's results."""
        return tuple(result for result in self.results if result.method == method)

    @property
    def correlation(self) -> Correlation | None:
        """How far held-in tells generalization, over the results that stand for the methods."""
        notes = [result.note for result in self.shown().values()]
        pairs = [(note.average("held-in"), note.average("generalization")) for note in notes]
        return pearson([(x, y) for x, y in pairs if x is not None and y is not None])

    def shown(self) -> dict[str, Result]:
        """The one result of each method that stands for it.

        A sweep's choice where there is one, else the default options, else what was measured last.
        Never the best on the data that are shown: that would be choosing on the test.
        """
        return {
            method: max(self.of(method), key=lambda r: (r.chosen, r.has_defaults, r.recorded))
            for method in self.methods
        }


@dataclass(frozen=True)
class Gathered:
    """All that is known, and what could not be read."""

    results: tuple[Result, ...]
    published: tuple[Published, ...]
    remarks: tuple[str, ...]

    def comparisons(self, split: str = "test") -> list[Comparison]:
        """The results of one split, those of most methods first, then of most constituents.

        The whole of a scaling is in each of its samples, and counts once.
        """
        groups: dict[tuple[object, ...], dict[tuple[object, ...], Result]] = {}
        for result in self.results:
            if result.note.split == split and result.method:
                key = (result.source, result.where, result.note.spec)
                groups.setdefault(_setting(result), {}).setdefault(key, result)
        found = [Comparison(tuple(group.values())) for group in groups.values()]
        return sorted(found, key=lambda c: (len(c.methods), len(c.constituents)), reverse=True)


def gather(repository: Repository) -> Gathered:
    """Every result that the notes and the results cache of ``repository`` hold.

    A note or a run that this version cannot read is left out and becomes a remark.
    """
    remarks: list[str] = []
    path = evaluating.results_path(repository)
    merged = list(_merges(repository, remarks))
    with open_runs(path) as table:
        runs = table.find()
        remarks += table.remarks
    with open_published(path) as published:
        rows = tuple(published.find())
    return Gathered((*merged, *_of_runs(runs)), rows, tuple(remarks))


def data_digest(note: EvaluationNote) -> str:
    """SHA-256 over the tasks of ``note``, their status and the digests of their data."""
    tasks = sorted((score.task, score.status, score.fingerprint) for score in note.scores)
    return hashlib.sha256(canonical_json(tasks).encode()).hexdigest()


def note_of(run: Run, split: str) -> EvaluationNote:
    """A run's scores on ``split`` as the note that a merge of it would have."""
    return EvaluationNote(
        benchmark=run.benchmark,
        metric=run.metric,
        split=split,
        evaluator_version=run.evaluator_version,
        path=run.path,
        checkpoint=run.checkpoint,
        scores=run.scores[split],
        settings=run.settings,
        method=run.method,
        options=run.options,
        spec=run.spec,
        constituents=tuple(name for name, _ in run.constituents),
        seconds=run.evaluation_seconds,
        device=run.cost.device,
    )


def _of_runs(runs: Iterable[Run]) -> Iterator[Result]:
    for run in runs:
        for split in run.scores:
            yield Result(
                run.source, run.study, note_of(run, split),
                identities(blob for _, blob in run.constituents), run.cost, run.sample, run.chosen,
                run.recorded,
            )  # fmt: skip


def identities(checkpoints: Iterable[str]) -> tuple[str, ...]:
    """The object ids of checkpoints, sorted; what a configuration adds to an id is left out.

    >>> identities(["b2+c", "a1"])
    ('a1', 'b2')
    """
    return tuple(sorted(checkpoint.partition("+")[0] for checkpoint in checkpoints))


def _merges(repository: Repository, remarks: list[str]) -> Iterator[Result]:
    """The evaluated merges, each model once, though its commit was amended or rebased."""
    seen = set()
    fetched = note_union.apart(repository)
    for commit, when in _annotated(repository, remarks):
        try:
            found = evaluating.show(repository, commit, fetched)
        except EvaluationError as error:
            remarks.append(f"the note of {commit[:10]} is left out: {error}")
            continue
        again = note_records.differing(found)
        if again:
            remarks.append(
                f"the note of {commit[:10]} has another result of the same merge on the same data; "
                f"'gitmerge-eval show {commit[:10]}' shows both, and the first counts"
            )
        for note in found:
            if not note.method or note in again:
                continue
            models = _models(repository, commit, note)
            result = Result("merge", commit, note, models, note.cost, recorded=when)
            key = (note.spec, note.checkpoint, _setting(result))
            if key not in seen:
                seen.add(key)
                yield result


def _models(repository: Repository, commit: str, note: EvaluationNote) -> tuple[str, ...]:
    """The checkpoints of the constituents that the trailers name, where all of them are here."""
    merge = trailers.read(repository, commit)
    parts = [part for part, _ in merge.constituents] if merge else []
    asked = "\n".join(f"{part}:{note.path}" for part in parts)
    found = repository.run("cat-file", "--batch-check=%(objectname)", stdin=asked).text.split("\n")
    if not parts or any(" " in line for line in found):
        return tuple(sorted(note.constituents))
    return identities(found)


def _annotated(repository: Repository, remarks: list[str]) -> list[tuple[str, str]]:
    """(commit, date) of the commits that have a note and are in the history of a branch or tag.

    Those that HEAD reaches come first. How many are in no history any more becomes a remark.
    """
    commits = dict.fromkeys(commit for _, commit in notes.every(repository))
    if not commits:
        return []
    asked = "\n".join(f"{commit}^{{commit}}" for commit in commits)
    known = repository.run("cat-file", "--batch-check=%(objectname)", stdin=asked).text
    here = [line for line in known.splitlines() if " " not in line]
    kept = set(repository.text("rev-list", "--all").split())
    forgotten = [commit for commit in here if commit not in kept]
    if forgotten:
        shown = ", ".join(commit[:10] for commit in forgotten[:3])
        remarks.append(
            "no branch or tag has these commits any more, so that their notes do not count: "
            f"{shown}{f' and {len(forgotten) - 3} others' if len(forgotten) > 3 else ''}"
        )
    here = [commit for commit in here if commit in kept]
    if not here:
        return []
    dated = repository.text("log", "--no-walk=unsorted", "--format=%H %cI", *here, "--")
    reached = set(repository.run("rev-list", "HEAD", check=False).text.splitlines())
    found = [(line.split()[0], line.split()[1]) for line in dated.splitlines()]
    return sorted(found, key=lambda one: (one[0] not in reached, one[1]))


def _setting(result: Result) -> tuple[object, ...]:
    """What two results must have in common to be laid side by side."""
    note = result.note
    return (
        note.benchmark, canonical_json(dict(note.settings)), note.metric, note.split,
        note.evaluator_version, note.path, result.models, data_digest(note),
    )  # fmt: skip


def _baselines(result: Result) -> int:
    return sum(
        getattr(score, model) is not None
        for score in result.note.scores
        for model in ("pretrained", "individual", "multitask")
    )


def _ordered(names: Iterable[str]) -> tuple[str, ...]:
    wanted = set(names)
    known: Sequence[str] = [name for name in methods.load() if name in wanted]
    return (*known, *sorted(wanted - set(known)))
