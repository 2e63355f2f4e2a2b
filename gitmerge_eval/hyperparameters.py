"""One option of a merge method: its type, range, default, and how its text is read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from gitmerge_eval.errors import InvalidOption


@dataclass(frozen=True)
class Hyperparameter:
    """One option of a method: type, range, default and the sweep that the paper ran."""

    name: str
    type: type
    """int, float, str or tuple (numbers separated by commas, one for each constituent)."""
    default: Any
    help: str
    symbol: str = ""
    minimum: float | None = None
    maximum: float | None = None
    exclusive_minimum: bool = False
    choices: tuple[str, ...] = ()
    sweep: tuple[Any, ...] = ()
    tuned_by: str = ""
    """The method whose best value of the same name a sweep takes over for this one."""
    positional: bool = False
    """Whether its value speaks of the order of the heads (weights, SLERP's t)."""

    @property
    def option(self) -> str:
        """The name on the command line: ``drop_rate`` is ``drop-rate``."""
        return self.name.replace("_", "-")

    @property
    def range(self) -> str:
        """``[0, 1]``, ``(0, ∞)`` or ``group|model``: for messages and tables."""
        if self.choices:
            return "|".join(self.choices)
        if self.type is str:
            return "text"
        low = "-∞" if self.minimum is None else f"{self.minimum:g}"
        high = "∞" if self.maximum is None else f"{self.maximum:g}"
        left = "(" if self.minimum is None or self.exclusive_minimum else "["
        return f"{left}{low}, {high}{')' if self.maximum is None else ']'}"

    def parse(self, text: str) -> Any:
        """The value that ``text`` stands for; InvalidOption says what is expected."""
        try:
            if self.type is tuple:
                value: Any = tuple(self._number(float(part)) for part in text.split(","))
            elif self.type is str:
                value = text
            else:
                value = self._number(self.type(text))
        except ValueError:
            raise InvalidOption(
                f"option '{self.option}' is '{text}', which is not {self._expected}"
            ) from None
        if self.choices and value not in self.choices:
            raise InvalidOption(
                f"option '{self.option}' is '{text}', which is not {self._expected}"
            )
        return value

    def _number(self, value: float) -> float:
        below = self.minimum is not None and (
            value <= self.minimum if self.exclusive_minimum else value < self.minimum
        )
        above = self.maximum is not None and value > self.maximum
        if below or above or not math.isfinite(value):
            raise ValueError(value)
        return value

    @property
    def _expected(self) -> str:
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if self.type is tuple:
            return f"a list of numbers in {self.range}, separated by commas"
        return f"{'a whole number' if self.type is int else 'a number'} in {self.range}"
