"""fisher, regmean and mats against NumPy and SciPy in float64."""

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse.linalg
import torch
from method_groups import as_group, defaults, gram_matrices, merge, spread

from gitmerge_eval import methods
from gitmerge_eval.errors import PrerequisiteError, SingularGram, StaleStatistic

fisher, regmean, mats = (methods.get(name) for name in ("fisher", "regmean", "mats"))
MODELS = pytest.mark.parametrize("models", [2, 3, 6])


def layer(seed, models, *, inputs=12, outputs=7, distance=0.1):
    rng = np.random.default_rng(seed)
    base, constituents = spread(rng, (outputs, inputs), models, distance=distance)
    return base, constituents, gram_matrices(rng, inputs, models)


@MODELS
@pytest.mark.parametrize("weights", [None, "given"])
def test_fisher(models, weights):
    rng = np.random.default_rng(0)
    _, constituents = spread(rng, (8, 6), models, distance=1.0)
    fishers = [rng.random((8, 6)) ** 4 for _ in constituents]
    w = np.ones(models) if weights is None else rng.random(models) + 0.1
    expected = sum(map(np.multiply, w[:, None, None] * fishers, constituents)) / sum(
        w[:, None, None] * fishers
    )
    group = as_group(constituents, statistics={"fisher": fishers})
    merged = merge(fisher, [group], weights=None if weights is None else tuple(w))[0]
    np.testing.assert_allclose(merged.value, expected, rtol=1e-11)
    assert merged.figures == {"zero_fisher": 0}


