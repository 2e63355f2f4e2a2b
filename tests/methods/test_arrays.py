"""Elementwise methods on NumPy arrays: the same bytes as on torch tensors, whole or in tiles."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from method_groups import as_group, as_numpy, defaults, merge, spread, with_scalars
from test_methods_contract import DTYPES, MODELS, OPTIONS, model

from gitmerge_eval import methods
from gitmerge_eval.methods._sums import inner_product
from gitmerge_eval.records import Positions

ELEMENTWISE = [
    (name, given)
    for name, method in methods.load().items()
    if method.elementwise
    for given in OPTIONS[name]
]
ELEMENTWISE_CASES = pytest.mark.parametrize(("name", "given"), ELEMENTWISE, ids=str)
SHAPE = (48, 100)


def cancelling(rng, models, dtype):
    """Task vectors with zeros and exact opposites, so that TIES' elections end in ties."""
    base = rng.standard_normal(SHAPE)
    steps = rng.integers(-2, 3, size=(models, *SHAPE)) / 8
    statistics = {"fisher": [rng.integers(0, 3, SHAPE) * 1.0 for _ in range(models)]}
    base[rng.random(SHAPE) < 0.1] = -0.0
    return as_group(list(base + steps), base, dtype=dtype, statistics=statistics, name="cancel")


def large(rng, models, dtype):
    """More than a tile, and far from a power of two."""
    base, constituents = spread(rng, (41_234,), models)
    return as_group(constituents, base, dtype=dtype, name="large")


def groups_of(models, dtype):
    rng = np.random.default_rng(11)
    made = model(10, models, dtype)
    return [*made, cancelling(rng, models, dtype), large(rng, models, dtype)]


def same_bytes(array, tensor):
    expected = np.atleast_1d(tensor.numpy())
    return (
        isinstance(array, np.ndarray)
        and array.dtype == expected.dtype
        and array.shape == expected.shape
        and array.tobytes() == expected.tobytes()
    )


def test_all_elementwise_methods_take_any_arrays():
    assert [
        name for name, m in methods.load().items() if (m.arrays == "any") != m.elementwise
    ] == []


@ELEMENTWISE_CASES
@MODELS
@DTYPES
def test_numpy_gives_the_bytes_of_torch(name, given, models, dtype):
    method, groups = methods.get(name), groups_of(models, dtype)
    expected = merge(method, groups, **given)
    found = merge(method, [as_numpy(group) for group in groups], **given)
    for group, array, tensor in zip(groups, found, expected, strict=True):
        assert same_bytes(array.value, tensor.value), group.name
        assert (array.remarks, array.figures) == (tensor.remarks, tensor.figures)


@ELEMENTWISE_CASES
@DTYPES
def test_scalars_are_the_same_numbers(name, given, dtype):
    method, groups = methods.get(name), groups_of(3, dtype)
    options = defaults(method, **given)
    expected = with_scalars(method, groups, options)
    found = with_scalars(method, [as_numpy(group) for group in groups], options)
    assert [group.scalars for group in found] == [group.scalars for group in expected]


@ELEMENTWISE_CASES
@DTYPES
def test_numpy_inputs_stay_as_they_are(name, given, dtype):
    groups = [as_numpy(group) for group in groups_of(3, dtype)]
    for group in groups:
        tensors = [*group.constituents, group.base]
        for found in group.statistics.values():
            tensors += found
        for tensor in tensors:
            tensor.flags.writeable = False
    merge(methods.get(name), groups, **given)
    merge(methods.get(name), groups, **given)


def cut(group, rows, columns):
    """A tile of the group: those rows, from column to column."""
    start, stop = columns

    def part(array):
        return array[list(rows), start:stop]

    return replace(
        group,
        constituents=tuple(map(part, group.constituents)),
        base=part(group.base),
        statistics={kind: tuple(map(part, found)) for kind, found in group.statistics.items()},
        positions=Positions([row * SHAPE[1] + start for row in rows], stop - start),
    )


@ELEMENTWISE_CASES
@DTYPES
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_tiles_give_what_the_whole_group_does(name, given, dtype, library):
    method, whole = methods.get(name), cancelling(np.random.default_rng(12), 3, dtype)
    options = defaults(method, **given)
    (whole,) = with_scalars(method, [whole if library == "torch" else as_numpy(whole)], options)
    expected = np.asarray(method.merge(whole, options).value)
    for rows in [range(20), range(20, 48), (0, 7, 21)]:
        for columns in [(0, 37), (37, 100), (0, 100)]:
            tile = cut(whole, rows, columns)
            found = np.asarray(method.merge(tile, options).value)
            assert found.tobytes() == expected[list(rows), columns[0] : columns[1]].tobytes()


@pytest.mark.parametrize("size", [1, 2, 3, 1000, (1 << 18) + 77])
@DTYPES
def test_inner_product_has_one_order(size, dtype):
    rng = np.random.default_rng(size)
    first, second = (torch.tensor(rng.standard_normal(size)).to(dtype) for _ in "ab")
    found = inner_product(first.numpy(), second.numpy())
    assert float(found) == float(inner_product(first, second))


def test_float32_stays_float32_under_large_and_small_factors():
    group = as_numpy(as_group([[1.0, 2.0], [3.0, 5.0]], [1.0, 1.0], dtype=torch.float32))
    for scale in (1e-30, 0.1, 1e20):
        (outcome,) = merge(methods.get("task-arithmetic"), [group], scale=scale)
        assert outcome.value.dtype == np.float32


@pytest.mark.parametrize("name", sorted({name for name, _ in ELEMENTWISE}))
def test_numpy_arrays_are_merged_without_torch(name):
    code = f"""
import sys
import numpy as np
from functools import partial
from gitmerge_eval import methods
from gitmerge_eval.records import ParameterGroup
method = methods.get({name!r})
options = method.options({{}})
base = np.arange(8.0)
models = tuple(base + np.cos(np.arange(8) + i) for i in range(3))
group = ParameterGroup("w", models, ("a", "b", "c"), (True,) * 3, base,
                       {{"fisher": tuple(map(np.abs, models))}})
scalars = {{}}
for scalar in method.scalars(options, 3):
    scalars[scalar.name] = scalar.compute(lambda function: iter([function(group)]), options)
method.merge(group, options)
print([m for m in ("torch", "scipy") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
