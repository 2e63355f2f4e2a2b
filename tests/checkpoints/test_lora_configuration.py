"""adapter_config.json: scales as PEFT reads them, versions merged, ranks written down."""

import json
import math

import peft.utils.other
import pytest

from gitmerge_eval.checkpoints import lora_configuration as configuration
from gitmerge_eval.errors import MalformedCheckpoint

SETTINGS = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q", "v"]}


def parsed(**changes):
    return configuration.parse(json.dumps(SETTINGS | changes).encode())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "IA3"}, "merge_and_unload"),
        ({"use_dora": True}, "DoRA.*merge_and_unload"),
        ({"use_qalora": True}, "QALoRA"),
        ({"target_parameters": ["experts.gate_up_proj"]}, "experts"),
        ({"init_lora_weights": "pissa_niter_4"}, "path_initial_model_for_weight_conversion"),
        ({"init_lora_weights": "olora"}, "changes the base"),
        ({"r": 0}, "not a number"),
        ({"lora_alpha": "8"}, "not a number"),
        ({"r": True}, "not a number"),
        ({"lora_alpha": 1e300}, "not a number"),
        ({"rank_pattern": ["q"]}, "does not map"),
        ({"alpha_pattern": {"q": None}}, "does not map"),
    ],
)
def test_what_is_no_sum_of_weight_and_product_is_refused(changes, message):
    with pytest.raises(MalformedCheckpoint, match=message):
        parsed(**changes)


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff", b'{"r": NaN}', b"[" * 100_000])
def test_hostile_documents_are_refused(data):
    with pytest.raises(MalformedCheckpoint, match=r"adapter_config\.json"):
        configuration.parse(data)


@pytest.mark.parametrize(
    "pattern",
    ["(a+)+$", "(a|a)*", "(", "a" * 301, "a*a*a*", "(a|a)" * 20, "[a", "a{1,9}b*c+", "a?" * 20],
)
def test_patterns_that_are_wrong_or_slow_are_refused(pattern):
    settings = parsed(alpha_pattern={pattern: 1})
    with pytest.raises(MalformedCheckpoint, match="pattern"):
        configuration.scale(settings, "a" * 200 + "!", 4)


def test_scales():
    assert configuration.scale(parsed(), "x.q", 4) == 2.0
    assert configuration.scale(parsed(use_rslora=True), "x.q", 4) == 8 / math.sqrt(4)
    other = parsed(rank_pattern={"q": 2}, alpha_pattern={"^x.q": 5, "v": 1})
    assert configuration.scale(other, "x.q", 2) == 2.5
    assert configuration.scale(other, "x.v", 4) == 0.25
    assert configuration.scale(other, "x.xv", 4) == 2.0
    with pytest.raises(MalformedCheckpoint, match=r"rank 2 for 'x\.q', whose factors have rank 4"):
        configuration.scale(other, "x.q", 4)


@pytest.mark.parametrize("module", ["q", "x.q", "x.xq", "mlp.0.q_proj", "layers.12.mlp.up"])
def test_patterns_match_as_in_peft(module):
    patterns = {"^q": 1, "q": 2, r"layers\.\d+\.mlp\..*": 3, "(q|k)_proj": 4, "x.": 5}
    key = peft.utils.other.get_pattern_key(patterns, module)
    alpha = patterns.get(key, 8)
    assert configuration.scale(parsed(alpha_pattern=patterns), module, 4) == alpha / 4


def test_ranks_are_never_a_difference():
    ours = ("ours", parsed(r=8, lora_alpha=16, rank_pattern={"q": 2}))
    theirs = ("theirs", parsed(r=2, lora_alpha=1, lora_dropout=0.5, use_rslora=True))
    _, differences = configuration.merge(parsed(), [ours, theirs])
    assert differences == ()


def test_what_one_branch_changed_is_taken():
    merged, differences = configuration.merge(
        parsed(bias="none", task_type=None),
        [("ours", parsed(bias="none", task_type="X")), ("theirs", parsed(bias="all"))],
    )
    assert (merged["bias"], merged["task_type"], differences) == ("all", "X", ())


def test_what_two_branches_changed_differently_is_named():
    _, differences = configuration.merge(
        parsed(bias="none"), [("ours", parsed(bias="all")), ("theirs", parsed(bias="lora_only"))]
    )
    assert [str(d) for d in differences] == [
        "'bias' is \"all\" in 'ours', \"lora_only\" in 'theirs'"
    ]


def test_without_a_base_every_difference_counts():
    _, differences = configuration.merge(
        None,
        [
            ("a", parsed(base_model_name_or_path="x")),
            ("b", parsed(base_model_name_or_path="y")),
        ],
    )
    assert [d.key for d in differences] == ["base_model_name_or_path"]


def test_modules_to_save_are_united():
    merged, differences = configuration.merge(
        None, [("a", parsed(modules_to_save=["score"])), ("b", parsed(modules_to_save=None))]
    )
    assert (merged["modules_to_save"], differences) == (["score"], ())


def test_ranks_are_written_down():
    done = configuration.with_factors(parsed(), {"a.q": 8, "b.q": 8, "b.v": 3})
    assert (done["r"], done["lora_alpha"]) == (8, 8)
    assert done["rank_pattern"] == done["alpha_pattern"] == {"b.v": 3}
    for module, rank in {"a.q": 8, "b.q": 8, "b.v": 3}.items():
        assert configuration.scale(done, module, rank) == configuration.result_scale(done, rank)


def test_a_name_that_ends_another_gets_no_say_over_it():
    ranks = {"q": 2, "x.q": 8, "y.q": 8, "z.x.q": 1}
    done = configuration.with_factors(parsed(), ranks)
    for module, rank in ranks.items():
        key = peft.utils.other.get_pattern_key(done["rank_pattern"], module)
        assert done["rank_pattern"].get(key, done["r"]) == rank


def test_rank_stabilisation_stays():
    done = configuration.with_factors(parsed(use_rslora=True), {"q": 9})
    assert configuration.scale(done, "q", 9) == 3.0 == configuration.result_scale(done, 9)


def test_equal_targets_in_another_order_stay_as_they_are():
    versions = [parsed(target_modules=["q", "v"]), parsed(target_modules=["v", "q"])]
    done = configuration.with_factors(versions[0], {"a.q": 2, "a.v": 2}, versions)
    assert done["target_modules"] == ["q", "v"]


def test_other_targets_are_named_one_by_one():
    versions = [parsed(target_modules="all-linear"), parsed(layers_to_transform=[0])]
    done = configuration.with_factors(versions[1], {"a.q": 2, "b.k": 2}, versions)
    assert done["target_modules"] == ["a.q", "b.k"]
    assert done["layers_to_transform"] is None


def test_the_document_is_written_as_peft_writes_it(tmp_path):
    settings = peft.LoraConfig(r=4, target_modules=["q"])
    settings.save_pretrained(tmp_path)
    data = (tmp_path / "adapter_config.json").read_bytes()
    assert configuration.serialize(configuration.parse(data)) == data
