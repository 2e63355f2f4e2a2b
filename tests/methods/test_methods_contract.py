"""What every merge method promises, over all of them."""

import itertools
import os

import numpy as np
import pytest
import torch
from method_groups import as_group, defaults, gram_matrices, merge, spread

from gitmerge_eval import methods

NAMES = list(methods.load())
METHODS = pytest.mark.parametrize("name", NAMES)
MODELS = pytest.mark.parametrize("models", [1, 2, 3, 6])
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
OPTIONS = {
    "average": [{}],
    "slerp": [{}, {"scope": "model"}],
    "task-arithmetic": [{}, {"scale": 1.0}],
    "dare": [{}, {"drop_rate": 0.0}, {"drop_rate": 0.9, "seed": 3}],
    "ties": [{}, {"density": 1.0}, {"scope": "model", "scale": 0.7}],
    "dare-ties": [{}, {"density": 0.3, "scope": "model"}],
    "fisher": [{}],
    "regmean": [{}, {"off_diagonal": 0.0}, {"off_diagonal": 1.0}],
    "mats": [{}, {"init": "average"}, {"system": "fisher"}, {"init": "v1"}],
}
CASES = pytest.mark.parametrize(
    ("name", "given"),
    [(name, given) for name in NAMES for given in OPTIONS[name]],
    ids=lambda value: value if isinstance(value, str) else str(value),
)


def model(seed, models, dtype, *, equal_to_base=False):
    """Groups of several shapes: a layer with all statistics, a vector, a number, nothing."""
    rng = np.random.default_rng(seed)
    groups = []
    for number, shape in enumerate([(6, 5), (7,), (), (0,), (1, 1), (0, 3), (3, 0)]):
        base, constituents = spread(rng, shape, models)
        if equal_to_base:
            constituents = [base] * models
        statistics = {"fisher": [rng.random(shape) for _ in range(models)]}
        if len(shape) == 2:
            statistics["gram"] = gram_matrices(rng, shape[1], models, tokens=20)
        groups.append(
            as_group(
                constituents,
                base,
                name=f"group{number}",
                dtype=dtype,
                statistics=statistics,
                references={"init": base},
            )
        )
    return groups


@CASES
@MODELS
@DTYPES
def test_shape_dtype_and_finiteness(name, given, models, dtype):
    groups = model(0, models, dtype)
    for group, outcome in zip(groups, merge(methods.get(name), groups, **given), strict=True):
        assert outcome.value.shape == group.constituents[0].shape
        assert outcome.value.dtype == dtype
        assert bool(outcome.value.isfinite().all())
        assert all(np.isfinite(figure) for figure in outcome.figures.values())


@CASES
@MODELS
def test_inputs_stay_as_they_are(name, given, models):
    groups, untouched = model(1, models, torch.float32), model(1, models, torch.float32)
    merge(methods.get(name), groups, **given)
    merge(methods.get(name), groups, **given)
    for group, copy in zip(groups, untouched, strict=True):
        tensors = [*group.constituents, group.base, *group.references.values()]
        copies = [*copy.constituents, copy.base, *copy.references.values()]
        for kind in group.statistics:
            tensors += group.statistics[kind]
            copies += copy.statistics[kind]
        assert all(map(torch.equal, tensors, copies))


@CASES
def test_the_same_twice(name, given):
    first, second = (merge(methods.get(name), model(2, 3, torch.float32), **given) for _ in "ab")
    assert all(torch.equal(a.value, b.value) for a, b in zip(first, second, strict=True))


@CASES
def test_order_of_constituents_does_not_matter(name, given):
    groups = model(3, 3, torch.float64)
    expected = merge(methods.get(name), groups, **given)
    for order in itertools.permutations(range(3)):
        shuffled = [
            as_group(
                [g.constituents[i] for i in order],
                g.base,
                name=g.name,
                identities=tuple(g.identities[i] for i in order),
                statistics={k: [s[i] for i in order] for k, s in g.statistics.items()},
                references=g.references,
            )
            for g in groups
        ]
        for a, b in zip(merge(methods.get(name), shuffled, **given), expected, strict=True):
            torch.testing.assert_close(a.value, b.value, rtol=1e-9, atol=1e-12)


