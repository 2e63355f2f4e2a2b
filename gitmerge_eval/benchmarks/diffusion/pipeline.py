"""Stable Diffusion pipelines in diffusers' own folder layout: made, loaded, and saved."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.utils import logging as diffusers_logging
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from gitmerge_eval.errors import EvaluationError

FOLDER = "pipeline"
"""Where a repository has the frozen pipeline, beside its adapter."""
# diffusers ships half of its types: the other half would have to be invented here.
_PIPELINE: Any = StableDiffusionPipeline
_SCHEDULER: Any = DDIMScheduler
_START, _END = "<|startoftext|>", "<|endoftext|>"
_WORD_END = "</w>"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without diffusers' progress bars and its advice on what else could be installed."""
    packages = (diffusers_logging, transformers_logging)
    before = [(one.get_verbosity(), one.is_progress_bar_enabled()) for one in packages]
    for one in packages:
        one.set_verbosity_error()
        one.disable_progress_bar()
    try:
        yield
    finally:
        for one, (level, shown) in zip(packages, before, strict=True):
            one.set_verbosity(level)
            if shown:
                one.enable_progress_bar()


def configured(folder: Path, part: str) -> Any:
    """The model ``part`` (unet, vae, text_encoder) as its published configuration has it.

    ``folder`` holds ``<part>/config.json``. Weights are random; under ``torch.device("meta")``
    they are not made at all.
    """
    if part == "text_encoder":
        return CLIPTextModel(CLIPTextConfig.from_json_file(folder / part / "config.json"))
    kind = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}[part]
    return kind.from_config(json.loads((folder / part / "config.json").read_text("utf-8")))


def scheduler(folder: Path) -> Any:
    """DDIM with the noise schedule of ``<folder>/scheduler/scheduler_config.json``."""
    text = (folder / "scheduler" / "scheduler_config.json").read_text("utf-8")
    return _SCHEDULER.from_config(json.loads(text))


def tokenizer(texts: Sequence[str], length: int) -> CLIPTokenizer:
    """CLIP's tokenizer with a vocabulary of its own: byte pairs merged until every word of
    ``texts`` is one token. ``length`` is what texts are padded to."""
    words = sorted({word for text in texts for word in text.lower().split()})
    merges = _merges(words)
    letters = sorted({letter for word in words for letter in word})
    symbols = [*letters, *(f"{letter}{_WORD_END}" for letter in letters)]
    symbols += [first + second for first, second in merges]
    vocabulary = {token: i for i, token in enumerate([_START, _END, *dict.fromkeys(symbols)])}
    found: Any = CLIPTokenizer
    tokens: CLIPTokenizer = found(vocab=vocabulary, merges=merges, model_max_length=length)
    return tokens


def _merges(words: Sequence[str]) -> list[tuple[str, str]]:
    """Byte pair encoding's merges, the commonest pair first, until each word is one symbol."""
    spelled = [[*word[:-1], word[-1] + _WORD_END] for word in words]
    merges: list[tuple[str, str]] = []
    while counts := Counter(pair for word in spelled for pair in itertools.pairwise(word)):
        # Pairs that are as common in the order of their letters: the same merges every time.
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        spelled = [_merged(word, best) for word in spelled]
    return merges


def _merged(word: list[str], pair: tuple[str, str]) -> list[str]:
    found: list[str] = []
    for symbol in word:
        if found and (found[-1], symbol) == pair:
            found[-1] += symbol
        else:
            found.append(symbol)
    return found


def assembled(unet: Any, vae: Any, text_encoder: Any, tokens: Any, noise: Any) -> Any:
    """The parts as one pipeline; no safety checker."""
    with _quiet():
        pipeline = _PIPELINE(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokens,
            unet=unet,
            scheduler=noise,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def save(pipeline: Any, folder: Path) -> None:
    """Write the pipeline in diffusers' layout, as safetensors."""
    with _quiet():
        pipeline.save_pretrained(folder, safe_serialization=True)


def load(folder: Path, device: str = "cpu", dtype: torch.dtype | None = None) -> Any:
    """The pipeline in ``folder``, in eval mode, with DDIM as its sampler.

    Never downloads. Raises EvaluationError where the folder has no readable pipeline.
    """
    if not (folder / "model_index.json").is_file():
        raise EvaluationError(
            f"'{folder}' has no 'model_index.json', so it is no pipeline in diffusers' layout; "
            "put the weights there as StableDiffusionPipeline.save_pretrained writes them"
        )
    try:
        with _quiet():
            pipeline = _PIPELINE.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                safety_checker=None,
                feature_extractor=None,
                requires_safety_checker=False,
                torch_dtype=dtype,
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise EvaluationError(f"the pipeline in '{folder}' cannot be loaded: {error}") from error
    pipeline.scheduler = _SCHEDULER.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        part.requires_grad_(False).eval()
    return pipeline.to(device)


@torch.no_grad()
def embedded(pipeline: Any, prompts: Sequence[str]) -> Tensor:
    """The text encoder's last hidden states: (prompts, tokens, width)."""
    return hidden_states(pipeline.text_encoder, token_ids(pipeline, prompts))


def token_ids(pipeline: Any, prompts: Sequence[str]) -> Tensor:
    """Padded token ids, (prompts, tokens)."""
    tokens = pipeline.tokenizer
    found: Tensor = tokens(
        list(prompts),
        padding="max_length",
        max_length=tokens.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    return found


def hidden_states(text_encoder: Any, ids: Tensor) -> Tensor:
    """What the UNet attends to."""
    device = next(text_encoder.parameters()).device
    found: Tensor = text_encoder(ids.to(device))[0]
    return found


def as_input(pictures: Tensor) -> Tensor:
    """uint8 pictures (n, side, side, 3) as the autoencoder sees them: (n, 3, side, side), ±1."""
    return pictures.permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1


def as_pictures(decoded: Tensor) -> Tensor:
    """The inverse of :func:`as_input`, rounded to uint8."""
    scaled = ((decoded.float().clamp(-1, 1) + 1) * 127.5).round()
    return scaled.permute(0, 2, 3, 1).to(torch.uint8).cpu()
