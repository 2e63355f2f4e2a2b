"""Low-rank adapters of decoder-only models: a base of the user's, changed as a merge sees it.

The changes ΔW = s·B·A are those that a merge of adapters computes with, by the same functions, and
under the same names; so are the statistics. The gradient with respect to a weight is the one with
respect to its ΔW. Layers of GPT-2 store (in, out), an adapter's product is (out, in).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from gitmerge_eval.benchmarks.causal import measuring
from gitmerge_eval.benchmarks.causal import model as causal
from gitmerge_eval.benchmarks.causal.family import FAMILY
from gitmerge_eval.benchmarks.texts.family import Family
from gitmerge_eval.benchmarks.texts.weights import read
from gitmerge_eval.checkpoints import lora, lora_configuration, lora_factors
from gitmerge_eval.checkpoints.metadata import GroupRecord
from gitmerge_eval.checkpoints.safetensors_file import SafetensorsFile
from gitmerge_eval.errors import EvaluationError
from gitmerge_eval.statistics.gram import GramState


def family(base: Path) -> Family[causal.Batch]:
    """The family whose checkpoints are adapters of the model in the folder ``base``."""

    def adapted(configuration: Path, checkpoint: Path) -> nn.Module:
        model = causal.assemble(configuration, causal.published(base), f"the base in '{base}'")
        return changed(model, deltas(checkpoint), f"'{checkpoint}'")

    return dataclasses.replace(FAMILY, adapted=adapted, fisher=fisher_diagonal, gram=gram_matrices)


def deltas(checkpoint: Path) -> dict[str, Tensor]:
    """weight -> ΔW of an adapter, whose configuration lies beside it.

    Raises EvaluationError for a file that cannot be read, or that holds whole tensors beside the
    factors, and MalformedCheckpoint for other kinds of adapters.
    """
    tensors = read(checkpoint)
    settings = checkpoint.with_name(lora.CONFIGURATION)
    if not settings.is_file():
        raise EvaluationError(
            f"'{settings.name}' is not beside '{checkpoint.name}'; commit PEFT's configuration, too"
        )
    file = SafetensorsFile(checkpoint)
    records = {
        name: GroupRecord(name, shape, dtype, (), "", 0)
        for name, (shape, dtype) in file.layout.items()
    }
    adapter = lora.read_adapter(
        records,
        file.header,
        lora_configuration.parse(settings.read_bytes(), settings.name),
        lambda name: float(tensors[name]),
    )
    if adapter.plain:
        raise EvaluationError(
            f"'{checkpoint}' has '{adapter.plain[0]}', which is no factor; an adapter with whole "
            "tensors is merged and not evaluated"
        )
    return {
        weight: lora_factors.product(
            tensors[pair.down], tensors[pair.up], pair.scale, embedding=pair.embedding
        )
        for weight, pair in adapter.pairs.items()
    }


def changed(model: nn.Module, changes: Mapping[str, Tensor], what: str) -> nn.Module:
    """``model`` with ``changes`` added to its weights, which alone require a gradient then.

    Raises EvaluationError where a change is of no weight, of another shape, or of a tied one.
    """
    model.requires_grad_(False)
    own: dict[str, Any] = dict(model.named_parameters(remove_duplicate=False))
    turned = _stored_turned(model)
    for name in changes.keys() & set(causal.tied_names(model)):
        raise EvaluationError(
            f"{what} changes '{name}', which is embedding and output layer in one; an adapter of "
            "it is merged and not evaluated"
        )
    for name, delta in changes.items():
        change = delta.T if name in turned else delta
        if name not in own or own[name].shape != change.shape:
            raise EvaluationError(f"{what} changes '{name}', which the base has not in this shape")
        with torch.no_grad():
            own[name].copy_(own[name].double() + change)
        own[name].requires_grad_(True)
    return model


def fisher_diagonal(
    model: nn.Module, batches: Any, *, chunk: int = 32, progress: Any = None
) -> dict[str, Tensor]:
    """As :func:`.measuring.fisher_diagonal`, of each ΔW in its own shape."""
    found = measuring.fisher_diagonal(model, batches, chunk=chunk, progress=progress)
    turned = _stored_turned(model)
    return {name: f.T if name in turned else f for name, f in found.items()}


def gram_matrices(
    model: nn.Module, batches: Any, *, dtype: torch.dtype = torch.float64, progress: Any = None
) -> GramState:
    """As :func:`.measuring.gram_matrices`, for each ΔW, which meets its input on axis 1."""
    state = measuring.gram_matrices(model, batches, dtype=dtype, progress=progress)
    state.input_axis = dict.fromkeys(state.input_axis, 1)
    return state


def _stored_turned(model: nn.Module) -> set[str]:
    return {f"{name}.weight" for name, m in model.named_modules() if isinstance(m, Conv1D)}
