"""Blocks of several tensors decoded by one call: the same bytes as one by one, or none."""

from __future__ import annotations

from contextlib import ExitStack
from itertools import pairwise

import ml_dtypes
import numpy as np
import pytest

from gitmerge_eval.checkpoints import stored_together
from gitmerge_eval.checkpoints.chunks import grid
from gitmerge_eval.checkpoints.encoding import encode
from gitmerge_eval.checkpoints.metadata import DENSE, GroupRecord
from gitmerge_eval.checkpoints.stored_array import StoredArray
from gitmerge_eval.checkpoints.stored_together import StoredTogether
from gitmerge_eval.errors import MalformedCheckpoint

SHAPES = [(1500, 1300), (300_000,), (3, 700, 650), (2_500_000,)]
KINDS = ["float32", "float64", "float16", "bfloat16"]
COUNT = 5


@pytest.fixture
def opened(tmp_path):
    """``opened(arrays)``: key -> each as a StoredArray; their files are 'object 0' and so on."""
    with ExitStack() as stack:

        def store(arrays):
            found = {}
            for number, array in enumerate(arrays):
                name = array.dtype.name
                record = GroupRecord(f"w{number}", array.shape, name, (), "0" * 64, 0, DENSE)
                path = tmp_path / f"object {number}"
                path.write_bytes(encode(array))
                found[f"w{number}"] = stack.enter_context(StoredArray(path, record))
            return found

        yield store


def normal(shape, kind, seed):
    values = np.random.default_rng(seed).normal(size=shape)
    if kind == "float16":
        values = np.round(values * 8) / 8  # all of its bits are too random to be coded
    return values.astype(ml_dtypes.bfloat16 if kind == "bfloat16" else kind)


def room_for(arrays, chunk, more=0):
    """A buffer for the chunk of each, filled with what no array holds."""
    return {
        key: np.full((chunk.size + more) * array._dtype.itemsize, 0xAB, np.uint8).view(array._dtype)
        for key, array in arrays.items()
    }


def one_by_one(array, chunk, low, high):
    out = np.empty(high - low, array._dtype)
    array.read(chunk, low, high, out)
    return out.view(np.uint8)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_same_bytes_as_one_by_one(opened, shape, kind):
    arrays = opened([normal(shape, kind, seed) for seed in range(COUNT)])
    together, held = StoredTogether(arrays), 7
    for chunk in grid(shape):
        buffers = room_for(arrays, chunk, held)
        fill = together.filler(chunk, buffers)
        for low, high in pairwise(arrays["w0"].steps(chunk)):
            assert set(fill(low, high, held)) == set(arrays)
            for key, array in arrays.items():
                found = buffers[key][held : held + high - low].view(np.uint8)
                np.testing.assert_array_equal(found, one_by_one(array, chunk, low, high))
                assert (buffers[key][:held].view(np.uint8) == 0xAB).all()


def test_each_step_is_a_buffer_that_blosc_decodes(opened):
    from numcodecs import blosc

    (array,) = opened([normal((1500, 1300), "float32", 1)]).values()
    for chunk in grid((1500, 1300)):
        frames = array.frames(chunk)
        for (low, high), (begin, length), head in zip(
            frames.spans, frames.places, frames.heads, strict=True
        ):
            with open(f"/proc/self/fd/{frames.file}", "rb") as file:
                file.seek(begin)
                frame = np.array(head, np.int32).tobytes() + file.read(length)
            decoded = np.frombuffer(blosc.decompress(frame), np.uint8)
            np.testing.assert_array_equal(decoded, one_by_one(array, chunk, low, high))


def test_what_is_not_coded_is_left_to_be_read_alone(opened):
    """Numbers without any order: Blosc stores them as they are."""
    random = np.random.default_rng(0)
    whole = random.integers(-(1 << 63), 1 << 63, 300_000, np.int64).view(np.float64)
    arrays = opened([whole, *(normal((300_000,), "float64", seed) for seed in range(4)), whole])
    (chunk,) = grid((300_000,))
    assert arrays["w0"].frames(chunk) is None
    fill = StoredTogether(arrays).filler(chunk, room_for(arrays, chunk))
    low, high = next(pairwise(arrays["w1"].steps(chunk)))
    assert set(fill(low, high, 0)) == {"w1", "w2", "w3", "w4"}


