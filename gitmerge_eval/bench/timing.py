"""Times pieces of work inside one process, on a processor or on a CUDA device."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# A first run that is longer than this needs no warm-up.
_LONG_SECONDS = 1.0

Timer = Callable[[Callable[[], object]], float]


@dataclass
class Case:
    """Something to run again and again, and how long each run took."""

    name: str
    run: Callable[[], object]
    seconds: list[float] = field(default_factory=list)
    warm: bool = False

    @property
    def median(self) -> float:
        """The median of the runs."""
        return median(self.seconds)


def timer_of(device: torch.device) -> Timer:
    """Seconds by the device's own clock: CUDA events, or the processor's counter."""
    return _cuda_timer if device.type == "cuda" else _cpu_timer


def _cpu_timer(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def _cuda_timer(work: Callable[[], object]) -> float:
    import torch

    event = partial(torch.cuda.Event, enable_timing=True)
    begin, end = event(), event()
    torch.cuda.synchronize()
    begin.record()
    work()
    end.record()
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end)) / 1e3


def timed(case: Case, timer: Timer) -> None:
    """One more run of the case; the first one is thrown away unless it is long."""
    if not case.warm:
        case.warm = True
        first = timer(case.run)
        if first > _LONG_SECONDS:
            case.seconds.append(first)
            return
        timer(case.run)
    case.seconds.append(timer(case.run))
