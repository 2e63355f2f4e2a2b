"""open_clip models as checkpoints: one safetensors file with the whole state dict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import Tensor, nn

from gitmerge_eval.benchmarks.clip.source import Pictures
from gitmerge_eval.benchmarks.learning.state_files import State as State
from gitmerge_eval.benchmarks.learning.state_files import read as read
from gitmerge_eval.benchmarks.learning.state_files import save as save
from gitmerge_eval.errors import EvaluationError, UnknownName

BATCH = 256
MEAN = torch.tensor(open_clip.OPENAI_DATASET_MEAN).reshape(1, 3, 1, 1)
STD = torch.tensor(open_clip.OPENAI_DATASET_STD).reshape(1, 3, 1, 1)


def registered(configuration: Path | str) -> str:
    """The model's name in open_clip's registry, which a configuration file is added to.

    ``configuration`` is a file in open_clip's format, whose name without the ending becomes the
    model's, or the name of a model that open_clip knows. Raises UnknownName for another one.
    """
    name = configuration.stem if isinstance(configuration, Path) else configuration
    if name not in open_clip.list_models():
        if not isinstance(configuration, Path):
            raise UnknownName.among("open_clip model", name, open_clip.list_models())
        open_clip.add_model_config(configuration)
    return name


def create(configuration: Path | str) -> nn.Module:
    """An open_clip model with random weights, built through open_clip's own registry.

    Raises EvaluationError for a model that is not of open_clip's class CLIP.
    """
    name = registered(configuration)
    numbers = open_clip.get_model_config(name)
    if numbers.get("custom_text") or "multimodal_cfg" in numbers:
        raise EvaluationError(
            f"the open_clip model '{name}' is not of its class CLIP; choose another, as ViT-B-32"
        )
    model: nn.Module = open_clip.CLIP(**numbers)
    return model


def state_of(model: nn.Module) -> State:
    """A copy of the model's tensors on the CPU."""
    return {name: t.detach().cpu().clone() for name, t in model.state_dict().items()}


def load(checkpoint: Path, configuration: Path | str, device: str = "cpu") -> nn.Module:
    """The model in eval mode with the checkpoint's weights.

    Raises EvaluationError where the file cannot be read or holds another architecture.
    """
    state = read(checkpoint)
    model = create(configuration)
    fill(model, state, f"'{checkpoint}'", registered(configuration))
    return model.to(device).eval()


def fill(model: nn.Module, state: State, where: str, name: str) -> None:
    """Put the tensors into the model; EvaluationError where they are another architecture's."""
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise EvaluationError(
            f"{where} is not a checkpoint of the model '{name}': {error}"
        ) from error


def tokens(texts: Sequence[str], configuration: Path | str) -> Tensor:
    """Token ids by open_clip's tokenizer for that model, shape (texts, context length)."""
    ids: Tensor = open_clip.get_tokenizer(registered(configuration))(list(texts))
    return ids


def normalised(images: Tensor) -> Tensor:
    """uint8 pictures (n, side, side, 3) as the vision tower sees them: float (n, 3, side, side)."""
    scaled = images.permute(0, 3, 1, 2).to(torch.float32) / 255
    return (scaled - MEAN.to(images.device)) / STD.to(images.device)


@torch.no_grad()
def classifier(
    model: nn.Module,
    prompts: Sequence[Sequence[str]],
    configuration: Path | str,
    device: str = "cpu",
) -> Tensor:
    """One unit vector for each class, shape (classes, embed).

    The mean of the unit embeddings of the class's prompts, made unit again (Radford et al. 2021).
    """
    encode: Callable[..., Tensor] = model.encode_text  # type: ignore[assignment]
    ids = tokens([prompt for several in prompts for prompt in several], configuration)
    embedded = torch.cat(
        [encode(part.to(device), normalize=True) for part in torch.split(ids, BATCH)]
    )
    means = embedded.reshape(len(prompts), -1, embedded.shape[-1]).mean(1)
    return nn.functional.normalize(means, dim=-1)


def logits(model: nn.Module, images: Tensor, weights: Tensor) -> Tensor:
    """Scaled cosines of normalised pictures with the class vectors, shape (n, classes)."""
    encode: Callable[..., Tensor] = model.encode_image  # type: ignore[assignment]
    scale: Any = model.logit_scale
    product: Tensor = scale.exp() * encode(images, normalize=True) @ weights.T
    return product


@torch.no_grad()
def correct(
    model: nn.Module,
    pictures: Pictures,
    weights: Tensor,
    *,
    progress: Callable[[int, int], object] | None = None,
) -> int:
    """How many of the pictures get their label, the nearest class vector; ``BATCH`` at a time."""
    right = 0
    count = len(pictures.labels)
    for rows in torch.split(torch.arange(count), BATCH):
        predicted = logits(model, pictures.inputs(rows).to(weights.device), weights).argmax(1)
        right += int((predicted.cpu() == pictures.labels[rows]).sum())
        if progress:
            progress(int(rows[-1]) + 1, count)
    return right
