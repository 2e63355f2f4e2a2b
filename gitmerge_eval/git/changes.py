"""What an installation changed, in words."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Changes:
    """The steps that were taken, and what the user should know about them."""

    made: tuple[str, ...] = ()
    """One line for each thing that is different now; empty where all was as it should be."""
    notices: tuple[str, ...] = ()
    """What remains for the user to know or do, each with its remedy."""

    def __bool__(self) -> bool:
        return bool(self.made)

    def __add__(self, other: Changes) -> Changes:
        return Changes(self.made + other.made, self.notices + other.notices)
