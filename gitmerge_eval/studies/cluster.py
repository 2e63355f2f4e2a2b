"""A Ray cluster as executor: passes and (candidate, task) pairs are tasks, files stay on nodes.

The driver plans, keeps the tables and decides; what goes to and fro are descriptions and scores. A
candidate is scored where it was computed, unless all nodes see one folder.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gitmerge_eval import __version__
from gitmerge_eval.errors import CheckpointError, EvaluationError, InvalidOption
from gitmerge_eval.evaluation.evaluating import DEVICE_KEY, Scorer
from gitmerge_eval.evaluation.subjects import Model, Subject
from gitmerge_eval.git.repository import Repository
from gitmerge_eval.merging import candidates
from gitmerge_eval.merging.devices import Resources
from gitmerge_eval.merging.options import text_of
from gitmerge_eval.merging.planning import CheckpointPlan
from gitmerge_eval.studies import on_node
from gitmerge_eval.studies.executor import Finished, ModelOf, Pass, Tell, Trial
from gitmerge_eval.studies.on_node import Made, Node, PassOrder, Scored, ScoreOrder, Site, Version

RETRIES = 3
"""How often a task is started again whose worker died."""
PASS_CPUS = 4
"""A pass claims as many, or all that the smallest node has."""
LEAVE_SECONDS = 30
QUEUED = 2
"""Tasks that wait or run for each CPU: enough that none is idle, few enough to go on reacting."""


@dataclass
class _Candidate:
    """A trial that is computed, and the tasks of which the scores are still to come."""

    order: Pass
    trial: Trial
    model: Model
    made: Made
    attempt: int
    waiting: set[str] = field(default_factory=set)


@dataclass
class _Work:
    """What is with the cluster: a reference -> what it will be."""

    passes: dict[Any, tuple[Pass, int]] = field(default_factory=dict)
    scores: dict[Any, tuple[_Candidate, str]] = field(default_factory=dict)
    held_bytes: int = 0
    """Of candidates that are being computed or are not forgotten yet."""

    @property
    def references(self) -> list[Any]:
        """All of them."""
        return [*self.passes, *self.scores]

    def drop(self, candidate: _Candidate) -> list[Any]:
        """Take out what a candidate still waits for."""
        gone = [ref for ref, (other, _) in self.scores.items() if other is candidate]
        for ref in gone:
            del self.scores[ref]
        return gone


class Cluster:
    """The executor; made by :func:`gitmerge_eval.studies.executor.started`."""

    def __init__(self, ray: Any, site: Site, subject: Subject, resources: Resources) -> None:
        self._ray, self._site, self._subject, self._resources = ray, site, subject, resources
        self._named = Repository(site.directory).setting(DEVICE_KEY) or "auto"
        self._functions: dict[str, Any] = {}
        self._last = ""
        total = ray.cluster_resources()
        self._cpus, self._gpus = int(total.get("CPU", 0)), int(total.get("GPU", 0))
        self._merging = self._device(resources.device)
        alive = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
        if not alive:
            raise EvaluationError("no node of the Ray cluster has a CPU to offer; add one")
        self._pass_cpus = min(PASS_CPUS, *(int(node["Resources"]["CPU"]) or 1 for node in alive))
        self._nodes = self._look([node["NodeID"] for node in alive])

    def free_bytes(self) -> int:
        """As :class:`Executor` says: half, since several passes are under way."""
        return min(node.free_bytes for node in self._nodes.values()) // 2

    def run(
        self, passes: Iterable[Pass], model_of: ModelOf, scorer: Scorer, tell: Tell
    ) -> Iterator[Finished]:
        """As :class:`Executor` says; in the order in which they are done."""
        work, more = _Work(), iter(passes)
        try:
            while True:
                while self._has_room(work) and (one := next(more, None)):
                    self._submit(work, one, 1)
                    tell(one.method, "merging")
                if not work.references:
                    return
                for reference in self._ready(work.references):
                    if reference in work.passes:
                        found = self._computed(work, reference, model_of, scorer)
                    else:
                        found = self._scored(work, reference, scorer, tell)
                    yield from found
        finally:
            self._cancel(work.references)

    def score(self, models: Sequence[Model], scorer: Scorer, tell: Tell) -> None:
        """As :class:`Executor` says."""
        waiting = {
            self._send(model, task, scorer): (model, task)
            for model, tasks in scorer.missing(models)
            for task in tasks
        }
        try:
            while waiting:
                for reference in self._ready(list(waiting)):
                    model, task = waiting.pop(reference, (None, ""))
                    if model is None:
                        continue
                    try:
                        scored = self._result(reference)
                    except CheckpointError as error:
                        scorer.give_up(model, error)
                        waiting = {ref: w for ref, w in waiting.items() if w[0] is not model}
                        continue
                    if scored is None:
                        raise self._died(f"{model.label} was scored on {task}")
                    self._keep(scorer, model, task, scored)
                    tell("", f"{model.label} on {task}")
        finally:
            self._cancel(list(waiting))

    def leave(self) -> None:
        """Leave nothing on nodes that have folders of their own."""
        left = [
            self._call("leave", self._site, node=node, cpus=0)
            for node, known in self._nodes.items()
            if not known.shares
        ]
        if left:
            self._ray.wait(left, num_returns=len(left), timeout=LEAVE_SECONDS)

    def _has_room(self, work: _Work) -> bool:
        few = len(work.references) < QUEUED * max(self._cpus, 1)
        return not work.references or (few and work.held_bytes <= self.free_bytes() // 2)

    def _submit(self, work: _Work, one: Pass, attempt: int) -> None:
        order = self._order(one)
        gpus = 1 if order.device != "cpu" else 0
        reference = self._call("compute", self._site, order, cpus=self._pass_cpus, gpus=gpus)
        work.passes[reference] = one, attempt
        work.held_bytes += _bytes(one.trials)

    def _computed(
        self, work: _Work, reference: Any, model_of: ModelOf, scorer: Scorer
    ) -> Iterator[Finished]:
        """Have what was computed scored; what needs no score is finished."""
        one, attempt = work.passes.pop(reference)
        made: Made | None = self._result(reference)
        if made is None:
            work.held_bytes -= _bytes(one.trials)
            self._again(work, one, attempt)
            return
        for trial, (file, blob) in zip(one.trials, made.files, strict=True):
            model = replace(model_of(trial, one.name_of(trial, blob)), file=Path(file))
            candidate = _Candidate(one, trial, model, made, attempt)
            for _, tasks in scorer.missing([model]):
                candidate.waiting |= set(tasks)
                pinned = None if made.shares and self._all_share else made.node
                for task in tasks:
                    work.scores[self._send(model, task, scorer, pinned)] = candidate, task
            if not candidate.waiting:
                yield self._finished(work, candidate)

    def _scored(
        self, work: _Work, reference: Any, scorer: Scorer, tell: Tell
    ) -> Iterator[Finished]:
        """Keep a score; with the last one the candidate is finished."""
        if reference not in work.scores:
            return
        candidate, task = work.scores.pop(reference)
        scored: Scored | None = self._result(reference)
        if scored is None:
            self._cancel(work.drop(candidate))
            self._forget(work, candidate)
            alone = replace(candidate.order, trials=(candidate.trial,))
            self._again(work, alone, candidate.attempt)
            return
        self._keep(scorer, candidate.model, task, scored)
        tell(candidate.order.method, f"{candidate.model.label} on {task}")
        candidate.waiting.discard(task)
        if not candidate.waiting:
            yield self._finished(work, candidate)

    def _finished(self, work: _Work, candidate: _Candidate) -> Finished:
        self._forget(work, candidate)
        shared = len(candidate.order.trials)
        return Finished(candidate.trial, candidate.model, candidate.made.cost, shared)

    def _forget(self, work: _Work, candidate: _Candidate) -> None:
        work.held_bytes -= _bytes([candidate.trial])
        file = os.fspath(candidate.model.file or "")
        if candidate.made.shares:
            on_node.forget([file])
        else:
            self._call("forget", [file], node=candidate.made.node, cpus=0)

    def _again(self, work: _Work, one: Pass, attempt: int) -> None:
        if attempt > RETRIES:
            raise self._died(f"candidates of '{one.method}' were computed or scored")
        self._submit(work, one, attempt + 1)

    def _order(self, one: Pass) -> PassOrder:
        plan = one.trials[0].plan
        base = plan.base if plan.base and plan.base.commit else None
        elementwise = self._resources.device == "auto" and plan.method.elementwise
        return PassOrder(
            path=plan.spec.path,
            method=plan.method.name,
            parameter=one.parameter,
            exact=one.exact,
            base=Version.of(base) if base else None,
            sources=tuple(Version.of(source) for source in plan.constituents),
            references=tuple(source.commit for source in plan.references.values()),
            accumulate=plan.spec.accumulate,
            options=tuple(tuple(_as_text(trial.plan)) for trial in one.trials),
            specs=tuple(trial.spec for trial in one.trials),
            device="cpu" if elementwise else self._merging,
            memory=self._resources.memory,
            workers=self._pass_cpus,
        )

    def _send(self, model: Model, task: str, scorer: Scorer, node: str | None = None) -> Any:
        """One model and one task to whoever has a CPU for it."""
        device = self._device(self._named if scorer.device == "auto" else scorer.device)
        order = ScoreOrder(
            self._subject.declaration,
            self._subject.path,
            model,
            task,
            scorer.split,
            scorer.fingerprints[task],
            device,
        )
        gpus = 1 if device != "cpu" else 0
        return self._call("score", self._site, order, cpus=1, gpus=gpus, node=node)

    def _keep(self, scorer: Scorer, model: Model, task: str, scored: Scored) -> None:
        folders = scorer.folders(model, [task])
        for name, content in scored.outputs.items() if folders else ():
            file = folders[task] / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        scorer.keep(model, {task: scored.score})

    @property
    def _all_share(self) -> bool:
        return all(node.shares for node in self._nodes.values())

    def _device(self, asked: str) -> str:
        """cpu, or cuda for the GPU that Ray gives a task."""
        if asked == "cpu" or (asked == "auto" and not self._gpus):
            return "cpu"
        if asked not in ("auto", "cuda"):
            raise InvalidOption(
                f"option 'device' is '{asked}', and on a cluster Ray chooses the GPU; use "
                "device=cuda"
            )
        if not self._gpus:
            raise InvalidOption(
                f"option 'device' is '{asked}', and the Ray cluster has no GPU; use device=cpu"
            )
        return "cuda"

    def _look(self, nodes: Sequence[str]) -> dict[str, Node]:
        """Each node, ready to work; EvaluationError for one that is not."""
        asked = {n: self._call("look", self._site, n, node=n, cpus=0) for n in nodes}
        found = {}
        for name, reference in asked.items():
            try:
                node = self._result(reference)
            except (RuntimeError, ImportError) as error:
                reason = str(error).strip().splitlines()[0]
                raise EvaluationError(
                    f"the node {name[:10]} of the Ray cluster cannot run gitmerge-eval ({reason}); "
                    "install there what is installed here"
                ) from error
            if node is None:
                raise self._died(f"the node {name[:10]} was asked what it has")
            if node.version != __version__:
                raise EvaluationError(
                    f"the node {name[:10]} of the Ray cluster has gitmerge-eval {node.version}, "
                    f"and this machine {__version__}; install the same version"
                )
            found[name] = node
        return found

    def _call(
        self, name: str, *arguments: Any, cpus: int, gpus: int = 0, node: str | None = None
    ) -> Any:
        """Start a function of :mod:`on_node`; on that node alone where one is named."""
        options: dict[str, Any] = {"num_cpus": cpus, "num_gpus": gpus, "max_retries": RETRIES}
        if node is not None:
            affinity = importlib.import_module("ray.util.scheduling_strategies")
            strategy = affinity.NodeAffinitySchedulingStrategy(node, soft=False)
            options["scheduling_strategy"] = strategy
        if name not in self._functions:
            self._functions[name] = self._ray.remote(getattr(on_node, name))
        return self._functions[name].options(**options).remote(*arguments)

    def _ready(self, references: list[Any]) -> list[Any]:
        ready, _ = self._ray.wait(references, num_returns=1)
        return list(ready)

    def _result(self, reference: Any) -> Any:
        """What a task returned, or raised; None where its workers or its node have died."""
        errors = self._ray.exceptions
        try:
            return self._ray.get(reference)
        except errors.RayTaskError as error:
            raise error.cause from error
        except errors.RayError as error:
            self._last = str(error).strip().partition("\n")[0]
            return None

    def _died(self, when: str) -> EvaluationError:
        return EvaluationError(
            f"workers of the Ray cluster died again and again while {when} ({self._last}); what is "
            "finished is kept: repeat the command where they have what they lack"
        )

    def _cancel(self, references: Iterable[Any]) -> None:
        for reference in references:
            self._ray.cancel(reference, force=True)


def _bytes(trials: Iterable[Trial]) -> int:
    return sum(candidates.result_bytes(trial.plan) for trial in trials)


def _as_text(plan: CheckpointPlan) -> Iterator[tuple[str, str]]:
    """All options of a plan, as the command line would have them."""
    for parameter in plan.method.hyperparameters:
        value = plan.options[parameter.name]
        if value is not None:
            yield parameter.option, text_of(value)
    if plan.rank is not None:
        yield "rank", str(plan.rank)
