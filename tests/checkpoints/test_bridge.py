"""NumPy to torch and back: the same bits, the same memory."""

import numpy as np
import pytest
import torch

from gitmerge_eval.checkpoints.bridge import to_numpy, to_torch, torch_dtype
from gitmerge_eval.checkpoints.dtypes import BY_NAME, IN_FILE_ORDER
from gitmerge_eval.errors import CheckpointError

NAMES = sorted(name for name in BY_NAME if hasattr(torch, name))


def some_bits(name, shape):
    dtype = BY_NAME[name]
    count = int(np.prod(shape)) * dtype.itemsize
    raw = np.random.default_rng(2).integers(0, 2 if name == "bool" else 256, count, np.uint8)
    return raw.view(dtype.numpy).reshape(shape)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(), (0, 3), (257,), (4, 5, 6)], ids=str)
def test_bits_and_memory_are_shared(name, shape):
    array = some_bits(name, shape)
    tensor = to_torch(array)
    assert tensor.dtype is torch_dtype(name)
    assert tensor.shape == shape
    back = to_numpy(tensor)
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    assert back.tobytes() == array.tobytes()
    if array.size:
        assert np.shares_memory(array, back)
        assert tensor.data_ptr() == array.ctypes.data


def test_values_are_torchs_own():
    for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2"):
        values = [1.5, -0.25, 0.0, 2.0]
        array = np.array(values).astype(BY_NAME[name].numpy)
        assert to_torch(array).float().tolist() == values
        made = to_numpy(torch.tensor(values).to(getattr(torch, name)))
        assert made.tobytes() == array.tobytes()


def test_read_only_and_strided_arrays_are_copied():
    array = np.arange(6.0).reshape(2, 3)
    array.flags.writeable = False
    tensor = to_torch(array)
    tensor += 1
    assert array[0, 0] == 0
    assert to_torch(np.arange(6.0)[::-1]).tolist() == [5, 4, 3, 2, 1, 0]


def test_transposed_and_differentiated_tensors():
    tensor = torch.arange(6.0).reshape(2, 3).T.requires_grad_()
    assert to_numpy(tensor).tolist() == [[0, 3], [1, 4], [2, 5]]


def test_unknown_dtypes():
    with pytest.raises(CheckpointError, match="complex128"):
        to_numpy(torch.ones(1, dtype=torch.complex128))
    with pytest.raises(CheckpointError, match="qint8"):
        torch_dtype("qint8")


def test_every_dtype_was_tried():
    assert {d.name for d in IN_FILE_ORDER} - set(NAMES) <= {"float8_e8m0fnu"}  # torch 2.7 added it
