"""Arguments, ratios, the three forms of a report, and made-up checkpoints."""

import json
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.numpy

from gitmerge_eval.bench import __main__ as command_line
from gitmerge_eval.bench import machine, peers, synthetic
from gitmerge_eval.bench.processes import Summary, Usage
from gitmerge_eval.bench.report import Column, Report, Table, columns_of, ratio
from gitmerge_eval.bench.synthetic import Float32Model
from gitmerge_eval.errors import PrerequisiteError, UsageError


def status(capsys, *arguments):
    """The exit status and what was said on standard error."""
    try:
        code = command_line.main(arguments)
    except SystemExit as end:
        code = end.code
    return code, capsys.readouterr().err


# --- the command line ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [("350MB", 350_000_000), ("7GB", 7_000_000_000), ("2.5 gb", 2_500_000_000), ("64", 64)],
)
def test_sizes_are_read(text, expected):
    assert command_line.size(text) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required"),
        (["storage", "--size", "many"], "'many' is not a size such as 350MB"),
        (["storage", "--size", "0MB"], "'0MB' is not a size"),
        (["storage", "--size", "1KB"], "too small for the benchmark"),
        (["storage", "--repeat", "0"], "'0' is not a whole number of at least 1"),
        (["storage", "--folder", "nowhere/at/all"], "'nowhere/at/all' is not a folder"),
        (["storage", "--json", "--markdown"], "not allowed with"),
        (["merge", "--models", "2,x"], "'x' is not a whole number"),
        (["merge", "-M", "1"], "at least two models"),
        (["merge", "--methods", "tise"], "did you mean 'ties'"),
        (["merge", "--mergekit", "/no/such/program"], "'/no/such/program' is not a program"),
        (["merge", "--bf16-sharded", "7GB", "--mergekit", "x"], "reads no sharded checkpoints"),
        (["merge", "--bf16-sharded", "100MB", "-M", "2"], "embedding and one layer"),
        (["sweep", "-M", "1"], "at least two models"),
        (["sweep", "--methods", "average"], "nothing to sweep"),
        (["layer", "-M", "1"], "at least two models"),
        (["layer", "--device", "cpu", "--tf32"], "TF32 is a GPU's"),
        (["layer", "--methods", "avrage"], "did you mean 'average'"),
    ],
)
def test_bad_input_ends_with_one_clear_line(capsys, arguments, message):
    code, said = status(capsys, *arguments)
    assert code == 2
    assert message in said
    assert "Traceback" not in said


def test_a_full_disk_is_said_and_nothing_is_left(capsys, tmp_path, monkeypatch):
    small = SimpleNamespace(f_bavail=5, f_frsize=1_000_000)
    monkeypatch.setattr(machine.os, "statvfs", lambda folder: small)
    code, said = status(capsys, "storage", "--size", "3MB", "--folder", str(tmp_path))
    assert code == 2
    assert "has 0.0 GB free; name another folder with --folder, or a smaller --size" in said
    assert not list(tmp_path.iterdir())


def test_a_terminated_benchmark_leaves_nothing(tmp_path):
    command = [sys.executable, "-m", "gitmerge_eval.bench", "merge", "--size", "3MB", "-M", "2"]
    running = subprocess.Popen(
        [*command, "--without-mergekit", "--folder", tmp_path], stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("*/repository/.git")) and time.monotonic() < deadline:
        time.sleep(0.05)
    running.terminate()
    _, said = running.communicate(timeout=60)
    assert running.returncode == 130
    assert said.endswith("gitmerge-eval bench: interrupted\n")
    assert not list(tmp_path.iterdir())


def test_cuda_is_refused_where_there_is_none(capsys):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    assert status(capsys, "layer", "--device", "cuda") == (
        2,
        "gitmerge-eval bench: torch sees no CUDA device here; choose --device cpu\n",
    )


# --- ratios and reports --------------------------------------------------------------------------


