"""The streamed selection of the k-th largest magnitude, against NumPy on the concatenation."""

import numpy as np
import pytest
import torch
from method_groups import as_group

from gitmerge_eval.methods._task_vectors import task_vector
from gitmerge_eval.methods._trimming import trim_thresholds
from gitmerge_eval.statistics import trimmed


def by_partition(vectors, density):
    """The k-th largest |τ| with k = max(1, floor(density · n))."""
    magnitudes = np.abs(np.concatenate([v.ravel() for v in vectors]))
    k = max(1, int(np.floor(density * magnitudes.size)))
    return float(np.partition(magnitudes, magnitudes.size - k)[magnitudes.size - k])


def thresholds(groups, density, passes=None):
    def stream(function):
        if passes is not None:
            passes.append(1)
        return map(function, groups)

    return trim_thresholds(stream, len(groups[0].constituents), density, task_vector)


def random_groups(rng, dtype, make, models=3):
    groups = []
    for number, shape in enumerate([(30, 20), (17,), (), (0,), (300, 1000)]):
        base = rng.standard_normal(shape) if dtype == torch.float64 else np.zeros(shape)
        moved = [base + make(shape) for _ in range(models)]
        groups.append(as_group(moved, base, name=str(number), dtype=dtype))
    return groups


@pytest.mark.parametrize("density", [1e-9, 0.001, 0.2, 0.5, 0.999, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
def test_random_values(dtype, density):
    rng = np.random.default_rng(0)
    groups = random_groups(rng, dtype, rng.standard_normal)
    expected = tuple(
        by_partition([task_vector(g, i).numpy() for g in groups], density) for i in range(3)
    )
    assert thresholds(groups, density) == expected


@pytest.mark.parametrize("density", [0.01, 0.2, 0.9])
def test_many_equal_values(density):
    rng = np.random.default_rng(1)
    groups = random_groups(rng, torch.float32, lambda s: rng.integers(-3, 4, s) / 4)
    expected = tuple(
        by_partition([task_vector(g, i).numpy() for g in groups], density) for i in range(3)
    )
    assert thresholds(groups, density) == expected


@pytest.mark.parametrize("density", [0.1, 0.5, 0.9])
def test_values_of_all_magnitudes(density):
    rng = np.random.default_rng(2)

    def make(shape):
        return rng.choice([-1, 1], shape) * 10.0 ** rng.uniform(-45, 38, shape)

    groups = random_groups(rng, torch.float32, make)
    expected = tuple(
        by_partition([task_vector(g, i).numpy() for g in groups], density) for i in range(3)
    )
    assert thresholds(groups, density) == expected


def test_two_passes():
    rng = np.random.default_rng(3)
    for dtype in (torch.float32, torch.float64):
        passes = []
        thresholds(random_groups(rng, dtype, rng.standard_normal), 0.2, passes)
        assert len(passes) == 2


@pytest.mark.parametrize(("collected", "passes32", "passes64"), [(0, 2, 4), (50, 2, 3)])
@pytest.mark.parametrize("density", [0.01, 0.2, 0.9])
def test_where_a_bin_is_too_full_to_collect(monkeypatch, collected, passes32, passes64, density):
    monkeypatch.setattr(trimmed, "_COLLECTED", collected)
    rng = np.random.default_rng(7)
    for dtype, count in [(torch.float32, passes32), (torch.float64, passes64)]:
        groups, passes = random_groups(rng, dtype, rng.standard_normal), []
        expected = tuple(
            by_partition([task_vector(g, i).numpy() for g in groups], density) for i in range(3)
        )
        assert thresholds(groups, density, passes) == expected
        assert len(passes) == count


def test_neighbouring_float64_values():
    values = 1 + np.arange(100) * 2.0**-52
    group = as_group([values], np.zeros(100))
    assert thresholds([group], 0.37) == (values[63],)


def test_mixed_dtypes():
    rng = np.random.default_rng(4)
    wide, narrow = rng.standard_normal(101), np.float32(rng.standard_normal(202))
    groups = [
        as_group([narrow], np.zeros(202), dtype=torch.float32),
        as_group([wide], np.zeros(101)),
    ]
    assert thresholds(groups, 0.3) == (by_partition([wide, narrow.astype(np.float64)], 0.3),)


def test_only_groups_that_the_constituent_changed_count():
    rng = np.random.default_rng(5)
    base, moved = rng.standard_normal(100), rng.standard_normal(100)
    untouched = rng.standard_normal(900)
    groups = [
        as_group([moved, base], base, name="a"),
        as_group([untouched, untouched + 1e-3 * rng.standard_normal(900)], untouched, name="b"),
    ]
    assert thresholds(groups, 0.2)[0] == by_partition([moved - base], 0.2)


def test_a_constituent_that_changed_nothing():
    group = as_group([[1.0, 2.0], [0.0, 0.0]], [0.0, 0.0])
    assert thresholds([group], 0.5) == (2.0, 0.0)


def test_a_single_element():
    assert thresholds([as_group([3.0], 1.0)], 0.2) == (2.0,)


def test_larger_than_a_block():
    rng = np.random.default_rng(6)
    values = np.float32(rng.standard_normal(600_000))
    group = as_group([values], np.zeros(600_000), dtype=torch.float32)
    assert thresholds([group], 0.2) == (by_partition([values], 0.2),)
