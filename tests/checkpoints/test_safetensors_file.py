"""Safetensors files as the published package writes and reads them."""

import errno
import json
import os
import threading

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from gitmerge_eval.checkpoints.dtypes import IN_FILE_ORDER
from gitmerge_eval.checkpoints.safetensors_file import SafetensorsFile, SafetensorsWriter
from gitmerge_eval.errors import CheckpointError, MalformedCheckpoint


def tensors():
    random = np.random.default_rng(5)
    found = {
        f"t.{d.name}": np.abs(random.standard_normal((3, 5)) * 3).astype(d.numpy)
        for d in IN_FILE_ORDER
    }
    more = {
        "a": random.standard_normal((4, 4)).astype("f4"),
        "Z": np.array(2.5, "f4"),
        'ünï "\\\n\x01\x7f/': np.ones(3, "f8"),
        "empty": np.zeros((0, 7), "f2"),
    }
    return found | more


def layout_of(arrays):
    return {name: (array.shape, array.dtype.name) for name, array in arrays.items()}


def write(path, arrays, header=None):
    with SafetensorsWriter(path, layout_of(arrays), header or {}) as writer:
        for name in reversed(list(arrays)):
            writer.write(name, arrays[name])


@pytest.mark.parametrize("header", [None, {"format": "pt"}])
def test_output_is_safetensors_own(tmp_path, header):
    arrays = tensors()
    write(tmp_path / "ours", arrays, header)
    assert (tmp_path / "ours").read_bytes() == safetensors.numpy.save(arrays, header)
    assert os.listdir(tmp_path) == ["ours"]


@pytest.mark.parametrize("arrays", [{}, {"x": np.zeros((0,), "f4")}], ids=["none", "empty"])
def test_output_without_elements(tmp_path, arrays):
    write(tmp_path / "ours", arrays)
    assert (tmp_path / "ours").read_bytes() == safetensors.numpy.save(arrays)
    assert SafetensorsFile(tmp_path / "ours").names == tuple(arrays)


def test_several_header_entries_are_sorted(tmp_path):
    write(tmp_path / "ours", {"x": np.ones(2)}, {"z": "1", "a": "ü\n", "m": "3"})
    file = SafetensorsFile(tmp_path / "ours")
    assert list(file.header.items()) == [("a", "ü\n"), ("m", "3"), ("z", "1")]
    with safetensors.safe_open(tmp_path / "ours", "np") as theirs:
        assert theirs.metadata() == file.header


def test_reads_what_safetensors_wrote(tmp_path):
    arrays = tensors()
    safetensors.numpy.save_file(arrays, tmp_path / "model", {"format": "pt"})
    for source in (tmp_path / "model", (tmp_path / "model").read_bytes()):
        file = SafetensorsFile(source)
        assert file.header == {"format": "pt"}
        assert file.names == tuple(sorted(arrays))
        assert file.layout == dict(sorted(layout_of(arrays).items()))
        for name, array in arrays.items():
            read = file.read(name)
            assert (read.shape, read.dtype) == (array.shape, array.dtype)
            assert read.tobytes() == array.tobytes()
            assert file.nbytes(name) == array.nbytes


def test_reading_shares_memory_and_never_changes_the_file(tmp_path):
    safetensors.numpy.save_file({"x": np.arange(4.0)}, tmp_path / "model")
    before = (tmp_path / "model").read_bytes()
    file = SafetensorsFile(tmp_path / "model")
    first, second = file.read("x"), file.read("x")
    assert np.shares_memory(first, second)
    first[0] = 9
    assert second[0] == 9
    assert (tmp_path / "model").read_bytes() == before


def test_tensors_that_the_file_does_not_align(tmp_path):
    text = b'{"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
    text += b'"f":{"dtype":"F64","shape":[2],"data_offsets":[1,17]}}'
    data = len(text).to_bytes(8, "little") + text + b"\x07" + np.array([1.5, -2.0]).tobytes()
    array = SafetensorsFile(data).read("f")
    assert array.flags.aligned
    assert array.tolist() == [1.5, -2.0]


