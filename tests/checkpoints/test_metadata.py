"""Metadata: git-theta's JSON, byte for byte; anything else is refused."""

import io
import json

import pytest

from gitmerge_eval.checkpoints.metadata import GroupRecord, Metadata, is_metadata
from gitmerge_eval.errors import MalformedCheckpoint

OBJECT_ID = "ab" * 32


def record(name="w", **changes):
    known = {
        "shape": (3, 4),
        "dtype": "float32",
        "signature": (1, -(2**63), 2**63 - 1),
        "object_id": OBJECT_ID,
        "size": 123,
    }
    return GroupRecord(name=name, **(known | changes))


def entry(**changes):
    parts = {
        "shape": "(3, 4)", "dtype": "float32", "hash": [1, 2], "oid": OBJECT_ID, "size": "123",
        "version": "https://git-lfs.github.com/spec/v1", "update_type": "dense",
        "last_commit": None,
    } | changes  # fmt: skip
    groups = {
        "tensor_metadata": ("shape", "dtype", "hash"),
        "lfs_metadata": ("version", "oid", "size"),
        "theta_metadata": ("update_type", "last_commit"),
    }
    return {name: {key: parts[key] for key in keys} for name, keys in groups.items()}


def by_git_theta(document):
    """git-theta's own reader and writer, one after the other."""
    from git_theta.metadata import Metadata as Theirs

    written = io.StringIO()
    Theirs.from_file(io.StringIO(json.dumps(document))).write(written)
    return written.getvalue().encode()


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"w": entry()},
        {"a.b": entry(shape="()"), "a.c": entry(shape="(0,)", dtype="bfloat16", hash=[])},
        {"a": {"b": {"c": entry(last_commit="c" * 40)}, "d": entry()}, "e": entry(size="0")},
        {"ü \n\u2028": entry(dtype="float8_e4m3fn", update_type="low-rank")},
    ],
    ids=["empty", "one", "flat", "nested", "odd names"],
)
def test_git_thetas_blob_comes_back_unchanged(document):
    blob = by_git_theta(document)
    assert Metadata.parse(blob).serialize() == blob


def test_what_we_write_is_what_git_theta_would():
    metadata = Metadata({r.name: r for r in (record("z"), record("a", shape=(), size=0))})
    blob = metadata.serialize()
    assert by_git_theta(json.loads(blob)) == blob
    assert list(json.loads(blob)) == ["a", "z"]
    assert Metadata.parse(blob) == metadata


def test_header_travels_in_the_first_group_and_git_theta_reads_on():
    metadata = Metadata({"b": record("b"), "a": record("a")}, {"format": "pt", "author": "Zoë"})
    blob = metadata.serialize()
    assert Metadata.parse(blob) == metadata
    document = json.loads(blob)
    assert document["a"].pop("safetensors_metadata") == {"author": "Zoë", "format": "pt"}
    assert by_git_theta(json.loads(blob)) == by_git_theta(document)


def test_header_without_a_group_is_refused():
    with pytest.raises(MalformedCheckpoint, match="without tensors"):
        Metadata({}, {"format": "pt"}).serialize()


def test_nested_names_are_joined_and_keep_their_keys():
    metadata = Metadata.parse(by_git_theta({"a": {"b": entry()}}))
    assert metadata.groups["a/b"].keys == ("a", "b")


def test_nbytes():
    assert record(shape=(3, 4), dtype="bfloat16").nbytes == 24
    assert record(shape=(), dtype="float64").nbytes == 8
    assert record(shape=(0, 7)).nbytes == 0


HOSTILE = {
    "path in the object id": entry(oid="../../../../etc/passwd"),
    "object id of wrong length": entry(oid="ab" * 31),
    "object id in capitals": entry(oid="AB" * 32),
    "object id with a newline": entry(oid=OBJECT_ID + "\n"),
    "object id not text": entry(oid=7),
    "negative size": entry(size="-1"),
    "size a number": entry(size=123),
    "size with sign": entry(size="+1"),
    "size in other digits": entry(size="１２"),
    "size absent": {**entry(), "lfs_metadata": {"oid": OBJECT_ID}},
    "other LFS version": entry(version="https://hawser.github.com/spec/v1"),
    "negative shape": entry(shape="(-1, 4)"),
    "shape with code": entry(shape="(__import__('os').getpid(),)"),
    "shape a list": entry(shape=[3, 4]),
    "shape beyond memory": entry(shape=f"({2**40}, {2**40})"),
    "rank beyond reason": entry(shape=f"({', '.join(['1'] * 40)})"),
    "unknown dtype": entry(dtype="object"),
    "big-endian dtype": entry(dtype=">f4"),
    "signature not a list": entry(hash="1"),
    "signature of fractions": entry(hash=[1.5]),
    "signature of booleans": entry(hash=[True]),
    "signature too large": entry(hash=[2**63]),
    "signature too long": entry(hash=[0] * 2000),
    "last commit a name": entry(last_commit="HEAD"),
    "last commit an option": entry(last_commit="--output=x"),
    "update type a path": entry(update_type="../evil"),
    "no tensor metadata": {"lfs_metadata": entry()["lfs_metadata"]},
    "no entry": 7,
    "text for an entry": "lfs_metadata",
    "header not text": {**entry(), "safetensors_metadata": {"a": 1}},
    "header a list": {**entry(), "safetensors_metadata": []},
    "header of surrogates": {**entry(), "safetensors_metadata": {"a": "\ud800"}},
}


@pytest.mark.parametrize("bad", HOSTILE.values(), ids=HOSTILE)
def test_hostile_metadata_is_refused(bad):
    with pytest.raises(MalformedCheckpoint, match=r"'w'|reserves"):
        Metadata.parse(json.dumps({"w": bad}).encode())


@pytest.mark.parametrize(
    "text",
    [
        b"", b"{", b"[]", b"7", b"\xff\xfe{}", b'{"a": NaN}', b'{"w": 1, "w": 2}',
        b"<<<<<<< HEAD\n{}", b"[" * 100_000, b'{"a":' * 100_000, b'{"a": ' + b"9" * 5000 + b"}",
    ],
)  # fmt: skip
def test_what_is_not_a_json_object_is_refused(text):
    with pytest.raises(MalformedCheckpoint):
        Metadata.parse(text)


@pytest.mark.parametrize("name", ["__metadata__", "\ud800"])
def test_names_that_no_safetensors_file_can_have_are_refused(name):
    with pytest.raises(MalformedCheckpoint):
        Metadata.parse(json.dumps({name: entry()}).encode())


def test_one_name_from_two_nestings_is_refused():
    document = {"a": {"b": entry()}, "a/b": entry()}
    with pytest.raises(MalformedCheckpoint, match="twice"):
        Metadata.parse(json.dumps(document).encode())


def test_is_metadata_tells_json_from_safetensors():
    assert is_metadata(b"{}")
    assert is_metadata(b' \n{\n    "w": {')
    assert not is_metadata(b"")
    assert not is_metadata(b"PK\x03\x04")
    # A safetensors header of 0x7b bytes starts with the byte that is '{' in ASCII.
    assert not is_metadata((0x7B).to_bytes(8, "little") + b'{"w":')
