"""PEFT's adapter configuration: the scale of each module, versions merged, new ranks written down.

The document is ``adapter_config.json``, or what diffusers keeps of it in a file's header. Format of
PEFT 0.12 to 0.21, ``peft/tuners/lora``.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gitmerge_eval.errors import MalformedCheckpoint

Settings = Mapping[str, Any]

RANKS = ("r", "lora_alpha", "rank_pattern", "alpha_pattern")
"""The keys that describe the factors; they follow from the factors, whatever the branches say."""
TARGETS = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")
"""The keys that say which modules have factors."""
TRAINING = frozenset(
    {
        *("auto_mapping", "peft_version", "revision", "inference_mode", "lora_dropout"),
        *("init_lora_weights", "loftq_config", "eva_config", "corda_config", "lora_ga_config"),
        *("megatron_config", "megatron_core", "velora_config", "runtime_config", "use_rslora"),
    }
)
"""The keys without a part in what a saved adapter computes; a difference is no conflict."""

_REFUSED = {
    "use_dora": "DoRA divides by a norm of weight and adapter together",
    "use_qalora": "QALoRA pools its inputs",
    "use_bdlora": "BD-LoRA has block-diagonal factors",
    "target_parameters": "its factors are of all experts at once",
    "arrow_config": "Arrow chooses between adapters at run time",
    "monteclora_config": "MonteCLoRA draws its factors at random",
    "kasa_config": "KaSA changes the base model's weights",
}
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
_LITERAL = re.compile(r"[\w.\-^$/ ]*")
_LONGEST_PATTERN = 300
_MOST = {"*+{": 2, "?": 8, "(": 8, "|": 32}
"""How many of these a pattern may have: matching backtracks over each of their choices."""


@dataclass(frozen=True)
class Difference:
    """A key that the branches set differently: key -> (branch, value) pairs."""

    key: str
    values: tuple[tuple[str, Any], ...]

    def __str__(self) -> str:
        shown = ", ".join(f"{json.dumps(value)} in '{label}'" for label, value in self.values)
        return f"'{self.key}' is {shown}"


def parse(data: bytes, where: str = "adapter_config.json") -> dict[str, Any]:
    """The configuration in ``data``; MalformedCheckpoint unless it is a LoRA adapter's."""

    def refuse(text: str) -> None:
        raise ValueError(f"{text} is not JSON")

    try:
        found = json.loads(data.decode(), parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise MalformedCheckpoint(
            f"'{where}' is not JSON ({error}); restore it from a commit, or save the adapter again"
        ) from error
    if not isinstance(found, dict):
        raise MalformedCheckpoint(f"'{where}' is not a JSON object; save the adapter again")
    check(found, where)
    return found


def check(settings: Settings, where: str) -> None:
    """MalformedCheckpoint for what is no LoRA, or no sum of weight and factors' product."""
    kind = settings.get("peft_type", "LORA")
    if kind != "LORA":
        raise MalformedCheckpoint(
            f"'{where}' is of type {kind!r}, and only LORA adapters can be multiplied out; merge "
            "the adapter into its model (merge_and_unload) and commit the model"
        )
    for key, why in _REFUSED.items():
        if settings.get(key):
            raise MalformedCheckpoint(
                f"'{where}' sets '{key}', and {why}, so that the adapter is no matrix added to a "
                "weight; merge it into its model (merge_and_unload) and commit the model"
            )
    start = settings.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_CHANGES_BASE):
        raise MalformedCheckpoint(
            f"'{where}' has init_lora_weights={start!r}, which changes the base model's weights "
            "when it is loaded; save the adapter with path_initial_model_for_weight_conversion, "
            "which makes it a plain one"
        )
    for key in ("r", "lora_alpha"):
        if key in settings and not _is_number(settings[key]):
            raise MalformedCheckpoint(f"'{where}': '{key}' is {settings[key]!r}, not a number")
    for key in ("rank_pattern", "alpha_pattern"):
        patterns = settings.get(key) or {}
        if not isinstance(patterns, dict) or not all(map(_is_number, patterns.values())):
            raise MalformedCheckpoint(f"'{where}': '{key}' does not map modules to numbers")


def scale(settings: Settings, module: str, rank: int, where: str = "adapter_config.json") -> float:
    """s in ΔW = s·B·A: α / r, or α / √r with ``use_rslora``.

    ``module`` is the path below the base model, ``rank`` what the factors have. Raises
    MalformedCheckpoint where the configuration says another rank: PEFT could not load it.
    """
    said = _of(settings, "rank_pattern", module, settings.get("r", rank), where)
    if said != rank:
        raise MalformedCheckpoint(
            f"'{where}' says rank {said} for '{module}', whose factors have rank {rank}; commit "
            "adapter and configuration as they were saved together"
        )
    alpha = float(_of(settings, "alpha_pattern", module, settings.get("lora_alpha", 8), where))
    return alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)


