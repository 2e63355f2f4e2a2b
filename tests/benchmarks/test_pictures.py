"""Drawn pictures: the same bytes every time, different where anything differs."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from gitmerge_eval.benchmarks import pictures

CALL = {"seed": 0, "split": "test", "side": 32, "jitter_amount": 0.4}


def draw(name="owl", domain="real", index=0, **changes):
    return pictures.picture(name, domain, index, **CALL | changes)


@pytest.mark.parametrize("domain", list(pictures.DOMAINS))
@pytest.mark.parametrize("name", list(pictures.CLASSES))
def test_every_class_can_be_drawn_in_every_domain(name, domain):
    drawn = [draw(name, domain, index) for index in range(4)]
    for picture in drawn:
        assert picture.shape == (32, 32, 3)
        assert picture.dtype == np.uint8
        assert picture.std() > 5
    assert len({picture.tobytes() for picture in drawn}) == 4


def test_another_process_draws_the_same_bytes():
    code = (
        "import hashlib; from gitmerge_eval.benchmarks import pictures as p; "
        "print(hashlib.sha256(b''.join(p.picture(c, d, 1, seed=5, split='train', side=32, "
        "jitter_amount=0.4).tobytes() for c in ('bee', 'castle') for d in p.DOMAINS)).hexdigest())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    mine = b"".join(
        draw(name, domain, 1, seed=5, split="train").tobytes()
        for name in ("bee", "castle")
        for domain in pictures.DOMAINS
    )
    assert done.stdout.strip() == hashlib.sha256(mine).hexdigest()


@pytest.mark.parametrize(
    "change",
    [{"index": 1}, {"seed": 1}, {"split": "train"}, {"name": "duck"}, {"domain": "sketch"}],
)
def test_each_argument_makes_another_picture(change):
    assert draw().tobytes() != draw(**change).tobytes()


def test_domains_look_like_what_they_are_called():
    quickdraw, sketch = draw(domain="quickdraw"), draw(domain="sketch")
    for colourless in (quickdraw, sketch):
        assert (colourless.max(-1).astype(int) - colourless.min(-1)).max() <= 6
    assert (quickdraw > 250).mean() > 0.5
    colourful = draw("strawberry", "clipart").astype(int)
    assert (colourful.max(-1) - colourful.min(-1)).max() > 120
    photograph = draw("strawberry", "real")
    corners = photograph[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners < 250).all()
