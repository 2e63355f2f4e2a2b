"""mergekit 0.1.5: where its program is, and the configuration that stands for a method of ours.

It comes with the package's extra ``bench``. The options are our methods' defaults, so that both do
the same work; where the formulas differ all the same, :data:`DIFFERENCES` says how.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gitmerge_eval import methods
from gitmerge_eval.errors import PrerequisiteError
from gitmerge_eval.git import programs

PROGRAM = "mergekit-pytorch"

SAME_FORMULA = ("average", "task-arithmetic")
"""The methods whose results can be compared number by number."""

DIFFERENCES: Mapping[str, str] = {
    "slerp": "of more than two models mergekit has multislerp, another formula than MLERP",
    "dare": "mergekit draws its own masks and rescales by the norms that it finds, not by 1/(1-p)",
    "ties": "mergekit trims each tensor by itself; ours the whole model, as the paper does",
    "dare-ties": "mergekit draws its own masks and rescales by the norms that it finds",
}


def located(given: str | None) -> str:
    """The path of ``mergekit-pytorch``; PrerequisiteError where it is not installed."""
    if given is not None:
        if shutil.which(given) is None:
            raise PrerequisiteError(f"'{given}' is not a program; give the path of {PROGRAM}")
        return given
    beside = programs.scripts_folder() / PROGRAM
    found = str(beside) if beside.exists() else shutil.which(PROGRAM)
    if found is None:
        raise PrerequisiteError(
            f"{PROGRAM} is not installed; pip install 'gitmerge-eval[bench]', name another "
            "environment's program with --mergekit, or measure without it by --without-mergekit"
        )
    return found


def configuration(method: str, models: Sequence[Path], base: Path) -> str | None:
    """mergekit's configuration for one of our methods with its defaults, as JSON (which is YAML).

    None where mergekit has no such method (fisher, regmean, mats).
    """
    described = _described(method, models, str(base))
    return None if described is None else json.dumps(described, indent=2)


def _described(method: str, models: Sequence[Path], base: str) -> dict[str, Any] | None:
    options = methods.get(method).options({})

    def with_each(**parameters: float) -> list[dict[str, Any]]:
        return [{"model": str(path), "parameters": parameters} for path in models]

    if method == "average":
        return {"merge_method": "linear", "models": with_each(weight=1.0)}
    if method == "slerp" and len(models) > 2:
        return {"merge_method": "multislerp", "models": with_each(weight=1.0)}
    if method == "slerp":
        described = {"merge_method": "slerp", "base_model": str(models[0])}
        return {**described, "models": with_each(), "parameters": {"t": options["t"]}}
    if method == "task-arithmetic":
        weighted = with_each(weight=options["scale"])
        return {"merge_method": "task_arithmetic", "base_model": base, "models": weighted}
    if method == "dare":
        thinned = with_each(weight=options["scale"], density=1 - options["drop_rate"])
        return {"merge_method": "dare_linear", "base_model": base, "models": thinned}
    if method in ("ties", "dare-ties"):
        kept = options["density"] if method == "ties" else 1 - options["drop_rate"]
        return {
            "merge_method": method.replace("-", "_"),
            "base_model": base,
            "models": with_each(weight=1.0, density=kept),
            "parameters": {"lambda": options["scale"], "normalize": True},
        }
    return None
