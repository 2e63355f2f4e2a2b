"""What a repository's results say for and against a method, and how much of it there is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from gitmerge_eval.evaluation.gathering import Comparison, Gathered, identities
from gitmerge_eval.evaluation.published import Published
from gitmerge_eval.evaluation.reporting import STATUSES

THIN = 3
"""Fewer comparisons than this are called thin."""
SAME = "the same constituents"
OTHER = "other constituents on this benchmark"
PUBLISHED = "published numbers"
GOALS: Mapping[str, tuple[str, ...]] = {
    "both": STATUSES,
    "held-in": STATUSES[:1],
    "generalization": STATUSES[1:],
}


@dataclass(frozen=True)
class Evidence:
    """What is known of one method."""

    scope: str
    """What was merged: :data:`SAME`, :data:`OTHER`, or :data:`PUBLISHED`."""
    comparisons: int
    """n: on how many sets of constituents, or in how many published tables."""
    place: float
    """(Σ s + ½) / (n + 1), s the share of other methods that it beats in a comparison, an equal
    one counting half: little evidence stays near the middle."""
    others: int
    """With how many other methods it was compared, at least."""
    held_in: float | None
    """The mean over comparisons: normalised by individual models, or of published numbers raw."""
    generalization: float | None
    """The same, normalised by the pretrained model."""

    @property
    def is_thin(self) -> bool:
        """Whether another comparison may well turn it round."""
        return self.comparisons < THIN


@dataclass(frozen=True)
class _Finding:
    """One method in one comparison."""

    share: float
    others: int
    held_in: float | None
    generalization: float | None


def evidence(
    gathered: Gathered, benchmark: str | None, models: Sequence[str], goal: str = "both"
) -> dict[str, Evidence]:
    """method -> what is known of it, the nearest evidence alone.

    Results of the same constituents go before those of others on the same benchmark, and these
    before published numbers. ``models`` are the constituents' checkpoints. A comparison of one
    method says nothing.
    """
    wanted = identities(models)
    own = [c for c in gathered.comparisons() if c.first.benchmark == benchmark]
    same = [c for c in own if c.models == wanted]
    other = [c for c in own if c.models != wanted]
    known: dict[str, Evidence] = {}
    for scope, findings in (
        (SAME, _of_comparisons(same, goal)),
        (OTHER, _of_comparisons(other, goal)),
        (PUBLISHED, _of_published(gathered.published, goal)),
    ):
        for method, found in findings.items():
            known.setdefault(method, _united(scope, found))
    return known


def _of_comparisons(comparisons: Iterable[Comparison], goal: str) -> dict[str, list[_Finding]]:
    found: dict[str, list[_Finding]] = {}
    for comparison in comparisons:
        shown = comparison.shown()
        raw = {m: {s: r.note.average(s) for s in STATUSES} for m, r in shown.items()}
        ratios = {m: [r.note.normalised(s) for s in STATUSES] for m, r in shown.items()}
        for method, share in _shares(raw, goal).items():
            one = _Finding(share, len(shown) - 1, *ratios[method])
            found.setdefault(method, []).append(one)
    return found


def _of_published(rows: Sequence[Published], goal: str) -> dict[str, list[_Finding]]:
    found: dict[str, list[_Finding]] = {}
    for table in dict.fromkeys((row.source, row.benchmark) for row in rows):
        own = {row.as_ours: row for row in rows if (row.source, row.benchmark) == table}
        raw = {
            method: dict(zip(STATUSES, (row.held_in, row.generalization), strict=True))
            for method, row in own.items()
        }
        for method, share in _shares(raw, goal).items():
            row = own[method]
            one = _Finding(share, len(own) - 1, row.held_in, row.generalization)
            found.setdefault(method, []).append(one)
    return found


def _shares(scores: Mapping[str, Mapping[str, float | None]], goal: str) -> dict[str, float]:
    """method -> the share of the others that it beats, averaged over the goal's averages."""
    found: dict[str, float] = {}
    for method, own in scores.items():
        shares = []
        for status in GOALS[goal]:
            mine = own[status]
            others = [
                value
                for name, values in scores.items()
                if name != method and (value := values[status]) is not None
            ]
            if mine is not None and others:
                beaten = sum(mine > value for value in others)
                equal = sum(mine == value for value in others)
                shares.append((beaten + equal / 2) / len(others))
        if len(shares) == len(GOALS[goal]):
            found[method] = fmean(shares)
    return found


def _united(scope: str, findings: Sequence[_Finding]) -> Evidence:
    number = len(findings)
    return Evidence(
        scope=scope,
        comparisons=number,
        place=(sum(finding.share for finding in findings) + 0.5) / (number + 1),
        others=min(finding.others for finding in findings),
        held_in=_mean([finding.held_in for finding in findings]),
        generalization=_mean([finding.generalization for finding in findings]),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
