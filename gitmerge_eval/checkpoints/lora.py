"""Low-rank adapters multiplied out: which tensors are the factors of which weight's change.

ΔW = s·B·A (arXiv 2106.09685), with A of shape (r, inputs, …) and B of shape (outputs, r, 1…), in
the shape of the weight that it is added to. Metadata alone is read here; the numbers are
:mod:`~gitmerge_eval.checkpoints.lora_factors`'.

Files of PEFT (``adapter_model.safetensors`` beside ``adapter_config.json``), of diffusers (new and
old names, with or without ``lora_adapter_metadata`` in the header) and kohya's (``.alpha``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gitmerge_eval.checkpoints import lora_configuration
from gitmerge_eval.checkpoints.lora_configuration import Settings
from gitmerge_eval.checkpoints.metadata import GroupRecord
from gitmerge_eval.errors import MalformedCheckpoint

CONFIGURATION = "adapter_config.json"
"""The name of PEFT's configuration beside the adapter's file."""
FILE = "adapter_model.safetensors"
"""The name of PEFT's adapters."""
HEADER_KEY = "lora_adapter_metadata"
"""Where diffusers keeps the configuration: a JSON text in the file's header."""
PEFT_PREFIX = "base_model.model."

_DOWN_UP = (
    (".lora_A.weight", ".lora_B.weight"),
    (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"),
    (".lora.down.weight", ".lora.up.weight"),
    ("_lora.down.weight", "_lora.up.weight"),
    (".lora_down.weight", ".lora_up.weight"),
    (".lora_embedding_A", ".lora_embedding_B"),
)
_ALPHA = ".alpha"
_EMBEDDING = ".lora_embedding_A"
_OLD_PROCESSOR = re.compile(r"(?:\.processor)?\.(to_[qkv]|to_out)$")
_LAYERS = {"to_q": "to_q", "to_k": "to_k", "to_v": "to_v", "to_out": "to_out.0"}
_TEXT_LAYERS = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}
_FLOATING = frozenset({"float8_e5m2", "float8_e4m3fn", "float16", "bfloat16", "float32", "float64"})
_FOREIGN = re.compile(
    r"lora_magnitude_vector|dora_scale|\.lora_mid\.|\.hada_w|\.lokr_|\.oft_|\.lora_E$|\.ranknum$"
)


@dataclass(frozen=True)
class Pair:
    """The two factors of one weight's change."""

    weight: str
    """The weight's name in the model: ``unet.mid_block.attentions.0.to_q.weight``."""
    module: str
    """The module's path as the adapter's configuration speaks of it."""
    down: str
    """The name of A."""
    up: str
    """The name of B."""
    rank: int
    scale: float
    shape: tuple[int, ...]
    """ΔW's shape, the weight's."""
    dtype: str
    """The wider of the factors' dtypes."""
    component: str = ""
    """The part of a pipeline that it belongs to, with its dot: ``unet.``; '' elsewhere."""
    alpha: str = ""
    """The name of the tensor that holds α, where the file has one."""
    alpha_value: float = 0.0
    """What that tensor says."""
    embedding: bool = False
    """Whether ΔW = s·(B·A)ᵀ: PEFT's factors of an embedding."""


@dataclass(frozen=True)
class Adapter:
    """The pairs of one adapter by weight name, and the names that are none."""

    pairs: Mapping[str, Pair]
    plain: tuple[str, ...]
    """Whole tensors: modules_to_save, trained biases, embeddings that grew."""
    settings: Mapping[str, Settings] = field(default_factory=dict)
    """component -> its configuration, where there is one; PEFT's own is under ''."""


Scalar = Callable[[str], float]
"""Reads a tensor of one element by its name."""


def configuration_of(path: str) -> str | None:
    """Where PEFT's configuration of the adapter at ``path`` lies; None for files of other names.

    >>> configuration_of("a/adapter_model.safetensors")
    'a/adapter_config.json'
    """
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}{CONFIGURATION}" if name == FILE else None


def has_factors(names: Collection[str]) -> bool:
    """Whether any of these tensors is a factor, or of an adapter of another kind."""
    endings = tuple(ending for pair in _DOWN_UP for ending in pair)
    return any(name.endswith(endings) or _FOREIGN.search(name) for name in names)


def is_adapter(names: Collection[str]) -> bool:
    """Whether a file without a configuration is an adapter: it has factors, not their weights."""
    bases = [name.removesuffix(d) for name in names for d, _ in _DOWN_UP if name.endswith(d)]
    bases += [n[: found.start()].rstrip("._") for n in names if (found := _FOREIGN.search(n))]
    return bool(bases) and not any(
        f"{base}{ending}" in names for base in bases for ending in (".weight", ".base_layer.weight")
    )


