"""Stable Diffusion pipelines in diffusers' own folder layout: made, loaded, and saved."""

from __future__ import annotations

import contextlib
import json
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
from diffusers.utils import logging
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from gitmerge_eval.errors import EvaluationError

FOLDER = "pipeline"
"""Where a repository has the frozen pipeline, beside its adapter."""
# diffusers ships half of its types: the other half would have to be invented here.
_PIPELINE: Any = StableDiffusionPipeline
_SCHEDULER: Any = DDIMScheduler
_START, _END = "<|startoftext|>", "<|endoftext|>"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without diffusers' progress bars and its advice on what else could be installed."""
    level, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


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
    from tokenizers.models import BPE
    from tokenizers.trainers import BpeTrainer

    plain = CLIPTokenizer(vocab={_START: 0, _END: 1}, merges=[]).backend_tokenizer
    plain.model = BPE(end_of_word_suffix="</w>", unk_token=_END)
    trainer = BpeTrainer(
        vocab_size=1024,
        special_tokens=[_START, _END],
        end_of_word_suffix="</w>",
        initial_alphabet=[chr(c) for c in range(ord("a"), ord("z") + 1)],
        show_progress=False,
    )
    plain.train_from_iterator(sorted(set(texts)), trainer)
    learnt = json.loads(plain.to_str())["model"]
    merges: Any = [
        tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in learnt["merges"]
    ]
    return CLIPTokenizer(vocab=learnt["vocab"], merges=merges, model_max_length=length)


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
