"""Trimming against a full sort."""

import pytest
import torch

from gitmerge_eval.statistics import trimmed


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
    assert trimmed.kth_largest_magnitude(lambda: iter(tensors), k) == by_sorting(tensors, k)


def test_selection_with_ties_zeros_and_subnormals():
    tensors = [torch.tensor([0.0, -0.0, 1e-44, -3.0, 3.0, 3.0])]
    found = [trimmed.kth_largest_magnitude(lambda: iter(tensors), k) for k in range(1, 7)]
    assert found == sorted(tensors[0].abs().tolist(), reverse=True)


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