def test_steps_that_are_not_asked_for_as_they_lie_are_read_alone(opened):
    arrays = opened([normal((2_500_000,), "float32", seed) for seed in range(COUNT)])
    chunk = next(grid((2_500_000,)))
    fill = StoredTogether(arrays).filler(chunk, room_for(arrays, chunk))
    first, second, third, *_ = arrays["w0"].steps(chunk)
    assert set(fill(second, third, 0)) == set(arrays)
    for low, high in ((first, second - 1), (first, third), (first + 1, second)):
        assert set(fill(low, high, 0)) == set()


@pytest.mark.parametrize(("count", "shape"), [(2, (300_000,)), (5, (1 << 17,))])
def test_little_is_not_worth_it(opened, count, shape):
    arrays = opened([normal(shape, "float32", seed) for seed in range(count)])
    (chunk,) = grid(shape)
    assert StoredTogether(arrays).filler(chunk, room_for(arrays, chunk)) is None


@pytest.mark.parametrize("lost", ["library", "compiler", "system"])
def test_without_library_or_compiler_all_are_read_alone(opened, monkeypatch, lost):
    arrays = opened([normal((300_000,), "float32", seed) for seed in range(COUNT)])
    (chunk,) = grid((300_000,))
    stored_together._decoder.cache_clear()
    with monkeypatch.context() as patch:
        if lost == "library":
            patch.setattr("numcodecs.blosc.__file__", "/absent.so")
        elif lost == "compiler":
            patch.setitem(__import__("sys").modules, "gitmerge_eval.compiled.blocks", None)
        else:
            patch.setattr("gitmerge_eval.compiled.blocks.reads_files", lambda: False)
        assert StoredTogether(arrays).filler(chunk, room_for(arrays, chunk)) is None
    stored_together._decoder.cache_clear()
    assert StoredTogether(arrays).filler(chunk, room_for(arrays, chunk)) is not None


def damage(path, position, length, how):
    with path.open("r+b") as file:
        if how == "truncated":
            file.truncate(position + length // 2)
        else:
            file.seek(position)
            file.write(b"\xff" * length)


@pytest.mark.parametrize("how", ["truncated", "overwritten"])
def test_a_damaged_block_fills_nothing_and_is_named_when_read_alone(opened, tmp_path, how):
    arrays = opened([normal((1500, 1300), "float32", seed) for seed in range(COUNT)])
    chunk = next(grid((1500, 1300)))
    fill = StoredTogether(arrays).filler(chunk, room_for(arrays, chunk))
    steps = list(pairwise(arrays["w3"].steps(chunk)))
    position, length = arrays["w3"].frames(chunk).places[2]
    damage(tmp_path / "object 3", position, length, how)
    assert set(fill(*steps[1], 0)) == set(arrays)
    assert set(fill(*steps[2], 0)) == set()
    low, high = steps[2]
    with pytest.raises(MalformedCheckpoint, match=r"'w3'.* (damaged|truncated)"):
        one_by_one(arrays["w3"], chunk, low, high)
    np.testing.assert_array_equal(
        one_by_one(arrays["w4"], chunk, low, high),
        normal((1500, 1300), "float32", 4)[:1024, :1024].reshape(-1)[low:high].view(np.uint8),
    )


def test_a_damaged_table_of_blocks_is_left_to_be_named(opened, tmp_path):
    arrays = opened([normal((1500, 1300), "float32", seed) for seed in range(COUNT)])
    chunk = next(grid((1500, 1300)))
    position = arrays["w2"]._places[chunk.key].position
    damage(tmp_path / "object 2", position + 16, 8, "overwritten")
    assert StoredTogether(arrays).filler(chunk, room_for(arrays, chunk)) is None
    with pytest.raises(MalformedCheckpoint, match="'w2'"):
        arrays["w2"].steps(chunk)
