"""``bench fisher``: the three ways do what they are compared for."""

import pytest
import torch

from gitmerge_eval.bench import fisher
from gitmerge_eval.errors import PrerequisiteError

TINY = {"image_size": 16, "patch_size": 8, "width": 64, "layers": 1}


def test_the_loop_and_ours_compute_the_same():
    work = fisher.Work.of(TINY, examples=5, device="cpu")
    by_loop, ours, once = work.loop(), work.vectorised(), work.batched()
    assert by_loop.keys() == ours.keys()
    for name, expected in by_loop.items():
        scale = float(expected.max())
        assert scale > 0, name
        torch.testing.assert_close(ours[name], expected, rtol=1e-3, atol=1e-5 * scale)
    assert [g.shape for g in once] == [p.shape for p in work.parameters.values()]


def test_the_report_has_the_rates_and_their_ratios(monkeypatch):
    monkeypatch.setattr(fisher, "SHAPES", {"the miniature's": TINY})
    report = fisher.run(fisher.Settings(examples=3, repeat=1))
    (row,) = report.tables[0].rows
    assert row["layers"] == 1
    assert row["ratio"] == pytest.approx(row["ours"] / row["loop"])
    assert row["reachable"] == pytest.approx(row["floor"] / row["loop"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_said():
    with pytest.raises(PrerequisiteError, match="no CUDA device"):
        fisher.run(fisher.Settings(device="cuda"))
