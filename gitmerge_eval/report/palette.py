"""Colours and markers: the same for a method in every figure, on light ground and on dark.

The nine colours are Paul Tol's 'muted' scheme, which people of any colour vision tell apart, each
as light and as dark ground needs it. A marker says the same once more, for print without colour.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Style:
    """How one series looks: its colour on light and on dark ground, and matplotlib's marker."""

    light: str
    dark: str
    marker: str


METHODS = {
    "average": Style("#332288", "#9d8df2", "o"),
    "slerp": Style("#2f8fc4", "#88ccee", "s"),
    "task-arithmetic": Style("#117733", "#4fc07a", "^"),
    "dare": Style("#2a9d8b", "#6fd6c6", "v"),
    "ties": Style("#7f7f1f", "#c6c65a", "D"),
    "dare-ties": Style("#b08a1e", "#ddcc77", "d"),
    "fisher": Style("#c4546a", "#ee8fa0", "P"),
    "regmean": Style("#882255", "#df7fb1", "X"),
    "mats": Style("#9b3a93", "#d88ad0", "p"),
}
BASELINES = {
    "pretrained": Style("#555555", "#b5b5b5", "<"),
    "individual": Style("#555555", "#b5b5b5", "8"),
    "multitask": Style("#555555", "#b5b5b5", ">"),
}
STATUSES = {
    "held-in": Style("#332288", "#9d8df2", "o"),
    "generalization": Style("#c4546a", "#ee8fa0", "s"),
}
_FURTHER = "h*H"
"""The markers of methods that other packages add; they share the grey of what has no colour."""
_PLAIN = ("#666666", "#a8a8a8")


@dataclass(frozen=True)
class Inks:
    """The colours of one drawing: on light ground, on dark ground, or stand-ins for CSS."""

    ink: str
    muted: str
    lines: str
    ground: str
    series: Mapping[str, str]

    def __getitem__(self, name: str) -> str:
        """The colour of a series."""
        return self.series[name]


def styles(names: Iterable[str]) -> dict[str, Style]:
    """A style for each series; one that is not known gets a marker of its own.

    >>> styles(["ties", "mine"])["mine"].marker
    'h'
    """
    known = {**METHODS, **BASELINES, **STATUSES}
    found: dict[str, Style] = {}
    others = 0
    for name in dict.fromkeys(names):
        if name in known:
            found[name] = known[name]
        else:
            found[name] = Style(*_PLAIN, _FURTHER[others % len(_FURTHER)])
            others += 1
    return found


def light(known: Mapping[str, Style]) -> Inks:
    """For light ground, and for paper."""
    return Inks(
        "#1c1d21", "#5c5f68", "#d9dbe0", "#ffffff", {name: s.light for name, s in known.items()}
    )


def dark(known: Mapping[str, Style]) -> Inks:
    """For dark ground."""
    return Inks(
        "#e8e9ec", "#a4a8b3", "#3a3d46", "#17181c", {name: s.dark for name, s in known.items()}
    )


def stand_ins(known: Mapping[str, Style]) -> Inks:
    """Colours that occur nowhere else, for :func:`variables` to be put in their places."""
    return Inks(
        "#010201", "#010202", "#010203", "#010204",
        {name: f"#0103{number:02x}" for number, name in enumerate(known)},
    )  # fmt: skip


def variables(known: Mapping[str, Style]) -> dict[str, str]:
    """stand-in -> the name of the CSS variable that has the colour."""
    inks = stand_ins(known)
    return {
        inks.ink: "--ink", inks.muted: "--muted", inks.lines: "--lines", inks.ground: "--ground",
        **{colour: variable(name) for name, colour in inks.series.items()},
    }  # fmt: skip


def variable(series: str) -> str:
    """The CSS variable of a series' colour.

    >>> variable("task-arithmetic")
    '--series-task-arithmetic'
    """
    return f"--series-{re.sub(r'[^a-z0-9]+', '-', series.lower())}"


def style_sheet(known: Mapping[str, Style], *, root: str = ":root") -> str:
    """CSS that gives the variables their values on light ground, on dark ground and on paper."""

    def rules(inks: Inks) -> str:
        values = {
            "--ink": inks.ink, "--muted": inks.muted, "--lines": inks.lines,
            "--ground": inks.ground, **{variable(n): colour for n, colour in inks.series.items()},
        }  # fmt: skip
        return f"{root} {{ {' '.join(f'{name}: {value};' for name, value in values.items())} }}"

    return (
        f"{rules(light(known))}\n"
        f"@media (prefers-color-scheme: dark) {{ {rules(dark(known))} }}\n"
        f"@media print {{ {rules(light(known))} }}\n"
    )
