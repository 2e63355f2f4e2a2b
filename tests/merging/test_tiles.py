"""Stored tensors cut into tiles: every element once, padding never, and no memory shared."""

from math import prod

import numpy as np
import pytest

from gitmerge_eval.checkpoints.chunks import grid
from gitmerge_eval.checkpoints.encoding import encode
from gitmerge_eval.checkpoints.metadata import DENSE, GroupRecord
from gitmerge_eval.checkpoints.stored_array import StoredArray
from gitmerge_eval.merging import tiles

SHAPES = [
    (),
    (5,),
    (1 << 20,),
    (1_500_000,),
    (1500, 1300),
    (1023, 1025),
    (3072, 768),
    (3, 1100, 1100),
    (7, 400_000),
    (2, 3, 300_000),
]


@pytest.fixture(params=SHAPES, ids=str)
def stored(request, tmp_path):
    """An array, and its object open for reading; what is read is counted."""
    shape = request.param
    array = np.random.default_rng(prod(shape)).normal(size=shape).astype(np.float32)
    record = GroupRecord("weight", shape, "float32", (), "0" * 64, 0, DENSE)
    path = tmp_path / "object"
    path.write_bytes(encode(array))
    with StoredArray(path, record) as opened:
        yield array, opened


def cut(opened, chunk, read):
    def counted(chunk, start, stop, out):
        read.append((start, stop))
        opened.read(chunk, start, stop, out)

    source = tiles.Sources({"": tiles.Source(counted, np.dtype(np.float32))})
    return tiles.cut(chunk, opened.steps(chunk), source, tiles.TILE)


def test_tiles_put_together_are_the_array(stored):
    array, opened = stored
    found = np.full(array.shape, np.nan, np.float32)
    elements = 0
    for chunk in grid(array.shape):
        for tile in cut(opened, chunk, []):
            tiles.put(found, tile.positions, tile.arrays[""])
            elements += tile.arrays[""].size
    assert elements == array.size
    np.testing.assert_array_equal(found, array)


def test_what_is_only_padding_is_not_decoded(stored):
    array, opened = stored
    for chunk in grid(array.shape):
        read = []
        for _ in cut(opened, chunk, read):
            pass
        positions = np.arange(chunk.size) % chunk.width < chunk.run
        belonging = np.flatnonzero(positions & (np.repeat(chunk.starts, chunk.width) >= 0))
        assert chunk.filled == belonging[-1] + 1
        row_end = -(-chunk.filled // chunk.width) * chunk.width
        assert all(start < row_end for start, _ in read)
        assert sum(stop - start for start, stop in read) <= chunk.size


def test_rows_of_padding_are_left_out(tmp_path):
    """A chunk of 1,365 rows of which 342 belong to the array: two of its eight blocks do."""
    array = np.ones((3072, 768), np.float32)
    record = GroupRecord("weight", array.shape, "float32", (), "0" * 64, 0, DENSE)
    (tmp_path / "object").write_bytes(encode(array))
    with StoredArray(tmp_path / "object", record) as opened:
        chunks, read = list(grid(array.shape)), []
        for _ in cut(opened, chunks[-1], read):
            pass
    assert chunks[-1].shape == (1365, 768)
    assert len(read) == -(-chunks[-1].filled * 4 // (1 << 19)) < len(opened.steps(chunks[-1])) - 1


def test_cutting_side_by_side_shares_no_memory(stored):
    array, opened = stored
    chunk = next(grid(array.shape))
    pairs = zip(cut(opened, chunk, []), cut(opened, chunk, []), strict=True)
    for one, other in pairs:
        assert not np.shares_memory(one.arrays[""], other.arrays[""])
        np.testing.assert_array_equal(one.arrays[""], other.arrays[""])


@pytest.mark.parametrize("models", [1, 2, 24, 100, 1000])
def test_what_threads_decode_does_not_grow_with_the_models(models):
    """Two blocks of half a megabyte for each tensor on each thread."""
    threads = tiles.most_threads(models + 1)
    assert threads >= 1
    assert threads == 1 or threads * (models + 1) <= 384
    assert (threads + 1) * (models + 1) > 384
