"""The stored form equals, byte for byte, what git-theta's own serializer writes."""

import asyncio
import json

import ml_dtypes
import msgpack
import numpy as np
import pytest

from gitmerge_eval.checkpoints.dtypes import BY_NAME, IN_FILE_ORDER
from gitmerge_eval.checkpoints.encoding import chunk_shape, decode, encode, encoded, holds
from gitmerge_eval.checkpoints.metadata import GroupRecord
from gitmerge_eval.errors import MalformedCheckpoint

NATIVE = sorted(d.name for d in IN_FILE_ORDER if not d.extended)
EXTENDED = sorted(set(BY_NAME) - set(NATIVE))
SMALL = [(), (0,), (1,), (5,), (0, 5), (3, 0, 2), (100,), (7, 13), (2, 3, 5, 7), (1,) * 8]
LARGE = [
    (1_048_320,),
    (1_048_577,),
    (1025, 1024),
    (3000, 500),
    (11, 101_111),
    (65_537, 17),
    (101, 103, 107),
    (12, 3, 224, 224),
    (7, 11, 13, 17, 101),
]


@pytest.fixture(scope="module")
def serializer():
    from git_theta import params

    return params.get_update_serializer()


def values(shape, dtype):
    bits = np.random.default_rng(7).standard_normal(shape) * 3
    return bits.astype(np.dtype(dtype) if dtype in NATIVE else getattr(ml_dtypes, dtype))


def by_git_theta(serializer, array):
    return asyncio.run(serializer.serialize({"parameter": array}))


def record_of(array, **changes):
    known = {"shape": array.shape, "dtype": array.dtype.name} | changes
    return GroupRecord(name="w", signature=(), object_id="a" * 64, size=0, **known)


def bits(array):
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


@pytest.mark.parametrize("dtype", NATIVE)
@pytest.mark.parametrize("shape", SMALL, ids=str)
def test_small_arrays_have_git_thetas_bytes(serializer, shape, dtype):
    array = values(shape, dtype)
    assert encode(array) == by_git_theta(serializer, array)


@pytest.mark.parametrize("shape", LARGE, ids=str)
def test_chunked_arrays_have_git_thetas_bytes(serializer, shape):
    for dtype in ("float32", "int8"):
        array = values(shape, dtype)
        stored = by_git_theta(serializer, array)
        assert encode(array) == stored
        assert np.array_equal(decode(stored, record_of(array)), array)


def test_more_than_ten_chunks_are_listed_by_name(serializer):
    array = np.arange(12 * 2**20, dtype=np.int8)
    assert encode(array) == by_git_theta(serializer, array)


def test_zeros_and_negative_zeros_are_stored(serializer):
    for array in (np.zeros(9), -np.zeros(9, np.float32), np.zeros((), np.int64)):
        assert encode(array) == by_git_theta(serializer, array)
        assert np.array_equal(bits(decode(encode(array), record_of(array))), bits(array))


def test_layout_in_memory_does_not_count(serializer):
    array = values((30, 40), "float32")
    expected = by_git_theta(serializer, np.ascontiguousarray(array.T))
    assert encode(array.T) == expected
    assert encode(array.T.astype(">f4")) == expected


@pytest.mark.parametrize("dtype", EXTENDED)
@pytest.mark.parametrize("shape", [(), (0, 3), (1_100_000,), (33, 7)], ids=str)
def test_extended_dtypes_have_tensorstores_bytes(serializer, shape, dtype):
    import tensorstore

    array = np.abs(values(shape, dtype))
    store = tensorstore.open(
        {
            "driver": "zarr",
            "kvstore": {"driver": "memory"},
            "metadata": {"shape": array.shape, "dtype": dtype},
            "create": True,
        }
    ).result()
    store.write(array).result()
    files = {k.decode(): store.kvstore[k] for k in store.kvstore.list().result()}
    assert encode(array) == msgpack.packb({"parameter": files}, use_bin_type=True)
    read = asyncio.run(serializer.deserialize(encode(array)))["parameter"]
    assert read.dtype == array.dtype
    assert np.array_equal(bits(read), bits(array))
    assert np.array_equal(bits(decode(encode(array), record_of(array))), bits(array))


def test_chunk_shapes_are_tensorstores():
    import tensorstore

    random = np.random.default_rng(3)
    for _ in range(150):
        rank = int(random.integers(1, 6))
        shape = tuple(int(2 ** random.uniform(0, 26 / rank)) for _ in range(rank))
        opened = tensorstore.open(
            {
                "driver": "zarr",
                "kvstore": {"driver": "memory"},
                "metadata": {"shape": shape, "dtype": "|i1"},
                "create": True,
            }
        ).result()
        assert chunk_shape(shape) == opened.chunk_layout.write_chunk.shape, shape


def test_nan_payloads_survive():
    array = np.array([0x7FC00001, 0xFF812345, 0x7F800000, 1], np.uint32).view(np.float32)
    assert np.array_equal(bits(decode(encode(array), record_of(array))), bits(array))


def test_decoded_arrays_are_writable_and_own_their_memory():
    array = decode(encode(np.ones(3)), record_of(np.ones(3)))
    array += 1
    assert array.tolist() == [2, 2, 2]


