"""open_clip models as checkpoints: one safetensors file with the whole state dict."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gitmerge_eval.errors import EvaluationError

State = dict[str, Tensor]
BATCH = 256
MEAN = torch.tensor(open_clip.OPENAI_DATASET_MEAN).reshape(1, 3, 1, 1)
STD = torch.tensor(open_clip.OPENAI_DATASET_STD).reshape(1, 3, 1, 1)


def create(configuration: Path) -> nn.Module:
    """An open_clip model with random weights, built through open_clip's own registry.

    ``configuration`` is a model configuration in open_clip's format; its file name without the
    ending becomes the model's name there.
    """
    _register(configuration)
    model: nn.Module = open_clip.CLIP(**open_clip.get_model_config(configuration.stem))
    return model


def _register(configuration: Path) -> None:
    if configuration.stem not in open_clip.list_models():
        open_clip.add_model_config(configuration)


def load(checkpoint: Path, configuration: Path, device: str = "cpu") -> nn.Module:
    """The model in eval mode with the checkpoint's weights.

    Raises EvaluationError where the file cannot be read or holds another architecture.
    """
    try:
        state = load_file(checkpoint)
    except (OSError, SafetensorError) as error:
        raise EvaluationError(
            f"'{checkpoint}' is not a readable safetensors file: {error}"
        ) from error
    model = create(configuration)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise EvaluationError(
            f"'{checkpoint}' is not a checkpoint of the model '{configuration.stem}': {error}"
        ) from error
    return model.to(device).eval()


def save(state: Mapping[str, Tensor], checkpoint: Path) -> None:
    """Write the state dict, whole or not at all."""
    partial = checkpoint.with_name(checkpoint.name + ".partial")
    save_file(dict(state), partial, metadata={"format": "pt"})
    partial.replace(checkpoint)


def tokens(texts: Sequence[str], configuration: Path) -> Tensor:
    """Token ids by open_clip's tokenizer for that model, shape (texts, context length)."""
    _register(configuration)
    ids: Tensor = open_clip.get_tokenizer(configuration.stem)(list(texts))
    return ids


def normalised(images: Tensor) -> Tensor:
    """uint8 pictures (n, side, side, 3) as the vision tower sees them: float (n, 3, side, side)."""
    scaled = images.permute(0, 3, 1, 2).to(torch.float32) / 255
    return (scaled - MEAN.to(images.device)) / STD.to(images.device)


@torch.no_grad()
def classifier(
    model: nn.Module, prompts: Sequence[Sequence[str]], configuration: Path, device: str = "cpu"
) -> Tensor:
    """One unit vector for each class, shape (classes, embed).

    The mean of the unit embeddings of the class's prompts, made unit again (Radford et al. 2021).
    """
    encode: Callable[..., Tensor] = model.encode_text  # type: ignore[assignment]
    ids = tokens([prompt for several in prompts for prompt in several], configuration)
    embedded = encode(ids.to(device), normalize=True)
    means = embedded.reshape(len(prompts), -1, embedded.shape[-1]).mean(1)
    return nn.functional.normalize(means, dim=-1)


def logits(model: nn.Module, images: Tensor, weights: Tensor) -> Tensor:
    """Scaled cosines of normalised pictures with the class vectors, shape (n, classes)."""
    encode: Callable[..., Tensor] = model.encode_image  # type: ignore[assignment]
    scale: Any = model.logit_scale
    product: Tensor = scale.exp() * encode(images, normalize=True) @ weights.T
    return product


@torch.no_grad()
def correct(model: nn.Module, images: Tensor, labels: Tensor, weights: Tensor) -> int:
    """How many of the pictures (uint8) get their label, the nearest class vector."""
    right = 0
    for start in range(0, len(images), BATCH):
        rows = slice(start, start + BATCH)
        predicted = logits(model, normalised(images[rows]), weights).argmax(1)
        right += int((predicted == labels[rows]).sum())
    return right
