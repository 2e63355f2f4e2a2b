"""The counter-based generator and DARE's masks."""

import numpy as np
import pytest
import torch

from gitmerge_eval.methods._random import kept, philox, stream, words

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
CPU = torch.device("cpu")


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
def test_known_answers(counter, key, result):
    counters = tuple(torch.tensor([word]) for word in numbers(counter))
    found = philox(counters, numbers(key))
    assert tuple(int(word) for word in found) == numbers(result)
    assert philox_by_hand(numbers(counter), numbers(key)) == numbers(result)


def test_random_counters_against_unbounded_integers():
    rng = np.random.default_rng(0)
    counters = rng.integers(0, 1 << 32, size=(4, 50), dtype=np.int64)
    key = tuple(int(k) for k in rng.integers(0, 1 << 32, size=2))
    found = torch.stack(philox(tuple(map(torch.tensor, counters)), key))
    for column in range(50):
        expected = philox_by_hand([int(c) for c in counters[:, column]], key)
        assert tuple(found[:, column].tolist()) == expected


def test_any_slice_is_a_part_of_the_whole():
    key = stream(0, "layer", "model")
    whole = words(0, 103, key, CPU)
    for start, count in [(0, 1), (3, 2), (4, 4), (50, 53), (101, 2), (7, 0)]:
        assert torch.equal(words(start, count, key, CPU), whole[start : start + count])


def test_positions_beyond_32_bits():
    key = stream(0, "layer", "model")
    start = (1 << 34) + 4
    expected = philox_by_hand((1, 1, key[2], key[3]), key[:2])
    assert tuple(words(start, 4, key, CPU).tolist()) == expected


def test_blocks_do_not_show():
    size = (1 << 17) + 5
    mask = kept(torch.Size([size]), 0.4, (0, "layer", "model"), CPU)
    expected = words(0, size, stream(0, "layer", "model"), CPU) >= round(0.4 * (1 << 32))
    assert torch.equal(mask, expected)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9, 0.99])
def test_rate(rate):
    size = 200_000
    dropped = size - int(kept(torch.Size([size]), rate, (0, "w", "m"), CPU).sum())
    assert abs(dropped - rate * size) < 5 * (size * rate * (1 - rate)) ** 0.5


def test_rates_zero_and_one():
    assert kept(torch.Size([1000]), 0.0, (0, "w", "m"), CPU).all()
    assert not kept(torch.Size([1000]), 1.0, (0, "w", "m"), CPU).any()


def test_masks_differ_by_seed_group_and_constituent():
    identities = [(0, "w", "m"), (1, "w", "m"), (0, "v", "m"), (0, "w", "n"), (0, "wm", "")]
    masks = [kept(torch.Size([20_000]), 0.5, identity, CPU) for identity in identities]
    for i, mask in enumerate(masks):
        for other in masks[:i]:
            agreement = float((mask == other).double().mean())
            assert abs(agreement - 0.5) < 5 * 0.5 / 20_000**0.5


def test_neighbours_are_uncorrelated():
    mask = kept(torch.Size([200_000]), 0.5, (0, "w", "m"), CPU).double() * 2 - 1
    for lag in (1, 2, 3, 4, 5, 8, 1024):
        assert abs(float((mask[lag:] * mask[:-lag]).mean())) < 5 / (200_000 - lag) ** 0.5
