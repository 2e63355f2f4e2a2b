"""Pearson's r and p against the formulas written out."""

import math
import random

import pytest

from gitmerge_eval.evaluation.correlation import pearson, three_digits


def r_by_hand(pairs):
    n = len(pairs)
    x, y = sum(a for a, _ in pairs) / n, sum(b for _, b in pairs) / n
    across = sum((a - x) * (b - y) for a, b in pairs)
    return across / math.sqrt(
        sum((a - x) ** 2 for a, _ in pairs) * sum((b - y) ** 2 for _, b in pairs)
    )


def p_by_hand(r, n, steps=200_000):
    """Twice the area under Student's density beyond |t|, by Simpson's rule in u = 1/t."""
    v = n - 2
    t = abs(r) * math.sqrt(v / (1 - r * r))
    norm = math.exp(math.lgamma((v + 1) / 2) - math.lgamma(v / 2)) / math.sqrt(v * math.pi)

    def density(u):
        return 0.0 if u == 0 else norm * (1 + 1 / (u * u * v)) ** (-(v + 1) / 2) / (u * u)

    h = 1 / t / steps
    inner = sum((4 if i % 2 else 2) * density(i * h) for i in range(1, steps))
    # At u = 0 the density's limit is that of u^(v-1).
    start = norm * v if v == 1 else 0.0
    return 2 * h / 3 * (start + inner + density(1 / t))


@pytest.mark.parametrize("n", [3, 4, 9, 30])
def test_r_and_p_are_those_of_the_formulas(n):
    draw = random.Random(n)
    pairs = [(x := draw.gauss(50, 10), 0.5 * x + draw.gauss(0, 6)) for _ in range(n)]
    found = pearson(pairs)
    assert found.n == n
    assert found.r == pytest.approx(r_by_hand(pairs), rel=1e-12)
    assert found.p == pytest.approx(p_by_hand(found.r, n), rel=1e-5)


def test_where_there_is_no_correlation_there_is_none():
    assert pearson([(1.0, 2.0), (2.0, 3.0)]) is None
    assert pearson([(1.0, 2.0), (1.0, 3.0), (1.0, 4.0)]) is None
    assert pearson([(1.0, 2.0), (2.0, 2.0), (3.0, 2.0)]) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.5, "0.500"),
        (-0.0123456, "-0.0123"),
        (1.0, "1.00"),
        (1.5e-7, "1.50e-07"),
        (0.9996, "1.00"),
    ],
)
def test_three_significant_digits(value, text):
    assert three_digits(value) == text
