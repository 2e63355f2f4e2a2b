"""PyTorch pickles to safetensors: the same bits, nothing run, nothing overwritten."""

import os
import pickle
import resource
import subprocess
import sys
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch

from gitmerge_eval import converting
from gitmerge_eval.checkpoints import pickles
from gitmerge_eval.checkpoints.pickles import Request
from gitmerge_eval.errors import MalformedCheckpoint, UsageError


@pytest.fixture
def saved(tmp_path):
    def save(value, name="model.pt", **how):
        torch.save(value, tmp_path / name, **how)
        return tmp_path / name

    return save


def convert(source, target=None, **how):
    """The conversion in this process: importing torch anew takes seconds."""
    target = target or source.with_suffix(".safetensors")
    how.pop("force", None)
    return pickles.write(Request(str(source), str(target), **how))


def weights():
    torch.manual_seed(0)
    return {
        "linear.weight": torch.randn(4, 3),
        "half": torch.randn(5).half(),
        "brain": torch.randn(2, 2).bfloat16(),
        "eight": torch.randn(3).to(torch.float8_e4m3fn),
        "steps": torch.tensor(7),
        "mask": torch.tensor([True, False]),
        "double": torch.randn(2).double(),
        "empty": torch.empty(0, 3),
        "transposed": torch.randn(4, 6).T,
        "view": torch.randn(10)[2:5],
    }


@pytest.mark.parametrize("zipped", [True, False])
def test_the_same_bits(saved, zipped):
    expected = weights()
    if not zipped:
        del expected["eight"]  # torch itself cannot read it back from its old format
    source = saved(expected, _use_new_zipfile_serialization=zipped)
    written = (converting.convert if zipped else convert)(source)
    target = source.with_suffix(".safetensors")
    found = safetensors.torch.load_file(target)
    assert written.tensors == len(found) == len(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        assert safetensors.torch.save({"x": found[name]}) == safetensors.torch.save(
            {"x": tensor.contiguous()}
        )
    with safetensors.safe_open(target, "pt") as file:
        assert file.metadata() == {"format": "pt"}
    assert sorted(p.name for p in source.parent.iterdir()) == ["model.pt", "model.safetensors"]


def test_parameters_and_modules_state(saved):
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    source = saved(model.state_dict())
    convert(source)
    found = safetensors.torch.load_file(source.with_suffix(".safetensors"))
    assert found.keys() == model.state_dict().keys()


class Evil:
    def __reduce__(self):
        return os.system, ("touch pwned",)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_is_named_and_not_run(saved, tmp_path, monkeypatch, zipped):
    monkeypatch.chdir(tmp_path)
    source = saved({"w": torch.zeros(2), "x": Evil()}, _use_new_zipfile_serialization=zipped)
    with pytest.raises(MalformedCheckpoint, match=r"'posix\.system'.*not loaded.*state_dict"):
        (converting.convert if zipped else convert)(source)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.pt"]


def test_a_whole_module_is_code(saved):
    with pytest.raises(MalformedCheckpoint, match=r"torch\.nn\.modules"):
        convert(saved(torch.nn.Linear(2, 2)))


def test_a_program_is_refused(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls it deprecated; files of it are still about
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "model.pt")
    with pytest.raises(MalformedCheckpoint, match="TorchScript"):
        convert(tmp_path / "model.pt")


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_nested_weights_are_chosen_by_key(saved, key):
    source = saved({key: {"w": torch.ones(2)}, "optimizer": {"m": torch.ones(2)}, "epoch": 3})
    with pytest.raises(MalformedCheckpoint, match=f"'{key}', 'optimizer'; choose with --key={key}"):
        convert(source)
    convert(source, key=key)
    assert list(safetensors.torch.load_file(source.with_suffix(".safetensors"))) == ["w"]
    with pytest.raises(MalformedCheckpoint, match="no key 'nothing'; there are: "):
        convert(source, key="nothing", force=True)
    with pytest.raises(MalformedCheckpoint, match="holds a Tensor"):
        convert(source, key=f"{key}.w", force=True)


def test_deeper_nesting(saved):
    source = saved({"a": {"b": {"w": torch.ones(2)}}})
    assert convert(source, key="a.b").tensors == 1


def test_prefixes_are_told_and_taken_off(saved):
    source = saved(OrderedDict({"module.a": torch.ones(1), "module.b": torch.ones(2)}))
    assert "--strip-prefix=module." in convert(source).notes[0]
    convert(source, strip_prefix="module.", force=True)
    assert set(safetensors.torch.load_file(source.with_suffix(".safetensors"))) == {"a", "b"}
    with pytest.raises(MalformedCheckpoint, match="leave out --strip-prefix"):
        convert(source, strip_prefix="x.", force=True)


def test_a_prefix_that_makes_two_names_one_is_refused(saved):
    with pytest.raises(MalformedCheckpoint, match="cannot be the name"):
        convert(saved({"module.a": torch.ones(1), "a": torch.ones(2)}), strip_prefix="module.")


def test_what_is_no_tensor_is_listed_or_dropped(saved):
    source = saved({"w": torch.ones(2), "epoch": 3, "config": {"lr": 0.1}, "name": "x"})
    with pytest.raises(MalformedCheckpoint, match=r"'epoch', 'config', 'name'.*--drop"):
        convert(source)
    assert not source.with_suffix(".safetensors").exists()
    written = convert(source, drop=True)
    assert written.dropped == ("epoch", "config", "name")
    assert list(safetensors.torch.load_file(source.with_suffix(".safetensors"))) == ["w"]


def test_tied_tensors_keep_both_names_and_are_told(saved):
    tensor = torch.randn(3, 2)
    written = convert(saved({"embed": tensor, "head": tensor, "other": tensor[:2]}))
    assert written.notes == (
        "'embed' and 'head' are one tensor; each name keeps it, Git stores it once",
    )
    assert written.tensors == 3


def test_expanded_views_that_fill_the_disk_are_refused(saved):
    source = saved({"w": torch.ones(1).expand(10**6, 10**6)})
    with pytest.raises(MalformedCheckpoint, match="far more than the file"):
        convert(source)
    assert convert(saved({"w": torch.ones(1).expand(10, 10)})).nbytes == 400


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.eye(3).to_sparse(), "sparse"),
        (torch.zeros(2, dtype=torch.complex128), "complex128"),
        (torch.empty(2, device="meta"), "without values|cannot be read"),
    ],
)
def test_tensors_that_safetensors_has_not(saved, tensor, message):
    with pytest.raises(MalformedCheckpoint, match=message):
        convert(saved({"w": tensor}))


