"""Tasks about whole numbers in the words of several languages (num2words), drawn by a seed."""

from __future__ import annotations

import functools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gitmerge_eval.benchmarks.texts.examples import Example
from gitmerge_eval.errors import InvalidOption
from gitmerge_eval.records import Task

TASKS = ("value", "compare", "say", "parity", "member")
"""Words to digits; at least half the range?; digits to words; even?; do words and digits agree?"""


@dataclass(frozen=True)
class Numbers:
    """The numbers below ``range``, split anew for every cell (task, language).

    The prompt is a marker for the task and one for the language. Questions that are answered by yes
    or no have those words of the language as options.
    """

    seed: int
    recipe: Mapping[str, Any]
    """``range``, the sizes of the splits ``train``, ``validation`` and ``test``, ``answers``."""

    def __post_init__(self) -> None:
        sizes = sum(self.recipe[split] for split in ("train", "validation", "test"))
        if sizes > self.recipe["range"]:
            raise InvalidOption(
                f"the splits take {sizes} numbers of {self.recipe['range']}; make them smaller"
            )

    @property
    def settings(self) -> Mapping[str, object]:
        """The seed."""
        return {"seed": self.seed}

    def examples(self, task: Task, split: str) -> tuple[Example, ...]:
        """The examples of a cell: one for each number of the split, two of 'member'."""
        kind, language = task.skills["task"], task.skills["language"]
        start = 0
        for name in ("train", "validation", "test"):
            if name == split:
                break
            start += self.recipe[name]
        # A generator of text is the same in every process and version of Python.
        draw = random.Random(f"{self.seed}:{task.name}")
        numbers = draw.sample(range(self.recipe["range"]), self.recipe["range"])
        return tuple(
            example
            for number in numbers[start : start + self.recipe[split]]
            for example in self._asked(kind, language, number)
        )

    def corpus(self) -> tuple[str, ...]:
        """'42 = forty-two' of every number in every language."""
        return tuple(
            f"{number} = {words(number, language)}"
            for language in self.recipe["answers"]
            for number in range(self.recipe["range"])
        )

    def _asked(self, kind: str, language: str, number: int) -> Sequence[Example]:
        prompt = f"<{kind}><{language}>"
        said = words(number, language)
        if kind == "value":
            return [Example(prompt + said, (str(number),))]
        if kind == "say":
            return [Example(prompt + str(number), (said,))]
        yes, no = self.recipe["answers"][language]

        def question(text: str, answer: bool) -> Example:
            return Example(prompt + text, (yes if answer else no,), (yes, no))

        if kind == "compare":
            return [question(said, 2 * number >= self.recipe["range"])]
        if kind == "parity":
            return [question(said, number % 2 == 0)]
        other = self._near(language, number)
        return [question(f"{said} = {number}", True), question(f"{said} = {other}", False)]

    def _near(self, language: str, number: int) -> str:
        """The number's digits with another one in one place, never a zero in front."""
        draw = random.Random(f"{self.seed}:{language}:{number}")
        digits = list(str(number))
        place = draw.randrange(len(digits))
        allowed = [
            d for d in "0123456789"
            if d != digits[place] and not (d == "0" and place == 0 and len(digits) > 1)
        ]  # fmt: skip
        digits[place] = draw.choice(allowed)
        return "".join(digits)


@functools.cache
def words(number: int, language: str) -> str:
    """A number in words: ``words(21, 'de')`` is 'einundzwanzig'."""
    from num2words import num2words

    said: str = num2words(number, lang=language)
    return said
