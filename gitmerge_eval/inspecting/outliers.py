"""Which constituents of a merge stand out from the others, by a rule that also serves for few.

The modified z-score of Iglewicz and Hoaglin (1993), 0.6745 (x - median) / MAD with the limit 3.5,
over the constituents' log ‖τ_i‖ and over their agreement, the median of the cosines of τ_i with
each of the others. With few constituents, or very equal ones, the MAD is near 0 and everything
would stand out; so it counts as at least as much as makes a factor of 3 between norms, or 0.3
between cosines of large modules, the least that is marked. Cosines of few elements scatter by
chance, and more is asked of them. Two constituents have no majority: where they differ by a factor
of 9 both are marked, and the mark says that it cannot tell which is off.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from statistics import median

from gitmerge_eval.inspecting.reading import Sums

LIMIT = 3.5
"""Of the modified z-score."""
_Z = 0.6745
LEAST_FACTOR = 3.0
"""Between norms: less is never marked."""
LEAST_COSINE = 0.3
"""Between agreements, of modules with many elements."""
_CHANCE = 2.6
"""Times 1/√n: what is added to that for a module of n elements. Honest constituents of the
mini benchmark need half of it."""
EQUAL = 0.99
"""The cosine from which two task vectors are called the same direction."""
_SAME_LENGTH = 0.01


def marks(labels: Sequence[str], sums: Sums) -> dict[str, list[str]]:
    """constituent -> what is remarkable about it in this module, in words; those without any
    are left out."""
    found: dict[str, list[str]] = {label: [] for label in labels}
    for label, count in zip(labels, sums.non_finite.tolist(), strict=True):
        if count:
            found[label].append(f"{count:,} elements are not finite")
    norms = sums.norms.tolist()
    moved = [i for i, norm in enumerate(norms) if norm > 0]
    logs = [math.log(norms[i]) for i in moved]
    typical = math.exp(median(logs)) if logs else 0.0
    if len(moved) == 2 and abs(logs[0] - logs[1]) >= 2 * math.log(LEAST_FACTOR):
        factor = _times(math.exp(abs(logs[0] - logs[1])))
        for i in moved:
            found[labels[i]].append(f"norms differ {factor}: which of two is off cannot be told")
    for i in _apart(logs, _floor(math.log(LEAST_FACTOR))) if len(moved) > 2 else ():
        ratio = norms[moved[i]] / typical
        text = f"norm is {_times(ratio)} the median" if ratio > 1 else (
            f"norm is 1/{1 / ratio:.3g} of the median"
        )  # fmt: skip
        found[labels[moved[i]]].append(text)
    for i, text in _directions(labels, sums, moved):
        found[labels[i]].append(text)
    return {label: texts for label, texts in found.items() if texts}


def _directions(labels: Sequence[str], sums: Sums, moved: Sequence[int]) -> list[tuple[int, str]]:
    """What their directions say: equal, opposite, or away from where the others agree to go."""
    found = []
    cosines = {pair: sums.cosine(*pair) or 0.0 for pair in combinations(moved, 2)}
    if sums.elements > 1:  # a single number always has one of two directions
        for (i, j), cosine in cosines.items():
            if abs(cosine) >= EQUAL:
                same = cosine > 0 and _equal(*(float(sums.norms[k]) for k in (i, j)))
                how = "equals" if same else "has the direction of" if cosine > 0 else "opposes"
                suffix = "" if same else f" (cosine {cosine:.3f})"
                found += [(a, f"{how} '{labels[b]}'{suffix}") for a, b in ((i, j), (j, i))]
    # Those of one direction have one voice, or two copies would outvote an honest third.
    voices = [j for j in moved if all(cosines[i, j] < EQUAL for i in moved if i < j)]
    if len(voices) < 3:
        return found
    agreement = [median(cosines[min(i, j), max(i, j)] for j in voices if j != i) for i in voices]
    theirs = median(agreement)
    least = LEAST_COSINE + _CHANCE / math.sqrt(max(sums.elements, 1))
    for k in _apart(agreement, _floor(least)):
        if agreement[k] < theirs:
            text = f"cosine {agreement[k]:.2f} with the others, among whom it is {theirs:.2f}"
            found.append((voices[k], text))
    return found


def _equal(first: float, second: float) -> bool:
    return abs(first - second) <= _SAME_LENGTH * max(first, second)


def _floor(least: float) -> float:
    """The least MAD: a deviation of ``least`` then has the modified z-score 3.5."""
    return _Z * least / LIMIT


def _apart(values: Sequence[float], floor: float) -> list[int]:
    """The positions whose modified z-score is above the limit."""
    if not values:
        return []
    middle = median(values)
    spread = max(median(abs(value - middle) for value in values), floor)
    return [i for i, value in enumerate(values) if _Z * abs(value - middle) / spread > LIMIT]


def _times(factor: float) -> str:
    return f"{factor:.3g} times"
