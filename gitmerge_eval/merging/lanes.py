"""How whole tensors get to the device: as they are on the CPU, by pinned staging on a GPU.

Each thread has a lane of its own: a stream on one of the GPUs and two pinned buffers, so that the
next tensor is decoded while the last one is on its way, and one group's transfers overlap with
another's kernels. Several GPUs share the threads, and so the groups.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import ExitStack
from threading import Lock, local
from typing import TYPE_CHECKING, Any

import numpy as np

from gitmerge_eval.checkpoints import bridge
from gitmerge_eval.checkpoints.dtypes import BY_NAME
from gitmerge_eval.checkpoints.metadata import GroupRecord

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

Fill = Callable[["NDArray[Any] | None"], "NDArray[Any]"]
"""Decodes a tensor into the given array, or into one of its own."""


class Lane:
    """The CPU's: tensors are where they are computed."""

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, *raised: object) -> None:
        """Nothing to wait for."""

    def upload(self, fill: Fill, record: GroupRecord, dtype: torch.dtype) -> Tensor:
        """The tensor that ``fill`` decodes, on the device in the dtype of sums."""
        return bridge.to_torch(fill(None)).to(dtype)

    def zeros(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Zeros on the device."""
        import torch

        return torch.zeros(shape, dtype=dtype)


class GpuLane(Lane):
    """A stream on one GPU; inside ``with`` the kernels run on it."""

    def __init__(self, device: torch.device) -> None:
        import torch

        self.device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._staging: list[tuple[Tensor, torch.cuda.Event]] = []
        self._turn = 0
        self._entered = ExitStack()

    def __enter__(self) -> None:
        import torch

        self._entered.enter_context(torch.cuda.device(self.device))
        self._entered.enter_context(torch.cuda.stream(self._stream))

    def __exit__(self, *raised: object) -> None:
        self._entered.close()

    def upload(self, fill: Fill, record: GroupRecord, dtype: torch.dtype) -> Tensor:
        """Decoded into pinned memory, sent in the stored dtype, widened on the GPU."""
        kind = BY_NAME[record.dtype]
        size = int(np.prod(record.shape, dtype=np.int64)) * kind.itemsize
        buffer, sent = self._buffer(size)
        sent.synchronize()  # what this buffer held before has left it
        array = buffer[:size].numpy().view(kind.numpy).reshape(record.shape)
        fill(array)
        tensor = bridge.to_torch(array).to(self.device, non_blocking=True)
        sent.record(self._stream)
        return tensor.to(dtype)

    def zeros(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Zeros on the GPU."""
        import torch

        return torch.zeros(shape, dtype=dtype, device=self.device)

    def _buffer(self, size: int) -> tuple[Tensor, torch.cuda.Event]:
        import torch

        self._turn ^= 1
        if len(self._staging) < 2:
            sent = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._staging.append((torch.empty(size, dtype=torch.uint8, pin_memory=True), sent))
            self._turn = len(self._staging) - 1
        buffer, sent = self._staging[self._turn]
        if buffer.numel() < size:
            sent.synchronize()
            buffer = torch.empty(size, dtype=torch.uint8, pin_memory=True)
            self._staging[self._turn] = buffer, sent
        return buffer, sent


class Lanes:
    """A lane for each thread: on the device named, ``cuda`` being all GPUs in turn."""

    def __init__(self, device: str) -> None:
        self._local = local()
        self._lock = Lock()
        self._devices = itertools.cycle(_devices(device))

    def of_this_thread(self) -> Lane:
        """The thread's lane, made when it first asks."""
        lane: Lane | None = getattr(self._local, "lane", None)
        if lane is None:
            with self._lock:
                device = next(self._devices)
            lane = self._local.lane = Lane() if device.type == "cpu" else GpuLane(device)
        return lane


def free_bytes(device: str) -> int:
    """Memory that the GPUs of ``device`` have free together."""
    import torch

    return sum(torch.cuda.mem_get_info(each)[0] for each in _devices(device))


def _devices(name: str) -> list[torch.device]:
    import torch

    device = torch.device(name)
    if device.type == "cpu" or device.index is not None:
        return [device]
    return [torch.device(device.type, index) for index in range(torch.cuda.device_count())]
