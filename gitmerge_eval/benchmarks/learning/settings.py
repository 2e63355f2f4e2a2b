"""What a repository's ``benchmark.toml`` may say beside the benchmark's name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gitmerge_eval.errors import InvalidOption, UnknownName


def text_of(settings: Mapping[str, Any], key: str) -> str | None:
    """The text that a setting is, None where it is not there; InvalidOption for anything else."""
    value = settings.get(key)
    if value is not None and not isinstance(value, str):
        raise InvalidOption(f"the benchmark's '{key}' is {value!r}, which is not a text")
    return value


def seed_of(settings: Mapping[str, Any], known: Sequence[str] = ("name", "seed")) -> int:
    """The seed, 0 where there is none.

    Raises UnknownName for a setting that is not ``known``, InvalidOption for a seed that is no
    whole number from 0.
    """
    for key in settings:
        if key not in known:
            raise UnknownName.among("setting of a benchmark", key, known)
    seed = settings.get("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise InvalidOption(
            f"the benchmark's 'seed' is {seed!r}, which is not a whole number from 0"
        )
    return seed
