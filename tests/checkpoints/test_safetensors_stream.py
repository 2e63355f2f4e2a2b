"""A file that arrives in parts is the file that lies on a disk."""

import io
import json
from contextlib import contextmanager

import numpy as np
import pytest
import safetensors.numpy

from gitmerge_eval.checkpoints.safetensors_stream import SafetensorsStream
from gitmerge_eval.errors import CheckpointError, MalformedCheckpoint


@contextmanager
def no_file():
    pytest.fail("nothing was to be spooled")
    yield


class Parts:
    """A stream that gives a few bytes at a time, with or without ``readinto``."""

    def __init__(self, data, most):
        self.stream, self.most, self.taken = io.BytesIO(data), most, 0

    def read(self, size=-1):
        part = self.stream.read(self.most if size < 0 else min(size, self.most))
        self.taken += len(part)
        return part


class IntoParts(Parts):
    def readinto(self, view):
        part = self.read(len(view))
        view[: len(part)] = part
        return len(part)


def tensors():
    random = np.random.default_rng(5)
    return {
        "b": random.standard_normal((3, 5)).astype(np.float32),
        "a": np.arange(7),
        "empty": np.zeros((0, 4), np.float16),
        "scalar": np.array(True),
    }


@pytest.mark.parametrize("kind", [Parts, IntoParts, lambda data, most: io.BytesIO(data)])
@pytest.mark.parametrize("most", [1, 9, 1 << 20])
@pytest.mark.parametrize("begun", [0, 5, 64, 400])
def test_all_tensors_in_the_order_of_the_file(kind, most, begun):
    data = safetensors.numpy.save(tensors(), {"format": "pt"})
    source = kind(data[begun:], most)
    stream = SafetensorsStream(source, data[:begun], no_file)
    assert stream.metadata == {"format": "pt"}
    found = dict(stream.tensors())
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    del header["__metadata__"]
    assert list(found) == sorted(header, key=lambda name: header[name]["data_offsets"])
    for name, array in tensors().items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()


def test_a_tensor_is_there_when_its_bytes_are():
    data = safetensors.numpy.save({"a": np.ones(1000), "b": np.ones(100_000)})
    source = Parts(data, 100)
    name, array = next(SafetensorsStream(source, b"", no_file).tensors())
    assert (name, array.sum()) == ("a", 1000)
    assert source.taken < 20_000


def test_large_tensors_are_spooled(tmp_path):
    arrays = {"large": np.arange(5000.0), "small": np.arange(10.0)}
    used = []

    @contextmanager
    def temporary():
        path = tmp_path / f"{len(used)}"
        used.append(path)
        yield path
        path.unlink()

    data = safetensors.numpy.save(arrays)
    found = dict(SafetensorsStream(Parts(data, 999), b"", temporary, 1000).tensors())
    assert len(used) == 1
    assert not used[0].exists()
    for name, array in arrays.items():
        assert np.array_equal(found[name], array)
    with pytest.raises(MalformedCheckpoint, match="truncated safetensors: 39920 of 40080"):
        list(SafetensorsStream(Parts(data[:-160], 999), b"", temporary, 1000).tensors())


def test_no_room_to_spool_is_one_clear_line(tmp_path):
    @contextmanager
    def temporary():
        yield tmp_path / "absent" / "file"

    data = safetensors.numpy.save({"large": np.arange(5000.0)})
    with pytest.raises(CheckpointError, match=r"cannot write .*absent/file: No such file"):
        list(SafetensorsStream(io.BytesIO(data), b"", temporary, 1000).tensors())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d[:-1], "truncated safetensors"),
        (lambda d: d[:-150], "truncated safetensors"),
        (lambda d: d + b"x" * 5, "5 bytes follow the last tensor"),
        (lambda d: d[:5], "truncated safetensors: 5 bytes in all"),
        (lambda d: d[:50], "of the header"),
        (lambda d: (10**12).to_bytes(8, "little") + d[8:], "header of 1000000000000 bytes"),
        (lambda d: d.replace(b"F64", b"F77"), "F77"),
    ],
)
def test_what_the_file_reader_refuses_is_refused(change, message):
    data = change(safetensors.numpy.save({"a": np.ones(10), "b": np.ones(20)}))
    with pytest.raises(MalformedCheckpoint, match=message):
        list(SafetensorsStream(Parts(data, 33), b"", no_file).tensors())
