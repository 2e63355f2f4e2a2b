"""Low-rank adapters of a UNet's attention by peft, in PEFT's own files."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from torch import nn

from gitmerge_eval.checkpoints.lora import CONFIGURATION, FILE
from gitmerge_eval.errors import EvaluationError

ATTENTION = ("to_k", "to_out.0", "to_q", "to_v")
"""The linear layers of diffusers' attention: those that an adapter changes."""


@dataclass(frozen=True)
class Settings:
    """The adapter's size: ΔW = (alpha / rank)·B·A."""

    rank: int
    alpha: int


def adapted(unet: Any, settings: Settings) -> Any:
    """``unet`` with a fresh adapter on all its attention; the adapter alone requires gradients.

    B is zero, so that nothing is changed yet.
    """
    configuration = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        target_modules=list(ATTENTION),
        init_lora_weights=True,
    )
    return get_peft_model(unet, configuration)


def weights(unet: nn.Module) -> dict[str, nn.Parameter]:
    """The weights that an adapter of ``unet`` changes, by the names that a merge gives to ΔW."""
    return {
        name: parameter
        for name, parameter in unet.named_parameters()
        if any(name.endswith(f".{layer}.weight") for layer in ATTENTION)
    }


def save(adapted_unet: Any, folder: Path) -> Path:
    """Write ``adapter_model.safetensors`` and ``adapter_config.json``; the path of the former."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as written:
        adapted_unet.save_pretrained(written)
        settings = json.loads((Path(written) / CONFIGURATION).read_text("utf-8"))
        (folder / CONFIGURATION).write_text(_settled(settings), encoding="utf-8")
        (Path(written) / FILE).replace(folder / FILE)
    return folder / FILE


def trainable(unet: Any, checkpoint: Path) -> Any:
    """``unet`` with the adapter in a file, which alone requires gradients; raises as below."""
    return _loaded(unet, checkpoint, is_trainable=True)


def _settled(settings: Mapping[str, Any]) -> str:
    """PEFT's configuration without what differs from run to run and from machine to machine."""
    plain = dict(settings)
    # PEFT writes a set, in any order, and the place that the base model was loaded from.
    plain["target_modules"] = sorted(plain["target_modules"])
    plain["base_model_name_or_path"] = None
    return json.dumps(plain, indent=2, sort_keys=True) + "\n"


def with_changes(unet: Any, checkpoint: Path) -> Any:
    """``unet`` with the changes of an adapter added to its weights.

    The gradient with respect to such a weight is the one with respect to its ΔW. Raises
    EvaluationError where the adapter cannot be read or does not fit.
    """
    return _loaded(unet, checkpoint).merge_and_unload().requires_grad_(False).eval()


def _loaded(unet: Any, checkpoint: Path, **how: Any) -> Any:
    try:
        return PeftModel.from_pretrained(unet, str(checkpoint.parent), **how)
    except (OSError, KeyError, ValueError, RuntimeError, SafetensorError) as error:
        raise EvaluationError(
            f"'{checkpoint}' is no adapter of this pipeline's UNet: {error}"
        ) from error
