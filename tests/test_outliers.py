"""Forged and broken contributions stand out, and honest ones do not."""

from __future__ import annotations

import numpy as np
import pytest

from gitmerge_eval.inspecting.outliers import marks
from gitmerge_eval.inspecting.reading import sums

SIZE = 20_000


def honest(count: int, seed: int = 0, shared: float = 0.0, size: int = SIZE) -> list[np.ndarray]:
    """Task vectors of unequal norms with pairwise cosines of about ``shared``."""
    generator = np.random.default_rng(seed)
    common = generator.normal(size=size)
    return [
        generator.uniform(0.6, 1.6)
        * (np.sqrt(shared) * common + np.sqrt(1 - shared) * generator.normal(size=size))
        for _ in range(count)
    ]


def marked(vectors) -> dict[str, list[str]]:
    return marks([f"m{i}" for i in range(len(vectors))], sums(vectors))


@pytest.mark.parametrize("shared", [0.0, 0.2, 0.6])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 6, 24])
@pytest.mark.parametrize("size", [64, 128, SIZE])
def test_no_false_alarm_on_honest_ones(count, shared, size):
    for seed in range(3 if size == SIZE else 30):
        assert marked(honest(count, seed, shared, size)) == {}


@pytest.mark.parametrize("count", [3, 4, 6, 24])
def test_a_model_scaled_by_a_hundred_is_marked_and_nobody_else(count):
    vectors = honest(count)
    vectors[1] = 100 * vectors[1]
    found = marked(vectors)
    assert list(found) == ["m1"]
    assert "times the median" in found["m1"][0]
    vectors[1] = vectors[1] / 100 / 100
    found = marked(vectors)
    assert list(found) == ["m1"]
    assert "of the median" in found["m1"][0]


def test_of_two_it_cannot_be_told_which():
    first, second = honest(2)
    found = marked([first, 100 * second])
    assert set(found) == {"m0", "m1"}
    assert "which of two is off cannot be told" in found["m0"][0]
    assert marked([first, 3 * second]) == {}


@pytest.mark.parametrize("count", [3, 4, 6, 24])
def test_a_negated_task_vector_is_marked_where_the_others_agree(count):
    vectors = honest(count, shared=0.5)
    vectors[2] = -vectors[2]
    found = marked(vectors)
    assert list(found) == ["m2"]
    assert found["m2"][0].startswith("cosine -0.")
    # Where honest ones have nothing in common the negation of one is as good as any other.
    vectors = honest(count, shared=0.0)
    vectors[2] = -vectors[2]
    assert marked(vectors) == {}


@pytest.mark.parametrize("count", [3, 4, 6])
def test_noise_in_the_place_of_a_layer_is_marked(count):
    vectors = honest(count, shared=0.7)
    weights = 30 * np.random.default_rng(9).normal(size=SIZE)
    vectors[0] = weights - vectors[0]
    found = marked(vectors)
    assert list(found) == ["m0"]
    assert len(found["m0"]) == 2  # too long, and not where the others go


def test_equal_and_opposite_ones_name_each_other():
    first, second, third = honest(3)
    assert marked([first, second, first]) == {"m0": ["equals 'm2'"], "m2": ["equals 'm0'"]}
    assert marked([first, second, 2 * first]) == {
        "m0": ["has the direction of 'm2' (cosine 1.000)"],
        "m2": ["has the direction of 'm0' (cosine 1.000)"],
    }
    assert marked([first, -first])["m0"] == ["opposes 'm1' (cosine -1.000)"]
    assert marked([first, second, third + 0.5 * first]) == {}


def test_what_is_not_finite_is_counted_and_spoils_nothing():
    vectors = honest(3)
    expected = sums(vectors).norms
    vectors[1][:3] = [np.nan, np.inf, -np.inf]
    found = sums(vectors)
    assert found.norms[[0, 2]] == pytest.approx(expected[[0, 2]])
    assert np.isfinite(found.products).all()
    assert marked(vectors) == {"m1": ["3 elements are not finite"]}


def test_one_that_did_not_move_is_no_outlier():
    vectors = honest(4)
    vectors[0] = np.zeros(SIZE)
    assert marked(vectors) == {}
    assert marked([np.zeros(4)] * 3) == {}


def test_the_rule_without_its_floor_would_cry_wolf():
    """What goes wrong with the plain modified z-score over three: the MAD is next to nothing."""
    norms = np.log([1.0, 1.01, 1.3])
    deviation = np.abs(norms - np.median(norms))
    assert 0.6745 * deviation[2] / np.median(deviation) > 3.5
    vectors = [factor * vector / np.linalg.norm(vector)
               for factor, vector in zip((1.0, 1.01, 1.3), honest(3), strict=True)]  # fmt: skip
    assert marked(vectors) == {}
