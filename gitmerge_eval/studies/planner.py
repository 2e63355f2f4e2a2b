"""Plans of merges that are tried: many methods, options and constituents of one model."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from gitmerge_eval.errors import MergeRefused
from gitmerge_eval.evaluation.subjects import Subject, planned_subject
from gitmerge_eval.git.heads import Heads, left_out, resolve
from gitmerge_eval.git.repository import Repository
from gitmerge_eval.merging import deciding, provenance
from gitmerge_eval.merging import options as merge_options
from gitmerge_eval.merging.deciding import Tensors
from gitmerge_eval.merging.options import MergeOptions
from gitmerge_eval.merging.planning import CheckpointPlan, plan_checkpoint
from gitmerge_eval.merging.sources import Source


class Planner:
    """Plans merges of ``revisions`` into HEAD; the model's versions are opened once.

    Raises MergeRefused where no checkpoint differs, or where merging it would conflict.
    """

    def __init__(
        self, repository: Repository, revisions: Sequence[str], checkpoint: str | None = None
    ) -> None:
        self.repository = repository
        self.heads: Heads = resolve(repository, revisions)
        self.remarks = left_out(repository, revisions, self.heads)
        self.paths = deciding.touched(repository, self.heads)
        if not self.paths:
            raise MergeRefused("no checkpoint differs between these heads: there is nothing to try")
        self._settings = merge_options.settings(repository)
        everything = deciding.decide(
            repository, self.heads, self.options("average", {}), self.paths
        )
        for decision in everything.decisions:
            if decision.joint and decision.joint.combined:
                why = decision.joint.missing or "merge-eval.constituents is 'combined'"
                raise MergeRefused(
                    f"{why}; other methods than 'average' need the models themselves: fetch them, "
                    "or try the heads as they are with 'git config merge-eval.constituents heads'"
                )
        self.subject = self._subject(everything, checkpoint)
        self.remarks += provenance.told(everything.decisions)
        self._whole, self._sources = self._merge_of(everything, self.subject.path)

    @property
    def constituents(self) -> tuple[tuple[str, str], ...]:
        """(name, identity of the checkpoint) of all that take part, in the order of the heads."""
        return tuple((source.label, source.identity) for source in self._sources)

    @property
    def base(self) -> str | None:
        """The identity of θ_p."""
        return self._whole.base.identity if self._whole.base else None

    @property
    def identity(self) -> dict[str, Any]:
        """What is merged and evaluated, as a part of a study's digest."""
        declaration, benchmark = self.subject.declaration, self.subject.benchmark
        return {
            "constituents": sorted(identity for _, identity in self.constituents),
            "base": self.base,
            "path": self.subject.path,
            "benchmark": benchmark.name,
            "settings": dict(declaration.settings),
            "evaluator_version": benchmark.evaluator_version,
        }

    @property
    def tasks(self) -> dict[str, str]:
        """constituent -> its task."""
        by_commit = {leaf.commit: leaf.declaration.task for leaf in self.subject.leaves}
        return {s.label: by_commit[s.commit] for s in self._sources if s.commit in by_commit}

    def plan(
        self, method: str, given: Mapping[str, str], names: Collection[str] | None = None
    ) -> CheckpointPlan:
        """The merge by ``method`` with the options ``given``, of all or of the constituents
        ``names``; θ_p is the same for all.

        Raises PrerequisiteError, InvalidOption or UnknownName.
        """
        sources = [s for s in self._sources if names is None or s.label in names]
        return plan_checkpoint(
            self.repository,
            self.subject.path,
            self.options(method, given),
            self._whole.base,
            sources,
            self._whole.spec.accumulate,
        )

    def options(self, method: str, given: Mapping[str, str]) -> MergeOptions:
        """What ``git merge`` would make of the options ``given`` and the configuration."""
        chosen = merge_options.parse([("method", method), *given.items()], self._settings)
        return replace(chosen, explicit=True)

    def _subject(self, everything: Tensors, checkpoint: str | None) -> Subject:
        plans = everything.plans
        if not plans:
            problems = [d.message for d in everything.decisions if d.message]
            raise MergeRefused(problems[0] if problems else "no checkpoint would be merged")
        bases = dict.fromkeys(p.base.commit for p in plans if p.base and p.base.commit)
        named = {s.commit: s.label for one in everything.decisions for s in one.sources}
        return planned_subject(self.repository, list(named.items()), tuple(bases), checkpoint)

    def _merge_of(self, everything: Tensors, path: str) -> tuple[CheckpointPlan, list[Source]]:
        for decision in everything.decisions:
            if decision.path == path:
                if decision.plan:
                    return decision.plan, decision.sources
                raise MergeRefused(
                    decision.message or f"'{path}' would be {decision.kind}, not merged"
                )
        raise MergeRefused(f"'{path}' does not differ between these heads; name another checkpoint")
