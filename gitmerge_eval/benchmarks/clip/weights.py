"""Pretrained weights: a file of open_clip's, or a tag that open_clip knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import open_clip
from open_clip.transform import PreprocessCfg

from gitmerge_eval.benchmarks.clip import model as clip
from gitmerge_eval.errors import EvaluationError


def pretrained(configuration: Path | str, weights: str | None) -> clip.State:
    """The state dict of ``weights`` for that model.

    ``weights`` is the path of a checkpoint, or a pretrained tag such as ``laion2b_s34b_b79k``,
    which open_clip takes from its cache or downloads. Raises EvaluationError where there is none,
    where it cannot be had, or where it is of another architecture.
    """
    name = clip.registered(configuration)
    tags = open_clip.list_pretrained_tags_by_model(name)
    if not weights:
        raise EvaluationError(
            f"the pretrained weights of '{name}' are not named; set 'weights' to an open_clip "
            f"checkpoint file or to one of the tags {', '.join(tags) or '(it has none)'}"
        )
    file = Path(weights).expanduser()
    if not file.is_file():
        file = _downloaded(name, weights, tags)
    model = clip.create(configuration)
    try:
        open_clip.load_checkpoint(model, str(file))
    except Exception as error:
        # What torch and open_clip raise for a file of another kind has no common type.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise EvaluationError(
            f"'{file}' has no weights of the open_clip model '{name}': {reason}"
        ) from error
    return clip.state_of(model)


def _downloaded(name: str, tag: str, tags: list[str]) -> Path:
    if tag not in tags:
        raise EvaluationError(
            f"the weights '{tag}' are neither a file nor a tag of the open_clip model '{name}'; "
            f"its tags are {', '.join(tags) or 'none'}"
        )
    entry: dict[str, Any] = open_clip.get_pretrained_cfg(name, tag)
    wanted = bool(entry.get("quick_gelu"))
    if wanted != bool((open_clip.get_model_config(name) or {}).get("quick_gelu")):
        other = f"{name}-quickgelu" if wanted else name.removesuffix("-quickgelu")
        raise EvaluationError(
            f"the weights '{tag}' were trained with another activation than '{name}' has; set "
            f"'model' to '{other}'"
        )
    try:
        return Path(open_clip.download_pretrained(entry))
    except Exception as error:
        raise EvaluationError(
            f"the weights '{tag}' of '{name}' are not on this machine and cannot be downloaded "
            f"({type(error).__name__}); download them where there is a network, and set 'weights' "
            "to the file"
        ) from error


def preprocessing(configuration: Path | str, weights: str | None) -> PreprocessCfg:
    """How open_clip prepares pictures for the model: by its tag where there is one, else CLIP's."""
    name = clip.registered(configuration)
    entry: dict[str, Any] = {}
    if weights and weights in open_clip.list_pretrained_tags_by_model(name):
        entry = open_clip.get_pretrained_cfg(name, weights)
    keys = ("mean", "std", "interpolation", "resize_mode")
    given = {key: entry[key] for key in keys if entry.get(key) is not None}
    side = (open_clip.get_model_config(name) or {})["vision_cfg"]["image_size"]
    return PreprocessCfg(size=side, **given)