def usage(seconds: float, peak: int = 0) -> Usage:
    return Usage(seconds, seconds / 2, peak, peak // 2, 0, "")


def test_a_summary_has_medians_of_times_and_the_largest_peak():
    found = Summary.of([usage(4.0, 10), usage(1.0, 30), usage(2.0, 20)])
    assert (found.seconds, found.cpu_seconds) == (2.0, 1.0)
    assert (found.peak_bytes, found.anonymous_bytes) == (30, 15)
    assert found.runs == (4.0, 1.0, 2.0)


def test_ratios():
    assert ratio(1.5, 6.0) == 0.25
    assert ratio(1.5, None) is None
    assert ratio(None, 6.0) is None
    assert ratio(1.5, 0.0) is None


@pytest.fixture
def report():
    columns = [
        Column("name", "command"),
        Column("ours_seconds", "ours s", "s"),
        Column("ours_peak_bytes", "peak MB", "MB"),
        Column("ratio", "ours / peer", "ratio"),
    ]
    row = {"name": "add", **columns_of("ours", Summary.of([usage(1.5, 64_000_000)]))}
    rows = [{**row, "ratio": ratio(1.5, 12.0)}, {"name": "cp", "ours_seconds": 0.0123}]
    table = Table("storage", columns, rows)
    return Report("storage", {"processor": "a fast one"}, {"repeat": 1}, [table], ["a remark"])


def test_markdown_is_a_table(report):
    lines = report.as_markdown().splitlines()
    assert "processor: a fast one" in lines
    assert lines[lines.index("| command | ours s | peak MB | ours / peer |") + 1 :][:3] == [
        "|---|---:|---:|---:|",
        "| add | 1.50 | 64 | 0.125 |",
        "| cp | 0.0123 | - | - |",
    ]
    assert lines[-1] == "- a remark"


def test_a_document_gets_the_tables_between_its_markers(report, tmp_path):
    document = tmp_path / "page.md"
    document.write_text(
        "before\n<!-- bench storage: begin -->\nold\n<!-- bench storage: end -->\nafter\n"
    )
    report.put_into(document)
    report.put_into(document)
    lines = document.read_text().splitlines()
    assert (lines[0], lines[-1]) == ("before", "after")
    assert lines.count("| add | 1.50 | 64 | 0.125 |") == 1
    assert "old" not in lines
    document.write_text("nothing")
    with pytest.raises(UsageError, match="has no place for these tables"):
        report.put_into(document)


def test_json_has_unrounded_values(report):
    found = json.loads(report.as_json())
    assert found["tables"]["storage"][0]["ratio"] == 0.125
    assert found["tables"]["storage"][0]["ours_peak_bytes"] == 64_000_000
    assert found["machine"] == {"processor": "a fast one"}


def test_the_table_of_the_terminal_has_the_same_cells(report, capsys):
    report.write()
    shown = capsys.readouterr().out
    for cell in ("a fast one", "command", "ours / peer", "1.50", "0.125", "a remark"):
        assert cell in shown


# --- checkpoints ---------------------------------------------------------------------------------


def test_the_tower_has_the_groups_of_open_clip():
    open_clip = pytest.importorskip("open_clip")
    import torch

    with torch.device("meta"):
        model = open_clip.create_model("ViT-B-32", device="meta")
    real = {n: tuple(p.shape) for n, p in model.named_parameters() if n.startswith("visual.")}
    assert synthetic.vision_tower() == real


def test_towers_have_about_the_size_asked_for():
    for size, tolerance in ((5e6, 0.25), (60e6, 0.1), (351e6, 0.002), (1.4e9, 0.03)):
        found = synthetic.total_bytes(synthetic.tower_of(int(size)))
        assert found == pytest.approx(size, rel=tolerance)
    with pytest.raises(UsageError, match="too small"):
        synthetic.tower_of(1000)


@pytest.mark.parametrize(("noise", "share"), [("dense", 1.0), ("sparse", 0.1)])
def test_models_are_safetensors_files_and_repeatable(tmp_path, noise, share):
    model = Float32Model(synthetic.vision_tower(24, 1), noise=noise)
    files = [tmp_path / name for name in ("base", "one", "again")]
    for file, number in zip(files, (0, 1, 1), strict=True):
        model.write(file, number)
    base, one, _ = (safetensors.numpy.load_file(file) for file in files)
    assert files[1].read_bytes() == files[2].read_bytes()
    assert {name: value.shape for name, value in base.items()} == model.shapes
    steps = np.concatenate([(one[name] - base[name]).ravel() for name in base])
    assert np.count_nonzero(steps) / steps.size == pytest.approx(share, abs=0.02)
    assert steps[steps != 0].std() == pytest.approx(1e-3, rel=0.05)


def test_sharded_models_are_whole(tmp_path):
    from safetensors.torch import load_file

    shapes = {"a": (300, 40), "b": (200, 40), "c": (40,)}
    synthetic.write_sharded(tmp_path, shapes, 25_000, model=1)
    index = json.loads((tmp_path / synthetic.INDEX).read_text())
    assert sorted(set(index["weight_map"].values())) == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ]
    for name, file in index["weight_map"].items():
        tensor = load_file(tmp_path / file)[name]
        assert (tuple(tensor.shape), str(tensor.dtype)) == (shapes[name], "torch.bfloat16")
        assert tensor.abs().min() >= 2**-11
        assert tensor.abs().max() < 2**-7
    assert index["metadata"]["total_size"] == 2 * (300 * 40 + 200 * 40 + 40)


# --- peers ---------------------------------------------------------------------------------------


def test_mergekit_gets_our_defaults(tmp_path):
    files = [tmp_path / "1", tmp_path / "2"]
    found = {
        name: json.loads(peers.configuration(name, files, tmp_path / "0"))
        for name in ("average", "slerp", "task-arithmetic", "dare", "ties", "dare-ties")
    }
    methods = [content["merge_method"] for content in found.values()]
    assert methods == ["linear", "slerp", "task_arithmetic", "dare_linear", "ties", "dare_ties"]
    assert found["ties"]["models"][1]["parameters"] == {"weight": 1.0, "density": 0.2}
    assert found["dare"]["models"][0]["parameters"] == {"weight": 0.4, "density": 0.5}
    assert found["dare"]["base_model"] == str(tmp_path / "0")
    for name in ("fisher", "regmean", "mats"):
        assert peers.configuration(name, files, tmp_path / "0") is None


def test_a_missing_mergekit_is_said_with_the_remedy(monkeypatch, tmp_path):
    monkeypatch.setattr(peers.programs, "scripts_folder", lambda: tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PrerequisiteError, match=r"pip install 'gitmerge-eval\[bench\]'"):
        peers.located(None)


def test_the_module_starts_without_heavy_imports():
    code = (
        "import sys, gitmerge_eval.bench.__main__; "
        "print([m for m in ('torch', 'numpy', 'typer', 'rich', 'git_theta') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
