"""TIES where votes are even: the majority sign is that of the whole group, across its tiles."""

import numpy as np
import pytest
import torch
from models import ModelRepository

SHAPE = (700, 600)
"""More than three tiles."""


def whole_numbers(seed, lowest=-2):
    rng = np.random.default_rng(seed)
    return {
        "even.weight": torch.tensor(rng.integers(lowest, 3, SHAPE), dtype=torch.float32),
        "one.weight": torch.full((3, 4), float(seed)),
    }


def elected(vectors):
    sign = np.sign(sum(vectors))
    assert (sign == 0).any()
    sign = np.where(sign == 0, np.sign(sign.sum()), sign)
    agreeing = [np.where((np.sign(v) == sign) & (v != 0), v, 0) for v in vectors]
    return sum(agreeing) / np.maximum(sum(a != 0 for a in agreeing), 1)


@pytest.mark.parametrize("method", ["ties", "dare-ties"])
def test_even_votes_take_the_sign_of_the_groups_majority(tmp_path, method):
    base = {name: torch.zeros_like(tensor) for name, tensor in whole_numbers(1).items()}
    made = ModelRepository(tmp_path / "model", base)
    models = {"one": whole_numbers(1), "two": whole_numbers(2, lowest=-3)}
    for name, tensors in models.items():
        made.branch(name, tensors)
    option = "-Xdensity=1" if method == "ties" else "-Xdrop-rate=0"
    made.merge(f"-Xmethod={method}", option, "one", "two")
    expected = elected([tensors["even.weight"].numpy() for tensors in models.values()])
    np.testing.assert_array_equal(made.tensors()["even.weight"].numpy(), expected)
    np.testing.assert_array_equal(made.tensors()["one.weight"].numpy(), 1.5)
