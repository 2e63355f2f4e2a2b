"""Models in several files: the index, its consistency, and the result's layout."""

import json
from dataclasses import replace

import numpy as np
import pytest
from huggingface_hub import split_torch_state_dict_into_shards

from gitmerge_eval.checkpoints import sharded
from gitmerge_eval.checkpoints.metadata import GroupRecord, Metadata
from gitmerge_eval.checkpoints.sharded import ShardIndex, arrange, divide, unite
from gitmerge_eval.errors import MalformedCheckpoint

ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def record(name, shape=(2, 3)):
    return GroupRecord(name, shape, "float32", (), "0" * 64, 100)


def shard(*names):
    return Metadata({name: record(name) for name in names}, {"format": "pt"})


INDEX = ShardIndex({"a": ONE, "b": ONE, "c": TWO}, {"total_size": 72})
SHARDS = {ONE: shard("a", "b"), TWO: shard("c")}


def test_the_document_is_written_as_transformers_writes_it(tmp_path):
    from transformers import BertConfig, BertModel

    model = BertModel(
        BertConfig(
            vocab_size=8,
            hidden_size=4,
            num_hidden_layers=1,
            num_attention_heads=1,
            intermediate_size=4,
            max_position_embeddings=4,
        )
    )
    model.save_pretrained(tmp_path, max_shard_size=300)
    data = (tmp_path / "model.safetensors.index.json").read_bytes()
    index = ShardIndex.parse(data)
    assert index.serialize() == data
    assert len(index.shards) > 1
    assert set(index.shards) == {path.name for path in tmp_path.glob("*.safetensors")}
    kept = arrange(index, [index], {n: record(n, tuple(t.shape)) for n, t in _saved(model).items()})
    assert kept.serialize() == data


def _saved(model):
    import torch

    state = model.state_dict()
    split = split_torch_state_dict_into_shards(state)
    return {name: torch.as_tensor(state[name]) for name in split.tensor_to_filename}


@pytest.mark.parametrize(
    "document",
    [
        [],
        {},
        {"weight_map": []},
        {"weight_map": {}},
        {"weight_map": {"a": 1}},
        {"weight_map": {"a": "../x.safetensors"}},
        {"weight_map": {"a": "/etc/x.safetensors"}},
        {"weight_map": {"a": "x.bin"}},
        {"weight_map": {"a": "..\\x.safetensors"}},
        {"weight_map": {"a": "x\n.safetensors"}},
        {"weight_map": {"a": ".safetensors"}},
        {"weight_map": {"a": ONE}, "metadata": 3},
        {"weight_map": {"\ud800": ONE}},
    ],
)
def test_hostile_documents_are_refused(document):
    with pytest.raises(MalformedCheckpoint):
        ShardIndex.parse(json.dumps(document).encode())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"{" * 100_000,
        b'{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}',
        b'{"weight_map": {"a": "x.safetensors"}, "metadata": {"total_size": NaN}}',
        b"<<<<<<< HEAD\n",
    ],
)
def test_what_is_not_json_is_refused_with_a_remedy(data):
    with pytest.raises(MalformedCheckpoint, match="Restore it from a commit"):
        ShardIndex.parse(data)


def test_a_damaged_index_raises_nothing_else():
    random, data = np.random.default_rng(0), bytearray(INDEX.serialize())
    for _ in range(500):
        damaged = bytearray(data)
        damaged[random.integers(len(data))] = random.integers(256)
        try:
            found = ShardIndex.parse(bytes(damaged))
        except MalformedCheckpoint:
            continue
        assert found.serialize()


def test_names():
    for name in ("model.safetensors.index.json", "x/diffusion.safetensors.index.fp16.json"):
        assert sharded.is_index(name)
    for name in ("index.json", "pytorch_model.bin.index.json", "model.safetensors", "a.index.json"):
        assert not sharded.is_index(name)
    assert sharded.index_of("x/model-00001-of-00012.safetensors") == (
        "x/model.safetensors.index.json"
    )
    assert sharded.index_of("m-00001-of-00002.fp16.safetensors") == "m.safetensors.index.fp16.json"
    assert sharded.index_of("model.safetensors") is None


def test_the_shards_are_one_model():
    whole = unite(INDEX, SHARDS)
    assert whole == shard("a", "b", "c")
    assert divide(INDEX, whole) == SHARDS
    # Byte for byte the metadata of the same model in one file: so equal models have equal ids.
    assert whole.serialize() == shard("c", "b", "a").serialize()


@pytest.mark.parametrize(
    ("index", "shards", "others", "message"),
    [
        (INDEX, {ONE: shard("a", "b")}, (), f"'{TWO}', which is not there"),
        (INDEX, {**SHARDS, TWO: shard("c", "a")}, (), "'a' is in .* and in"),
        (INDEX, {**SHARDS, TWO: shard("c", "d")}, (), "nothing of it"),
        (INDEX, {ONE: shard("a"), TWO: shard("b", "c")}, (), "'b' is in .* says that it is in"),
        (INDEX, {**SHARDS, ONE: shard("a")}, (), "'b' is in .*, which does not have it"),
        (INDEX, {**SHARDS, "model-00003-of-00003.safetensors": shard("d")}, (), "00003-of-00003"),
        (INDEX, SHARDS, ("model-00001-of-00003.safetensors",), "left from an earlier save"),
    ],
)
def test_what_does_not_fit_together_is_named(index, shards, others, message):
    with pytest.raises(MalformedCheckpoint, match=message):
        unite(index, shards, others)


def test_the_bases_shards_are_kept():
    other = ShardIndex({"a": "x.safetensors", "b": "x.safetensors", "c": "x.safetensors"}, {})
    result = shard("a", "b", "c").groups
    assert arrange(INDEX, [other, INDEX], result) == INDEX


def test_where_all_agree_on_other_shards_those_are_taken():
    other = ShardIndex(dict.fromkeys("abc", "x.safetensors"), {"total_size": 1, "more": "kept"})
    done = arrange(INDEX, [other, other], shard("a", "b", "c").groups)
    assert done.weight_map == other.weight_map
    assert done.metadata == {"total_size": 72, "more": "kept"}


def test_new_groups_go_where_their_branch_has_them():
    ours = ShardIndex({**INDEX.weight_map, "d": ONE}, {})
    theirs = ShardIndex({**INDEX.weight_map, "e": "model-00003-of-00003.safetensors"}, {})
    done = arrange(INDEX, [ours, theirs], shard("a", "c", "d", "e").groups)
    assert done.weight_map == {"a": ONE, "c": TWO, "d": ONE, "e": TWO}
    assert done.metadata["total_size"] == 4 * 24


def test_parameters_are_counted_anew_where_tensors_came_or_went():
    index = replace(INDEX, metadata={"total_size": 72, "total_parameters": 17})
    assert arrange(index, [index], shard("a", "b", "c").groups).metadata == index.metadata
    other = replace(index, weight_map={"a": ONE, "b": ONE, "d": TWO})
    grown = {**shard("a", "b").groups, "d": record("d", (4,))}
    done = arrange(index, [other, index], grown)
    assert done.metadata == {"total_size": 64, "total_parameters": 16}


def test_a_shard_that_lost_all_groups_is_gone():
    result = shard("a", "b")
    index = arrange(INDEX, [INDEX], result.groups)
    assert divide(index, result) == {ONE: result}
    assert np.prod(result.groups["a"].shape) == 6