@pytest.mark.parametrize(
    ("value", "message"),
    [([torch.ones(1)], "holds a list"), ({}, "no tensors"), ({"x": 1}, "no tensors")],
)
def test_what_is_no_state_dict(saved, value, message):
    with pytest.raises(MalformedCheckpoint, match=message):
        convert(saved(value))


def test_names_that_cannot_be(saved):
    with pytest.raises(MalformedCheckpoint, match="cannot be the name"):
        convert(saved({3: torch.ones(1)}))
    with pytest.raises(MalformedCheckpoint, match="cannot be the name"):
        convert(saved({"__metadata__": torch.ones(1)}))


def test_broken_files(tmp_path, saved):
    whole = saved(weights()).read_bytes()
    for name, data in {
        "empty.pt": b"",
        "text.pt": b"hello\n",
        "cut.pt": whole[: len(whole) // 2],
        "pickle.pt": pickle.dumps({"a": [1]}),
    }.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(MalformedCheckpoint, match=name):
            convert(tmp_path / name)
    safetensors.torch.save_file({"w": torch.ones(1)}, tmp_path / "x.pt")
    with pytest.raises(MalformedCheckpoint, match="safetensors file already"):
        convert(tmp_path / "x.pt", tmp_path / "y.safetensors")


def test_a_storage_larger_than_its_record_is_refused(tmp_path, saved):
    source = saved({"w": torch.ones(1000)})
    cut = tmp_path / "cut.pt"
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(cut, "w") as new:
        for entry in old.infolist():
            data = old.read(entry)
            new.writestr(entry, data[:16] if entry.filename.endswith("data/0") else data)
    with pytest.raises(MalformedCheckpoint, match=r"'.*cut\.pt'"):
        convert(cut)


def test_nothing_is_overwritten(saved):
    source = saved({"w": torch.ones(1)})
    target = source.with_suffix(".safetensors")
    target.write_text("mine")
    with pytest.raises(UsageError, match="--force"):
        converting.convert(source)
    assert target.read_text() == "mine"
    converting.convert(source, force=True)
    assert list(safetensors.torch.load_file(target)) == ["w"]
    with pytest.raises(UsageError, match="no file"):
        converting.convert(source.with_name("nothing.pt"))
    with pytest.raises(UsageError, match="no folder"):
        converting.convert(source, source.parent / "x" / "y.safetensors")


def test_memory_is_limited(saved, monkeypatch):
    monkeypatch.setattr(converting, "_MEMORY_BYTES", 1_000_000_000)
    source = saved({"w": torch.ones(1)})
    assert converting.convert(source).tensors == 1
    source.with_suffix(".safetensors").unlink()
    source.write_bytes(b"\x80\x02" + b"(" + b"]" * 8_000_000 + b"l.")  # lists, 56 bytes for each
    with pytest.raises(MalformedCheckpoint, match="more memory than"):
        converting.convert(source)
    assert sorted(p.name for p in source.parent.iterdir()) == ["model.pt"]


def test_time_is_limited(saved, monkeypatch):
    monkeypatch.setattr(converting, "_SECONDS", 0.01)
    with pytest.raises(MalformedCheckpoint, match="seconds"):
        converting.convert(saved({"w": torch.ones(1)}))


def test_the_limit_is_set_in_the_process():
    code = (
        "import resource; from gitmerge_eval.checkpoints import pickles; "
        "pickles._limit_memory(10**9); print(resource.getrlimit(resource.RLIMIT_DATA)[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == 10**9
    assert resource.getrlimit(resource.RLIMIT_DATA)[0] != 10**9
    assert pickles.NESTED[0] == "state_dict"


def test_the_command_where_a_file_is_named_torch(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("torch.py", "json.py"):
        (tmp_path / name).write_text("open('pwned', 'w')\n")
    source = saved({"state_dict": {"module.w": torch.ones(2, 2)}, "epoch": 1})
    program = [Path(sys.executable).with_name("gitmerge-eval"), "convert"]
    target = source.with_name("out.safetensors")
    done = subprocess.run(
        [*program, source, target, "--key=state_dict", "--strip-prefix=module."],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{target}: 1 tensors, 16 B\n"
    assert list(safetensors.torch.load_file(target)) == ["w"]
    assert not (tmp_path / "pwned").exists()
