"""State dicts as safetensors files, for every family that stores them as they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gitmerge_eval.errors import EvaluationError

State = dict[str, Tensor]


def read(checkpoint: Path) -> State:
    """The tensors of a checkpoint; EvaluationError where it is no safetensors file."""
    try:
        state: State = load_file(checkpoint)
    except (OSError, SafetensorError) as error:
        raise EvaluationError(
            f"'{checkpoint}' is not a readable safetensors file: {error}"
        ) from error
    return state


def save(state: Mapping[str, Tensor], checkpoint: Path) -> None:
    """Write the state dict, whole or not at all."""
    partial = checkpoint.with_name(checkpoint.name + ".partial")
    save_file(dict(state), partial, metadata={"format": "pt"})
    partial.replace(checkpoint)
