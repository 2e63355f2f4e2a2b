"""PyTorch's pickles to safetensors, in a process of its own that a hostile file may bring down.

``python -m gitmerge_eval.checkpoints.pickles`` reads a request as JSON on standard input, and
answers in JSON on standard output. ``weights_only`` keeps code in the file from running; the limits
on memory and time are for files that only mean to exhaust the machine.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gitmerge_eval.errors import CheckpointError, GitMergeEvalError, MalformedCheckpoint

if TYPE_CHECKING:
    from torch import Tensor

NESTED = ("state_dict", "model_state_dict", "model", "module", "ema_state_dict", "ema", "weights")
"""Where training scripts put the weights."""
PREFIXES = ("module.", "_orig_mod.")
"""What wrappers put before every name: DataParallel, torch.compile."""
_ZIP = b"PK\x03\x04"
_SPARE_BYTES = 64_000_000
_SHOWN = 8


@dataclass(frozen=True)
class Request:
    """What to convert, and how."""

    source: str
    target: str
    key: str = ""
    """The keys that lead to the weights, with dots between; '' for the top."""
    strip_prefix: str = ""
    drop: bool = False
    """Leave out what is no tensor, instead of refusing it."""
    memory_bytes: int = 0
    """How much memory the process may take; 0 for no limit."""


@dataclass(frozen=True)
class Written:
    """What a conversion wrote."""

    tensors: int
    nbytes: int
    dropped: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())


def write(request: Request) -> Written:
    """Convert ``request.source``; MalformedCheckpoint says what in it cannot be converted."""
    from gitmerge_eval.checkpoints import bridge
    from gitmerge_eval.checkpoints.safetensors_file import SafetensorsWriter

    source = Path(request.source)
    tensors, others = _select(_load(source), request)
    if others and not request.drop:
        raise MalformedCheckpoint(
            f"'{source}' holds {_listed(others)} beside its tensors, which safetensors cannot "
            "hold; leave them out with --drop"
        )
    _check(tensors, source)
    layout = {
        name: (tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
        for name, tensor in tensors.items()
    }
    with SafetensorsWriter(request.target, layout, {"format": "pt"}) as writer:
        for name, tensor in tensors.items():
            writer.write(name, bridge.to_numpy(tensor.detach().resolve_conj().resolve_neg()))
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    return Written(len(tensors), size, tuple(others), tuple(_notes(tensors)))


def _load(source: Path) -> Any:
    import torch

    with source.open("rb") as file:
        start = file.read(16)
    if start[8:9] == b"{":
        raise MalformedCheckpoint(f"'{source}' is a safetensors file already; commit it as it is")
    try:
        return torch.load(
            source, map_location="cpu", weights_only=True, mmap=start.startswith(_ZIP) or None
        )
    except MemoryError:
        raise
    except Exception as error:
        # torch raises what it meets: UnpicklingError, RuntimeError, KeyError, EOFError, …
        raise MalformedCheckpoint(_explained(source, error)) from error


def _explained(source: Path, error: Exception) -> str:
    text = str(error)
    if found := re.search(r"GLOBAL ([\w.<>]+)|[Uu]nsupported (?:global|class) ([\w.]+)", text):
        return (
            f"'{source}' refers to {found[1] or found[2]!r}, which is code that would run when the "
            "file is loaded; it is not loaded. Where you trust it, load it in the program that "
            "made it and save model.state_dict() with safetensors"
        )
    if "TorchScript" in text:
        return (
            f"'{source}' is a TorchScript archive, which is a program; save the model's "
            "state_dict() with safetensors"
        )
    cause = text.partition("WeightsUnpickler error:")[2] or text
    first = next((line.strip() for line in cause.splitlines() if line.strip()), "")
    return (
        f"'{source}' cannot be read as weights saved by torch.save "
        f"({type(error).__name__}: {first[:200]}); is it whole, and is it a PyTorch file?"
    )


def _select(document: Any, request: Request) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors by the names that they are to have, and the names of what is none."""
    import torch

    for key in filter(None, request.key.split(".")):
        if not isinstance(document, Mapping) or key not in document:
            known = ", ".join(map(repr, list(document)[:_SHOWN])) if _is_map(document) else "none"
            raise MalformedCheckpoint(f"'{request.source}' has no key {key!r}; there are: {known}")
        document = document[key]
    if not isinstance(document, Mapping):
        raise MalformedCheckpoint(
            f"'{request.source}' holds a {type(document).__name__}, not tensors by name; save "
            "model.state_dict()"
        )
    found = {k: v for k, v in document.items() if isinstance(v, torch.Tensor)}
    nested = [
        key
        for key, value in document.items()
        if _is_map(value) and any(isinstance(part, torch.Tensor) for part in value.values())
    ]
    likely = [key for key in NESTED if key in nested]
    if likely or (nested and not found):
        best = [*likely, *nested][0]
        raise MalformedCheckpoint(
            f"'{request.source}' is more than a state dict: there are tensors below "
            f"{_listed(list(dict.fromkeys([*likely, *nested])))}; choose with "
            f"--key={'.'.join(filter(None, [request.key, str(best)]))}"
        )
    if not found:
        raise MalformedCheckpoint(f"'{request.source}' holds no tensors; save model.state_dict()")
    others = [str(key) for key in document if key not in found]
    return _named(found, request), others