def read_adapter(
    groups: Mapping[str, GroupRecord],
    header: Mapping[str, str],
    configuration: Settings | None,
    scalar: Scalar,
) -> Adapter:
    """The pairs of an adapter; ``configuration`` is PEFT's, None where no such file is there.

    Raises MalformedCheckpoint for a torn pair, a shape that is no factor's, a scale that cannot be
    known, and for kinds that are no matrix added to a weight (DoRA, LoHa, LoKr, …).
    """
    biased = next((name for name in groups if name.endswith((".lora_A.bias", ".lora_B.bias"))), "")
    if biased:
        raise MalformedCheckpoint(
            f"{biased!r} is a bias of factors, scaled as they are and no part of a weight; "
            "merge the adapter into its model (merge_and_unload) and commit the model"
        )
    foreign = next((name for name in groups if _FOREIGN.search(name)), None)
    if foreign:
        raise MalformedCheckpoint(
            f"{foreign!r} is of a kind of adapter (DoRA, LoHa, LoKr, AdaLoRA, …) that is no matrix "
            "added to a weight, so that it cannot be merged; merge it into its model "
            "(merge_and_unload, fuse_lora) and commit the model"
        )
    settings = _settings(groups, header, configuration)
    factors = _factors(groups)
    lacking = [name for name, up in factors.items() if up not in groups]
    ups = set(factors.values())
    lacking += [n for n in groups if n not in ups and any(n.endswith(up) for _, up in _DOWN_UP)]
    if lacking:
        raise MalformedCheckpoint(
            f"{lacking[0]!r} has no partner: an adapter's factors come in pairs; save it again"
        )
    pairs = {}
    for down, up in factors.items():
        pair = _pair(groups, down, up, settings, scalar)
        if pair.weight in pairs:
            raise MalformedCheckpoint(f"two pairs of factors are of {pair.weight!r}; keep one")
        pairs[pair.weight] = pair
    _check_alphas(pairs.values(), settings)
    used = {name for p in pairs.values() for name in (p.down, p.up, p.alpha)}
    plain = tuple(name for name in groups if name not in used)
    return Adapter(dict(sorted(pairs.items())), plain, settings)


def one_spelling(adapters: Sequence[Adapter]) -> dict[str, Pair]:
    """weight -> the pair as a file that holds all of them spells it.

    A pair keeps the names of the first adapter that has it, in the widest dtype of all; where some
    files are in diffusers' old names and some in PEFT's, all get PEFT's, because a reader tells the
    format from a file's first name. Raises MalformedCheckpoint for kohya's names among others: they
    do not tell '.' from '_'.
    """
    families = {_family(pair) for adapter in adapters for pair in adapter.pairs.values()}
    if "kohya" in families and len(families) > 1:
        raise MalformedCheckpoint(
            "one branch has the adapter in kohya's names (lora_unet_…) and another in diffusers'; "
            "load and save it with diffusers on one of them"
        )
    found: dict[str, Pair] = {}
    for adapter in adapters:
        for weight, pair in adapter.pairs.items():
            pair = pair if len(families) < 2 else _in_new_names(pair)
            first = found.setdefault(weight, pair)
            found[weight] = replace(first, dtype=_wider(first.dtype, pair.dtype))
    usual = next((p.alpha_value for p in adapters[0].pairs.values() if p.alpha), 0.0)
    return {
        weight: replace(
            pair,
            alpha=f"{_stem(pair)}{_ALPHA}" if usual else "",
            alpha_value=(pair.alpha_value or usual) if usual else 0.0,
        )
        for weight, pair in sorted(found.items())
    }


def result_pair(pair: Pair, rank: int, settings: Mapping[str, Settings]) -> Pair:
    """``pair`` as the result has it: its rank, and the scale that goes with it.

    The scale is 1, or √r with ``use_rslora``. An ``.alpha`` tensor stays as it is, and the factors
    take the difference: diffusers reads one α for all modules out of kohya's files.
    """
    path = pair.weight.removesuffix(".weight")
    component = _component(path, settings)
    scale = 1.0
    if pair.alpha:
        scale = pair.alpha_value / rank
    elif component in settings:
        scale = lora_configuration.result_scale(settings[component], rank)
    module = path.removeprefix(component)
    return replace(pair, rank=rank, scale=scale, component=component, module=module)


def header_with(header: Mapping[str, str], settings: Mapping[str, Settings]) -> dict[str, str]:
    """diffusers' header with new configurations of its components, as diffusers writes it."""
    if HEADER_KEY not in header:
        return dict(header)
    document = {
        f"{component}{key}": value
        for component, own in settings.items()
        for key, value in own.items()
    }
    return {**header, HEADER_KEY: json.dumps(document, indent=2, sort_keys=True)}


def _settings(
    groups: Mapping[str, GroupRecord], header: Mapping[str, str], configuration: Settings | None
) -> dict[str, Settings]:
    if configuration is not None:
        lora_configuration.check(configuration, CONFIGURATION)
        return {"": configuration}
    if HEADER_KEY not in header:
        if any(name.startswith(PEFT_PREFIX) for name in groups):
            raise MalformedCheckpoint(
                f"this is a PEFT adapter without its '{CONFIGURATION}', which says how its factors "
                "are scaled; commit that file in the same folder"
            )
        return {}
    document = lora_configuration.parse(header[HEADER_KEY].encode(), HEADER_KEY)
    found: dict[str, dict[str, Any]] = {}
    for key, value in document.items():
        component, _, own = key.rpartition(".")
        found.setdefault(f"{component}." if component else "", {})[own] = value
    for part, settings in found.items():
        lora_configuration.check(settings, f"{HEADER_KEY} of '{part}'")
    return dict(found)


