"""Widening stored values and rounding results: torch's bytes for every dtype, errors by name."""

import ml_dtypes
import numpy as np
import pytest
import torch

from gitmerge_eval.errors import NonFiniteValue, NumericalError
from gitmerge_eval.merging.precision import stored, widened

FLOATS = [
    "float64", "float32", "bfloat16", "float16",
    "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz",
]  # fmt: skip
DTYPES = pytest.mark.parametrize("name", FLOATS)
INTEGERS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


def dtype(name):
    return np.dtype(getattr(ml_dtypes, name, name))


def finite_values(name):
    """All finite values of a dtype of up to 16 bits, in float64; of wider ones a sample."""
    bits = INTEGERS[dtype(name).itemsize]
    if dtype(name).itemsize <= 2:
        patterns = np.arange(1 << (8 * dtype(name).itemsize), dtype=bits)
    else:
        rng = np.random.default_rng(0)
        patterns = rng.integers(0, np.iinfo(bits).max, 200_000, dtype=bits)
    with np.errstate(all="ignore"):
        values = patterns.view(dtype(name)).astype(np.float64)
    return values[np.isfinite(values)]


def candidates(name):
    """Random numbers of all magnitudes, every midpoint of two neighbours, and what is beside it."""
    rng = np.random.default_rng(1)
    random = np.exp2(rng.uniform(-160, 16, 50_000)) * rng.choice([-1, 1], 50_000)
    values = np.unique(finite_values(name))
    middle = values[1:] / 2 + values[:-1] / 2
    beside = [np.nextafter(middle, toward) for toward in (-np.inf, np.inf)]
    narrow = middle.astype(np.float32)
    # Beside the midpoint by less than a float32 can tell, and by the least that it can.
    beside32 = [np.nextafter(narrow, np.float32(toward)) for toward in (-np.inf, np.inf)]
    found = [
        random,
        values,
        middle,
        *beside,
        *(b.astype(np.float64) for b in beside32),
        [0.0, -0.0],
    ]
    numbers = np.concatenate(found)
    return numbers[np.abs(numbers) <= values.max()]


def torch_bytes(values, name):
    tensor = torch.from_numpy(values).to(getattr(torch, name))
    return (
        tensor.view(torch.uint8 if tensor.element_size() == 1 else torch.int16)
        if tensor.element_size() <= 2
        else tensor
    )


@DTYPES
@pytest.mark.parametrize("accumulate", [np.float64, np.float32])
def test_rounding_is_that_of_torch(name, accumulate):
    with np.errstate(all="ignore"):
        values = candidates(name).astype(accumulate)
    limit = float(np.max(finite_values(name)))
    values = values[np.abs(values.astype(np.float64)) <= limit]
    expected = torch_bytes(values, name).numpy().tobytes()
    assert stored(values, name).tobytes() == expected
    assert stored(torch.from_numpy(values), name).tobytes() == expected


def test_float64_goes_through_float32():
    just_above = 1 + 2.0**-11 + 2.0**-30  # nearer to 1 + 2^-10; in float32 the midpoint, so 1
    assert stored(np.array([just_above]), "float16")[0] == 1
    assert np.float16(just_above) == 1 + 2.0**-10


@DTYPES
@pytest.mark.parametrize("library", [np.asarray, torch.tensor])
def test_what_does_not_fit_is_refused(name, library):
    largest = float(np.max(finite_values(name)))
    stored(library(np.array([largest, -largest])), name)
    if name == "float64":
        return
    for value in (largest * 1.3, -largest * 1.3, 1e300):
        with pytest.raises(NumericalError, match=f"do not fit {name}; choose a smaller scale"):
            stored(library(np.array([0.0, value])), name)


def test_scales_without_a_sign_are_refused_what_they_cannot_hold():
    assert stored(np.array([0.5, 2.0]), "float8_e8m0fnu").view(np.uint8).tolist() == [126, 128]
    for value in (-2.0, 0.0):
        with pytest.raises(NumericalError):
            stored(np.array([value]), "float8_e8m0fnu")


@DTYPES
@pytest.mark.parametrize("accumulate", ["float64", "float32"])
def test_widening_is_exact(name, accumulate):
    values = finite_values(name)
    if accumulate == "float32":
        values = values[np.abs(values) <= np.finfo(np.float32).max]
    found = widened(values.astype(dtype(name)), accumulate, "branch 'x'")
    assert found.dtype == accumulate
    assert found.tobytes() == values.astype(accumulate).tobytes()


@DTYPES
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_values_are_named(name, value):
    with np.errstate(all="ignore"):
        array = np.zeros(1000).astype(dtype(name))
        array[777] = value
    with pytest.raises(NonFiniteValue, match="branch 'x': it holds NaN or infinity"):
        widened(array, "float64", "branch 'x'")


def test_a_part_of_wider_rows():
    whole = np.arange(24).reshape(4, 6)
    for name in ("float32", "bfloat16", "float8_e5m2"):
        found = widened(whole.astype(dtype(name))[:, :3], "float64", "branch 'x'")
        assert found.tolist() == whole.astype(dtype(name))[:, :3].astype(np.float64).tolist()