def _named(found: Mapping[Any, Tensor], request: Request) -> dict[str, Tensor]:
    named: dict[str, Tensor] = {}
    for key, tensor in found.items():
        name = str(key).removeprefix(request.strip_prefix)
        if not isinstance(key, str) or not name or name in named or name == "__metadata__":
            raise MalformedCheckpoint(
                f"'{request.source}' has a tensor under {key!r}, which cannot be the name of a "
                "tensor" + (f" without '{request.strip_prefix}'" if request.strip_prefix else "")
            )
        named[name] = tensor
    if request.strip_prefix and set(named) == set(found):
        raise MalformedCheckpoint(
            f"no name in '{request.source}' starts with '{request.strip_prefix}'; leave out "
            "--strip-prefix"
        )
    return named


def _check(tensors: Mapping[str, Tensor], source: Path) -> None:
    """MalformedCheckpoint for tensors without plain numbers, and for more bytes than were saved."""
    import torch

    from gitmerge_eval.checkpoints.dtypes import BY_NAME

    for name, tensor in tensors.items():
        kind = str(tensor.dtype).removeprefix("torch.")
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
            raise MalformedCheckpoint(
                f"tensor {name!r} is sparse, quantized or without values; save a dense one"
            )
        if kind not in BY_NAME:
            raise MalformedCheckpoint(
                f"tensor {name!r} has dtype {kind}, which safetensors does not have; convert it"
            )
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    limit = 4 * source.stat().st_size + _SPARE_BYTES
    if size > limit:
        raise MalformedCheckpoint(
            f"the tensors of '{source}' are views that would take {size:,} bytes, far more than "
            "the file; save them as tensors of their own"
        )


def _notes(tensors: Mapping[str, Tensor]) -> list[str]:
    notes = []
    shared: dict[Any, list[str]] = {}
    for name, tensor in tensors.items():
        if tensor.numel():
            place = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
            shared.setdefault(place, []).append(name)
    notes += [
        f"{' and '.join(map(repr, names))} are one tensor; each name keeps it, Git stores it once"
        for names in shared.values()
        if len(names) > 1
    ]
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            notes.append(
                f"every name starts with '{prefix}', which a wrapper may have put there; take it "
                f"off with --strip-prefix={prefix}"
            )
    return notes


def _is_map(value: object) -> bool:
    return isinstance(value, Mapping)


def _listed(names: list[Any]) -> str:
    shown = ", ".join(repr(name) for name in names[:_SHOWN])
    return shown + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _limit_memory(nbytes: int) -> None:
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if nbytes and (hard == resource.RLIM_INFINITY or nbytes < hard):
        resource.setrlimit(resource.RLIMIT_DATA, (nbytes, hard))


def main() -> int:
    """Answer one request: what was written, or why nothing was."""
    request = Request(**json.load(sys.stdin))
    _limit_memory(request.memory_bytes)
    try:
        answer: dict[str, Any] = asdict(write(request))
    except GitMergeEvalError as error:
        answer = {"error": str(error), "malformed": isinstance(error, CheckpointError)}
    except MemoryError:
        answer = {"error": f"'{request.source}' takes more memory than such a file should need"}
    json.dump(answer, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
