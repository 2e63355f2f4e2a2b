"""A family of option values by shared work: what the separate kernels give, and the formulas."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from method_groups import as_group, as_numpy, defaults, gram_matrices, spread, with_scalars
from test_linear_system_kernels import layer, mats_by_hand, regmean_by_hand
from test_task_vector_kernels import groups_of, random_model, ties_by_hand

from gitmerge_eval import methods
from gitmerge_eval.records import Positions, ScalarNeeded

FAMILIES = [(m.name, name) for m in methods.load().values() for name in m.sweeps]
each_family = pytest.mark.parametrize(("name", "parameter"), FAMILIES)
MORE = {
    ("dare", "scale"): [{"drop_rate": 0.0}, {"drop_rate": 1.0}],
    ("dare", "drop_rate"): [{"scale": 1.0}],
    ("ties", "scale"): [{"density": 1.0}, {"scope": "model"}],
    ("dare-ties", "scale"): [{"drop_rate": 1.0}, {"density": 0.4, "scope": "model"}],
    ("mats", "iterations"): [{"system": "fisher"}, {"init": "average", "precision": "float32"}],
}


def values_of(name, parameter):
    """The paper's sweep, and what lies at the edges of it."""
    declared = {p.name: p for p in methods.get(name).hyperparameters}[parameter]
    edge = {"scale": (0.0, 1.0, 1.7), "drop_rate": (1.0,), "iterations": (0, 1, 1)}
    return tuple(sorted((*declared.sweep, *edge.get(parameter, ()))))


def model(seed, models, dtype, *, tokens=20):
    rng = np.random.default_rng(seed)
    groups = []
    for number, shape in enumerate([(6, 5), (7,), (), (0,), (0, 3)]):
        base, constituents = spread(rng, shape, models)
        constituents[-1] = base if number == 1 else constituents[-1]
        statistics = {"fisher": [rng.random(shape) for _ in range(models)]}
        if len(shape) == 2:
            statistics["gram"] = gram_matrices(rng, shape[1], models, tokens=tokens)
        groups.append(
            as_group(constituents, base, name=f"g{number}", dtype=dtype, statistics=statistics)
        )
    return groups


def both(name, parameter, groups, **given):
    """(swept, separate) outcomes for every group and value."""
    method = methods.get(name)
    values = values_of(name, parameter)
    options = defaults(method, **given)
    for group in with_scalars(method, groups, options):
        swept = [
            replace(outcome, value=outcome.value + 0)
            for outcome in method.sweep(group, options, parameter, values)
        ]
        separate = [method.merge(group, {**options, parameter: value}) for value in values]
        yield from zip(swept, separate, strict=True)


def test_the_papers_hyperparameters_share_their_work():
    assert FAMILIES == [
        ("task-arithmetic", "scale"),
        ("dare", "drop_rate"),
        ("dare", "scale"),
        ("ties", "scale"),
        ("dare-ties", "scale"),
        ("regmean", "off_diagonal"),
        ("mats", "iterations"),
    ]


@each_family
@pytest.mark.parametrize("models", [1, 2, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
def test_equal_to_the_separate_merges(name, parameter, models, dtype):
    exact = name != "regmean"
    for given in ({}, *MORE.get((name, parameter), ())):
        for ours, theirs in both(name, parameter, model(0, models, dtype), **given):
            if exact:
                assert torch.equal(ours.value, theirs.value)
                assert (ours.remarks, ours.figures) == (theirs.remarks, theirs.figures)
            else:
                torch.testing.assert_close(ours.value, theirs.value, rtol=1e-6, atol=1e-12)
                assert ours.remarks == theirs.remarks


@pytest.mark.parametrize("tokens", [2, 5])
def test_regmean_with_fewer_tokens_than_inputs(tokens):
    """Singular for λ = 1: then the very ridge of the separate merge."""
    groups = model(1, 2, torch.float32, tokens=tokens)[:1]
    for ours, theirs in both("regmean", "off_diagonal", groups):
        torch.testing.assert_close(ours.value, theirs.value, rtol=1e-6, atol=1e-9)
        assert ours.remarks == theirs.remarks


@pytest.mark.parametrize(
    ("name", "parameter"), [pair for pair in FAMILIES if methods.get(pair[0]).arrays == "any"]
)
def test_arrays_of_numpy_and_inputs_left_alone(name, parameter):
    method = methods.get(name)
    group, untouched = (as_numpy(model(2, 3, torch.float64)[0]) for _ in "ab")
    options = {**defaults(method), "density": 1.0} if "ties" in name else defaults(method)
    values = values_of(name, parameter)
    swept = [o.value.copy() for o in method.sweep(group, options, parameter, values)]
    for value, found in zip(values, swept, strict=True):
        assert np.array_equal(found, method.merge(group, {**options, parameter: value}).value)
    for now, before in zip(
        (group.base, *group.constituents), (untouched.base, *untouched.constituents), strict=True
    ):
        assert np.array_equal(now, before)


def test_a_tile_asks_for_the_majority_sign_before_the_first_value():
    group = as_group([[1.0, 2.0], [-1.0, 2.0]], [0.0, 0.0])
    tile = replace(group, positions=Positions((0,), 2))
    method = methods.get("ties")
    with pytest.raises(ScalarNeeded):
        next(method.sweep(tile, defaults(method, density=1.0), "scale", (0.1, 0.2)))


SCALES = (0.1, 0.4, 1.0)


def test_task_arithmetic_and_ties_by_their_formulas():
    found = random_model(3, 3)
    for name in ("task-arithmetic", "ties"):
        method = methods.get(name)
        options = defaults(method, **({"density": 0.2} if name == "ties" else {}))
        groups = with_scalars(method, groups_of(found), options)
        swept = [list(method.sweep(group, options, "scale", SCALES)) for group in groups]
        for number, scale in enumerate(SCALES):
            expected = (
                ties_by_hand(found, density=0.2, scale=scale, scope="group")
                if name == "ties"
                else [b + scale * sum(c - b for c in cs) for b, cs in found]
            )
            for outcomes, array in zip(swept, expected, strict=True):
                np.testing.assert_allclose(outcomes[number].value, array, rtol=1e-12)


def test_regmean_and_mats_by_their_formulas():
    base, constituents, grams = layer(4, 3)
    group = as_group(constituents, base, statistics={"gram": grams})
    regmean, mats = methods.get("regmean"), methods.get("mats")
    lambdas = (0.0, 0.5, 1.0)
    swept = regmean.sweep(group, defaults(regmean), "off_diagonal", lambdas)
    for outcome, off_diagonal in zip(swept, lambdas, strict=True):
        expected = regmean_by_hand(constituents, grams, off_diagonal)
        np.testing.assert_allclose(outcome.value, expected, rtol=1e-10, atol=1e-10)
    start = base + 0.4 * sum(c - base for c in constituents)
    steps = (0, 2, 7)
    swept = mats.sweep(group, defaults(mats), "iterations", steps)
    for outcome, count in zip(swept, steps, strict=True):
        expected = mats_by_hand(constituents, grams, start, count)
        np.testing.assert_allclose(outcome.value, expected, rtol=1e-10, atol=1e-10)
