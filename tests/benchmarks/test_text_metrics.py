"""Metrics of text against the published implementations, as packaged."""

import random

import pytest
from rouge_score.rouge_scorer import RougeScorer
from torchmetrics.functional.text import squad

from gitmerge_eval.benchmarks.texts import metrics

ANSWERS = [
    ("the Nile", ["Nile", "the river Nile"]),
    ("The  river, Nile!", ["Nile"]),
    ("a", ["the"]),
    ("", ["nothing"]),
    ("1990", ["in 1990", "1990"]),
    ("النيل الأزرق", ["النيل"]),
    ("der blaue Nil.", ["Der Blaue Nil"]),
    ("แม่น้ำไนล์", ["แม่น้ำ ไนล์"]),
    ("north north", ["north south"]),
    ("completely wrong", ["Nile"]),
]


class Spelled:
    """What rouge-score wants of a tokenizer, here one of subwords: pairs of characters."""

    def tokenize(self, text):
        return [text[i : i + 2] for i in range(0, len(text), 2)]


def made_up(seed, count):
    draw = random.Random(seed)
    for _ in range(count):
        alphabet = draw.choice(["ab ", "กขค", "가나다 라"])
        texts = ["".join(draw.choices(alphabet, k=draw.randrange(0, 25))) for _ in range(4)]
        yield texts[0], texts[1 : 2 + draw.randrange(3)]


@pytest.mark.parametrize(("prediction", "targets"), ANSWERS)
def test_exact_match_and_f1_are_squads(prediction, targets):
    published = squad(
        {"prediction_text": prediction, "id": "1"},
        {"answers": {"answer_start": [0] * len(targets), "text": targets}, "id": "1"},
    )
    assert 100 * metrics.exact_match(prediction, targets) == float(published["exact_match"])
    assert 100 * metrics.token_f1(prediction, targets) == pytest.approx(float(published["f1"]))
    mean = (float(published["exact_match"]) + float(published["f1"])) / 200
    assert metrics.exact_match_and_f1(prediction, targets) == pytest.approx(mean)


@pytest.mark.parametrize(("prediction", "targets"), [*made_up(0, 40), *ANSWERS])
def test_sp_rouge_is_rouge_scores_on_the_same_tokens(prediction, targets):
    tokenizer = Spelled()
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], tokenizer=tokenizer)
    best = scorer.score_multi(targets, prediction)
    expected = sum(score.fmeasure for score in best.values()) / 3
    found = metrics.sp_rouge(prediction, targets, tokenizer.tokenize)
    assert found == pytest.approx(expected, abs=1e-12)


def test_the_made_up_texts_are_worth_comparing():
    scores = [metrics.sp_rouge(p, t, Spelled().tokenize) for p, t in made_up(0, 40)]
    assert len({round(score, 6) for score in scores}) > 10
    assert metrics.sp_rouge("same", ["other", "same"], Spelled().tokenize) == 1.0
    assert metrics.sp_rouge("", [""], Spelled().tokenize) == 0.0
