"""Names and shapes of adapters: what is a pair, what is plain, what is refused."""

import json

import pytest

from gitmerge_eval.checkpoints import lora
from gitmerge_eval.checkpoints.lora import has_factors, is_adapter, one_spelling, read_adapter
from gitmerge_eval.checkpoints.metadata import GroupRecord
from gitmerge_eval.errors import MalformedCheckpoint

PEFT = "base_model.model."
CONFIGURATION = {"peft_type": "LORA", "r": 2, "lora_alpha": 8}


def records(**shapes):
    """name -> record; '__' in a keyword stands for a dot."""
    named = {name.replace("__", "."): shape for name, shape in shapes.items()}
    return {n: GroupRecord(n, shape, "float32", (), "0" * 64, 0) for n, shape in named.items()}


def group(name, shape, dtype="float32"):
    return {name: GroupRecord(name, shape, dtype, (), "0" * 64, 0)}


def factors(stem, endings=("lora_A.weight", "lora_B.weight"), a=(2, 5), b=(4, 2), **how):
    down, up = endings
    return group(f"{stem}{down}", a, **how) | group(f"{stem}{up}", b, **how)


def no_scalar(name):
    raise AssertionError(name)


def test_pairs_of_peft_are_named_by_the_weight():
    groups = factors(f"{PEFT}model.q_proj.") | group(f"{PEFT}score.weight", (3, 4))
    adapter = read_adapter(groups, {}, CONFIGURATION, no_scalar)
    (pair,) = adapter.pairs.values()
    assert (pair.weight, pair.module) == ("model.q_proj.weight", "model.q_proj")
    assert (pair.shape, pair.rank, pair.scale) == ((4, 5), 2, 4.0)
    assert adapter.plain == (f"{PEFT}score.weight",)


def test_an_embeddings_change_is_transposed():
    endings = ("lora_embedding_A", "lora_embedding_B")
    groups = factors(f"{PEFT}wte.", endings, a=(2, 100), b=(8, 2))
    (pair,) = read_adapter(groups, {}, CONFIGURATION, no_scalar).pairs.values()
    assert pair.embedding
    assert pair.shape == (100, 8)


def test_a_convolutions_change_has_its_kernel():
    groups = factors("unet.conv_in.", a=(2, 3, 3, 3), b=(8, 2, 1, 1))
    (pair,) = read_adapter(groups, {}, None, no_scalar).pairs.values()
    assert (pair.shape, pair.scale) == ((8, 3, 3, 3), 1.0)


@pytest.mark.parametrize(
    ("stem", "endings", "weight"),
    [
        ("unet.a.to_q.", ("lora.down.weight", "lora.up.weight"), "unet.a.to_q.weight"),
        (
            "unet.a.processor.to_out_lora.",
            ("down.weight", "up.weight"),
            "unet.a.to_out.0.weight",
        ),
        (
            "text_encoder.h.self_attn.to_k_lora.",
            ("down.weight", "up.weight"),
            "text_encoder.h.self_attn.k_proj.weight",
        ),
        (
            "text_encoder.h.q_proj.lora_linear_layer.",
            ("down.weight", "up.weight"),
            "text_encoder.h.q_proj.weight",
        ),
        (
            "lora_unet_down_blocks_0_proj_in.",
            ("lora_down.weight", "lora_up.weight"),
            "lora_unet_down_blocks_0_proj_in.weight",
        ),
    ],
)
def test_every_spelling_is_known(stem, endings, weight):
    adapter = read_adapter(factors(stem, endings), {}, None, no_scalar)
    assert list(adapter.pairs) == [weight]
    assert adapter.plain == ()


def test_alpha_tensors_give_the_scale():
    groups = factors("lora_unet_x.", ("lora_down.weight", "lora_up.weight"))
    groups |= group("lora_unet_x.alpha", ())
    (pair,) = read_adapter(groups, {}, None, {"lora_unet_x.alpha": 1.0}.get).pairs.values()
    assert (pair.scale, pair.alpha) == (0.5, "lora_unet_x.alpha")
    with pytest.raises(MalformedCheckpoint, match="no scale"):
        read_adapter(groups, {}, None, lambda name: float("nan"))


def test_alphas_for_some_modules_only_are_refused():
    endings = ("lora_down.weight", "lora_up.weight")
    groups = factors("lora_unet_x.", endings) | group("lora_unet_x.alpha", ())
    with pytest.raises(MalformedCheckpoint, match="scale is not known"):
        read_adapter(groups | factors("lora_unet_y.", endings), {}, None, lambda name: 1.0)


