"""ΔW = s·B·A and back, against NumPy in float64."""

import numpy as np
import pytest
import torch

from gitmerge_eval.checkpoints.lora_factors import factor, product
from gitmerge_eval.errors import InvalidOption, NumericalError


def normal(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def again(found, scale=1.0):
    up, down = found.up.double().flatten(1).numpy(), found.down.double().flatten(1).numpy()
    return scale * up @ down


def test_products_of_all_kinds():
    a, b = normal(3, 7), normal(5, 3, seed=1)
    np.testing.assert_allclose(product(a, b, 0.5), 0.5 * b.numpy() @ a.numpy(), rtol=1e-14)
    embedding = product(a, b, 2.0, embedding=True)
    np.testing.assert_allclose(embedding, 2 * (b.numpy() @ a.numpy()).T, rtol=1e-14)
    a, b = normal(3, 4, 3, 3), normal(5, 3, 1, 1, seed=1)
    expected = np.einsum("or,rikl->oikl", b.numpy()[:, :, 0, 0], a.numpy())
    np.testing.assert_allclose(product(a, b, 1.0), expected, rtol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_products_are_of_the_stored_values(dtype):
    a, b = normal(3, 7).to(dtype), normal(5, 3).to(dtype)
    expected = b.double().numpy() @ a.double().numpy()
    np.testing.assert_allclose(product(a, b, 1.0), expected, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("spanned", [False, True])
@pytest.mark.parametrize("shape", [(40, 30), (30, 40), (24, 3, 3, 3)])
def test_the_exact_rank_is_found_and_nothing_lost(shape, spanned):
    ups = [normal(shape[0], r, *(1,) * (len(shape) - 2), seed=r) for r in (2, 3)]
    downs = [normal(r, *shape[1:], seed=10 + r) for r in (2, 3)]
    delta = sum(product(a, b, 0.7) for a, b in zip(downs, ups, strict=True))
    found = factor(delta, None, "float64", spans=ups if spanned else ())
    assert (found.rank, found.exact_rank, found.error) == (5, 5, 0.0)
    assert found.down.shape == (5, *shape[1:])
    assert found.up.shape == (shape[0], 5, *(1,) * (len(shape) - 2))
    np.testing.assert_allclose(again(found), delta.flatten(1), rtol=1e-11, atol=1e-12)


def test_spans_change_nothing():
    up = normal(64, 4)
    delta = product(normal(4, 50, seed=1), up, 1.0)
    one, two = factor(delta, None, "float64"), factor(delta, None, "float64", spans=[up])
    torch.testing.assert_close(one.up, two.up, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(one.down, two.down, rtol=1e-9, atol=1e-10)


def test_spans_that_do_not_span_are_noticed():
    delta = normal(64, 50)
    found = factor(delta, None, "float64", spans=[normal(64, 4, seed=9)])
    assert found.rank == 50
    np.testing.assert_allclose(again(found), delta, rtol=1e-9, atol=1e-10)


def test_a_cut_is_the_best_and_says_what_it_costs():
    delta = normal(20, 12)
    found = factor(delta, 5, "float64")
    left, values, right = np.linalg.svd(delta.numpy(), full_matrices=False)
    np.testing.assert_allclose(again(found), (left[:, :5] * values[:5]) @ right[:5], atol=1e-12)
    error = np.sqrt((values[5:] ** 2).sum() / (values**2).sum())
    assert (found.rank, found.exact_rank) == (5, 12)
    assert found.error == pytest.approx(error, rel=1e-12)


@pytest.mark.parametrize("shape", [(60, 40), (40, 60), (50, 50)])
def test_a_deep_cut_is_as_good(shape):
    delta = normal(*shape)
    found = factor(delta, 6, "float32")
    left, values, right = np.linalg.svd(delta.numpy(), full_matrices=False)
    best = (left[:, :6] * values[:6]) @ right[:6]
    np.testing.assert_allclose(again(found), best, atol=2e-6)
    assert (found.rank, found.exact_rank) == (6, min(shape))
    error = np.sqrt((values[6:] ** 2).sum() / (values**2).sum())
    assert found.error == pytest.approx(error, rel=1e-9)
    torch.testing.assert_close(found.up.norm(dim=0), found.down.norm(dim=1))
    assert not again(factor(torch.zeros(shape), 2, "float32")).any()


def test_factors_are_balanced_and_take_the_scale():
    delta = product(normal(3, 9), normal(8, 3, seed=1), 1.0)
    found = factor(delta, None, "float64", scale=lambda rank: rank**0.5)
    np.testing.assert_allclose(again(found, 3**0.5), delta, atol=1e-12)
    torch.testing.assert_close(found.up.norm(dim=0), found.down.norm(dim=1))


def test_signs_do_not_depend_on_the_sign_of_the_decomposition():
    delta = normal(6, 6)
    found, opposite = factor(delta, None, "float64"), factor(-delta, None, "float64")
    assert (found.up.gather(0, found.up.abs().argmax(0, keepdim=True)) > 0).all()
    torch.testing.assert_close(found.up, opposite.up, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.down, -opposite.down, rtol=1e-9, atol=1e-9)


def test_nothing_at_all_has_rank_one():
    found = factor(torch.zeros(4, 3), None, "float32", spans=[torch.zeros(4, 1)])
    assert (found.rank, found.error) == (1, 0.0)
    assert not again(found).any()


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 2e-2), ("float16", 2e-3)])
def test_half_precision_factors_lose_their_rounding_only(dtype, tolerance):
    delta = product(normal(4, 90), normal(80, 4, seed=1), 1.0)
    found = factor(delta, None, dtype)
    assert found.up.dtype == getattr(torch, dtype)
    error = np.linalg.norm(again(found) - delta.numpy()) / np.linalg.norm(delta.numpy())
    assert found.rank == 4
    assert 0 < error < tolerance


def test_an_embeddings_factors_are_of_the_transposed():
    a, b = normal(2, 30), normal(6, 2, seed=1)
    found = factor(product(a, b, 1.0, embedding=True), None, "float64", spans=[b], embedding=True)
    assert (found.down.shape, found.up.shape) == ((2, 30), (6, 2))
    np.testing.assert_allclose(again(found), b.numpy() @ a.numpy(), atol=1e-12)


def test_what_cannot_be():
    with pytest.raises(InvalidOption, match="rank"):
        factor(normal(3, 3), 0, "float32")
    with pytest.raises(NumericalError, match="do not fit float16"):
        factor(1e12 * normal(3, 3), None, "float16")
