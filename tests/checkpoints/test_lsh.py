"""Signatures equal git-theta's own FastEuclideanLSH."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np
import pytest

from gitmerge_eval.checkpoints import lsh

# float16, bfloat16, float8 and complex numbers have no signature in git-theta: it cannot hash them.
DTYPES = [
    *("float32", "float64", "int8", "int16", "int32", "int64"),
    *("uint8", "uint16", "uint32", "uint64", "bool"),
]
SHAPES = [(), (0,), (1,), (15,), (16,), (17,), (4097,), (33, 65), (5, 7, 11)]


@pytest.fixture(scope="module")
def git_thetas():
    from git_theta.lsh import get_lsh

    hasher = get_lsh()
    return lambda array: tuple(hasher.hash(array).tolist())


@pytest.fixture
def compiled(monkeypatch):
    monkeypatch.setattr(lsh, "_SMALL", -1)


def values(shape, dtype, scale=100.0):
    return np.asarray(np.random.default_rng(11).standard_normal(shape) * scale).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_to_git_theta_by_numpy(git_thetas, dtype):
    for shape in SHAPES:
        array = values(shape, dtype)
        assert lsh.signature(array) == git_thetas(array), shape


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_to_git_theta_compiled(git_thetas, dtype):
    for shape in SHAPES:
        array = values(shape, dtype)
        assert lsh.signature(array) == git_thetas(array), shape


def test_equal_to_git_theta_across_blocks_of_65536(git_thetas):
    array = values((1_300_003,), "float32", 1e-3)
    assert array.size > lsh._SMALL
    assert lsh.signature(array) == git_thetas(array)
    part = array[:200_001]
    assert part.size < lsh._SMALL
    assert lsh.signature(part) == git_thetas(part)


def test_addition_is_in_the_order_of_the_index():
    array = values((5000,), "float64", 1e6)
    pool, offsets = lsh.pool_and_offsets()
    total = np.zeros(16)
    for i, x in enumerate(array.tolist()):
        total += x * pool[(i ^ offsets) % 10_000]
    assert lsh.signature(array) == tuple(int(v) for v in np.floor(total / 1e-8))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
def test_sums_out_of_range_are_as_git_thetas(git_thetas, bad, monkeypatch):
    array = np.array([1.0, bad, 2.0], np.float32)
    expected = git_thetas(array)
    assert expected == (-(2**63),) * 16
    assert lsh.signature(array) == expected
    monkeypatch.setattr(lsh, "_SMALL", -1)
    assert lsh.signature(array) == expected


@pytest.mark.parametrize(
    "dtype",
    ["float16", ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2],
)
def test_narrow_floats_count_as_float32(git_thetas, dtype):
    array = values((300,), dtype, 2.0)
    assert lsh.signature(array) == git_thetas(array.astype(np.float32))


def test_complex_numbers_count_as_their_parts(git_thetas):
    array = (values((40,), "float32") + 1j * values((40,), "float32")[::-1]).astype(np.complex64)
    parts = np.stack([array.real, array.imag], axis=-1).astype(np.float32)
    assert lsh.signature(array) == git_thetas(parts)


@pytest.mark.parametrize("dtype", [*DTYPES, "bfloat16", "float16", "complex64"])
def test_compiled_and_numpy_agree_across_windows(monkeypatch, dtype):
    array = values((120_013,), "float32").astype(dtype)
    lsh._kernel.cache_clear()
    by_numpy = lsh.signature(array)
    assert not lsh._kernel.cache_info().currsize
    monkeypatch.setattr(lsh, "_SMALL", -1)
    assert lsh.signature(array) == by_numpy
    assert lsh._kernel.cache_info().currsize


def test_other_byte_orders_and_strides(git_thetas):
    array = values((300_000,), "float32")
    assert lsh.signature(array.astype(">f4")) == lsh.signature(array)
    assert lsh.signature(array[::2]) == git_thetas(array[::2].copy())


def test_threads_share_one_compiled_loop(git_thetas):
    arrays = [values((270_000 + n,), "float32") for n in range(6)]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(lsh.signature, arrays)) == [git_thetas(a) for a in arrays]


def test_small_checkpoints_do_not_start_the_compiler():
    code = (
        "import sys, numpy; from gitmerge_eval.checkpoints.lsh import signature; "
        "signature(numpy.ones(1000)); print('llvmlite' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert done.stdout.strip() == "False"


def test_the_loop_holds_on_to_what_it_reads():
    # Of threads that come first together, all but one have a pool of their own, which nobody else
    # keeps alive while the loop runs.
    code = """
import numpy as np
from gitmerge_eval.checkpoints import lsh, lsh_kernel
pools, function = lsh_kernel._pools, lsh_kernel._function
x = np.random.default_rng(0).normal(size=(1 << 18) + 16).astype(np.float32)
expected = lsh.signature(x)

def after_others_took_memory(dtype):
    def run(*addresses):
        taken = [np.full_like(pools(), np.nan) for _ in range(8)]
        function(dtype)(*addresses)
    return run

lsh_kernel._pools = lambda: pools().copy()
lsh_kernel._function = after_others_took_memory
assert lsh.signature(x) == expected
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
