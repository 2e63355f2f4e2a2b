"""The precision of the linear systems: an option, and what it may cost."""

import numpy as np
import pytest
import torch
from method_groups import as_group, gram_matrices, merge, spread

from gitmerge_eval import methods
from gitmerge_eval.methods import _linear_system as system

SOLVERS = pytest.mark.parametrize("name", ["regmean", "mats"])


def group():
    rng = np.random.default_rng(21)
    base, constituents = spread(rng, (12, 9), 3)
    return as_group(constituents, base, statistics={"gram": gram_matrices(rng, 9, 3)})


@SOLVERS
def test_float32_is_near_float64_and_not_equal(name):
    exact, narrow = (
        merge(methods.get(name), [group()], precision=p)[0].value for p in ("float64", "float32")
    )
    assert not torch.equal(exact, narrow)
    torch.testing.assert_close(narrow, exact, rtol=1e-4, atol=1e-5)


@SOLVERS
def test_tf32_is_float32_on_a_cpu_and_leaves_torch_as_it_was(name):
    before = torch.get_float32_matmul_precision()
    narrow, rounded = (
        merge(methods.get(name), [group()], precision=p)[0].value for p in ("float32", "tf32")
    )
    torch.testing.assert_close(rounded, narrow, rtol=1e-3, atol=1e-4)
    assert torch.get_float32_matmul_precision() == before


def test_the_last_of_several_users_puts_the_setting_back():
    before = torch.get_float32_matmul_precision()
    with system.products("tf32"):
        with system.products("tf32"):
            assert torch.get_float32_matmul_precision() == "high"
        assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == before
