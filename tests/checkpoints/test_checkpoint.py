"""Clean and smudge: bit-exact, independent of history, and clear about what is wrong."""

import io
import json
import os
import threading
import time

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from gitmerge_eval.checkpoints import checkpoint as module
from gitmerge_eval.checkpoints.checkpoint import Checkpoint, clean, smudge, store_array
from gitmerge_eval.checkpoints.dtypes import IN_FILE_ORDER
from gitmerge_eval.checkpoints.lfs import ObjectStore
from gitmerge_eval.checkpoints.metadata import Metadata
from gitmerge_eval.checkpoints.parallel import Ahead, ordered
from gitmerge_eval.errors import CheckpointError, CorruptObject, MalformedCheckpoint, MissingObject


@pytest.fixture
def store(repository):
    return ObjectStore(repository)


def tensors(seed=0):
    random = np.random.default_rng(seed)

    def bits(dtype, count):
        raw = random.integers(0, 2 if dtype.name == "bool" else 256, count * dtype.itemsize)
        return raw.astype(np.uint8).view(dtype.numpy)

    found = {f"layer.{d.name}.weight": bits(d, 60).reshape(5, 12) for d in IN_FILE_ORDER}
    return found | {
        "scale": np.array(0.5, np.float32),
        "empty": np.zeros((3, 0), np.float16),
        "large": random.standard_normal((700, 1900)).astype(np.float32),
    }


def model(arrays=None, header=None):
    return safetensors.numpy.save(tensors() if arrays is None else arrays, header)


@pytest.mark.parametrize("kind", ["bytes", "path", "stream"])
def test_there_and_back_is_bit_exact(store, tmp_path, kind):
    data = model(header={"format": "pt"})
    (tmp_path / "model").write_bytes(data)
    source = {"bytes": data, "path": tmp_path / "model", "stream": io.BytesIO(data)}[kind]
    blob = clean(source, store)
    stream = io.BytesIO()
    smudge(blob, store, stream)
    assert stream.getvalue() == data
    smudge(blob, store, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == data
    assert not list(store.folder.rglob("tmp/*"))


def test_the_blob_depends_on_the_tensors_alone(store, tmp_path):
    arrays = tensors()
    blob = clean(model(arrays), store)
    assert clean(model(dict(reversed(arrays.items()))), store) == blob
    metadata = Metadata.parse(blob)
    assert all(r.last_commit is None and r.update_type == "dense" for r in metadata.groups.values())
    assert set(metadata.groups) == set(arrays)


def test_reading_one_group(store):
    arrays = tensors()
    checkpoint = Checkpoint(Metadata.parse(clean(model(arrays), store)), store)
    for name, array in arrays.items():
        value = checkpoint.read(name)
        assert (value.dtype, value.shape) == (array.dtype, array.shape)
        assert value.tobytes() == array.tobytes()


def test_store_array_gives_the_record_that_clean_gives(store):
    arrays = tensors()
    metadata = Metadata.parse(clean(model(arrays), store))
    for name, array in arrays.items():
        assert store_array(name, array, store) == metadata.groups[name]


def with_last_commit(blob, commit):
    document = json.loads(blob)
    for entry in document.values():
        entry["theta_metadata"]["last_commit"] = commit
    return json.dumps(document, indent=4).encode()


def test_unchanged_groups_keep_their_entries(store):
    arrays = tensors()
    old = with_last_commit(clean(model(arrays), store), "c" * 40)
    assert clean(model(arrays), store, [Metadata.parse(old)]) == old
    arrays["scale"] = np.asarray(np.nextafter(arrays["scale"], np.float32(1)))
    arrays["new"] = np.ones(2, np.int32)
    metadata = Metadata.parse(clean(model(arrays), store, [Metadata.parse(old)]))
    fresh = {name for name, record in metadata.groups.items() if record.last_commit is None}
    assert fresh == {"scale", "new"}
    assert Checkpoint(metadata, store).read("scale") == arrays["scale"]


def test_a_group_is_found_in_any_of_the_earlier_versions(store):
    first, second = {"a": np.ones(3), "b": np.ones(4)}, {"a": np.zeros(3), "b": np.zeros(4)}
    old = Metadata.parse(with_last_commit(clean(model(first), store), "1" * 40))
    new = Metadata.parse(with_last_commit(clean(model(second), store), "2" * 40))
    mixed = Metadata.parse(clean(model({"a": first["a"], "b": second["b"]}), store, [new, old]))
    assert mixed.groups == {"a": old.groups["a"], "b": new.groups["b"]}


def test_the_same_value_stored_in_other_bytes_keeps_its_entry(store):
    """As another version of tensorstore might have encoded it."""
    array = np.arange(40, dtype=np.float32)
    metadata = Metadata.parse(clean(model({"w": array}), store))
    record = metadata.groups["w"]
    import msgpack

    files = msgpack.unpackb(store.read(record.object_id, record.size))
    layout = json.loads(files["parameter"][".zarray"])
    files["parameter"][".zarray"] = json.dumps(layout, indent=1).encode()
    object_id, size = store.write(msgpack.packb(files))
    assert object_id != record.object_id
    other = Metadata({"w": type(record)("w", (40,), "float32", record.signature, object_id, size)})
    assert Metadata.parse(clean(model({"w": array}), store, [other])) == other
    changed = array.copy()
    changed[0] = -0.0
    kept = Metadata.parse(clean(model({"w": changed}), store, [other])).groups["w"]
    assert kept.signature == record.signature
    assert np.signbit(Checkpoint(Metadata({"w": kept}), store).read("w")[0])


def test_one_unit_in_the_last_place_is_kept(store):
    array = np.full((1000,), 1e-9, np.float32)
    blob = clean(model({"w": array}), store)
    array[500] = np.nextafter(array[500], np.float32(1))
    again = clean(model({"w": array}), store, [Metadata.parse(blob)])
    assert again != blob
    value = Checkpoint(Metadata.parse(again), store).read("w")
    assert value.tobytes() == array.tobytes()


def test_an_object_that_vanished_is_written_again(store):
    blob = clean(model(), store)
    record = Metadata.parse(blob).groups["scale"]
    store.path(record.object_id).unlink()
    assert clean(model(), store, [Metadata.parse(blob)]) == blob
    assert store.has(record.object_id)


def test_metadata_passes_through_clean(store):
    blob = clean(model(), store)
    assert clean(blob, store) == blob
    assert clean(io.BytesIO(blob), store) == blob
    with pytest.raises(MalformedCheckpoint):
        clean(b'{"w": 1}', store)


@pytest.mark.parametrize("data", [b"", b"\x80\x02}q\x00.", model({"x": np.ones(2)})])
def test_what_was_committed_without_the_filter_passes_through_smudge(store, tmp_path, data):
    stream = io.BytesIO()
    smudge(data, store, stream)
    assert stream.getvalue() == data
    smudge(data, store, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"PK\x03\x04" + b"\0" * 100, "pickle.*gitmerge-eval convert"),
        (b"\x80\x02}q\x00X\x06\x00\x00\x00weight" + b"\0" * 80, "pickle.*safetensors"),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 100, "unknown checkpoint format; save .* safetensors"),
        (b"<<<<<<< HEAD\n{\n", "conflict"),
        (b"", "empty"),
        (model()[:-1], "truncated safetensors"),
        (model()[:40], "truncated safetensors"),
    ],
)
def test_other_formats_are_refused_with_the_remedy(store, data, message):
    with pytest.raises(MalformedCheckpoint, match=message):
        clean(io.BytesIO(data), store)
    assert not list(store.folder.rglob("tmp/*"))


