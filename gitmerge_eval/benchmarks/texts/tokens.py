"""Texts as token ids: characters for a mini, the published tokenizer for the full size."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from gitmerge_eval.errors import EvaluationError


class Tokens(Protocol):
    """A tokenizer, as much of it as evaluation and training need."""

    pad: int
    """The id that fills up shorter rows."""
    end: int
    """The id of the end of text."""
    begin: tuple[int, ...]
    """What a text for a decoder-only model begins with: the begin of text, or nothing."""
    longest: int | None
    """The number of tokens that a text is cut to; None where it is not."""

    def plain(self, text: str) -> list[int]:
        """The text's ids alone, however many they are."""

    def encode(self, text: str) -> list[int]:
        """The text's ids, the end-of-text token last."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids up to the first end of text; special tokens are left out."""

    def pieces(self, text: str) -> list[str]:
        """The text's subword tokens, for ROUGE."""


class CharacterTokens:
    """One token a character, and one for each marker, such as '<value>' or '<en>'.

    Ids: 0 pads, 1 ends a text, 2 is any unknown character, then markers and characters as given.
    """

    pad, end, unknown = 0, 1, 2
    begin: tuple[int, ...] = ()
    longest: int | None = None

    def __init__(self, markers: Iterable[str], characters: Iterable[str]) -> None:
        self._markers = tuple(markers)
        self._names = ("", "", "", *self._markers, *characters)
        self._ids = {name: i for i, name in enumerate(self._names) if i > self.unknown}
        marks = "|".join(re.escape(marker) for marker in self._markers)
        self._parts = re.compile(f"{marks}|." if marks else ".", re.DOTALL)

    @property
    def size(self) -> int:
        """How many ids there are."""
        return len(self._names)

    def plain(self, text: str) -> list[int]:
        """The text's ids alone."""
        return [self._ids.get(part, self.unknown) for part in self._parts.findall(text)]

    def encode(self, text: str) -> list[int]:
        """The text's ids, the end-of-text token last."""
        return [*self.plain(text), self.end]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids up to the first end of text; markers are left out, and so are ids that a
        model with a larger vocabulary may come up with."""
        first = self.unknown + 1 + len(self._markers)
        text = []
        for i in ids:
            if i == self.end:
                break
            if first <= i < self.size:
                text.append(self._names[i])
        return "".join(text)

    def pieces(self, text: str) -> list[str]:
        """The text's characters."""
        return list(text)


class PretrainedTokens:
    """A published tokenizer, such as mT5's, through transformers' AutoTokenizer.

    ``longest`` is the number of tokens that a text is cut to, the end of text included. Raises
    EvaluationError where the tokenizer is not there.
    """

    def __init__(self, name: str | Path, longest: int) -> None:
        from transformers import AutoTokenizer

        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(str(name))
        except (OSError, ValueError, ImportError) as error:
            raise EvaluationError(
                f"the tokenizer of '{name}' cannot be loaded ({str(error).splitlines()[0]}); name "
                "a folder that has it with the setting 'weights' in benchmark.toml"
            ) from error
        end, pad = self._tokenizer.eos_token_id, self._tokenizer.pad_token_id
        if end is None:
            raise EvaluationError(
                f"the tokenizer of '{name}' has no end-of-text token, by which a model stops; set "
                "its 'eos_token' and save it again"
            )
        self.end = int(end)
        # Decoder-only models are mostly published without one; what pads is never looked at.
        self.pad = self.end if pad is None else int(pad)
        first = self._tokenizer.bos_token_id
        empty = self._tokenizer.encode("")
        self.begin: tuple[int, ...] = (int(first),) if first is not None and first in empty else ()
        self.longest: int | None = longest

    @property
    def published(self) -> Any:
        """The tokenizer itself, as transformers has it."""
        return self._tokenizer

    def plain(self, text: str) -> list[int]:
        """The text's ids alone, however many they are."""
        found: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return found

    def encode(self, text: str) -> list[int]:
        """The text's ids, the end-of-text token last."""
        found = self.plain(text)
        return [*(found if self.longest is None else found[: self.longest - 1]), self.end]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids up to the first end of text; special tokens are left out."""
        found = list(ids)
        kept = found[: found.index(self.end)] if self.end in found else found
        text: str = self._tokenizer.decode(kept, skip_special_tokens=True)
        return text

    def pieces(self, text: str) -> list[str]:
        """The text's subword tokens."""
        found: list[str] = self._tokenizer.tokenize(text)
        return found
