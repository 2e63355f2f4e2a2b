"""Metrics of text: accuracy, SQuAD's exact match and F1, ROUGE on subword tokens. Plain Python."""

from __future__ import annotations

import itertools
import re
import string
from collections import Counter
from collections.abc import Callable, Hashable, Sequence

ACCURACY = "accuracy"
EXACT_MATCH_AND_F1 = "exact match and F1"
SP_ROUGE = "SP-ROUGE"
METRICS = (ACCURACY, EXACT_MATCH_AND_F1, SP_ROUGE)
"""What a task's ``metric`` may be."""
Pieces = Callable[[str], Sequence[str]]
"""A text's subword tokens."""
_ARTICLES = re.compile(r"\b(a|an|the)\b", re.UNICODE)


def squad_normalised(text: str) -> str:
    """Lower case, without ASCII punctuation, English articles and superfluous white space.

    As SQuAD's own script does it (Rajpurkar et al. 2016); XQuAD uses the same in every language.

    >>> squad_normalised("The  Nile,  in Africa.")
    'nile in africa'
    """
    plain = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(_ARTICLES.sub(" ", plain).split())


def exact_match(prediction: str, targets: Sequence[str]) -> float:
    """1 where the normalised texts are equal for some target, else 0."""
    return float(any(squad_normalised(prediction) == squad_normalised(t) for t in targets))


def token_f1(prediction: str, targets: Sequence[str]) -> float:
    """F1 of the bags of words of the normalised texts; the best over the targets.

    1 where both are empty, as in the script of SQuAD 2.0.
    """
    found = squad_normalised(prediction).split()
    wanted = [squad_normalised(target).split() for target in targets]
    return max(_f1(found, words) if found or words else 1.0 for words in wanted)


def exact_match_and_f1(prediction: str, targets: Sequence[str]) -> float:
    """The mean of :func:`exact_match` and :func:`token_f1` (arXiv 2409.18314, section 4)."""
    return (exact_match(prediction, targets) + token_f1(prediction, targets)) / 2


def sp_rouge(prediction: str, targets: Sequence[str], pieces: Pieces) -> float:
    """The mean F1 of ROUGE-1, ROUGE-2 and ROUGE-L on subword tokens; each the best over targets.

    Subwords make it independent of the language: no words have to be told apart (SP-ROUGE, Vu et
    al. 2022, arXiv 2205.12647, after Lin 2004).
    """
    found = pieces(prediction)
    wanted = [pieces(target) for target in targets]
    return (
        max(_f1(found, tokens) for tokens in wanted)
        + max(_f1(_pairs(found), _pairs(tokens)) for tokens in wanted)
        + max(_longest_f1(found, tokens) for tokens in wanted)
    ) / 3


def _f1(found: Sequence[Hashable], wanted: Sequence[Hashable]) -> float:
    return _harmonic((Counter(found) & Counter(wanted)).total(), len(found), len(wanted))


def _harmonic(shared: int, found: int, wanted: int) -> float:
    if not shared:
        return 0.0
    precision, recall = shared / found, shared / wanted
    return 2 * precision * recall / (precision + recall)


def _pairs(tokens: Sequence[str]) -> list[tuple[str, str]]:
    return list(itertools.pairwise(tokens))


def _longest_f1(found: Sequence[str], wanted: Sequence[str]) -> float:
    # One row of the table of longest common subsequences at a time: summaries are long.
    row = [0] * (len(wanted) + 1)
    for token in found:
        diagonal = 0
        for column, other in enumerate(wanted, 1):
            above = row[column]
            row[column] = diagonal + 1 if token == other else max(above, row[column - 1])
            diagonal = above
    return _harmonic(row[-1], len(found), len(wanted))
