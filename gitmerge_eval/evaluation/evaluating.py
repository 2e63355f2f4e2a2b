"""Evaluate a model of the repository on its benchmark: held-in, generalization, baselines.

The code that evaluates is an installed benchmark, found by name; no file of a branch is imported
or run, and no checkpoint is ever checked out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gitmerge_eval.costs import Cost
from gitmerge_eval.errors import CheckpointError, EvaluationError
from gitmerge_eval.evaluation import merge_costs, note_records, reporting, summaries
from gitmerge_eval.evaluation.note import EvaluationNote, TaskScore
from gitmerge_eval.evaluation.results import Results, Score, ScoreKey, open_results
from gitmerge_eval.evaluation.scoring import scores_of
from gitmerge_eval.evaluation.subjects import Model, Subject, models_of, subject_at
from gitmerge_eval.evaluation.workspace import Workspace, workspace
from gitmerge_eval.git import note_union, notes
from gitmerge_eval.git.repository import Repository
from gitmerge_eval.records import canonical_json

FOLDER = "gitmerge-eval"
"""Where evaluation keeps its files, below the git directory that all work trees share."""
OUTPUTS = "outputs"
"""What is kept of scores, there."""
DEVICE_KEY = "merge-eval.device"
"""The configuration's answer where nobody names a device."""


@dataclass(frozen=True)
class Progress:
    """How far an evaluation is."""

    model: str
    """'merged', 'pretrained', 'multitask', or a constituent's name."""
    task: str
    completed: float
    """The part of what has to be computed that is done, 0 to 1."""


ProgressCallback = Callable[[Progress], None]


def evaluate(
    repository: Repository,
    revision: str = "HEAD",
    *,
    split: str = "test",
    device: str = "auto",
    progress: ProgressCallback | None = None,
    force: bool = False,
    tasks: Sequence[str] | None = None,
    checkpoint: str | None = None,
    write_note: bool = True,
) -> EvaluationNote:
    """Evaluate the model at ``revision``; unless told otherwise, write the note of that commit.

    The note is of the whole: a choice of ``tasks`` leaves none.

    A merge of ours is evaluated on the tasks of its constituents (held-in) and on the other cells
    of the grid that these span (generalization), and so are its baselines. Any other model is
    evaluated on the tasks of all constituents that its tree declares, or on ``tasks``.
    ``checkpoint`` says which model, where the constituents have several. Known scores come from
    the cache unless ``force``. What computing the merge took is known where it was made in this
    clone; elsewhere the note keeps what it says of that.

    Raises EvaluationError where the repository declares no benchmark or no constituent, names an
    unknown benchmark or task, or the benchmark fails; CheckpointError where the model cannot be
    read; GitError for an unknown revision.
    """
    subject = subject_at(repository, revision, tasks, checkpoint)
    models, remarks = models_of(repository, subject)
    folder = repository.common_directory / FOLDER
    with (
        summaries.in_use(folder),
        open_results(results_path(repository)) as results,
        workspace(repository, folder / "evaluated") as room,
    ):
        scorer = Scorer(repository, subject, split, device, results, room, force)
        scorer.score(models, progress or (lambda step: None))
        note = _note(subject, models, scorer, tuple(remarks + scorer.remarks))
        note = _with_summary(note, subject, models, scorer)
    note = replace(note, cost=_cost(repository, note, subject.commit))
    if write_note and tasks is None:
        _write(repository, subject.commit, note, force)
    return note


def _write(repository: Repository, commit: str, note: EvaluationNote, force: bool) -> None:
    """Write the note of ``commit``; another clone's record with other scores stays beside it.

    One of this clone's own can only differ where ``force`` has computed its scores anew.
    """
    new = reporting.note_record(note)
    rounded = reporting.note_from_record(new)

    def keep(record: Mapping[str, Any]) -> bool:
        return not force and note_records.contradicts(record, rounded)

    others = [one for one in note_union.records_of(repository, commit) if keep(one)]
    table = note_records.table([*others, new])
    notes.write(repository, commit, table, new, keep=keep)


def _cost(repository: Repository, note: EvaluationNote, commit: str) -> Cost | None:
    """What computing the merge took: as measured here, or as the commit's note has it already."""
    if note.spec is None:
        return None
    if (measured := merge_costs.find(results_path(repository), note.spec)) is not None:
        return measured
    earlier = note_union.records_of(repository, commit)
    said = (merge_costs.cost_of(r.get("cost")) for r in earlier if r.get("spec") == note.spec)
    return next((cost for cost in said if cost is not None), None)


