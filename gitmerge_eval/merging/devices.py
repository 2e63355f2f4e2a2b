"""Where and how a merge is computed: the device, the precision of sums, the memory it may take."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from gitmerge_eval.errors import InvalidOption
from gitmerge_eval.records import MergeMethod


@dataclass(frozen=True)
class Resources:
    """What a merge may be computed with; the result does not depend on it, except that methods
    which solve linear systems agree on CPU and GPU to rounding alone."""

    device: str = "auto"
    """auto, cpu, cuda (every GPU) or cuda:<n>."""
    memory: str = "auto"
    """auto, or a size such as 4G."""
    workers: int = 0
    """Threads; 0: one for each CPU of this machine."""


DEFAULT_RESOURCES = Resources()

_LEAST_BYTES = 1 << 20
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def choose_device(requested: str, method: MergeMethod) -> str:
    """The device to compute on: ``auto`` takes the GPU for methods that solve linear systems.

    Elementwise methods do a few operations on each byte that has to be moved to the GPU and back,
    so the CPU is as fast. Raises InvalidOption where a GPU is asked for that is not there.
    """
    if requested == "cpu" or (requested == "auto" and method.elementwise):
        return "cpu"
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if requested == "auto":
        return "cuda" if count else "cpu"
    _, _, index = requested.partition(":")
    if count and (not index or int(index) < count):
        return requested
    seen = f"{count} CUDA device{'s' if count > 1 else ''}" if count else "no CUDA device"
    raise InvalidOption(
        f"option 'device' is '{requested}', but torch {torch.__version__} sees {seen}; "
        f"use device={'cuda' if count else 'cpu'}"
    )


def describe(device: str) -> str:
    """``cpu``, or the device with the names of its GPUs: ``cuda (NVIDIA H200)``."""
    if device == "cpu":
        return device
    import torch

    _, _, index = device.partition(":")
    chosen = [int(index)] if index else range(torch.cuda.device_count())
    return f"{device} ({', '.join(torch.cuda.get_device_name(number) for number in chosen)})"


def choose_accumulate(requested: str) -> str:
    """The precision of sums: float64 unless asked for otherwise.

    Elementwise work is bound by memory, so that float64 costs next to nothing and rounds once;
    linear systems are solved in float64 whatever this says.
    """
    return "float64" if requested == "auto" else requested


def parse_bytes(text: str) -> int:
    """``512M``, ``4G`` or ``1.5GiB`` in bytes; InvalidOption for anything else.

    >>> parse_bytes("1.5G") == 3 << 29
    True
    """
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([kmgt]?)(?:i?b)?", text.strip().lower())
    size = int(float(found[1]) * _UNITS[found[2]]) if found else 0
    if size < _LEAST_BYTES:
        raise InvalidOption(
            f"option 'memory' is '{text}', which is not a size such as 512M, 4G or 1.5GiB, of at "
            "least 1M"
        )
    return size


def choose_memory(requested: str) -> int:
    """Bytes that the tensors of a merge may take together: ``auto`` is half of what is free."""
    if requested != "auto":
        return parse_bytes(requested)
    return available_bytes() // 2


def available_bytes() -> int:
    """Memory that can be had without swapping, as the system estimates it."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            fields = dict(line.split(":", 1) for line in lines)
        return int(fields["MemAvailable"].split()[0]) << 10
    except (OSError, KeyError, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