@CASES
@MODELS
@DTYPES
def test_constituents_equal_to_the_base_give_the_base(name, given, models, dtype):
    groups = model(4, models, dtype, equal_to_base=True)
    for group, outcome in zip(groups, merge(methods.get(name), groups, **given), strict=True):
        assert torch.equal(outcome.value.float(), group.base.float())


@pytest.mark.parametrize(
    ("name", "given"),
    [
        *((n, g) for n in ("average", "slerp", "fisher", "regmean", "mats") for g in OPTIONS[n]),
        ("task-arithmetic", {"scale": 1.0}),
        ("dare", {"scale": 1.0, "drop_rate": 0.0}),
    ],
    ids=str,
)
@DTYPES
def test_one_constituent_is_returned(name, given, dtype):
    groups = model(5, 1, dtype)
    for group, outcome in zip(groups, merge(methods.get(name), groups, **given), strict=True):
        assert torch.equal(outcome.value, group.constituents[0])


@METHODS
def test_zero_tensors(name):
    group = as_group([np.zeros((4, 3))] * 3, np.zeros((4, 3)), dtype=torch.float32)
    statistics = {"fisher": [np.zeros((4, 3))] * 3, "gram": [np.zeros((3, 3))] * 3}
    bare = as_group([np.zeros((4, 3))] * 3, np.zeros((4, 3)), statistics=statistics)
    for outcome in merge(methods.get(name), [group, bare]):
        assert not outcome.value.any()


@METHODS
def test_no_global_random_state(name):
    torch.manual_seed(0)
    state = torch.random.get_rng_state()
    merge(methods.get(name), model(6, 2, torch.float32))
    assert torch.equal(state, torch.random.get_rng_state())


@METHODS
def test_float32_and_float64_agree(name):
    narrow, wide = (
        merge(methods.get(name), model(7, 3, d)) for d in (torch.float32, torch.float64)
    )
    # TIES' and DARE-TIES' elections are steps: the seed has no element on the edge of one.
    for a, b in zip(narrow, wide, strict=True):
        torch.testing.assert_close(a.value.double(), b.value, rtol=2e-5, atol=2e-6)


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core alone")
@METHODS
def test_the_same_bytes_for_any_number_of_threads(name):
    rng = np.random.default_rng(8)
    base, constituents = spread(rng, (640, 512), 3)
    group = as_group(constituents, base, dtype=torch.float32)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(merge(methods.get(name), [group])[0].value)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@CASES
@DTYPES
def test_gpu_agrees_with_cpu(name, given, dtype):
    from dataclasses import replace

    method = methods.get(name)
    groups = model(9, 3, dtype)
    device = torch.device("cuda")
    moved = [
        replace(
            g,
            constituents=tuple(t.to(device) for t in g.constituents),
            base=g.base.to(device),
            statistics={k: tuple(t.to(device) for t in s) for k, s in g.statistics.items()},
            references={k: t.to(device) for k, t in g.references.items()},
        )
        for g in groups
    ]
    for a, b in zip(merge(method, moved, **given), merge(method, groups, **given), strict=True):
        assert a.value.device.type == "cuda"
        if method.elementwise:
            assert torch.equal(a.value.cpu(), b.value)
        else:
            torch.testing.assert_close(a.value.cpu(), b.value, rtol=1e-5, atol=1e-7)


@METHODS
def test_every_sweep_value_runs(name):
    method = methods.get(name)
    for parameter in method.hyperparameters:
        for value in parameter.sweep:
            for outcome in merge(method, model(10, 2, torch.float32), **{parameter.name: value}):
                assert bool(outcome.value.isfinite().all())


def test_defaults_are_the_kernels_own():
    import inspect

    for method in methods.load().values():
        own = inspect.signature(method.kernel).parameters
        assert defaults(method) == {n: p.default for n, p in own.items() if n != "group"}
