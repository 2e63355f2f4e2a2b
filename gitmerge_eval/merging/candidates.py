"""Merges that are tried and not committed: many option values by one pass over the inputs.

A candidate is a plain checkpoint file in a working folder. No object is stored and no blob written
for it: its MergeSpec's digest is its name.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from gitmerge_eval.checkpoints.checkpoint import Checkpoint, smudge
from gitmerge_eval.checkpoints.lfs import ObjectStore
from gitmerge_eval.checkpoints.metadata import Metadata
from gitmerge_eval.checkpoints.scratch_store import ScratchStore
from gitmerge_eval.git.repository import Repository
from gitmerge_eval.merging.computing import Progress, compute, silent
from gitmerge_eval.merging.devices import (
    DEFAULT_RESOURCES,
    Resources,
    choose_device,
    choose_memory,
    describe,
)
from gitmerge_eval.merging.engine import WORKERS, Engine
from gitmerge_eval.merging.merged_group import Family, MergedGroup
from gitmerge_eval.merging.output import COPIED, Output
from gitmerge_eval.merging.peak import Peak, peak_memory
from gitmerge_eval.merging.planning import CheckpointPlan


@dataclass(frozen=True)
class CandidateFile:
    """A computed candidate: its checkpoint, and the files that belong beside it."""

    file: Path
    plain: Mapping[str, bytes]
    """An adapter's configuration: name -> content."""
    blob: str = ""
    """The object id that its metadata would have in Git, where it was worked out."""


@dataclass(frozen=True)
class PassCost:
    """What one pass took, for all of its candidates together."""

    seconds: float
    peak_memory_bytes: int
    read_bytes: int
    device: str
    reused_groups: int = 0
    """Parameter groups that an earlier merge had computed."""


def compute_candidates(
    plans: Sequence[CheckpointPlan],
    parameter: str | None,
    repository: Repository,
    folder: Path,
    *,
    resources: Resources = DEFAULT_RESOURCES,
    progress: Progress = silent,
) -> tuple[list[CandidateFile], PassCost]:
    """The checkpoints of ``plans``, in files below ``folder``.

    The plans differ in the values of the hyperparameter ``parameter``, which ascend and for which
    the method shares work; one plan alone needs no parameter. Raises what planning's prerequisites
    have left: NonFiniteValue, CorruptObject, MissingObject, NumericalError.
    """
    device = choose_device(resources.device, plans[0].method)
    started = time.perf_counter()
    reused = 0
    with peak_memory(device) as peak:
        if plans[0].outline:
            alone = [_alone(plan, repository, folder, resources, progress) for plan in plans]
            found, reused = [file for file, _ in alone], sum(count for _, count in alone)
        else:
            values = tuple(plan.options[parameter] for plan in plans) if parameter else ()
            family = Family(parameter, values) if parameter else None
            found = _compute_files(plans, family, repository, folder, resources, progress)
    return found, _cost(plans[0], started, peak, device, reused)


def compute_alone(
    plan: CheckpointPlan,
    repository: Repository,
    folder: Path,
    *,
    resources: Resources = DEFAULT_RESOURCES,
    progress: Progress = silent,
) -> tuple[CandidateFile, PassCost]:
    """One candidate by the very computation of ``git merge``, with the blob that this would make.

    Nothing is stored. The model is in one file. Raises what :func:`compute_candidates` does.
    """
    device = choose_device(resources.device, plan.method)
    started = time.perf_counter()
    with peak_memory(device) as peak:
        found, reused = _alone(plan, repository, folder, resources, progress)
    return found, _cost(plan, started, peak, device, reused)


def _cost(plan: CheckpointPlan, started: float, peak: Peak, device: str, reused: int) -> PassCost:
    seconds = time.perf_counter() - started
    return PassCost(seconds, peak.nbytes, plan.read_bytes, describe(device), reused)


def _alone(
    plan: CheckpointPlan,
    repository: Repository,
    folder: Path,
    resources: Resources,
    progress: Progress,
) -> tuple[CandidateFile, int]:
    """The file, and how many of its groups an earlier merge had computed."""
    own = _fresh(folder, plan)
    with TemporaryDirectory(dir=folder) as scratch:
        store = ObjectStore(repository, keep=False)
        if plan.outline:  # its file is made of stored factors
            store = ScratchStore(repository, Path(scratch))
        done = compute(plan, store, resources=resources, folder=own, progress=progress)
        ((path, metadata),) = done.files.tensors.items()
        data = metadata.serialize()
        file = done.files.contents.get(path)
        if file is None:
            file = own / "0.checkpoint"
            smudge(data, store, file, path=path)
    blob = repository.run("hash-object", "--stdin", stdin=data).text
    plain = {Path(name).name: content for name, content in done.files.plain.items()}
    return CandidateFile(file, plain, blob), done.report.cost.reused_groups


def result_bytes(plan: CheckpointPlan) -> int:
    """The size of the merged checkpoint's tensors."""
    return sum(group.record.nbytes for group in plan.groups if group.record)


def _compute_files(
    plans: Sequence[CheckpointPlan],
    family: Family | None,
    repository: Repository,
    folder: Path,
    resources: Resources,
    progress: Progress,
) -> list[CandidateFile]:
    """All plans in one pass: each tensor is decoded once, each result written as it comes."""
    plan, store = plans[0], ObjectStore(repository)
    with ExitStack() as stack:
        outputs = [
            stack.enter_context(Output(one, store, _fresh(folder, one), durable=False))
            for one in plans
        ]
        engine = Engine(
            plan,
            store,
            device=choose_device(resources.device, plan.method),
            memory=choose_memory(resources.memory),
            workers=resources.workers or WORKERS,
            family=family,
            place=lambda group, number, positions, part: outputs[number].write_part(
                group.name, positions, part
            ),
        )

        def write(merged: MergedGroup) -> None:
            if engine.tiled:
                outputs[merged.number].mark_whole(merged.plan.name)
            else:
                outputs[merged.number].write(merged.plan.name, merged.array)

        scalars = engine.scalars({}, lambda name, values: None)
        for number, _ in enumerate(engine.run(write, plan.computed, scalars)):
            progress(f"merging {plan.spec.path}", number + 1, len(plan.computed))
        copied = [g for g in plan.groups if g.state in COPIED and g.record]
        store.fetch(group.record for group in copied if group.record)
        for group in copied:
            assert group.record is not None
            record = replace(group.record, name=group.name)
            array = Checkpoint(Metadata({group.name: record}), store, plan.spec.path).read(
                group.name
            )
            for output in outputs:
                output.write(group.name, array)
    return [CandidateFile(next(iter(output.contents.values())), {}) for output in outputs]


def _fresh(folder: Path, plan: CheckpointPlan) -> Path:
    own = folder / plan.spec.digest
    own.mkdir(parents=True, exist_ok=True)
    return own
