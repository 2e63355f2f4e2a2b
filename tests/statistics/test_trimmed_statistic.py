"""Trimming against a full sort."""

from dataclasses import replace
from itertools import starmap

import pytest
import torch

from gitmerge_eval.methods._task_vectors import task_vector
from gitmerge_eval.methods._trimming import TRIM_THRESHOLD, trim_thresholds
from gitmerge_eval.methods._trimming import trimmed as trimmed_by_ties
from gitmerge_eval.records import ParameterGroup
from gitmerge_eval.statistics import trimmed


def kth_largest(tensors, k):
    """The threshold at the density that keeps k elements."""
    elements = sum(tensor.numel() for tensor in tensors)
    density = min(1.0, (k + 0.5) / elements)
    (found,) = trimmed.thresholds(lambda f: (f(0, tensor) for tensor in tensors), 1, density)
    return found


def by_sorting(tensors, k):
    return (
        torch.cat([t.flatten().abs() for t in tensors]).sort(descending=True).values[k - 1].item()
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("k", [1, 2, 17, 499, 500])
def test_selection_equals_sorting(dtype, k):
    generator = torch.Generator().manual_seed(k)
    tensors = [
        torch.randn(20, 20, generator=generator, dtype=dtype)
        * 10.0 ** torch.randint(-6, 3, (20, 1)),
        torch.randn(100, generator=generator, dtype=dtype),
    ]
    assert kth_largest(tensors, k) == by_sorting(tensors, k)


def test_selection_with_ties_zeros_and_subnormals():
    tensors = [torch.tensor([0.0, -0.0, 1e-44, -3.0, 3.0, 3.0])]
    found = [kth_largest(tensors, k) for k in range(1, 7)]
    assert found == sorted(tensors[0].abs().tolist(), reverse=True)


def test_constituents_are_counted_apart_and_their_vectors_left_alone():
    vectors = [
        (2, torch.tensor([-4.0, 1.0], dtype=torch.float64)),
        (0, torch.tensor([-2.0, 5.0, 3.0, -1.0], dtype=torch.float64)),
        (2, torch.tensor([[3.0], [-2.0]], dtype=torch.float64)),
    ]
    before = [vector.clone() for _, vector in vectors]
    assert trimmed.thresholds(lambda f: starmap(f, vectors), 3, 0.5) == (3.0, 0.0, 3.0)
    assert all(torch.equal(v, b) for (_, v), b in zip(vectors, before, strict=True))


def pairs():
    base = {
        "same": torch.full((100,), 7.0),
        "matrix": torch.zeros(2, 4),
        "vector": torch.zeros(2, dtype=torch.bfloat16),
        "count": torch.tensor(3),
    }
    changed = {
        "same": base["same"].clone(),
        "matrix": torch.tensor([[0.1, -5.0, 0.2, 4.0], [0.3, 2.0, -2.0, 0.0]]),
        "vector": torch.tensor([3.0, -0.5], dtype=torch.bfloat16),
        "count": torch.tensor(900),
    }
    return lambda: ((name, base[name], changed[name]) for name in base)


def test_density_counts_changed_floating_point_groups_only():
    # ten elements differ or lie in a changed group: density 0.3 keeps 3 of them
    cut = trimmed.trim(pairs(), 0.3)
    assert set(cut) == {"matrix", "vector"}
    assert cut["matrix"].tolist() == [[0, -5, 0, 4], [0, 0, 0, 0]]
    assert cut["vector"].tolist() == [3, 0]
    assert cut["vector"].dtype == torch.float32


def test_ties_at_the_threshold_all_stay():
    cut = trimmed.trim(pairs(), 0.4)
    assert cut["matrix"].tolist() == [[0, -5, 0, 4], [0, 2, -2, 0]]


def test_at_least_one_element_stays():
    cut = trimmed.trim(pairs(), 0.0)
    assert sum(int(t.count_nonzero()) for t in cut.values()) == 1


def test_a_constituent_equal_to_the_base_has_no_task_vector():
    tensor = torch.ones(3)
    assert trimmed.trim(lambda: iter([("a", tensor, tensor.clone())]), 0.2) == {}


def test_float8_is_stored_as_float32():
    base = torch.zeros(4).to(torch.float8_e4m3fn)
    own = torch.tensor([0.5, -2.0, 1.0, 0.25]).to(torch.float8_e4m3fn)
    cut = trimmed.trim(lambda: iter([("a", base, own)]), 0.5)["a"]
    assert cut.dtype == torch.float32
    assert cut.tolist() == [0, -2, 1, 0]


def test_what_only_float64_tells_apart_is_not_a_tie():
    base = torch.tensor([2.0**-30, 2.0**-31])
    cut = trimmed.trim(lambda: iter([("a", base, torch.ones(2))]), 0.5)["a"]
    assert cut.dtype == torch.float32
    assert cut.tolist() == [0, 1]


@pytest.mark.parametrize("density", [0.01, 0.2, 0.7])
def test_the_elements_that_stay_are_those_that_ties_keeps_without_the_statistic(density):
    generator = torch.Generator().manual_seed(3)
    base, own = {}, {}
    for name, shape in [("matrix", (40, 50)), ("vector", (300,)), ("same", (70,))]:
        # Few values of θ and many of θ_p beneath their resolution: ties in float32, not in float64.
        base[name] = 1e-8 * torch.randn(shape, generator=generator)
        steps = torch.randint(-4, 5, shape, generator=generator)
        own[name] = base[name].clone() if name == "same" else steps.float()
    groups = [
        ParameterGroup(
            name=name,
            constituents=(own[name].double(),),
            identities=("0",),
            changed=(name != "same",),
            base=base[name].double(),
        )
        for name in base
    ]
    scalars = {TRIM_THRESHOLD: trim_thresholds(lambda f: map(f, groups), 1, density, task_vector)}
    cut = trimmed.trim(lambda: ((n, base[n], own[n]) for n in base), density)
    assert cut.keys() == {"matrix", "vector"}
    for group in groups[:2]:
        (expected,) = trimmed_by_ties(replace(group, scalars=scalars), task_vector)
        assert torch.equal(cut[group.name], expected.float())
    kept = sum(int(tensor.count_nonzero()) for tensor in cut.values())
    assert kept == int(density * 2300)  # no ties: those of float32 would stay
