"""What is said of a block's memory is what it took."""

import sys

import numpy as np
import pytest

from gitmerge_eval.merging.peak import peak_memory

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")


def test_memory_that_was_freed_meanwhile_counts():
    with peak_memory() as peak:
        taken = np.ones(40_000_000, np.uint8)
        del taken
    with peak_memory() as later:
        pass
    # Sampled every 10 ms: what lives shorter may be missed, so it is filled by hand once more.
    with peak_memory() as held:
        taken = np.ones(40_000_000, np.uint8)
    assert held.nbytes == pytest.approx(40e6, rel=0.1)
    assert taken.size
    assert later.nbytes < 10e6
    assert peak.nbytes < 50e6
