"""The paper's Table 3 (arXiv 2409.18314), every row, as integers."""

import math

import pytest

from gitmerge_eval import methods
from gitmerge_eval.records import LayerShape

SIZES = pytest.mark.parametrize(
    ("d", "k", "M"), [(1, 1, 1), (4, 3, 2), (768, 768, 3), (768, 3072, 6), (4096, 11008, 30)]
)
T = 12_345


def merging(name, d, k, M, **given):  # noqa: N803  (the table's letters)
    method = methods.get(name)
    options = method.options({key.replace("_", "-"): str(v) for key, v in given.items()})
    return method.merging_flops(LayerShape(d, k, M), options)


def statistics(name, d, k, M, **given):  # noqa: N803
    method = methods.get(name)
    options = method.options({key.replace("_", "-"): str(v) for key, v in given.items()})
    return method.statistics_flops(LayerShape(d, k, M), T, options)


@SIZES
def test_merging(d, k, M):  # noqa: N803
    dk, ddk = d * k, d * d * k
    assert merging("average", d, k, M) == M * dk
    assert merging("task-arithmetic", d, k, M) == (2 * M + 1) * dk
    assert merging("dare", d, k, M) == (6 * M + 1) * dk
    assert merging("ties", d, k, M) == (4 * M + 1) * dk
    assert merging("dare-ties", d, k, M) == (8 * M + 1) * dk
    assert merging("fisher", d, k, M) == (3 * M - 1) * dk
    assert merging("regmean", d, k, M) == (M + 2) * ddk + (3 * M - 2) * dk
    for N in (0, 10, 100):  # noqa: N806
        expected = (M + N) * ddk + (2 * M + 5 * N - 2) * dk
        assert merging("mats", d, k, M, iterations=N) == expected
        expected = (3 * M + 6 * N - 2) * dk
        assert merging("mats", d, k, M, iterations=N, system="fisher") == expected


@SIZES
def test_statistics(d, k, M):  # noqa: N803
    ddk = d * d * k
    for name in ("average", "slerp", "task-arithmetic", "dare", "dare-ties"):
        assert statistics(name, d, k, M) == 0
    assert statistics("fisher", d, k, M) == 4 * M * T * ddk
    assert statistics("regmean", d, k, M) == M * T * ddk
    assert statistics("mats", d, k, M) == 4 * M * T * ddk
    for K in (1, 20, 100):  # noqa: N806
        expected = M * K * d * k + math.floor(M * d * k * math.log(K))
        assert statistics("ties", d, k, M, density=K / 100) == expected


def test_slerp_and_mlerp():
    size = 768 * 768
    assert merging("slerp", 768, 768, 2) == 8 * size + math.floor(3 * math.log(size))
    expected = 15 * size + math.floor(7 * math.log(size)) + math.floor(math.log(6))
    assert merging("slerp", 768, 768, 6) == expected
    assert merging("slerp", 768, 768, 1) == 3 * size + math.floor(2 * math.log(size))


def test_written_out():
    assert merging("slerp", 768, 768, 2) == 4_718_631
    assert merging("slerp", 768, 768, 3) == 9 * 589_824 + 53 + 1
    assert merging("mats", 768, 768, 2, iterations=20) == 10_025_828_352
    assert statistics("ties", 768, 768, 2) == 27_126_869


def test_dare_ties_trims_only_below_full_density():
    assert statistics("dare-ties", 10, 10, 2, density=0.2) == statistics("ties", 10, 10, 2)


def test_odd_densities_are_not_rounded():
    assert statistics("ties", 100, 100, 1, density=0.07) == 70_000 + math.floor(1e4 * math.log(7))
    expected = (
        2_500 + 0
    )  # half a percent of 10⁴ elements in 50 constituents; ln 0.5 < 0 is left out
    assert statistics("ties", 10, 10, 50, density=0.005) == expected


@pytest.mark.parametrize("name", list(methods.load()))
def test_costs_are_whole_and_positive(name):
    for d, k, M in [(1, 1, 1), (0, 5, 2), (3, 4, 1)]:  # noqa: N806
        cost = merging(name, d, k, M)
        assert type(cost) is int
        assert cost >= 0
        assert type(statistics(name, d, k, M)) is int
