"""Adapters of decoder-only models: PEFT's own change of the model, and statistics of ΔW."""

import json
import shutil

import peft
import pytest
import torch
from tiny_language_models import ROWS, lay_out, prompt, questions
from transformers import AutoModelForCausalLM

from gitmerge_eval.benchmarks.causal import adapters, measuring
from gitmerge_eval.benchmarks.causal import model as causal
from gitmerge_eval.benchmarks.declared.benchmark import benchmark
from gitmerge_eval.benchmarks.texts import weights
from gitmerge_eval.benchmarks.texts.tokens import PretrainedTokens
from gitmerge_eval.errors import EvaluationError, MalformedCheckpoint

try:
    import tomllib
except ImportError:
    import tomli as tomllib

# PEFT asks transformers for it by an old name.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
TARGETS = {"llama": ["q_proj", "v_proj", "down_proj"], "gpt2": ["c_attn", "c_proj"]}


@pytest.fixture(scope="module", params=list(TARGETS))
def adapter(request, tmp_path_factory):
    """(folder with base and data, PEFT's model, the adapter's file)."""
    kind = request.param
    folder = tmp_path_factory.mktemp(kind)
    checkpoint = lay_out(folder, kind)
    (folder / "data/base").mkdir()
    shutil.copyfile(checkpoint, folder / "data/base/model.safetensors")
    shutil.copyfile(folder / "data/config.json", folder / "data/base/config.json")
    model = AutoModelForCausalLM.from_pretrained(folder / "data/base")
    settings = peft.LoraConfig(
        r=3, lora_alpha=5, target_modules=TARGETS[kind], task_type="CAUSAL_LM",
        fan_in_fan_out=kind == "gpt2",
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(5)
        adapted = peft.get_peft_model(model, settings).eval()
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
    adapted.save_pretrained(folder / "adapter")
    return folder, adapted, folder / "adapter/adapter_model.safetensors"


@pytest.fixture
def ours(adapter):
    folder, _, file = adapter
    return adapters.family(folder / "data/base").load(file, folder / "data/config.json")


def batch_of(folder):
    tokens = PretrainedTokens(folder / "data/tokenizer", 48)
    pairs = [
        causal.pair(tokens, prompt("size-en", row["words"]) + " ", row["answer"])
        for row in questions("size-en")[:5]
    ]
    return causal.batch(pairs, tokens.pad), pairs


def test_the_model_is_the_one_that_peft_makes(adapter, ours):
    folder, theirs, _ = adapter
    batch, _ = batch_of(folder)
    with torch.no_grad():
        expected = theirs(input_ids=batch.ids).logits
        torch.testing.assert_close(ours(input_ids=batch.ids).logits, expected)
        with theirs.disable_adapter():
            assert not torch.allclose(theirs(input_ids=batch.ids).logits, expected, atol=1e-3)


def test_statistics_are_of_the_changes_in_their_shape(adapter, ours):
    folder, _, file = adapter
    batch, pairs = batch_of(folder)
    changes = adapters.deltas(file)
    fisher = adapters.fisher_diagonal(ours, [batch])
    assert fisher.keys() == changes.keys()
    full = causal.assemble(folder / "data/config.json", weights.state_of(ours), "it").eval()
    total = dict.fromkeys(changes, 0)
    for pair in pairs:
        full.zero_grad()
        causal.target_log_likelihoods(full, causal.batch([pair], 0)).sum().backward()
        for name in changes:
            gradient = full.get_parameter(name).grad
            # By ΔW, which is (out, in) in GPT-2's layers as well.
            if gradient.shape != changes[name].shape or "c_proj" in name:
                gradient = gradient.T
            total[name] += gradient**2 / len(pairs)
    for name, expected in total.items():
        assert fisher[name].shape == changes[name].shape
        torch.testing.assert_close(
            fisher[name], expected, rtol=1e-3, atol=1e-5 * float(expected.max())
        )
    state = adapters.gram_matrices(ours, [batch])
    complete = measuring.gram_matrices(full, [batch])
    assert state.sums.keys() == changes.keys()
    for name, total_products in state.sums.items():
        assert state.input_axis[name] == 1
        assert len(total_products) == changes[name].shape[1]
        torch.testing.assert_close(total_products, complete.sums[name])


def test_what_is_no_adapter_of_the_base_is_said(adapter, tmp_path):
    folder, _, file = adapter
    family, config = adapters.family(folder / "data/base"), folder / "data/config.json"
    alone = tmp_path / "adapter_model.safetensors"
    state = weights.read(file)
    weights.save(state, alone)
    with pytest.raises(EvaluationError, match=r"'adapter_config\.json' is not beside"):
        family.load(alone, config)
    settings = json.loads((file.parent / "adapter_config.json").read_text())
    beside = tmp_path / "adapter_config.json"
    beside.write_text(json.dumps(settings))
    weights.save(state | {"base_model.model.lm_head.weight": torch.zeros(2, 2)}, alone)
    with pytest.raises(EvaluationError, match="no factor"):
        family.load(alone, config)
    weights.save({n.replace("layers.0", "layers.7").replace("h.0", "h.7"): t
                  for n, t in state.items()}, alone)  # fmt: skip
    with pytest.raises(EvaluationError, match="the base has not"):
        family.load(alone, config)
    tied = causal.create(config)
    if causal.tied_names(tied)[0]:
        with pytest.raises(EvaluationError, match="embedding and output layer in one"):
            adapters.changed(tied, {"lm_head.weight": tied.lm_head.weight}, "it")
    beside.write_text(json.dumps(settings | {"peft_type": "IA3"}))
    with pytest.raises(MalformedCheckpoint):
        family.load(alone, config)


def test_a_declaration_of_adapters_says_where_they_are_and_trains_none():
    values = tomllib.loads(ROWS)
    trained = values.pop("fine_tuning")
    found = benchmark({**values, "base": "base"}, "here", None)
    assert (found.checkpoint, found.companions) == (
        "adapter_model.safetensors",
        ("adapter_config.json",),
    )
    assert found.train is None
    for change, complaint in (
        ({"base": "../base"}, "a path below the data folder"),
        ({"base": "base", "fine_tuning": trained}, "train them with PEFT"),
        ({}, r"add '\[fine_tuning\]'"),
    ):
        with pytest.raises(EvaluationError, match=complaint):
            benchmark({**values, **change}, "here", None)