def merge(
    base: Settings | None, versions: Sequence[tuple[str, Settings]]
) -> tuple[dict[str, Any], tuple[Difference, ...]]:
    """The branches' settings as one, key by key, and the keys on which they do not agree.

    A key that one branch changed, or all changed alike, gets that value. Ranks and target modules
    are not looked at: :func:`with_factors` sets them. Keys that only matter in training, and
    ``use_rslora``, whose effect is in the scale already, are the first branch's that changed them.
    """
    keys = dict.fromkeys(key for _, settings in versions for key in settings)
    merged: dict[str, Any] = {}
    differences = []
    for key in keys:
        having = [(label, settings[key]) for label, settings in versions if key in settings]
        changed = [pair for pair in having if base is None or pair[1] != base.get(key)]
        values = changed or having
        merged[key] = values[0][1]
        if key in RANKS or key in TARGETS or key in TRAINING:
            continue
        if key == "modules_to_save" and all(isinstance(v, (list, type(None))) for _, v in having):
            merged[key] = sorted({name for _, value in having for name in value or ()}) or None
        elif any(value != values[0][1] for _, value in values):
            differences.append(Difference(key, tuple(values)))
    return merged, tuple(differences)


def with_factors(
    settings: Settings,
    ranks: Mapping[str, int],
    versions: Sequence[Settings] = (),
    scales: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """``settings`` for factors of these ranks (module -> r) and scales (:func:`result_scale`'s).

    The commonest rank is ``r``, others are in ``rank_pattern``; so with α. Where ``versions`` name
    their target modules differently, the result names them one by one.
    """
    given = scales or {}
    alphas = {
        module: _alpha(settings, rank, given.get(module, result_scale(settings, rank)))
        for module, rank in ranks.items()
    }
    updated = dict(settings)
    updated["r"], updated["rank_pattern"] = _patterns(ranks)
    updated["lora_alpha"], updated["alpha_pattern"] = _patterns(alphas)
    chosen = [{key: _unordered(version.get(key)) for key in TARGETS} for version in versions]
    if any(choice != chosen[0] for choice in chosen):
        own = {key: None for key in TARGETS if key in settings}
        updated.update(own | {"target_modules": sorted(ranks)})
    elif chosen:
        updated.update({key: versions[0][key] for key in TARGETS if key in versions[0]})
    return updated


def _alpha(settings: Settings, rank: int, scale: float) -> float:
    """α with which a module of this rank has this scale; a whole number where it is one."""
    if settings.get("use_rslora"):
        if scale == math.sqrt(rank):
            return rank
        return scale * math.sqrt(rank)
    alpha = scale * rank
    return int(alpha) if alpha == int(alpha) else alpha


def _patterns(values: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The commonest value, and the modules with others."""
    common = Counter(values.values())
    usual = max(common, key=lambda value: (common[value], value))
    ordered = sorted(values.items(), key=lambda item: (-len(item[0]), item[0]))
    patterns = {module: value for module, value in ordered if value != usual}
    if any(_match(patterns, module) not in (None, module) for module in values):
        # A short name ends a longer one: every module then has an entry, the longest first.
        patterns = dict(ordered)
    return usual, patterns


def result_scale(settings: Settings, rank: int) -> float:
    """s of a module whose α is its rank: 1, or √r with ``use_rslora``."""
    return math.sqrt(rank) if settings.get("use_rslora") else 1.0


def serialize(settings: Settings) -> bytes:
    """The document as PEFT writes it."""
    return json.dumps(dict(settings), indent=2, sort_keys=True).encode()


def _unordered(value: Any) -> Any:
    """A list as PEFT means it: it writes a set, in an order that changes with every run."""
    return sorted(value, key=repr) if isinstance(value, list) else value


def _of(settings: Settings, key: str, module: str, default: Any, where: str) -> Any:
    patterns = settings.get(key) or {}
    for pattern in patterns:
        _check_pattern(pattern, where)
    found = _match(patterns, module)
    return default if found is None else patterns[found]


def _match(patterns: Mapping[str, Any], module: str) -> str | None:
    """The first pattern that is the module's path or the end of it, as PEFT's get_pattern_key."""
    for pattern in patterns:
        if re.match(rf"(.*\.)?({pattern})$", module):
            return pattern
    return None


def _check_pattern(pattern: str, where: str) -> None:
    """MalformedCheckpoint for an expression that is wrong, or may take hours to match."""
    if _LITERAL.fullmatch(pattern) and len(pattern) <= _LONGEST_PATTERN:
        return
    intricate = re.search(r"\)[*+?{]", pattern) or any(
        sum(map(pattern.count, signs)) > most for signs, most in _MOST.items()
    )
    if len(pattern) > _LONGEST_PATTERN or intricate:
        raise MalformedCheckpoint(
            f"'{where}' has the pattern {pattern[:80]!r}, which is too intricate to be matched "
            "safely; name the modules instead"
        )
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise MalformedCheckpoint(
            f"'{where}' has the pattern {pattern[:80]!r}, which is not a regular expression "
            f"({error})"
        ) from error


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 2**53