def test_fisher_of_zero_is_averaged_and_counted():
    constituents = np.array([[1.0, 5.0, 2.0], [3.0, 1.0, 4.0]])
    fishers = [[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    merged = merge(fisher, [as_group(constituents, statistics={"fisher": fishers})])[0]
    assert merged.value.tolist() == [2, 5, 3]
    assert merged.figures == {"zero_fisher": 2}


def test_tiny_fishers_do_not_vanish():
    fishers = [[2.8e-45, 3e-39, 1e38], [1.4e-45, 1e-39, 3e38]]
    group = as_group([[3.0, 4.0, 0.0], [0.0, 0.0, 4.0]], dtype=torch.float32,
                     statistics={"fisher": fishers})  # fmt: skip
    merged = merge(fisher, [group])[0].value
    np.testing.assert_allclose(merged, [2.0, 3.0, 3.0], rtol=1e-5)


@pytest.mark.parametrize("method", [fisher, regmean, mats])
def test_without_statistic_averaged_and_said(method):
    base, constituents = spread(np.random.default_rng(1), (9,), 3)
    merged = merge(method, [as_group(constituents, base)])[0]
    np.testing.assert_allclose(merged.value, np.mean(constituents, axis=0), rtol=1e-14)
    assert merged.remarks[0].endswith(": averaged")


def regmean_by_hand(constituents, grams, off_diagonal):
    """scipy.linalg.solve on the normal equations, for weights (out, in)."""
    scaled = [off_diagonal * g + (1 - off_diagonal) * np.diag(np.diag(g)) for g in grams]
    right = sum(g @ w.T for g, w in zip(scaled, constituents, strict=True))
    return scipy.linalg.solve(sum(scaled), right, assume_a="sym").T


@MODELS
@pytest.mark.parametrize("off_diagonal", [0.0, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
def test_regmean(models, off_diagonal, dtype):
    _, constituents, grams = layer(2, models, distance=1.0)
    group = as_group(constituents, statistics={"gram": grams}, dtype=dtype)
    merged = merge(regmean, [group], off_diagonal=off_diagonal)[0]
    expected = regmean_by_hand(constituents, grams, off_diagonal)
    tolerance = 1e-10 if dtype == torch.float64 else 2e-5
    np.testing.assert_allclose(merged.value, expected, rtol=tolerance, atol=tolerance)
    assert merged.remarks == ()


def test_regmean_minimises_the_distance_of_the_outputs():
    rng = np.random.default_rng(3)
    _, constituents = spread(rng, (4, 6), 3, distance=1.0)
    data = [rng.standard_normal((50, 6)) for _ in constituents]
    grams = [z.T @ z / len(z) for z in data]
    merged = merge(regmean, [as_group(constituents, statistics={"gram": grams})], off_diagonal=1.0)
    stacked = np.concatenate(data)
    outputs = np.concatenate([z @ w.T for z, w in zip(data, constituents, strict=True)])
    expected = np.linalg.lstsq(stacked, outputs, rcond=None)[0].T
    np.testing.assert_allclose(merged[0].value, expected, rtol=1e-10)


@pytest.mark.parametrize("method", [regmean, mats])
def test_input_axis(method):
    base, constituents, grams = layer(4, 3)
    plain = as_group(constituents, base, statistics={"gram": grams})
    turned = as_group([c.T for c in constituents], base.T, statistics={"gram": grams}, input_axis=0)
    one, other = merge(method, [plain, turned])
    torch.testing.assert_close(one.value.T, other.value)


@pytest.mark.parametrize("method", [regmean, mats])
def test_convolutions_are_matrices_of_patches(method):
    base, constituents, grams = layer(5, 3)
    flat = as_group(constituents, base, statistics={"gram": grams})
    kernels = [c.reshape(7, 3, 2, 2) for c in constituents]
    shaped = as_group(kernels, base.reshape(7, 3, 2, 2), statistics={"gram": grams})
    one, other = merge(method, [flat, shaped])
    assert other.value.shape == (7, 3, 2, 2)
    torch.testing.assert_close(one.value, other.value.reshape(7, 12))


def test_a_dead_input_keeps_the_average():
    _, constituents, grams = layer(6, 3)
    for gram in grams:
        gram[4, :] = gram[:, 4] = 0
    merged = merge(regmean, [as_group(constituents, statistics={"gram": grams})], off_diagonal=1.0)
    alive = [i for i in range(12) if i != 4]
    expected = regmean_by_hand(
        [c[:, alive] for c in constituents], [g[np.ix_(alive, alive)] for g in grams], 1.0
    )
    value = merged[0].value.numpy()
    np.testing.assert_allclose(value[:, 4], np.mean(constituents, axis=0)[:, 4], rtol=1e-12)
    np.testing.assert_allclose(value[:, alive], expected, rtol=1e-9)
    assert merged[0].remarks[0].startswith("singular Gram matrices: ridge of 1e-15")
    assert merged[0].figures == {"ridge": 1e-15}


@pytest.mark.parametrize("tokens", [1, 5, 11])
def test_fewer_tokens_than_inputs_in_float32(tokens):
    # Rounded to float32 the null space of ΣG is noise of both signs: the merged outputs on the
    # data must still be those of the minimum-norm correction of the average.
    rng = np.random.default_rng(7)
    _, constituents = spread(rng, (4, 40), 2)
    data = [rng.standard_normal((tokens, 40)) for _ in constituents]
    grams = [np.float32(z.T @ z / tokens) for z in data]
    group = as_group(constituents, statistics={"gram": grams}, dtype=torch.float32)
    merged = merge(regmean, [group], off_diagonal=1.0)[0]
    mean = np.mean(constituents, axis=0)
    stacked = np.concatenate(data)
    wanted = np.concatenate([z @ (w - mean).T for z, w in zip(data, constituents, strict=True)])
    correction = np.linalg.lstsq(stacked, wanted, rcond=None)[0].T
    found = merged.value.double().numpy() - mean
    scale = np.abs(stacked @ correction.T).max()
    assert np.abs(stacked @ (found - correction).T).max() < 0.02 * scale
    assert np.linalg.norm(found) < 3 * np.linalg.norm(correction)
    assert "ridge of" in merged.remarks[0]


@pytest.mark.parametrize("bad", [np.nan, -1.0])
def test_hopeless_gram_matrices_are_refused(bad):
    group = as_group(
        [[[1.0, 2.0]], [[2.0, 1.0]]],
        name="fc.weight",
        statistics={"gram": [np.diag([1.0, bad]), np.diag([1.0, bad])]},
    )
    with pytest.raises(SingularGram, match=r"'fc\.weight'.*recompute"):
        merge(regmean, [group])


def test_gram_matrices_of_zero_are_said():
    group = as_group([[[1.0, 2.0]], [[3.0, 4.0]]], statistics={"gram": [np.zeros((2, 2))] * 2})
    merged = merge(regmean, [group])[0]
    assert merged.value.tolist() == [[2, 3]]
    assert merged.remarks == ("the Gram matrices are zero: averaged",)


@pytest.mark.parametrize("method", [regmean, mats])
def test_gram_matrices_of_another_layer_are_refused(method):
    base, constituents, _ = layer(8, 2)
    group = as_group(constituents, base, statistics={"gram": [np.eye(5)] * 2})
    with pytest.raises(StaleStatistic, match=r"is 5×5 and the layer has 12 inputs"):
        merge(method, [group])


def cg_by_hand(apply, right, start, steps):
    """The textbook's conjugate gradient on a flat vector."""
    x = start.copy()
    r = right - apply(x)
    p = r.copy()
    for _ in range(steps):
        image = apply(p)
        alpha = (r @ r) / (p @ image)
        x = x + alpha * p
        left = r - alpha * image
        p = left + (left @ left) / (r @ r) * p
        r = left
    return x


def mats_by_hand(constituents, grams, start, steps, solver=cg_by_hand):
    """One system for the whole matrix, as in the original: weights (out, in)."""
    matrix = sum(grams)
    right = sum(g @ w.T for g, w in zip(grams, constituents, strict=True))
    shape = right.shape
    found = solver(
        lambda v: (matrix @ v.reshape(shape)).ravel(), right.ravel(), start.T.ravel(), steps
    )
    return found.reshape(shape).T


def scipy_cg(apply, right, start, steps):
    size = right.size
    operator = scipy.sparse.linalg.LinearOperator((size, size), matvec=apply)
    return scipy.sparse.linalg.cg(operator, right, x0=start, maxiter=steps, rtol=0, atol=0)[0]


@MODELS
@pytest.mark.parametrize("steps", [0, 1, 5, 10])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
def test_mats(models, steps, dtype):
    base, constituents, grams = layer(9, models)
    group = as_group(constituents, base, statistics={"gram": grams}, dtype=dtype)
    merged = merge(mats, [group], iterations=steps, init_scale=0.3)[0]
    start = base + 0.3 * sum(c - base for c in constituents)
    tolerance = 1e-10 if dtype == torch.float64 else 2e-5
    for solver in (cg_by_hand, scipy_cg):
        expected = mats_by_hand(constituents, grams, start, steps, solver)
        np.testing.assert_allclose(merged.value, expected, rtol=tolerance, atol=tolerance)
    matrix, right = sum(grams), sum(map(np.matmul, grams, [c.T for c in constituents]))
    for figure, weight in [("initial_residual", start), ("relative_residual", expected)]:
        exact = np.linalg.norm(right - matrix @ weight.T) / np.linalg.norm(right)
        assert merged.figures[figure] == pytest.approx(exact, rel=1e-3, abs=1e-7)


@pytest.mark.parametrize("init", ["average", "release-1"])
def test_mats_from_another_start(init):
    base, constituents, grams = layer(10, 3)
    other = np.random.default_rng(0).standard_normal(base.shape)
    start = np.mean(constituents, axis=0) if init == "average" else other
    group = as_group(constituents, statistics={"gram": grams}, references={"init": other})
    merged = merge(mats, [group], init=init, iterations=4)[0].value
    np.testing.assert_allclose(merged, mats_by_hand(constituents, grams, start, 4), rtol=1e-9)


def test_mats_start_revision_without_the_group():
    _, constituents, grams = layer(11, 2)
    group = as_group(constituents, name="new.weight", statistics={"gram": grams})
    with pytest.raises(PrerequisiteError, match=r"'release-1'.*'new\.weight'"):
        merge(mats, [group], init="release-1")


def test_many_steps_converge_to_regmean_and_stay():
    base, constituents, grams = layer(12, 3)
    one, other = (
        merge(mats, [as_group(constituents, base, statistics={"gram": grams})], iterations=steps)
        for steps in (200, 1000)
    )
    assert torch.equal(one[0].value, other[0].value)
    group = as_group(constituents, base, statistics={"gram": grams})
    exact = regmean_by_hand(constituents, grams, 1.0)
    merged = merge(mats, [group], iterations=200)[0]
    np.testing.assert_allclose(merged.value, exact, rtol=1e-5, atol=1e-6)
    assert merged.figures["relative_residual"] < 1e-7


def test_a_start_at_the_solution_stays():
    base, constituents, grams = layer(13, 2)
    group = as_group([constituents[0]] * 2, base, statistics={"gram": grams},
                     references={"init": constituents[0]})  # fmt: skip
    merged = merge(mats, [group], init="v1", iterations=50)[0]
    assert torch.equal(merged.value, group.constituents[0])
    assert merged.figures["relative_residual"] == 0


def test_singular_systems_stay_finite():
    rng = np.random.default_rng(14)
    base, constituents = spread(rng, (4, 40), 2)
    grams = gram_matrices(rng, 40, 2, tokens=5)
    for dtype in (torch.float32, torch.float64):
        group = as_group(constituents, base, statistics={"gram": grams}, dtype=dtype)
        merged = merge(mats, [group], iterations=100)[0]
        assert bool(merged.value.isfinite().all())
        assert float((merged.value - group.base).norm()) < 3 * float(
            (group.constituents[0] - group.base).norm()
        )


@pytest.mark.parametrize("steps", [1, 4])
def test_mats_with_fishers(steps):
    rng = np.random.default_rng(15)
    base, constituents = spread(rng, (5, 4), 3)
    fishers = [rng.random((5, 4)) for _ in constituents]
    group = as_group(constituents, base, statistics={"fisher": fishers})
    merged = merge(mats, [group], system="fisher", iterations=steps, init="average")[0].value
    start = np.mean(constituents, axis=0).ravel()
    diagonal = sum(fishers).ravel()
    right = sum(map(np.multiply, fishers, constituents)).ravel()
    expected = cg_by_hand(lambda v: diagonal * v, right, start, steps)
    np.testing.assert_allclose(merged.reshape(-1), expected, rtol=1e-11)


def test_mats_with_fishers_converges_to_fisher_merging():
    rng = np.random.default_rng(16)
    base, constituents = spread(rng, (5, 4), 3)
    fishers = [rng.random((5, 4)) + 0.1 for _ in constituents]
    group = as_group(constituents, base, statistics={"fisher": fishers})
    torch.testing.assert_close(
        merge(mats, [group], system="fisher", iterations=100)[0].value,
        merge(fisher, [group])[0].value,
    )


def test_which_system():
    base, constituents, grams = layer(17, 2)
    fishers = [np.ones_like(base)] * 2
    both = as_group(constituents, base, statistics={"gram": grams, "fisher": fishers})
    one = as_group(constituents, base, statistics={"fisher": fishers})
    options = defaults(mats)
    by_gram = mats.merge(both, options | {"system": "gram"}).value
    by_fisher = mats.merge(both, options | {"system": "fisher"}).value
    assert not torch.allclose(by_gram, by_fisher)
    assert torch.equal(mats.merge(both, options).value, by_gram)
    assert torch.equal(mats.merge(both, options | {"system": "both"}).value, by_gram)
    assert torch.equal(mats.merge(one, options | {"system": "both"}).value, by_fisher)
    assert mats.merge(one, options | {"system": "gram"}).remarks == ("no Gram matrix: averaged",)