def show(
    repository: Repository, revision: str = "HEAD", fetched: Sequence[str] | None = None
) -> tuple[EvaluationNote, ...]:
    """The evaluations that the note of ``revision`` records; empty without a note.

    Fetched notes count, too, before they are united with this clone's (``fetched`` as for
    :func:`note_union.records_of`). Raises GitError for an unknown revision and EvaluationError for
    a record of another schema.
    """
    return note_records.evaluations(note_union.records_of(repository, revision, fetched))


def latest_note(repository: Repository, commit: str) -> EvaluationNote | None:
    """The latest evaluation on test data in the commit's note, or None.

    Raises EvaluationError where the note cannot be read.
    """
    found = show(repository, commit)
    return next((note for note in reversed(found) if note.split == "test"), None)


def results_path(repository: Repository) -> Path:
    """The cache of scores, shared by all work trees."""
    return repository.common_directory / FOLDER / "results.sqlite"


@dataclass
class Scorer:
    """Scores models on tasks: from the cache, else by the benchmark, one checkpoint at a time."""

    repository: Repository
    subject: Subject
    split: str
    device: str
    results: Results
    room: Workspace
    force: bool
    scores: dict[tuple[str, str], Score] = field(default_factory=dict)
    """(identity, task) -> score."""
    remarks: list[str] = field(default_factory=list)
    fingerprints: dict[str, str] = field(default_factory=dict)

    def score(self, models: Sequence[Model], progress: ProgressCallback) -> None:
        """Fill ``scores``; a baseline that cannot be read becomes a remark."""
        missing = self.missing(models)
        total = sum(len(tasks) for _, tasks in missing)
        done = 0
        for model, tasks in missing:
            relay = _relay(model.label, done, total, progress)
            try:
                self._compute(model, tasks, relay)
            except CheckpointError as error:
                self.give_up(model, error)
            done += len(tasks)

    def missing(self, models: Sequence[Model]) -> list[tuple[Model, tuple[str, ...]]]:
        """Each distinct checkpoint with the tasks that the cache does not know; ``scores`` then
        has the known ones."""
        settings = self.subject.declaration.settings
        for task in self.subject.tasks:
            if task not in self.fingerprints:
                self.fingerprints[task] = self.subject.benchmark.fingerprint(
                    task, self.split, settings=settings
                )
        wanted: dict[str, tuple[Model, dict[str, None]]] = {}
        for model in models:
            _, tasks = wanted.setdefault(model.identity, (model, {}))
            tasks.update(dict.fromkeys(model.tasks))
        missing = []
        for model, tasks in wanted.values():
            keys = {task: self._key(model.identity, task) for task in tasks}
            known = {} if self.force else self.results.find(list(keys.values()))
            if self.subject.benchmark.summarise:
                known = {key: s for key, s in known.items() if self.outputs.of(key).is_dir()}
            self.scores |= {(model.identity, t): known[k] for t, k in keys.items() if k in known}
            unknown = tuple(task for task, key in keys.items() if key not in known)
            if unknown:
                missing.append((model, unknown))
        return missing

    def _compute(
        self, model: Model, tasks: tuple[str, ...], relay: Callable[[str, int, int], None]
    ) -> None:
        folders = self.folders(model, tasks)
        found = scores_of(
            model,
            tasks,
            self.subject.benchmark,
            self.subject.declaration.settings,
            self.room,
            self.subject.path,
            split=self.split,
            device=resolved_device(self.repository, self.device),
            outputs=folders,
            relay=relay,
        )
        self.keep(model, found)

    def folders(self, model: Model, tasks: Sequence[str]) -> dict[str, Path]:
        """task -> an empty folder for what is kept of its score; none where nothing is."""
        if not self.subject.benchmark.summarise:
            return {}
        return {task: self.outputs.fresh(self._key(model.identity, task)) for task in tasks}

    def keep(self, model: Model, scores: Mapping[str, Score]) -> None:
        """Remember the scores of a model, here and in the cache; task -> score."""
        self.results.store({self._key(model.identity, task): s for task, s in scores.items()})
        self.scores |= {(model.identity, task): score for task, score in scores.items()}

    def give_up(self, model: Model, error: CheckpointError) -> None:
        """A baseline that cannot be read becomes a remark; the model itself raises ``error``."""
        if model.role == "merged":
            raise error.within(f"the model of {self.subject.commit[:10]}") from error
        self.remarks.append(f"no scores of {model.label}: {error}")

    @property
    def outputs(self) -> summaries.Outputs:
        """What is kept of scores, beside the cache."""
        return summaries.Outputs(self.repository.common_directory / FOLDER / OUTPUTS)

    def kept(self, model: Model, task: str) -> Path | None:
        """What was kept of a model's score on a task; None where it has none."""
        if (model.identity, task) not in self.scores:
            return None
        return self.outputs.of(self._key(model.identity, task))

    def table(
        self, evaluated: str, models: Sequence[Model], statuses: Mapping[str, Sequence[str]]
    ) -> tuple[TaskScore, ...]:
        """The scores of the model with the identity ``evaluated``, beside those of the baselines
        among ``models``; ``statuses``: status -> its tasks."""

        def value(role: str, task: str) -> float | None:
            known = [
                self.scores[model.identity, task].value
                for model in models
                if model.role == role
                and (model.identity, task) in self.scores
                and task in model.tasks
            ]
            # Two constituents may be of one task: the better is what merging has to match.
            return max(known, default=None)

        return tuple(
            TaskScore(
                task=task,
                status=status,
                merged=self.scores[evaluated, task].value,
                pretrained=value("pretrained", task),
                individual=value("individual", task),
                multitask=value("multitask", task),
                fingerprint=self.fingerprints[task],
            )
            for status, tasks in statuses.items()
            for task in tasks
        )

    def _key(self, identity: str, task: str) -> ScoreKey:
        return ScoreKey(
            checkpoint=identity,
            benchmark=self.subject.benchmark.name,
            settings=canonical_json(dict(self.subject.declaration.settings)),
            task=task,
            split=self.split,
            evaluator_version=self.subject.benchmark.evaluator_version,
            fingerprint=self.fingerprints[task],
        )


