"""The training loop: accumulation, mixed precision, early stopping, and resuming after a kill."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gitmerge_eval.benchmarks.learning.schedule import Schedule
from gitmerge_eval.errors import EvaluationError, InvalidOption

Progress = Callable[[int, int], object]
"""``progress(done, total)`` steps."""
Loss = Callable[[int], Tensor]
"""``loss(number)`` of one part of a batch; numbers count parts from 0, and a run that goes on after
an interruption goes on with the next one."""
PRECISIONS = ("float32", "bfloat16")
SAVED_EVERY = 50
"""Steps between two saves of a training that never looks at validation."""
_STATE = "training.pt"
_VERSION = 1


@dataclass(frozen=True)
class Stopping:
    """When to look at the validation score, and when to give up."""

    every: int
    """Steps between two looks, at each of which the training is also saved."""
    patience: int
    """Looks without a better score after which the training ends."""


@dataclass(frozen=True)
class Trained:
    """How a training went."""

    steps: int
    best_step: int
    """The step whose weights the model has now."""
    score: float | None
    """The validation score of those; None where there was no validation."""

    @property
    def stopped_early(self) -> bool:
        """Whether weights of an earlier step than the last were better."""
        return self.best_step < self.steps


@dataclass
class _Progress:
    """Where a training stands; what a state file holds beside the tensors."""

    step: int = 0
    best_step: int = 0
    best: float = -math.inf
    without: int = 0
    """Looks since the best one."""
    weights: dict[str, Tensor] = field(default_factory=dict)
    """Of the best look."""


@contextlib.contextmanager
def reproducible(seed: int) -> Iterator[torch.Generator]:
    """One thread, deterministic algorithms and seeded global generators, restored afterwards."""
    threads = torch.get_num_threads()
    strict = torch.are_deterministic_algorithms_enabled()
    warn = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.set_num_threads(1)
    # cuBLAS refuses deterministic products without it; nothing on a processor reads it.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield torch.Generator().manual_seed(seed)
    finally:
        torch.use_deterministic_algorithms(strict, warn_only=warn)
        torch.set_num_threads(threads)


def optimise(
    model: nn.Module,
    schedule: Schedule,
    loss: Loss,
    *,
    generator: torch.Generator | None = None,
    validate: Callable[[], float] | None = None,
    stopping: Stopping | None = None,
    precision: str = "float32",
    state: Path | None = None,
    progress: Progress | None = None,
) -> Trained:
    """Train the parameters of ``model`` that require a gradient.

    With ``stopping`` the model ends with the weights of the look with the best ``validate()``
    (larger is better), else with the last ones. With ``state``, a folder, a run that was killed
    goes on where it was last saved: at a look, or without ``stopping`` each ``SAVED_EVERY`` steps;
    ``generator`` is what ``loss`` draws its batches with, and is saved too. ``precision`` bfloat16
    computes losses under autocast and keeps the weights.
    Raises InvalidOption for an unknown precision, EvaluationError for a loss that is not finite or
    a saved state of another training.
    """
    if precision not in PRECISIONS:
        raise InvalidOption(f"'precision' is '{precision}'; choose one of {', '.join(PRECISIONS)}")
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimiser = schedule.make(trained.values())
    saved = _Saved(state, schedule, trained, optimiser, generator)
    at = saved.restored()
    every = stopping.every if stopping else SAVED_EVERY
    while at.step < schedule.steps and not (stopping and at.without >= stopping.patience):
        _step(trained, optimiser, schedule, loss, at.step, precision)
        at.step += 1
        if progress:
            progress(at.step, schedule.steps)
        if at.step % every == 0 or at.step == schedule.steps:
            if validate and stopping:
                _look(at, validate(), trained)
            saved.save(at)
    done, best_step = at.step, at.step
    if validate and at.weights:
        best_step = at.best_step
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(at.weights[name])
    saved.remove()
    return Trained(done, best_step, at.best if at.weights else None)


def _step(
    trained: dict[str, nn.Parameter],
    optimiser: torch.optim.Optimizer,
    schedule: Schedule,
    loss: Loss,
    step: int,
    precision: str,
) -> None:
    for group in optimiser.param_groups:
        group["lr"] = schedule.rate * schedule.factor(step)
    optimiser.zero_grad()
    device = next(iter(trained.values())).device.type
    for part in range(schedule.accumulate):
        mixed = torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16")
        with mixed:
            value = loss(step * schedule.accumulate + part)
        if not math.isfinite(value.item()):
            raise EvaluationError(
                f"the loss of step {step + 1} is {value.item()}; lower the learning rate or clip "
                "the gradients"
            )
        if schedule.accumulate > 1:
            value = value / schedule.accumulate
        value.backward()  # type: ignore[no-untyped-call]
    if schedule.clip:
        nn.utils.clip_grad_norm_(trained.values(), schedule.clip)
    optimiser.step()


def _look(at: _Progress, score: float, trained: dict[str, nn.Parameter]) -> None:
    if score > at.best:
        at.best, at.best_step, at.without = score, at.step, 0
        at.weights = {name: p.detach().cpu().clone() for name, p in trained.items()}
    else:
        at.without += 1


class _Saved:
    """The state file of a training, written whole or not at all."""

    def __init__(
        self,
        folder: Path | None,
        schedule: Schedule,
        trained: dict[str, nn.Parameter],
        optimiser: torch.optim.Optimizer,
        generator: torch.Generator | None,
    ) -> None:
        self._file = folder / _STATE if folder else None
        self._identity = (
            f"{_VERSION} {schedule!r} {sorted((n, tuple(p.shape)) for n, p in trained.items())}"
        )
        self._trained, self._optimiser, self._generator = trained, optimiser, generator

    def restored(self) -> _Progress:
        """What the file says, put into model, optimiser and generator; a new start without one."""
        if self._file is None or not self._file.exists():
            return _Progress()
        found: dict[str, Any] = torch.load(self._file, map_location="cpu", weights_only=True)
        if found["identity"] != self._identity:
            raise EvaluationError(
                f"'{self._file}' is the state of another training; remove it to begin anew"
            )
        with torch.no_grad():
            for name, parameter in self._trained.items():
                parameter.copy_(found["weights"][name])
        self._optimiser.load_state_dict(found["optimiser"])
        if self._generator is not None:
            self._generator.set_state(found["generator"])
        return _Progress(**found["progress"])

    def save(self, at: _Progress) -> None:
        """Write everything that the next steps depend on."""
        if self._file is None:
            return
        self._file.parent.mkdir(parents=True, exist_ok=True)
        partial = self._file.with_suffix(".partial")
        content = {
            "identity": self._identity,
            "weights": {n: p.detach().cpu() for n, p in self._trained.items()},
            "optimiser": self._optimiser.state_dict(),
            "generator": None if self._generator is None else self._generator.get_state(),
            "progress": vars(at),
        }
        with partial.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self._file)

    def remove(self) -> None:
        """The training has ended."""
        if self._file is not None:
            self._file.unlink(missing_ok=True)
