"""task-arithmetic, dare, ties and dare-ties against brute force in NumPy."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from method_groups import as_group, merge, spread

from gitmerge_eval import methods
from gitmerge_eval.errors import MissingBase
from gitmerge_eval.methods._random import kept
from gitmerge_eval.records import Positions, ScalarNeeded

task_arithmetic, dare = methods.get("task-arithmetic"), methods.get("dare")
ties, dare_ties = methods.get("ties"), methods.get("dare-ties")
SHAPES = [(12, 10), (31,), (), (4, 3, 2, 2)]


def random_model(seed, models, distance=0.1):
    rng = np.random.default_rng(seed)
    return [spread(rng, shape, models, distance=distance) for shape in SHAPES]


def groups_of(model, dtype=torch.float64):
    return [as_group(c, b, name=str(i), dtype=dtype) for i, (b, c) in enumerate(model)]


def compare(outcomes, expected, **tolerance):
    for outcome, array in zip(outcomes, expected, strict=True):
        np.testing.assert_allclose(outcome.value, array, **({"rtol": 1e-12} | tolerance))


@pytest.mark.parametrize("models", [1, 2, 3, 6])
@pytest.mark.parametrize("scale", [0.0, 0.3, 1.0, 1.7, -1.0])
def test_task_arithmetic(models, scale):
    model = random_model(0, models)
    expected = [b + scale * sum(c - b for c in cs) for b, cs in model]
    compare(merge(task_arithmetic, groups_of(model), scale=scale), expected)


def test_one_change_at_scale_one_is_taken_exactly():
    rng = np.random.default_rng(1)
    base, moved = rng.standard_normal((2, 1000))
    group = as_group([base, moved, base], base * 1, dtype=torch.float32)
    assert torch.equal(merge(task_arithmetic, [group], scale=1.0)[0].value, group.constituents[1])


@pytest.mark.parametrize("method", [task_arithmetic, dare, ties, dare_ties])
def test_a_missing_base_is_named(method):
    group = as_group([[1.0], [2.0]], name="head.bias")
    with pytest.raises(MissingBase, match=r"'head\.bias'"):
        method.merge(
            group,
            {p.name: p.default for p in method.hyperparameters} | {"density": 1.0}
            if method in (ties, dare_ties)
            else {p.name: p.default for p in method.hyperparameters},
        )


def masks_of(group, rate, seed):
    return [
        kept(t, rate, (seed, group.name, identity)).numpy()
        for t, identity in zip(group.constituents, group.identities, strict=True)
    ]


@pytest.mark.parametrize("models", [1, 2, 3, 6])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dare(models, rate):
    model = random_model(2, models)
    groups = groups_of(model)
    expected = [
        b
        + 0.7 * sum(m * (c - b) / (1 - rate) for m, c in zip(masks_of(g, rate, 5), cs, strict=True))
        for g, (b, cs) in zip(groups, model, strict=True)
    ]
    compare(merge(dare, groups, scale=0.7, drop_rate=rate, seed=5), expected)


def test_dare_without_dropping_is_task_arithmetic():
    groups = groups_of(random_model(3, 3), torch.float32)
    one = merge(dare, groups, scale=0.3, drop_rate=0.0)
    other = merge(task_arithmetic, groups, scale=0.3)
    assert all(torch.equal(a.value, b.value) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("method", [dare, dare_ties])
def test_dropping_everything_gives_the_base(method):
    groups = groups_of(random_model(4, 3), torch.float32)
    for group, outcome in zip(groups, merge(method, groups, drop_rate=1.0), strict=True):
        assert torch.equal(outcome.value, group.base)


def test_seed_zero_is_a_seed():
    base, constituents = spread(np.random.default_rng(5), (100, 100), 2)
    group = as_group(constituents, base)
    zero, again, one = (merge(dare, [group], seed=seed)[0].value for seed in (0, 0, 1))
    assert torch.equal(zero, again)
    assert not torch.equal(zero, one)


def test_dare_keeps_the_expected_sum():
    base = np.zeros(200_000)
    group = as_group([base + 1.0], base)
    merged = merge(dare, [group], scale=1.0, drop_rate=0.9)[0].value
    assert float(merged.mean()) == pytest.approx(1, abs=0.04)


def ties_by_hand(model, *, density, scale, scope, vectors=None):
    """TIES on whole-model vectors, in the steps of the original code: keep the top k, resolve
    signs, majority for zeros, disjoint mean."""
    models = len(model[0][1])
    sizes = [b.size for b, _ in model]
    flat = np.stack(
        [
            np.concatenate([(cs[i] - b).ravel() for b, cs in model]) if vectors is None
            else np.concatenate([v[i].ravel() for v in vectors])
            for i in range(models)
        ]
    )  # fmt: skip
    k = max(1, int(np.floor(density * flat.shape[1])))
    for row in flat:
        row[np.abs(row) < np.sort(np.abs(row))[-k]] = 0
    signs = np.sign(flat.sum(axis=0))
    pieces = np.split(signs, np.cumsum(sizes)[:-1]) if scope == "group" else [signs]
    signs = np.concatenate([np.where(p == 0, np.sign(p.sum()), p) for p in pieces])
    agree = (np.sign(flat) == signs) & (flat != 0)
    mean = (flat * agree).sum(axis=0) / np.maximum(agree.sum(axis=0), 1)
    parts = np.split(mean, np.cumsum(sizes)[:-1])
    return [b + scale * p.reshape(b.shape) for (b, _), p in zip(model, parts, strict=True)]


@pytest.mark.parametrize("models", [1, 2, 3, 6])
@pytest.mark.parametrize("density", [0.001, 0.2, 0.63, 1.0])
@pytest.mark.parametrize("scope", ["group", "model"])
def test_ties(models, density, scope):
    model = random_model(6, models)
    expected = ties_by_hand(model, density=density, scale=0.8, scope=scope)
    compare(merge(ties, groups_of(model), density=density, scale=0.8, scope=scope), expected)


@pytest.mark.parametrize("scope", ["group", "model"])
@pytest.mark.parametrize("density", [0.2, 0.5, 1.0])
def test_ties_of_small_integers(density, scope):
    # Whole numbers: sums of exactly zero and values at the threshold are common.
    rng = np.random.default_rng(7)
    model = []
    for shape in SHAPES:
        base = rng.integers(-5, 6, shape).astype(float)
        model.append((base, [base + rng.integers(-2, 3, shape) for _ in range(4)]))
    # A constituent equal to the base somewhere would leave the count: see test_trimming.
    assert all(np.any(c != b) for b, cs in model[:2] for c in cs)
    model = [(b, [c if np.any(c != b) else c + 1 for c in cs]) for b, cs in model]
    expected = ties_by_hand(model, density=density, scale=1.0, scope=scope)
    compare(merge(ties, groups_of(model), density=density, scope=scope), expected, atol=1e-12)


def test_values_at_the_threshold_are_kept():
    group = as_group([[1.0, 1.0, 1.0, 0.5]], [0.0] * 4)
    assert merge(ties, [group], density=0.25)[0].value.tolist() == [1, 1, 1, 0]


def test_majority_sign_settles_zero_sums():
    signs = [[1.0, 2.0, 3.0, -1.0], [-1.0, 2.0, 1.0, -1.0]]
    merged = merge(ties, [as_group(signs, [0.0] * 4)], density=1.0)[0].value
    assert merged.tolist() == [1, 2, 2, -1]


def test_an_even_majority_elects_nobody():
    merged = merge(ties, [as_group([[1.0, 2.0, -2.0], [-1.0, 2.0, -2.0]], [0.0] * 3)], density=1.0)
    assert merged[0].value.tolist() == [0, 2, -2]


def test_majority_of_the_group_or_of_the_model():
    first = as_group([[1.0, 2.0], [-1.0, 2.0]], [0.0] * 2, name="a")
    second = as_group([[-1.0] * 3, [-1.0] * 3], [0.0] * 3, name="b")
    for scope, expected in [("group", 1.0), ("model", -1.0)]:
        merged = merge(ties, [first, second], density=1.0, scope=scope)[0].value
        assert merged.tolist() == [expected, 2.0]


def test_precomputed_trimmed_vectors_are_used():
    base, constituents = spread(np.random.default_rng(8), (5, 4), 3)
    trimmed = [np.where(np.abs(c - base) > 0.1, c - base, 0) for c in constituents]
    group = as_group(constituents, base, statistics={"trimmed": trimmed})
    expected = ties_by_hand([(base, constituents)], density=1.0, scale=1.0, scope="group",
                            vectors=[trimmed])  # fmt: skip
    np.testing.assert_allclose(ties.kernel(group), expected[0], rtol=1e-12)


@pytest.mark.parametrize("density", [0.3, 1.0])
@pytest.mark.parametrize("scope", ["group", "model"])
def test_dare_ties(density, scope):
    model = random_model(9, 4)
    groups = groups_of(model)
    thinned = [
        [m * (c - b) / (1 - 0.4) for m, c in zip(masks_of(g, 0.4, 2), cs, strict=True)]
        for g, (b, cs) in zip(groups, model, strict=True)
    ]
    options = {"density": density, "scale": 0.9, "scope": scope}
    expected = ties_by_hand(model, vectors=thinned, **options)
    compare(merge(dare_ties, groups, drop_rate=0.4, seed=2, **options), expected)


def test_dare_ties_without_dropping_is_ties():
    groups = groups_of(random_model(10, 3), torch.float32)
    one = merge(dare_ties, groups, drop_rate=0.0, density=0.2)
    other = merge(ties, groups, density=0.2)
    assert all(torch.equal(a.value, b.value) for a, b in zip(one, other, strict=True))


def test_a_tile_asks_for_the_majority_sign_only_where_votes_are_even():
    even = as_group([[1.0, 2.0, 0.0], [-1.0, 2.0, 0.0]], [0.0] * 3)
    tile = replace(even, positions=Positions((0,), 3))
    with pytest.raises(ScalarNeeded, match="majority_sign"):
        ties.kernel(tile, density=1.0)
    told = replace(tile, scalars={"majority_sign": (1.0,)})
    assert ties.kernel(told, density=1.0).tolist() == [1, 2, 0]
    # Zeros alone have no sign to settle.
    uneven = as_group([[1.0, 2.0, 0.0], [1.0, 2.0, 0.0]], [0.0] * 3)
    assert ties.kernel(replace(uneven, positions=Positions((0,), 3)), density=1.0).tolist() == [
        1,
        2,
        0,
    ]
