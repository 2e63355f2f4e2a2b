"""Hyperparameters that several methods share, and the sums that read them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gitmerge_eval.errors import InvalidOption
from gitmerge_eval.hyperparameters import Hyperparameter

TENTHS = tuple(step / 10 for step in range(1, 11))

WEIGHTS = Hyperparameter(
    name="weights",
    type=tuple,
    default=None,
    help="one weight for each constituent, normalised to sum 1; all equal by default",
    symbol="w",
    minimum=0.0,
    positional=True,
)
SEED = Hyperparameter(
    name="seed",
    type=int,
    default=0,
    help="the seed of the random masks; with the group's name and the constituent it fixes them",
)
SCOPE_HELP = "over each parameter group, or over the whole model"


def scale(default: float, help: str, *, name: str = "scale", tuned_by: str = "") -> Hyperparameter:
    """λ, the factor of what is added to the base; the paper sweeps 0.1 to 1.0."""
    return Hyperparameter(
        name=name,
        type=float,
        default=default,
        help=help,
        symbol="λ",
        sweep=TENTHS,
        tuned_by=tuned_by,
    )


def drop_rate(default: float) -> Hyperparameter:
    """p, the probability with which DARE drops an element of a task vector."""
    return Hyperparameter(
        name="drop_rate",
        type=float,
        default=default,
        help="the probability with which an element of a task vector is dropped",
        symbol="p",
        minimum=0.0,
        maximum=1.0,
        sweep=(0.0, *TENTHS[:-1]),
    )


def density(default: float, help: str, sweep: tuple[float, ...] = ()) -> Hyperparameter:
    """K, the part of a task vector's elements that trimming keeps."""
    return Hyperparameter(
        name="density",
        type=float,
        default=default,
        help=help,
        symbol="K",
        minimum=0.0,
        exclusive_minimum=True,
        maximum=1.0,
        sweep=sweep,
    )


def scope(help: str) -> Hyperparameter:
    """Whether a quantity is taken over each group or over the whole model."""
    return Hyperparameter(
        name="scope", type=str, default="group", help=help, choices=("group", "model")
    )


def normalised(weights: Sequence[float] | None, models: int) -> tuple[float, ...]:
    """``weights`` divided by their sum; 1/M each where there are none.

    Raises InvalidOption where their number is not M or their sum is zero.

    >>> normalised((1, 3), 2)
    (0.25, 0.75)
    """
    if weights is None:
        return (1 / models,) * models
    if len(weights) != models:
        raise InvalidOption(
            f"option 'weights' has {len(weights)} numbers for {models} constituents; "
            "give one for each, in the order of the heads"
        )
    total = math.fsum(weights)
    if not total > 0:
        raise InvalidOption("option 'weights' has only zeros; give at least one positive number")
    return tuple(weight / total for weight in weights)