def test_a_pytorch_archive_is_refused(store, tmp_path):
    import torch

    for legacy in (False, True):
        torch.save(
            {"w": torch.ones(2)}, tmp_path / "m.pt", _use_new_zipfile_serialization=not legacy
        )
        with pytest.raises(MalformedCheckpoint, match="pickle"):
            clean(tmp_path / "m.pt", store)


def test_a_file_whose_length_looks_like_a_pickle_is_read(store, tmp_path):
    arrays = {"x" * n: np.ones(1) for n in range(1, 9)}
    data = model(arrays)
    for n in range(200):
        data = model(arrays, {"pad": "p" * n})
        if data[0] == 0x80:
            break
    assert data[0] == 0x80
    smudge(clean(data, store), store, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == data


def test_a_file_whose_length_looks_like_json_is_read(store):
    # 0x7b is '{'; safetensors pads headers to eight bytes, other writers need not.
    text = json.dumps({"x": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}).encode()
    text += b" " * (0x7B - len(text))
    blob = clean(len(text).to_bytes(8, "little") + text + b"\x05", store)
    assert Checkpoint(Metadata.parse(blob), store).read("x").tolist() == [5]


def test_missing_and_corrupted_objects_name_the_group(store, tmp_path):
    blob = clean(model(), store)
    record = Metadata.parse(blob).groups["scale"]
    checkpoint = Checkpoint(Metadata.parse(blob), store)
    path = store.path(record.object_id)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"\xff")
    with pytest.raises(CorruptObject, match=r"group 'scale': LFS object"):
        checkpoint.read("scale")
    with pytest.raises(CorruptObject):
        smudge(blob, store, tmp_path / "out")
    path.unlink()
    with pytest.raises(MissingObject, match=r"group 'scale': LFS object .* remote"):
        checkpoint.read("scale")
    with pytest.raises(MissingObject):
        smudge(blob, store, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not [p.name for p in tmp_path.iterdir() if p.name.endswith(".tmp")]


def test_metadata_that_lies_about_a_value_is_refused(store, tmp_path):
    blob = clean(model({"w": np.ones((2, 3), np.float32)}), store)
    lie = blob.replace(b"(2, 3)", b"(3, 2)")
    with pytest.raises(MalformedCheckpoint, match="shape"):
        smudge(lie, store, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_adding_again_heals_a_damaged_object(store):
    arrays = {"w": tensors()["large"]}
    blob = clean(model(arrays), store)
    record = Metadata.parse(blob).groups["w"]
    path = store.path(record.object_id)
    good = path.read_bytes()
    for damaged in (b"\0" * len(good), good[:5000] + b"\0" * 9 + good[5009:], good[:-1]):
        path.write_bytes(damaged)
        assert clean(io.BytesIO(model(arrays)), store, [Metadata.parse(blob)]) == blob
        assert path.read_bytes() == good
    path.unlink()
    assert clean(model(arrays), store, [Metadata.parse(blob)]) == blob
    assert path.read_bytes() == good


def test_an_unchanged_model_is_neither_encoded_nor_signed(store, monkeypatch):
    blob = clean(model(), store)
    old = time.time() - 1000
    paths = [store.path(record.object_id) for record in Metadata.parse(blob).groups.values()]
    for path in paths:
        os.utime(path, (old, old))

    def unwanted(*arguments):
        pytest.fail("nothing changed")

    monkeypatch.setattr(module, "encoded", unwanted)
    monkeypatch.setattr(module, "signature", unwanted)
    assert clean(io.BytesIO(model()), store, [Metadata.parse(blob)]) == blob
    assert all(path.stat().st_mtime > old + 500 for path in paths)


def test_a_stream_gives_the_blob_that_the_file_gives(store, tmp_path):
    data = model(header={"format": "pt"})
    blob = clean(data, store)
    assert clean(io.BytesIO(data), store) == blob
    before = {p: p.read_bytes() for p in store.folder.rglob("objects/*/*/*")}
    other = ObjectStore(store.repository)
    other.folder = tmp_path / "elsewhere"
    assert clean(io.BytesIO(data), other) == blob
    found = {p.name: p.read_bytes() for p in other.folder.rglob("objects/*/*/*")}
    assert found == {p.name: content for p, content in before.items()}


@pytest.mark.parametrize("spoil", [lambda d: d[:-1], lambda d: d + b"x"])
def test_a_stream_that_does_not_hold_leaves_whole_objects_only(store, spoil):
    with pytest.raises(MalformedCheckpoint):
        clean(io.BytesIO(spoil(model())), store)
    assert not list(store.folder.rglob("tmp/*"))
    for path in store.folder.rglob("objects/*/*/*"):
        assert store.read(path.name, path.stat().st_size)


def test_failing_to_store_one_group_fails_the_clean(store, monkeypatch):
    def full(pieces, doubted=()):
        raise CheckpointError("no space")

    monkeypatch.setattr(store, "write_pieces", full)
    with pytest.raises(CheckpointError, match="no space"):
        clean(model(), store)


def test_bfloat16_values(store, tmp_path):
    array = np.array([1.5, np.inf, -0.0], ml_dtypes.bfloat16)
    smudge(clean(model({"w": array}), store), store, tmp_path / "out")
    with safetensors.safe_open(tmp_path / "out", "pt") as file:
        assert file.get_tensor("w").float().tolist() == [1.5, float("inf"), -0.0]


def test_ordered_keeps_order_and_bounds():
    running, most, lock = 0, 0, threading.Lock()

    def work(number):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        threading.Event().wait(0.002 * (number % 3))
        with lock:
            running -= 1
        return number

    result = ordered(work, range(40), nbytes=lambda n: 10, workers=8, in_flight_bytes=30)
    assert list(result) == list(range(40))
    assert most <= 3
    assert list(ordered(work, [1, 2], nbytes=lambda n: 10**9, in_flight_bytes=1)) == [1, 2]


def test_ordered_raises_the_first_failure_and_stops():
    done = []

    def work(number):
        if number == 3:
            raise CheckpointError("three")
        done.append(number)
        return number

    with pytest.raises(CheckpointError, match="three"):
        list(ordered(work, range(1000), nbytes=lambda n: 1, workers=2))
    assert len(done) < 100


def test_the_module_does_not_import_torch():
    import subprocess
    import sys

    code = (
        f"import sys, {module.__name__}; "
        "print([m for m in ('torch', 'numba', 'git_theta', 'tensorstore') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_ahead_runs_before_it_is_asked_and_waits_at_its_bound():
    made = []

    def items():
        for number in range(8):
            made.append(number)
            yield bytes(10)

    running = Ahead(items(), nbytes=len, in_flight_bytes=25)
    deadline = time.monotonic() + 5
    while len(made) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert len(made) == 3
    assert list(running) == [bytes(10)] * 8


def test_ahead_raises_where_the_generator_does_and_can_be_closed():
    ended = threading.Event()

    def items():
        try:
            yield b"one"
            raise CheckpointError("no more")
        finally:
            ended.set()

    running = iter(Ahead(items(), nbytes=len))
    assert next(running) == b"one"
    with pytest.raises(CheckpointError, match="no more"):
        next(running)

    def endless():
        try:
            while True:
                yield bytes(10)
        finally:
            ended.set()

    ended.clear()
    Ahead(endless(), nbytes=len, in_flight_bytes=25).close()
    assert ended.wait(5)
