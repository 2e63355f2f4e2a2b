"""Adapters as groups: products that are computed part by part, against NumPy."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from gitmerge_eval.checkpoints import lora
from gitmerge_eval.checkpoints.checkpoint import store_array
from gitmerge_eval.checkpoints.chunks import grid
from gitmerge_eval.checkpoints.lfs import ObjectStore
from gitmerge_eval.checkpoints.lora_view import ProductArray, stored_records, view, zero
from gitmerge_eval.checkpoints.metadata import Metadata


def normal(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def whole(array, shape):
    """Put together from its chunks, in odd steps."""
    result = np.full(int(np.prod(shape)), np.nan)
    for chunk in grid(shape):
        steps = array.steps(chunk)
        assert steps[0] == 0
        assert steps[-1] == chunk.size
        out = np.empty(chunk.size)
        cuts = sorted({0, 7, chunk.width + 3, chunk.size // 2, *steps} & set(range(chunk.size + 1)))
        for low, high in pairwise(cuts):
            array.read(chunk, low, high, out[low:high])
        rows = out.reshape(-1, chunk.width)
        for origin, row in zip(chunk.starts, rows, strict=True):
            if origin >= 0:
                result[origin : origin + chunk.run] = row[: chunk.run]
            else:
                assert not row.any()
    return result.reshape(shape)


@pytest.mark.parametrize(
    "shape", [(3, 4), (1500, 1300), (2100, 37), (5, 300_000), (40, 30, 3, 3), (300, 700, 3, 3)]
)
def test_parts_are_those_of_the_whole(shape):
    left, right = normal(shape[0], 2), normal(2, int(np.prod(shape[1:])), seed=1)
    expected = (left.numpy() @ right.numpy()).reshape(shape)
    np.testing.assert_allclose(
        whole(ProductArray(left, right), shape), expected, rtol=1e-12, atol=1e-14
    )


@pytest.fixture
def store(repository):
    return ObjectStore(repository)


def saved(store, tensors):
    records = {n: store_array(n, t.numpy(), store) for n, t in tensors.items()}
    return Metadata(records, {"format": "pt"})


def test_a_view_of_an_adapter(store):
    tensors = {
        "base_model.model.q.lora_A.weight": normal(2, 5).float(),
        "base_model.model.q.lora_B.weight": normal(4, 2, seed=1).float(),
        "base_model.model.wte.lora_embedding_A": normal(2, 9, seed=2).float(),
        "base_model.model.wte.lora_embedding_B": normal(5, 2, seed=3).float(),
        "base_model.model.score.weight": normal(3, seed=4).float(),
    }
    stored = saved(store, tensors)
    settings = {"r": 2, "lora_alpha": 3}
    adapter = lora.read_adapter(stored.groups, stored.header, settings, lambda name: 0.0)
    seen = view(adapter, stored)
    assert set(seen.groups) == {"q.weight", "wte.weight", "base_model.model.score.weight"}
    assert set(stored_records(seen.groups.values())) == set(stored.groups.values())
    for name, left, right, transposed in [
        ("q.weight", "q.lora_B.weight", "q.lora_A.weight", False),
        ("wte.weight", "wte.lora_embedding_B", "wte.lora_embedding_A", True),
    ]:
        record = seen.groups[name]
        b, a = (tensors[f"base_model.model.{part}"].double().numpy() for part in (left, right))
        expected = 1.5 * (b @ a)
        expected = expected.T if transposed else expected
        assert record.shape == expected.shape
        found = whole(ProductArray.of(record, store), record.shape)
        np.testing.assert_allclose(found, expected, rtol=1e-13)
        nothing = zero(record)
        assert not whole(ProductArray.of(nothing, store), record.shape).any()


def test_equal_factors_and_scales_are_equal_groups(store):
    tensors = {"q.lora_A.weight": normal(2, 5).float(), "q.lora_B.weight": normal(4, 2).float()}
    stored = saved(store, tensors)

    def id_of(alpha):
        settings = {"r": 2, "lora_alpha": alpha}
        adapter = lora.read_adapter(stored.groups, {}, settings, lambda name: 0.0)
        return view(adapter, stored).groups["q.weight"].object_id

    assert id_of(2) == id_of(2.0) != id_of(4)