def test_the_header_of_diffusers_speaks_of_each_component():
    document = {
        "unet.r": 2,
        "unet.lora_alpha": 6,
        "unet.alpha_pattern": {"^mid.to_q": 1},
        "text_encoder.r": 4,
        "text_encoder.lora_alpha": 4,
    }
    header = {lora.HEADER_KEY: json.dumps(document)}
    groups = factors("unet.mid.to_q.") | factors("unet.mid.to_k.")
    groups |= factors("text_encoder.q_proj.", a=(4, 5), b=(4, 4))
    adapter = read_adapter(groups, header, None, no_scalar)
    scales = {weight: pair.scale for weight, pair in adapter.pairs.items()}
    assert scales == {
        "unet.mid.to_q.weight": 0.5,
        "unet.mid.to_k.weight": 3.0,
        "text_encoder.q_proj.weight": 1.0,
    }
    assert adapter.pairs["unet.mid.to_q.weight"].module == "mid.to_q"


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (group(f"{PEFT}q.lora_A.weight", (2, 5)), "no partner"),
        (group(f"{PEFT}q.lora_B.weight", (4, 2)), "no partner"),
        (factors(f"{PEFT}q.", a=(3, 5)), "no factors"),
        (factors(f"{PEFT}q.", a=(10,), b=(8,)), "shards"),
        (factors(f"{PEFT}q.", a=(0, 5), b=(4, 0)), "no factors"),
        (factors(f"{PEFT}q.", a=(2, 3, 3, 3), b=(4, 2, 3, 3)), "no factors"),
        (factors(f"{PEFT}q.") | group(f"{PEFT}q.lora_magnitude_vector", (4,)), "merge_and_unload"),
        (factors("lora_unet_q.") | group("lora_unet_q.dora_scale", (4,)), "DoRA"),
        (factors(f"{PEFT}q.") | group(f"{PEFT}q.lora_B.bias", (4,)), "bias of factors"),
        (factors(f"{PEFT}q.", dtype="int8"), "unquantized"),
        (factors(f"{PEFT}q.", a=(4, 5), b=(4, 4)), "rank 2 for 'q', whose factors have rank 4"),
    ],
)
def test_what_cannot_be_multiplied_out_is_refused(groups, message):
    with pytest.raises(MalformedCheckpoint, match=message):
        read_adapter(groups, {}, CONFIGURATION, no_scalar)


def test_peft_without_its_configuration_is_refused():
    with pytest.raises(MalformedCheckpoint, match=r"adapter_config\.json.*commit that file"):
        read_adapter(factors(f"{PEFT}q."), {}, None, no_scalar)


def test_a_model_with_layers_of_low_rank_is_no_adapter():
    pair = factors("q.")
    assert is_adapter(pair)
    assert is_adapter(pair | group("norm.weight", (3,)))
    assert not is_adapter(pair | group("q.weight", (4, 5)))
    assert not is_adapter(pair | group("q.base_layer.weight", (4, 5)))
    assert not is_adapter(group("q.weight", (4, 5)))
    assert is_adapter(group("q.lokr_w1", (4, 5)))
    assert is_adapter(group("lora_unet_q.hada_w1_a", (4, 5)))
    assert not is_adapter(group("q.lokr_w1", (4, 5)) | group("q.weight", (4, 5)))


def test_files_with_factors_are_told_from_others():
    assert has_factors(factors("q."))
    assert has_factors(group("q.hada_w1_a", (2, 2)))
    assert not has_factors(group("q.weight", (4, 5)))
    assert not has_factors(group("q.ia3_l", (4, 5)))


def adapter_of(groups, configuration=None):
    return read_adapter(groups, {}, configuration, lambda name: 4.0)


def test_one_spelling_keeps_names_and_takes_the_widest_dtype():
    first = adapter_of(factors("unet.a.to_q.", dtype="bfloat16"))
    second = adapter_of(factors("unet.a.to_q.", dtype="float16") | factors("unet.b.to_q."))
    found = one_spelling([first, second])
    assert found["unet.a.to_q.weight"].dtype == "float32"
    assert found["unet.b.to_q.weight"].down == "unet.b.to_q.lora_A.weight"


def test_old_and_new_names_become_new_ones():
    old = adapter_of(factors("unet.a.processor.to_out_lora.", ("down.weight", "up.weight")))
    new = adapter_of(factors("unet.b.to_q."))
    found = one_spelling([old, new])
    assert found["unet.a.to_out.0.weight"].down == "unet.a.to_out.0.lora_A.weight"
    assert found["unet.a.to_out.0.weight"].up == "unet.a.to_out.0.lora_B.weight"


def test_kohyas_names_do_not_mix():
    kohya = adapter_of(factors("lora_unet_x.", ("lora_down.weight", "lora_up.weight")))
    with pytest.raises(MalformedCheckpoint, match="kohya"):
        one_spelling([kohya, adapter_of(factors("unet.b.to_q."))])


def test_alphas_stay_and_the_factors_take_the_difference():
    endings = ("lora_down.weight", "lora_up.weight")
    first = adapter_of(factors("lora_unet_x.", endings) | group("lora_unet_x.alpha", ()))
    (pair,) = one_spelling([first]).values()
    done = lora.result_pair(pair, 8, {})
    assert (done.alpha, done.alpha_value, done.scale) == ("lora_unet_x.alpha", 4.0, 0.5)
