"""average and slerp against formulas written out in NumPy."""

import math

import numpy as np
import pytest
import torch
from method_groups import as_group, merge, spread

from gitmerge_eval import methods
from gitmerge_eval.errors import InvalidOption
from gitmerge_eval.methods._sums import inner_product

average, slerp = methods.get("average"), methods.get("slerp")


@pytest.mark.parametrize("models", [1, 2, 3, 6])
def test_average_to_one_rounding(models):
    _, constituents = spread(np.random.default_rng(0), (50, 40), models)
    narrow = [np.float32(c) for c in constituents]
    group = as_group(narrow, dtype=torch.float32)
    exact = np.mean(np.stack(narrow).astype(np.float64), axis=0)
    merged = merge(average, [group])[0].value.numpy()
    # The differences from the first constituent are rounded, too: two units of the largest value.
    assert np.all(np.abs(merged - exact) <= 2 * np.spacing(np.max(np.abs(narrow), axis=0)))


def test_average_is_correctly_rounded_when_accumulated_in_float64():
    _, constituents = spread(np.random.default_rng(1), (50, 40), 6)
    narrow = [np.float32(c) for c in constituents]
    exact = np.mean(np.stack(narrow).astype(np.longdouble), axis=0)
    merged = merge(average, [as_group(narrow)])[0].value.float().numpy()
    # A sixth of a float32 sum lies half-way between two float32 often: then either is right.
    assert np.all(np.abs(merged - exact) <= 0.5000001 * np.spacing(np.abs(merged)))


def test_weights_are_normalised():
    rng = np.random.default_rng(2)
    _, constituents = spread(rng, (5, 4), 3, distance=3.0)
    weights = (2.0, 0.0, 6.0)
    merged = merge(average, [as_group(constituents)], weights=weights)[0].value
    expected = sum(w / 8 * c for w, c in zip(weights, constituents, strict=True))
    np.testing.assert_allclose(merged, expected, rtol=1e-14)


def test_a_single_weight_returns_its_constituent():
    group = as_group([[1e10, 2.0], [0.1, 0.3]], dtype=torch.float32)
    assert torch.equal(merge(average, [group], weights=(0, 5))[0].value, group.constituents[1])


@pytest.mark.parametrize(
    ("weights", "message"), [((0, 0), "only zeros"), ((1,), "1 numbers for 2")]
)
@pytest.mark.parametrize("name", ["average", "fisher"])
def test_bad_weights(name, weights, message):
    with pytest.raises(InvalidOption, match=message):
        merge(methods.get(name), [as_group([[1.0], [2.0]])], weights=weights)


def slerp_by_hand(a, b, t):
    """Shoemake's formula with the angle between the flattened vectors (through atan2)."""
    u, v = a.ravel() / np.linalg.norm(a), b.ravel() / np.linalg.norm(b)
    angle = 2 * math.atan2(np.linalg.norm(u - v), np.linalg.norm(u + v))
    return (math.sin((1 - t) * angle) * a + math.sin(t * angle) * b) / math.sin(angle)


@pytest.mark.parametrize("t", [0.0, 0.25, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("distance", [1e-3, 0.1, 5.0])
def test_slerp_of_two(t, distance):
    _, (a, b) = spread(np.random.default_rng(3), (9, 7), 2, distance=distance)
    merged = merge(slerp, [as_group([a, b])], t=t)[0]
    np.testing.assert_allclose(merged.value, slerp_by_hand(a, b, t), rtol=1e-9, atol=1e-12)
    assert merged.remarks == ()


def test_slerp_keeps_a_common_norm():
    rng = np.random.default_rng(4)
    a, b = (v / np.linalg.norm(v) for v in rng.standard_normal((2, 100)))
    merged = merge(slerp, [as_group([a, b])], t=0.3)[0].value
    assert np.linalg.norm(merged) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("t", [0.0, 1.0])
def test_slerp_ends_are_the_constituents(t):
    _, constituents = spread(np.random.default_rng(5), (9, 7), 2, distance=2.0)
    group = as_group(constituents, dtype=torch.float32)
    assert torch.equal(merge(slerp, [group], t=t)[0].value, group.constituents[int(t)])


def test_slerp_half_way_does_not_depend_on_the_order():
    _, (a, b) = spread(np.random.default_rng(6), (9, 7), 2)
    one, other = (as_group(pair, dtype=torch.float32) for pair in ([a, b], [b, a]))
    assert torch.equal(merge(slerp, [one])[0].value, merge(slerp, [other])[0].value)


def test_slerp_of_parallel_vectors_is_linear():
    a = np.random.default_rng(7).standard_normal(20)
    merged = merge(slerp, [as_group([a, 3 * a])], t=0.25)[0]
    np.testing.assert_allclose(merged.value, 1.5 * a, rtol=1e-14)
    assert merged.remarks == ()


def test_slerp_of_opposite_vectors_is_linear_and_said():
    a = np.random.default_rng(8).standard_normal(20)
    merged = merge(slerp, [as_group([a, -3 * a])], t=0.5)[0]
    np.testing.assert_allclose(merged.value, -a, rtol=1e-14)
    assert "opposite directions" in merged.remarks[0]


def test_slerp_with_a_zero_vector_is_linear():
    a = np.random.default_rng(9).standard_normal(20)
    np.testing.assert_allclose(merge(slerp, [as_group([a, 0 * a])], t=0.25)[0].value, 0.75 * a)


def test_mlerp_restores_the_largest_norm():
    _, constituents = spread(np.random.default_rng(10), (9, 7), 4, distance=2.0)
    constituents[2] *= 3
    mean = np.mean(constituents, axis=0)
    norm = max(map(np.linalg.norm, constituents))
    merged = merge(slerp, [as_group(constituents)])[0].value
    np.testing.assert_allclose(merged, mean / np.linalg.norm(mean) * norm, rtol=1e-12)


def test_mlerp_of_vectors_that_cancel_is_said():
    a, b = np.random.default_rng(11).standard_normal((2, 20))
    merged = merge(slerp, [as_group([a, b, -a - b])])[0]
    assert float(merged.value.abs().max()) < 1e-15
    assert merged.remarks == ("the constituents cancel: averaged",)


def test_t_is_refused_for_more_than_two():
    with pytest.raises(InvalidOption, match="there are 3"):
        merge(slerp, [as_group([[1.0], [2.0], [3.0]])], t=0.3)


@pytest.mark.parametrize("models", [2, 4])
def test_model_scope_is_slerp_of_the_concatenation(models):
    rng = np.random.default_rng(12)
    parts = [spread(rng, shape, models, distance=1.5)[1] for shape in [(4, 3), (5,), ()]]
    whole = [np.concatenate([p[i].ravel() for p in parts]) for i in range(models)]
    merged = merge(slerp, [as_group(p) for p in parts], scope="model")
    joint = merge(slerp, [as_group(whole)])[0].value
    flat = torch.cat([outcome.value.reshape(-1) for outcome in merged])
    torch.testing.assert_close(flat, joint, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 1000, (1 << 18) - 1, (1 << 18) + 1, 700_001])
def test_inner_product(size):
    a, b = np.random.default_rng(13).standard_normal((2, size))
    exact = math.fsum(x * y for x, y in zip(a.tolist(), b.tolist(), strict=True))
    found = float(inner_product(torch.tensor(a), torch.tensor(b)))
    assert found == pytest.approx(exact, abs=1e-13 * max(1, size))
