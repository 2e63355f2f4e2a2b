"""What is measured of a program, against programs whose needs are known."""

import os
import subprocess
import sys

import pytest

from gitmerge_eval.bench.processes import BenchmarkFailed, measure
from gitmerge_eval.errors import PrerequisiteError

MEGABYTE = 1 << 20


def run(code, tmp_path, **more):
    return measure([sys.executable, "-c", code], folder=tmp_path, environment=os.environ, **more)


def test_wall_time_is_not_cpu_time(tmp_path):
    used = run("import time; time.sleep(0.4)", tmp_path)
    assert 0.4 <= used.seconds < 3
    assert used.cpu_seconds < 0.3


def test_the_cpu_time_of_children_counts(tmp_path):
    child = "import time; end = time.process_time() + 0.4\nwhile time.process_time() < end: pass"
    used = run(
        f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])", tmp_path
    )
    assert used.cpu_seconds >= 0.4


def test_the_memory_of_all_processes_is_added_up(tmp_path):
    child = "import time; held = bytearray(b'x') * (100 << 20); time.sleep(0.6)"
    code = (
        "import subprocess, sys, time; held = bytearray(b'x') * (100 << 20)\n"
        f"all = [subprocess.Popen([sys.executable, '-c', {child!r}]) for _ in range(2)]\n"
        "[one.wait() for one in all]"
    )
    used = run(code, tmp_path)
    assert 300 * MEGABYTE <= used.anonymous_bytes < 400 * MEGABYTE
    assert used.anonymous_bytes <= used.peak_bytes < 460 * MEGABYTE


def test_a_short_peak_is_seen_in_the_kernel_s_own_mark(tmp_path):
    code = "import time; held = bytearray(b'x') * (200 << 20); del held; time.sleep(0.2)"
    assert run(code, tmp_path).peak_bytes >= 200 * MEGABYTE


def test_programs_are_named_and_counted(tmp_path):
    script = tmp_path / "tool"
    script.write_text(f"#!{sys.executable}\nimport time; time.sleep(0.2)\n")
    script.chmod(0o755)
    code = f"import subprocess; [subprocess.run([{str(script)!r}, 'filter']) for _ in range(3)]"
    used = run(code, tmp_path)
    assert used.started("tool filter") == 3
    assert used.started("other") == 0


def test_a_shell_that_names_a_program_is_not_the_program(tmp_path):
    used = measure(
        ["sh", "-c", "sleep 0.1; : tool filter"], folder=tmp_path, environment=os.environ
    )
    assert used.started("tool filter") == 0


def test_a_failure_has_the_end_of_the_output(tmp_path):
    with pytest.raises(BenchmarkFailed, match=r"failed \(3\):\nthe reason"):
        run("import sys; print('the reason'); sys.exit(3)", tmp_path)
    assert run("import sys; sys.exit(3)", tmp_path, check=False).status == 3


def test_a_missing_program_is_said(tmp_path):
    with pytest.raises(PrerequisiteError, match="'no-such-program' cannot be started"):
        measure(["no-such-program"], folder=tmp_path, environment=os.environ)


def test_floors_give_what_they_say(tmp_path):
    import numpy as np
    from safetensors.numpy import load_file, save_file

    folders = [tmp_path / str(number) for number in range(3)]
    for number, folder in enumerate(folders):
        folder.mkdir()
        values = np.arange(6, dtype=np.float32).reshape(2, 3) * (number + 1)
        save_file({"w": values}, folder / "model.safetensors", {"format": "pt"})
    for kind in ("numpy", "torch"):
        output = tmp_path / kind
        output.mkdir()
        command = [sys.executable, "-m", "gitmerge_eval.bench.floor", kind, output, *folders]
        subprocess.run(command, check=True)
    factors = {"numpy": 2, "torch": 3}  # the mean, and the last input
    for kind, factor in factors.items():
        found = load_file(tmp_path / kind / "model.safetensors")["w"]
        assert (found == np.arange(6, dtype=np.float32).reshape(2, 3) * factor).all()