def _factors(groups: Mapping[str, GroupRecord]) -> dict[str, str]:
    """A's name -> B's name."""
    return {
        name: name.removesuffix(down) + up
        for name in groups
        for down, up in _DOWN_UP
        if name.endswith(down)
    }


def _ending(name: str) -> str:
    return next(down for down, _ in _DOWN_UP if name.endswith(down))


def _stem(pair: Pair) -> str:
    return pair.down.removesuffix(_ending(pair.down))


def _family(pair: Pair) -> str:
    ending = _ending(pair.down)
    if ending == ".lora_down.weight":
        return "kohya"
    return "new" if ending in (".lora_A.weight", _EMBEDDING) else "old"


def _in_new_names(pair: Pair) -> Pair:
    path = pair.weight.removesuffix(".weight")
    if _family(pair) == "new":
        return pair
    return replace(pair, down=f"{path}.lora_A.weight", up=f"{path}.lora_B.weight")


def _pair(
    groups: Mapping[str, GroupRecord],
    down: str,
    up: str,
    settings: Mapping[str, Settings],
    scalar: Scalar,
) -> Pair:
    ending = _ending(down)
    stem = down.removesuffix(ending)
    path = _module(stem, ending)
    a, b = groups[down], groups[up]
    embedding = ending == _EMBEDDING
    rank, shape = _shapes(a, b)
    component = _component(path, settings)
    module = path.removeprefix(component)
    alpha = f"{stem}{_ALPHA}" if f"{stem}{_ALPHA}" in groups else ""
    value = scalar(alpha) if alpha else 0.0
    if alpha:
        scale = value / rank
        if not 0 < scale < float("inf"):
            raise MalformedCheckpoint(
                f"{alpha!r} is {value}, which is no scale; save the adapter again"
            )
    elif component in settings:
        where = HEADER_KEY if component else CONFIGURATION
        scale = lora_configuration.scale(settings[component], module, rank, where)
    else:
        scale = 1.0  # diffusers takes α = r where nothing says otherwise
    return Pair(
        weight=f"{path}.weight",
        module=module,
        down=down,
        up=up,
        rank=rank,
        scale=scale,
        shape=tuple(reversed(shape)) if embedding else shape,
        dtype=_dtype(a, b),
        component=component,
        alpha=alpha,
        alpha_value=value,
        embedding=embedding,
    )


def _module(stem: str, ending: str) -> str:
    """The module's path: old attention processors' names are those of the layers they stand for."""
    path = stem.removeprefix(PEFT_PREFIX)
    if ending.startswith("_lora") and (found := _OLD_PROCESSOR.search(path)):
        layers = _TEXT_LAYERS if path[: found.start()].endswith(".self_attn") else _LAYERS
        return f"{path[: found.start()]}.{layers[found[1]]}"
    return path


def _component(path: str, settings: Mapping[str, Settings]) -> str:
    named = [component for component in settings if path.startswith(component)]
    return max(named, key=len, default="")


def _shapes(a: GroupRecord, b: GroupRecord) -> tuple[int, tuple[int, ...]]:
    """(r, ΔW's shape) of A (r, inputs, kernel…) and B (outputs, r, 1…)."""
    fits = (
        len(a.shape) == len(b.shape) >= 2
        and a.shape[0] == b.shape[1] > 0
        and all(extent == 1 for extent in b.shape[2:])
    )
    if not fits:
        raise MalformedCheckpoint(
            f"{a.name!r} of shape {list(a.shape)} and {b.name!r} of shape {list(b.shape)} are no "
            "factors of a weight's change; was the adapter saved from shards (DeepSpeed, FSDP)?"
        )
    return a.shape[0], (b.shape[0], *a.shape[1:])


def _check_alphas(pairs: Collection[Pair], settings: Mapping[str, Settings]) -> None:
    """α for some modules only has been read in two ways by different programs."""
    without = [p for p in pairs if not p.alpha and p.component not in settings]
    if without and any(pair.alpha for pair in pairs):
        raise MalformedCheckpoint(
            f"some factors have an '{_ALPHA}' tensor and {without[0].down!r} has none, so that its "
            "scale is not known; save the adapter again with all of them"
        )


def _dtype(first: GroupRecord, second: GroupRecord) -> str:
    for record in (first, second):
        if record.dtype not in _FLOATING:
            raise MalformedCheckpoint(
                f"{record.name!r} is {record.dtype}: factors must be floating-point numbers; "
                "save the adapter unquantized"
            )
    return _wider(first.dtype, second.dtype)


def _wider(first: str, second: str) -> str:
    """The dtype that holds both; float32 where neither holds the other."""
    if first == second:
        return first
    return "float64" if "float64" in (first, second) else "float32"