@pytest.mark.parametrize(
    ("compressor", "fill"), [({"id": "zlib", "level": 1}, None), (None, 0.0), ("blosc", 0.0)]
)
def test_other_zarr_layouts_are_read(compressor, fill):
    import tensorstore

    array = values((50, 30), "float32")
    array[:25] = 0
    metadata = {
        "shape": array.shape,
        "dtype": "<f4",
        "chunks": [25, 16],
        "fill_value": fill,
        "dimension_separator": "/",
        "compressor": {"id": "blosc", "cname": "zstd"} if compressor == "blosc" else compressor,
    }
    spec = {"driver": "zarr", "kvstore": {"driver": "memory"}, "metadata": metadata, "create": True}
    store = tensorstore.open(spec).result()
    store.write(array).result()
    files = {k.decode(): store.kvstore[k] for k in store.kvstore.list().result()}
    data = msgpack.packb({"parameter": files}, use_bin_type=True)
    assert np.array_equal(decode(data, record_of(array)), array)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"shape": (4, 3)}, "shape"), ({"dtype": "int32"}, "dtype"), ({"shape": (12,)}, "shape")],
)
def test_a_value_that_is_not_the_records_is_refused(change, message):
    array = values((3, 4), "float32")
    with pytest.raises(MalformedCheckpoint, match=message):
        decode(encode(array), record_of(array, **change))


def damaged(kind):
    files = msgpack.unpackb(encode(values((3, 4), "float32")))["parameter"]
    if kind == "chunk missing":
        del files["0.0"]
    elif kind == "chunk short":
        files["0.0"] = files["0.0"][:12]
    elif kind == "chunk of another size":
        files["0.0"] = files["0.0"][:4] + (1 << 30).to_bytes(4, "little") + files["0.0"][8:]
    elif kind == "chunk cut":
        files["0.0"] = files["0.0"][:-4]
    elif kind == "no layout":
        del files[".zarray"]
    elif kind == "layout not JSON":
        files[".zarray"] = b"{"
    elif kind == "chunks of zero":
        files[".zarray"] = files[".zarray"].replace(b"[3,4]", b"[0,4]", 1)
    elif kind == "chunks beyond memory":
        layout = json.loads(files[".zarray"]) | {"chunks": [2**40, 2**40]}
        files[".zarray"] = json.dumps(layout).encode()
    elif kind == "not a map":
        return msgpack.packb([1])
    elif kind == "other parameter":
        return msgpack.packb({"data": files})
    elif kind == "not MessagePack":
        return b"\xc1garbage"
    return msgpack.packb({"parameter": files})


@pytest.mark.parametrize(
    "kind",
    [
        "chunk missing", "chunk short", "chunk of another size", "chunk cut", "no layout",
        "layout not JSON", "chunks of zero", "chunks beyond memory", "not a map",
        "other parameter", "not MessagePack",
    ],
)  # fmt: skip
def test_damaged_objects_are_refused(kind):
    with pytest.raises(MalformedCheckpoint):
        decode(damaged(kind), record_of(values((3, 4), "float32")))


def test_unknown_dtypes_are_refused():
    with pytest.raises(MalformedCheckpoint, match="complex128"):
        encode(np.ones(2, np.complex128))


@pytest.mark.parametrize("shape", [(), (0,), (33, 7), (1_100_000,), (1500, 1100)], ids=str)
def test_pieces_are_the_object_and_need_no_memory_for_it(shape):
    array = values(shape, "float32")
    pieces = list(encoded(array))
    assert b"".join(pieces) == encode(array)
    assert len(pieces) == 2 + 2 * len(msgpack.unpackb(encode(array))["parameter"]) - 2


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "int8"])
def test_holding_is_a_matter_of_every_bit(dtype):
    array = values((1100, 1025), dtype)
    array[0, 0] = 0
    record, data = record_of(array), encode(array)
    assert holds(data, record, array)
    assert holds(memoryview(data), record, array)
    for position in ((0, 0), (1099, 1024)):
        other = array.copy()
        other.view(f"u{other.dtype.itemsize}")[position] ^= 1
        assert not holds(data, record, other)
    assert not holds(data, record, array[:-1])
    assert not holds(data, record_of(array, dtype="int16"), array)
    assert not holds(data, record, array.view(f"i{array.itemsize}" if dtype != "int8" else "u1"))


def test_not_a_number_holds_itself_and_zero_is_not_minus_zero():
    array = np.array([np.nan, 0.0], np.float32)
    assert holds(encode(array), record_of(array), array.copy())
    assert not holds(encode(array), record_of(array), np.array([np.nan, -0.0], np.float32))


def test_decoding_into_given_memory():
    array = values((1025, 1024), "float32")
    out = np.full(array.shape, np.nan, np.float32)
    assert decode(encode(array), record_of(array), out) is out
    assert np.array_equal(out, array)


def test_unusual_messagepack_is_still_read(serializer):
    array = values((33, 7), "float32")
    files = msgpack.unpackb(encode(array))["parameter"]
    for packed in (
        b"\xde\x00\x01" + msgpack.packb("parameter") + msgpack.packb(files),
        b"\x81\xa9parameter\xdf\x00\x00\x00\x02"
        + b"".join(msgpack.packb(k) + msgpack.packb(v) for k, v in files.items()),
        msgpack.packb({"parameter": files | {"x" * 40: b"y"}}),
    ):
        assert np.array_equal(decode(packed, record_of(array)), array)
        assert holds(packed, record_of(array), array)
