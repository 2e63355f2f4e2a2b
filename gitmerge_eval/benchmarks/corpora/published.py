"""The five tasks of arXiv 2409.18314, Table 1, as examples with prompts."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gitmerge_eval.benchmarks.corpora.reading import Row, rows, share, wic_rows
from gitmerge_eval.benchmarks.texts.examples import Example
from gitmerge_eval.records import Task


@dataclass(frozen=True, eq=False)
class Published:
    """SQuAD with XQuAD, XNLI, WikiLingua, WiC with XL-WiC, and TyDi QA's answerability.

    Where a data set has no public test split, its validation split is tested on, and a share of its
    training split, chosen by the seed, validates; what hangs together (an article, a word) stays
    on one side. WikiLingua, which has one split only, is cut in three. Data sets made for testing
    alone have no examples to train on.
    """

    seed: int
    recipe: Mapping[str, Any]
    folder: Path | None = None
    """Where local copies are; None: the hub."""
    settings: Mapping[str, object] = field(default_factory=dict)

    def corpus(self) -> tuple[str, ...]:
        """Nothing: the base is pretrained."""
        return ()

    def examples(self, task: Task, split: str) -> tuple[Example, ...]:
        """The examples of a cell; empty where the data set has no such split."""
        kind, language = task.skills["task"], task.skills["language"]
        read = {
            "squad": self._squad,
            "xnli": self._xnli,
            "wikilingua": self._wikilingua,
            "wic": self._wic,
            "tydiqa": self._tydiqa,
        }[kind]
        return tuple(read(language, split))

    @functools.lru_cache(maxsize=32)  # noqa: B019 - a source lives as long as its process
    def _rows(self, section: str, language: str, split: str) -> Sequence[Row]:
        if section == "wic":
            return wic_rows(self.folder, language, split)
        return rows(self.folder, self.recipe["data"][section], language, split)

    def _divided(self, section: str, language: str, split: str, key: str) -> list[Row]:
        """A training split cut into training and validation by ``key``; test: validation's rows."""
        if split == "test":
            return list(self._rows(section, language, _VALIDATION.get(section, "validation")))
        limit = float(self.recipe["data"]["validation_share"])
        return [
            row
            for row in self._rows(section, language, "train")
            if (share(self.seed, str(row[key])) < limit) == (split == "validation")
        ]

    def _prompt(self, kind: str, **texts: object) -> str:
        template: str = self.recipe["prompts"][kind]
        return template.format_map(texts)

    def _choice(self, kind: str, right: int, **texts: object) -> Example:
        options = tuple(self.recipe["options"][kind])
        return Example(self._prompt(kind, **texts), (options[right],), options)

    def _squad(self, language: str, split: str) -> list[Example]:
        if language == "en":
            found = self._divided("squad", language, split, "title")
        else:
            found = list(self._rows("xquad", language, "validation")) if split == "test" else []
        return [
            Example(
                self._prompt("squad", question=row["question"], context=row["context"]),
                tuple(dict.fromkeys(row["answers"]["text"])),
            )
            for row in found
        ]

    def _xnli(self, language: str, split: str) -> list[Example]:
        return [
            self._choice("xnli", row["label"], premise=row["premise"], hypothesis=row["hypothesis"])
            for row in self._rows("xnli", language, split)
        ]

    def _wikilingua(self, language: str, split: str) -> list[Example]:
        data = self.recipe["data"]
        test = float(data["test_share"])
        ends = {"test": (0.0, test), "validation": (test, test + float(data["validation_share"]))}
        low, high = ends.get(split, (ends["validation"][1], 1.0))
        return [
            Example(
                self._prompt("wikilingua", document=" ".join(row["article"]["document"])),
                (" ".join(row["article"]["summary"]),),
            )
            for row in self._rows("wikilingua", language, "train")
            if low <= share(self.seed, row["url"]) < high and row["article"]["document"]
        ]

    def _wic(self, language: str, split: str) -> list[Example]:
        if language == "en":
            # The archive has no labels of the English test split.
            found = self._divided("wic", language, split, "word")
        else:
            named = "valid" if split == "validation" else split
            found = list(self._rows("wic", language, named))
        return [
            self._choice(
                "wic",
                int(row["label"]),
                word=row["word"],
                sentence1=row["sentence1"],
                sentence2=row["sentence2"],
            )
            for row in found
        ]

    def _tydiqa(self, language: str, split: str) -> list[Example]:
        name = self.recipe["data"]["tydiqa"]["languages"][language]
        return [
            self._choice(
                "tydiqa",
                int(any(start >= 0 for start in row["annotations"]["answer_start"])),
                question=row["question_text"],
                context=row["document_plaintext"],
            )
            for row in self._divided("tydiqa", language, split, "document_title")
            if row["language"] == name
        ]


_VALIDATION = {"wic": "valid"}
"""What the validation split is called where it is not called that."""