def _relay(
    label: str, before: int, total: int, progress: ProgressCallback
) -> Callable[[str, int, int], None]:
    """A benchmark's ``progress(task, done, total)`` as our own."""
    parts: dict[str, float] = {}

    def report(task: str, done: int, size: int) -> None:
        parts[task] = done / size if size else 1.0
        progress(Progress(label, task, (before + sum(parts.values())) / total))

    return report


def resolved_device(repository: Repository, device: str) -> str:
    """The device to compute on: as asked, as merge-eval.device says, else the GPU if there is one.

    Raises EvaluationError where a GPU is asked for and torch sees none.
    """
    asked = repository.setting(DEVICE_KEY) or device if device == "auto" else device
    if asked == "cpu":
        return asked
    # Only here: a benchmark that is a plain function on the CPU needs no torch.
    import torch

    if torch.cuda.is_available():
        return "cuda" if asked == "auto" else asked
    if asked != "auto":
        raise EvaluationError(f"the device '{asked}' is not there for torch; use 'cpu'")
    return "cpu"


def _with_summary(
    note: EvaluationNote, subject: Subject, models: Sequence[Model], scorer: Scorer
) -> EvaluationNote:
    common = scorer.repository.common_directory
    sheet = common / FOLDER / summaries.SHEETS / f"{subject.commit[:10]}-{scorer.split}.png"
    figures, drawn = summaries.summary(subject, models, scorer.kept, scorer.split, sheet)
    place = drawn.relative_to(common).as_posix() if drawn else None
    return replace(note, figures=figures, sheet=place)


def _note(
    subject: Subject, models: Sequence[Model], scorer: Scorer, remarks: tuple[str, ...]
) -> EvaluationNote:
    evaluated = next(model.identity for model in models if model.role == "merged")
    merge = subject.merge
    specs = {path: digest for digest, path in merge.specs} if merge else {}
    return EvaluationNote(
        benchmark=subject.benchmark.name,
        metric=subject.benchmark.metric,
        split=scorer.split,
        evaluator_version=subject.benchmark.evaluator_version,
        path=subject.path,
        checkpoint=subject.blob,
        scores=scorer.table(
            evaluated,
            models,
            {"held-in": subject.held_in, "generalization": subject.generalization},
        ),
        settings=subject.declaration.settings,
        method=merge.method if merge else None,
        options=merge.options if merge else {},
        spec=specs.get(subject.path),
        constituents=tuple(leaf.declaration.name for leaf in subject.leaves),
        seconds=sum(score.seconds for score in scorer.scores.values()),
        device=scorer.scores[evaluated, subject.tasks[0]].device,
        remarks=remarks,
    )
