"""The counter-based generator and DARE's masks."""

import numpy as np
import pytest
import torch

from gitmerge_eval.methods import _random
from gitmerge_eval.methods._random import kept, philox, stream
from gitmerge_eval.records import Positions

# Random123 1.14, tests/kat_vectors: counter, key, result.
KNOWN_ANSWERS = [
    (
        "00000000 00000000 00000000 00000000",
        "00000000 00000000",
        "6627e8d5 e169c58d bc57ac4c 9b00dbd8",
    ),
    (
        "ffffffff ffffffff ffffffff ffffffff",
        "ffffffff ffffffff",
        "408f276d 41c83b0e a20bc7c6 6d5451fd",
    ),
    (
        "243f6a88 85a308d3 13198a2e 03707344",
        "a4093822 299f31d0",
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]
LIBRARIES = pytest.mark.parametrize("library", ["numpy", "torch"])


def vector(size, library):
    """A vector of that many elements: a mask depends on no more."""
    return np.empty(size) if library == "numpy" else torch.empty(size, dtype=torch.float64)


def packed(high, low, library):
    """Two lists of words of 32 bits in one of 64 bits."""
    words = np.array(
        [(upper << 32) | lower for upper, lower in zip(high, low, strict=True)], np.uint64
    )
    return words if library == "numpy" else torch.from_numpy(words.view(np.int64))


def unpacked(pair):
    """The four words of 32 bits of each counter, as rows."""
    left, right = (np.asarray(words).view(np.uint64) for words in pair)
    low = np.uint64(0xFFFFFFFF)
    return np.stack([left >> np.uint64(32), left & low, right >> np.uint64(32), right & low])


def numbers(text):
    return tuple(int(word, 16) for word in text.split())


def philox_by_hand(counter, key):
    """Philox4x32-10 in Python's unbounded integers."""
    a, b, c, d = counter
    k, m = key
    for _ in range(10):
        p, q = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (q >> 32) ^ b ^ k, q & 0xFFFFFFFF, (p >> 32) ^ d ^ m, p & 0xFFFFFFFF
        k, m = (k + 0x9E3779B9) & 0xFFFFFFFF, (m + 0xBB67AE85) & 0xFFFFFFFF
    return a, b, c, d


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN_ANSWERS)
@LIBRARIES
def test_known_answers(counter, key, result, library):
    a, b, c, d = numbers(counter)
    found = unpacked(philox((packed([a], [b], library), packed([c], [d], library)), numbers(key)))
    assert tuple(found[:, 0].tolist()) == numbers(result)
    assert philox_by_hand(numbers(counter), numbers(key)) == numbers(result)


@LIBRARIES
def test_random_counters_against_unbounded_integers(library):
    rng = np.random.default_rng(0)
    a, b, c, d = rng.integers(0, 1 << 32, size=(4, 50)).tolist()
    key = tuple(int(k) for k in rng.integers(0, 1 << 32, size=2))
    found = unpacked(philox((packed(a, b, library), packed(c, d, library)), key))
    for column, counter in enumerate(zip(a, b, c, d, strict=True)):
        assert tuple(found[:, column].tolist()) == philox_by_hand(counter, key)


def mask_by_hand(start, count, rate, identity):
    """Whether the word at each position is at least rate · 2^32."""
    k, m, c, d = stream(*identity)
    mask = []
    for position in range(start, start + count):
        index, lane = divmod(position, 4)
        words = philox_by_hand((index & 0xFFFFFFFF, index >> 32, c, d), (k, m))
        mask.append(words[lane] >= rate * (1 << 32))
    return mask


@LIBRARIES
def test_mask_is_that_of_the_words_at_its_positions(library):
    identity = (0, "layer", "model")
    whole = kept(vector(103, library), 0.5, identity)
    assert whole.tolist() == mask_by_hand(0, 103, 0.5, identity)
    for start, count in [(0, 1), (3, 2), (4, 4), (50, 53), (101, 2)]:
        part = kept(vector(count, library), 0.5, identity, Positions((start,), count))
        assert part.tolist() == whole[start : start + count].tolist()


@LIBRARIES
@pytest.mark.parametrize("starts", [(3, 15, 27, 51), (1, 10, 40)], ids=["alike", "not alike"])
def test_rows_of_a_tile(library, starts):
    identity = (0, "layer", "model")
    whole = kept(vector(64, library), 0.5, identity)
    tile = vector((len(starts), 9), library)
    part = kept(tile, 0.5, identity, Positions(starts, 9))
    assert part.tolist() == [whole[start : start + 9].tolist() for start in starts]


@LIBRARIES
def test_positions_beyond_32_bits(library):
    start, identity = (1 << 34) + 4, (0, "layer", "model")
    part = kept(vector(40, library), 0.5, identity, Positions((start,), 40))
    assert part.tolist() == mask_by_hand(start, 40, 0.5, identity)


@LIBRARIES
def test_blocks_do_not_show(library):
    size, identity = (1 << 17) + 5, (0, "layer", "model")
    whole = kept(vector(size, library), 0.4, identity)
    at_once = kept(vector(size, library), 0.4, identity, Positions((0,), size))
    assert whole.tolist() == at_once.tolist()


def test_numpy_and_torch_have_the_same_masks():
    for shape in [(7, 11), (100_000,)]:
        masks = [kept(vector(shape, library), 0.3, (1, "w", "m")) for library in ("numpy", "torch")]
        assert masks[0].tolist() == masks[1].tolist()


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9, 0.99])
def test_rate(rate):
    size = 200_000
    dropped = size - int(kept(torch.empty(size), rate, (0, "w", "m")).sum())
    assert abs(dropped - rate * size) < 5 * (size * rate * (1 - rate)) ** 0.5


def test_rates_zero_and_one():
    assert kept(torch.empty(1000), 0.0, (0, "w", "m")).all()
    assert not kept(torch.empty(1000), 1.0, (0, "w", "m")).any()


def test_masks_differ_by_seed_group_and_constituent():
    identities = [(0, "w", "m"), (1, "w", "m"), (0, "v", "m"), (0, "w", "n"), (0, "wm", "")]
    masks = [kept(torch.empty(20_000), 0.5, identity) for identity in identities]
    for i, mask in enumerate(masks):
        for other in masks[:i]:
            agreement = float((mask == other).double().mean())
            assert abs(agreement - 0.5) < 5 * 0.5 / 20_000**0.5


def test_neighbours_are_uncorrelated():
    mask = kept(torch.empty(200_000), 0.5, (0, "w", "m")).double() * 2 - 1
    for lag in (1, 2, 3, 4, 5, 8, 1024):
        assert abs(float((mask[lag:] * mask[:-lag]).mean())) < 5 / (200_000 - lag) ** 0.5


@pytest.mark.parametrize(
    ("starts", "run"), [((0,), 1), ((5,), 7), ((2, 1000, 77, 2**33 + 3), 129), ((3,), 4099)]
)
@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_without_the_compiler_the_masks_are_the_same(starts, run, rate, monkeypatch):
    positions = Positions(starts, run)
    shape, identity = (len(starts), run), (2**40, "layer", "model")
    compiled = kept(vector(shape, "numpy"), rate, identity, positions)
    monkeypatch.setattr(_random, "_compiled", lambda: None)
    assert compiled.tolist() == kept(vector(shape, "numpy"), rate, identity, positions).tolist()