def test_threads_may_write(tmp_path):
    arrays = {f"t{i}": np.full((1000,), i, "f4") for i in range(16)}
    with SafetensorsWriter(tmp_path / "ours", layout_of(arrays), {}) as writer:
        threads = [threading.Thread(target=writer.write, args=item) for item in arrays.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (tmp_path / "ours").read_bytes() == safetensors.numpy.save(arrays)


def test_an_exception_leaves_nothing(tmp_path):
    (tmp_path / "ours").write_bytes(b"the old file")

    def interrupted():
        with SafetensorsWriter(tmp_path / "ours", {"x": ((2,), "float32")}, {}) as writer:
            writer.write("x", np.ones(2, "f4"))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        interrupted()
    assert os.listdir(tmp_path) == ["ours"]
    assert (tmp_path / "ours").read_bytes() == b"the old file"


def test_a_tensor_not_written_is_noticed(tmp_path):
    layout = {"x": ((2,), "float32"), "y": ((2,), "float32")}
    with (
        pytest.raises(CheckpointError, match="1 tensors were not written \\('y'"),
        SafetensorsWriter(tmp_path / "ours", layout, {}) as writer,
    ):
        writer.write("x", np.ones(2, "f4"))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("array", [np.ones(3, "f4"), np.ones(2, "f8")])
def test_a_tensor_that_was_not_announced_so(tmp_path, array):
    with (
        pytest.raises(CheckpointError, match="announced as float32"),
        SafetensorsWriter(tmp_path / "ours", {"x": ((2,), "float32")}, {}) as writer,
    ):
        writer.write("x", array)
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(CheckpointError, match="cannot write"):
        SafetensorsWriter(tmp_path / "no" / "ours", {}, {})


def test_other_strides_and_byte_orders(tmp_path):
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    with SafetensorsWriter(tmp_path / "ours", {"x": ((4, 3), "float32")}, {}) as writer:
        writer.write("x", array.astype(">f4").T)
    expected = safetensors.numpy.save({"x": np.ascontiguousarray(array.T)})
    assert (tmp_path / "ours").read_bytes() == expected


@pytest.mark.parametrize("length", [0, 1, 7, 8, 20, 60, 100, 150, -1])
def test_every_truncation_is_named(tmp_path, length):
    data = safetensors.numpy.save({"x": np.arange(10.0), "y": np.ones(3, "f4")})
    (tmp_path / "model").write_bytes(data[:length])
    with pytest.raises(MalformedCheckpoint, match="truncated safetensors"):
        SafetensorsFile(tmp_path / "model")


def file_of(header, data=b"\0" * 16):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def tensor(dtype="F32", shape=(4,), offsets=(0, 16)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


MALFORMED = {
    "gap": {"x": tensor(offsets=(4, 20))},
    "overlap": {"x": tensor(), "y": tensor()},
    "bytes left over": {"x": tensor(shape=(2,), offsets=(0, 8))},
    "shape and bytes differ": {"x": tensor(shape=(5,))},
    "negative shape": {"x": tensor(shape=(-4,))},
    "fractional shape": {"x": tensor(shape=(4.0,))},
    "three offsets": {"x": tensor(offsets=(0, 8, 16))},
    "offsets backwards": {"x": tensor(offsets=(16, 0))},
    "unknown dtype": {"x": tensor(dtype="F4")},
    "no dtype": {"x": {"shape": [4], "data_offsets": [0, 16]}},
    "entry not an object": {"x": 7},
    "a list": [],
    "not JSON": b"{",
    "not text": b'{"\xff": 1}',
    "name twice": b'{"x":{},"x":{}}',
    "surrogate in a name": b'{"\\ud800":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}',
    "nested without end": b'{"a":' * 50_000,
    "metadata not text": {"__metadata__": {"a": 1}, "x": tensor()},
}


@pytest.mark.parametrize("header", MALFORMED.values(), ids=MALFORMED)
def test_malformed_files_are_refused(header):
    with pytest.raises(MalformedCheckpoint):
        SafetensorsFile(file_of(header))


def test_a_header_length_beyond_reason():
    with pytest.raises(MalformedCheckpoint, match="is this a safetensors file"):
        SafetensorsFile(b"\x7fELF\x02\x01\x01\x00" * 4)


def test_bfloat16_reads_as_ml_dtypes():
    data = safetensors.numpy.save({"x": np.array([1.5, -2], ml_dtypes.bfloat16)})
    assert SafetensorsFile(data).read("x").astype(float).tolist() == [1.5, -2]


def test_tensors_may_come_in_parts(tmp_path):
    rng = np.random.default_rng(5)
    wide, narrow = rng.standard_normal((6, 10)), rng.standard_normal(7).astype(np.float32)
    layout = {"a": ((6, 10), "float64"), "b": ((7,), "float32"), "c": ((0, 3), "float32")}
    with SafetensorsWriter(tmp_path / "parts", layout, {}) as writer:
        writer.write_part("b", (0,), 7, np.zeros(7, np.float32))
        writer.write_part("a", [0, 10, 20, 30, 40, 50], 4, wide[:, :4])
        writer.write_part("b", (0,), 7, narrow)
        writer.write_part("a", (4, 14, 24, 34, 44, 54), 6, wide[:, 4:])
        with pytest.raises(CheckpointError, match="announced as 6 elements"):
            writer.write_part("b", (0,), 6, narrow)
        for name in layout:
            writer.mark_whole(name)
    found = SafetensorsFile(tmp_path / "parts")
    assert np.array_equal(found.read("a"), wide)
    assert np.array_equal(found.read("b"), narrow)


def test_parts_are_not_a_tensor_before_somebody_says_so(tmp_path):
    writer = SafetensorsWriter(tmp_path / "torn", {"b": ((7,), "float32")}, {})
    writer.write_part("b", (0,), 7, np.zeros(7, np.float32))
    with pytest.raises(CheckpointError, match="not whole"):
        writer.close()
    assert list(tmp_path.iterdir()) == []


LARGE = {name: np.full(1000, number, np.float32) for number, name in enumerate("abcd")}


@pytest.fixture
def flushed(monkeypatch):
    """The sizes at which a file was brought to disk, where 3,000 bytes count as much."""
    found, fsync = [], os.fsync

    def traced(file):
        found.append(os.fstat(file).st_size)
        fsync(file)

    monkeypatch.setattr("gitmerge_eval.checkpoints.settlement._FLUSHED_BYTES", 3000)
    monkeypatch.setattr(os, "fsync", traced)
    return found


def test_a_large_file_is_brought_to_disk_while_it_is_written(tmp_path, flushed):
    write(tmp_path / "model", LARGE)
    assert len(flushed) >= 2
    assert flushed[-1] == (tmp_path / "model").stat().st_size
    flushed.clear()
    with SafetensorsWriter(tmp_path / "used once", layout_of(LARGE), {}, durable=False) as writer:
        for name, array in LARGE.items():
            writer.write(name, array)
    assert flushed == []


@pytest.mark.parametrize("fails_at", [1, 2])
def test_a_disk_that_refuses_early_is_an_error_in_the_end(tmp_path, monkeypatch, flushed, fails_at):
    """The system tells it to one fsync alone."""
    fsync, calls = os.fsync, []

    def failing(file):
        calls.append(file)
        if len(calls) == fails_at:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(file)

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(CheckpointError, match=r"cannot write .*: Input/output error"):
        write(tmp_path / "model", LARGE)
    assert os.listdir(tmp_path) == []
    assert threading.active_count() == 1 or "early flush" not in {
        thread.name for thread in threading.enumerate()
    }
