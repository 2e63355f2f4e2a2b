"""``bench layer`` on a small layer: every method, in both forms, with nothing but torch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gitmerge_eval import methods
from gitmerge_eval.bench import layer, layer_kernels
from gitmerge_eval.bench.layer_group import made_up
from gitmerge_eval.merging import tiles

SMALL = {"inputs": 64, "outputs": 32, "models": 3, "iterations": 5, "repeat": 1}
SYSTEMS = ("regmean, float64", "regmean, float32", "mats, float64", "mats, float32")
ABSENT = ("typer", "rich", "numba", "git", "git_theta", "safetensors", "scipy", "open_clip")


@pytest.fixture(scope="module")
def rows():
    report = layer.run(layer.Settings(tuple(methods.load()), **SMALL))
    return {table.title: list(table.rows) for table in report.tables}


def test_every_method_is_measured(rows):
    found = {row["method"]: row for row in rows["kernels on the layer"]}
    assert list(found) == [
        *("average", "slerp", "task-arithmetic", "dare", "ties", "ties, trimming itself"),
        *("dare-ties", "fisher", *SYSTEMS),
    ]
    assert all(row["seconds"] > 0 and row["ratio"] > 0 for row in found.values())
    assert {n for n, row in found.items() if row["tiles_seconds"] is None} == set(SYSTEMS)


def test_floors_are_bytes_at_the_speed_of_a_copy_and_products(rows):
    limits = {row["what"]: row for row in rows["the device's limits"]}
    found = {row["method"]: row for row in rows["kernels on the layer"]}
    copied = limits["copy"]
    assert copied["bytes_per_second"] == pytest.approx(2 * (1 << 28) / copied["seconds"])
    size = 64 * 32 * 4
    moved = {"average": 4, "task-arithmetic": 5, "ties": 5, "fisher": 7}
    for name, tensors in moved.items():
        expected = tensors * size / copied["bytes_per_second"]
        assert found[name]["floor_seconds"] == pytest.approx(expected)
    product = limits["float32 product"]
    assert product["flops"] == pytest.approx(2 * 64**2 * 32 / product["seconds"])
    assert found["mats, float32"]["floor_seconds"] == pytest.approx(8 * product["seconds"])
    assert found["regmean, float32"]["floor_seconds"] == pytest.approx(5 * product["seconds"])
    mats = found["mats, float64"]
    assert mats["ratio"] == pytest.approx(mats["seconds"] / mats["floor_seconds"])


def test_the_paper_s_times_are_beside_ours(rows):
    found = {row["method"]: row["paper_seconds"] for row in rows["kernels on the layer"]}
    assert found["regmean, float64"] == found["regmean, float32"] == 0.0499
    assert found["ties, trimming itself"] is None


@pytest.mark.parametrize("name", [n for n, m in methods.load().items() if m.elementwise])
def test_tiles_and_the_whole_layer_give_the_same_bytes(name, monkeypatch):
    monkeypatch.setattr(layer_kernels, "TILE", 500)
    method = methods.get(name)
    options = method.options({})
    group = made_up(
        layer._used(method, options),
        inputs=64,
        outputs=32,
        models=3,
        device=torch.device("cpu"),
        dtype=torch.float32,
    )
    kernel = layer_kernels.kernel(name, method, options, group, torch.device("cpu"))
    assert kernel.tiles is not None
    assert torch.equal(kernel.tiles.run(), kernel.whole.run())


def test_tiles_have_the_engine_s_size():
    assert layer_kernels.TILE == tiles.TILE


def test_torch_and_numpy_are_enough(tmp_path):
    for name in ABSENT:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise ImportError('{name} is not there')\n")
    root = Path(layer.__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{root}"}
    command = [sys.executable, "-m", "gitmerge_eval.bench", "layer", "--inputs", "32"]
    small = ["--outputs", "16", "--repeat", "1", "-N", "3", "--device", "cpu"]
    done = subprocess.run(
        [*command, *small], env=environment, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "| method | ms |" in done.stdout  # Markdown where rich is not installed


@pytest.mark.gpu
def test_on_a_gpu(rows):
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    report = layer.run(layer.Settings(tuple(methods.load()), **SMALL, device="cuda"))
    found = {row["method"]: row for row in report.tables[1].rows}
    assert set(found) == {row["method"] for row in rows["kernels on the layer"]}
    assert all(row["peak_bytes"] >= 0 for row in found.values())
