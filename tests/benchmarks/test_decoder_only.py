"""The decoder-only family against transformers itself and formulas written out."""

import json

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from gitmerge_eval.benchmarks.causal import measuring, scoring
from gitmerge_eval.benchmarks.causal import model as causal
from gitmerge_eval.benchmarks.causal.family import FAMILY
from gitmerge_eval.benchmarks.learning.schedule import Schedule
from gitmerge_eval.benchmarks.texts import scoring as shared
from gitmerge_eval.benchmarks.texts import weights
from gitmerge_eval.benchmarks.texts.examples import Example
from gitmerge_eval.benchmarks.texts.tokens import CharacterTokens
from gitmerge_eval.benchmarks.texts.training import encoded, fine_tune
from gitmerge_eval.errors import EvaluationError
from gitmerge_eval.statistics import gram

TOKENS = CharacterTokens(["<ask>"], "abcdef ")
ROTARY = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "vocab_size": 16, "bos_token_id": 1, "eos_token_id": 1,
    "pad_token_id": 0,
}  # fmt: skip
NUMBERS = {
    "llama": ROTARY,
    # Shorter than the examples, so that it matters.
    "mistral": ROTARY | {"sliding_window": 3},
    "qwen2": ROTARY | {"tie_word_embeddings": True},
    "gpt2": {
        "n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 16, "n_positions": 32,
        "bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0,
    },
}  # fmt: skip
EXAMPLES = (
    Example("<ask>ab", ("c",), ("c", "de")),
    Example("<ask>abcdef ", ("de",), ("c", "de", "f")),
    Example("<ask>f", ("abc",), ("abc", "a")),
)

each_kind = pytest.mark.parametrize("kind", list(NUMBERS))


def configuration(folder, kind, **changes):
    folder.mkdir(exist_ok=True)
    file = folder / "config.json"
    file.write_text(json.dumps({"model_type": kind, **NUMBERS[kind], **changes}))
    return file


def made(folder, kind, **changes):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return causal.create(configuration(folder, kind, **changes)).double().eval()


def batch_of(examples=EXAMPLES):
    return causal.batch(encoded(FAMILY, examples, TOKENS), TOKENS.pad)


def alone(model, source, target):
    """log p of each target token and of the end, for one example without any padding."""
    kept = source.rstrip()
    prompt, whole = TOKENS.plain(kept), TOKENS.encode(source + target)
    logits = model(input_ids=torch.tensor([whole])).logits[0].log_softmax(-1)
    return torch.stack([logits[i - 1, whole[i]] for i in range(len(prompt), len(whole))])


@each_kind
def test_a_checkpoint_is_what_transformers_saves_and_loads(tmp_path, kind):
    made(tmp_path / "new", kind).float().save_pretrained(tmp_path / "saved")
    real = AutoModelForCausalLM.from_pretrained(tmp_path / "saved").eval()
    ours = FAMILY.load(tmp_path / "saved/model.safetensors", tmp_path / "saved/config.json")
    assert type(ours) is type(real)
    ids = torch.tensor([[3, 4, 5, 6, 7, 1]])
    with torch.no_grad():
        torch.testing.assert_close(ours(input_ids=ids).logits, real(input_ids=ids).logits)
    weights.save(weights.state_of(ours), tmp_path / "again")
    stored = weights.read(tmp_path / "saved/model.safetensors")
    again = weights.read(tmp_path / "again")
    assert stored.keys() == again.keys()
    assert all(torch.equal(tensor, again[name]) for name, tensor in stored.items())
    assert FAMILY.published(tmp_path / "saved").keys() == stored.keys()


def test_the_dtypes_of_the_file_are_kept(tmp_path):
    state = weights.state_of(made(tmp_path / "new", "llama").bfloat16())
    state["model.norm.weight"] = state["model.norm.weight"].float()
    model = FAMILY.assemble(tmp_path / "new/config.json", state, "it")
    assert {p.dtype for n, p in model.named_parameters() if n != "model.norm.weight"} == {
        torch.bfloat16
    }
    assert model.model.norm.weight.dtype == torch.float32
    assert model.model.rotary_emb.inv_freq.dtype == torch.float32


def test_files_of_another_model_are_refused(tmp_path):
    file = configuration(tmp_path, "llama")
    state = weights.state_of(made(tmp_path, "llama"))
    for wrong in (
        {n: t for n, t in state.items() if n != "lm_head.weight"},
        state | {"extra": torch.zeros(1)},
        state | {"model.norm.weight": torch.zeros(3)},
    ):
        with pytest.raises(EvaluationError, match="not a checkpoint"):
            FAMILY.assemble(file, wrong, "it")
    for kind in ("t5", "no-such-model", None):
        file.write_text(json.dumps({"model_type": kind}))
        with pytest.raises(EvaluationError, match="no causal language model"):
            causal.create(file)


def test_a_tie_is_the_configurations(tmp_path):
    file = configuration(tmp_path, "gpt2")
    state = weights.state_of(made(tmp_path, "gpt2"))
    assert "lm_head.weight" not in state
    both = state | {"lm_head.weight": state["transformer.wte.weight"].clone()}
    assert causal.tied_names(FAMILY.assemble(file, both, "it")) == (
        "lm_head.weight",
        "transformer.wte.weight",
    )
    with pytest.raises(EvaluationError, match="'tie_word_embeddings'"):
        FAMILY.assemble(file, both | {"lm_head.weight": torch.zeros(16, 16)}, "it")
    apart = configuration(tmp_path, "gpt2", tie_word_embeddings=False)
    assert causal.tied_names(FAMILY.assemble(apart, both, "it")) == ("", "")


def test_a_model_whose_tensors_transformers_renames_is_refused(tmp_path):
    config = AutoConfig.for_model("mixtral", **ROTARY, num_local_experts=2)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(EvaluationError, match=r"not a checkpoint.*experts\.0\.w1"):
        FAMILY.load(tmp_path / "model.safetensors", tmp_path / "config.json")


def test_old_files_of_gpt2_have_masks_and_a_bare_model_is_explained(tmp_path):
    file = configuration(tmp_path, "gpt2")
    state = weights.state_of(made(tmp_path, "gpt2"))
    masked = state | {"transformer.h.0.attn.bias": torch.ones(1, 1, 32, 32)}
    FAMILY.assemble(file, masked, "it")
    bare = weights.state_of(AutoModel.from_config(AutoConfig.from_pretrained(file)))
    with pytest.raises(EvaluationError, match=r"without 'transformer\.'.*save_pretrained"):
        FAMILY.assemble(file, bare, "it")


@each_kind
def test_padding_changes_no_likelihood(tmp_path, kind):
    model = made(tmp_path, kind)
    with torch.no_grad():
        likely = causal.target_log_likelihoods(model, batch_of())
        for row, example in enumerate(EXAMPLES):
            expected = alone(model, example.source, example.targets[0]).float()
            found = likely[row][batch_of().target_mask[row, 1:]]
            # Log-probabilities are float32, whatever the weights are.
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(likely[row].sum(), expected.sum(), rtol=1e-5, atol=1e-5)


@each_kind
def test_options_are_scored_by_their_mean_token(tmp_path, kind):
    model = made(tmp_path, kind)
    with torch.no_grad():
        found = FAMILY.option_scores(model, TOKENS, EXAMPLES)
        for scores, example in zip(found, EXAMPLES, strict=True):
            expected = [float(alone(model, example.source, o).mean()) for o in example.options]
            assert scores == pytest.approx(expected, abs=1e-5)
    assert shared.choices(FAMILY, model, TOKENS, EXAMPLES) == [s.index(max(s)) for s in found]


@each_kind
def test_generation_is_greedy_and_padding_does_not_matter(tmp_path, kind):
    model = made(tmp_path, kind)
    texts = scoring.generate(model, TOKENS, [e.source for e in EXAMPLES], longest=7)
    for text, example in zip(texts, EXAMPLES, strict=True):
        row, written = TOKENS.plain(example.source.rstrip()), []
        while len(written) < 7 and TOKENS.end not in written:
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([row + written])).logits
            written.append(int(logits[0, -1].argmax()))
        assert text == TOKENS.decode(written).strip()


def test_an_answer_begins_with_the_white_space_behind_its_prompt():
    assert causal.pair(TOKENS, "ab ", "c") == (TOKENS.plain("ab"), TOKENS.encode(" c"))
    assert causal.pair(TOKENS, "", "c") == ([TOKENS.end], TOKENS.encode("c"))


def test_a_long_prompt_loses_its_beginning():
    short = CharacterTokens([], "abcdef ")
    short.longest, short.begin = 6, (2,)
    assert causal.pair(short, "abcdef", "ab") == ([2, *short.plain("ef")], short.encode("ab"))
    assert causal.pair(short, "ab", "abcdef") == ([2, *short.plain("b")], short.encode("abc"))
    assert causal.prompt(short, "abcdef", 3) == [2, *short.plain("ef")]


@each_kind
@pytest.mark.parametrize("chunk", [1, 32])
def test_fisher_is_the_mean_squared_gradient_of_the_targets_likelihood(tmp_path, kind, chunk):
    model = made(tmp_path, kind)
    batches = [batch_of(EXAMPLES[:2]), batch_of(EXAMPLES[2:])]
    found = measuring.fisher_diagonal(model, batches, chunk=chunk)
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for example in EXAMPLES:
        model.zero_grad()
        alone(model, example.source, example.targets[0]).sum().backward()
        for name, parameter in model.named_parameters():
            total[name] += parameter.grad**2 / len(EXAMPLES)
    assert found.keys() == total.keys()
    for name, expected in total.items():
        # float32 log-probabilities limit what agrees
        torch.testing.assert_close(
            found[name], expected, rtol=1e-3, atol=1e-6 * float(expected.max() + 1e-9)
        )


def linear(model):
    """name -> module of all layers that multiply their input with a weight."""
    return {n: m for n, m in model.named_modules() if isinstance(m, (nn.Linear, Conv1D))}


def linear_inputs(model, example):
    """The rows that each layer meets for one unpadded example, by hooks on the modules."""
    seen = {}
    handles = [
        module.register_forward_pre_hook(
            lambda module, given, name=name: seen.update({f"{name}.weight": given[0][0]})
        )
        for name, module in linear(model).items()
    ]
    with torch.no_grad():
        model(input_ids=torch.tensor([TOKENS.encode(example.source + example.targets[0])]))
    for handle in handles:
        handle.remove()
    return seen


@each_kind
def test_gram_matrices_count_prompts_and_targets_and_no_padding(tmp_path, kind):
    model = made(tmp_path, kind)
    state = measuring.gram_matrices(model, [batch_of()])
    rows = {}
    for example in EXAMPLES:
        for name, seen in linear_inputs(model, example).items():
            rows.setdefault(name, []).append(seen)
    head, _ = causal.tied_names(model)
    rows.pop(head, None)
    assert state.sums.keys() == rows.keys()
    length = sum(len(TOKENS.encode(e.source + e.targets[0])) for e in EXAMPLES)
    parameters = dict(model.named_parameters())
    for name, several in rows.items():
        joined = torch.cat(several)
        assert len(joined) == state.tokens[name] == length
        torch.testing.assert_close(state.sums[name], joined.T @ joined)
        axis = state.input_axis[name]
        # Layers of GPT-2 have (in, out), Linear (out, in).
        module = model.get_submodule(name.removesuffix(".weight"))
        assert axis == (0 if isinstance(module, Conv1D) else 1)
        assert parameters[name].shape[axis] == joined.shape[1]


def test_layers_with_one_input_share_one_matrix(tmp_path):
    tensors, layout = gram.compute(measuring.gram_matrices(made(tmp_path, "llama"), [batch_of()]))
    for several in (("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
                    ("mlp.gate_proj", "mlp.up_proj")):  # fmt: skip
        assert len({layout[f"model.layers.1.{n}.weight"]["key"] for n in several}) == 1
    # Of each block: attention's in and out, the feed-forward's in and out; and the output layer.
    assert len(tensors) == 2 * 4 + 1


WITHOUT = {
    "llama": {"model.embed_tokens.weight": "embedding"},
    "mistral": {"model.embed_tokens.weight": "embedding"},
    "qwen2": {"model.embed_tokens.weight": measuring.TIED},
    "gpt2": {
        "transformer.wte.weight": measuring.TIED,
        "transformer.wpe.weight": "embedding",
    },
}
"""All matrices of an architecture that have no Gram matrix, and a part of the reason."""


@each_kind
def test_the_parameters_without_a_gram_matrix_are_these(tmp_path, kind):
    model = made(tmp_path, kind)
    parameters = dict(model.named_parameters())
    reasons = gram.without_gram(parameters, measuring.gram_matrices(model, [batch_of()]))
    matrices = {name: why for name, why in reasons.items() if parameters[name].dim() > 1}
    assert matrices.keys() == WITHOUT[kind].keys()
    assert all(part in matrices[name] for name, part in WITHOUT[kind].items())
    assert {reasons[name] for name in reasons.keys() - matrices} == {"not a matrix"}
    own = {f"{name}.weight" for name in linear(model)} - {causal.tied_names(model)[0]}
    assert not own & reasons.keys()


def test_weights_in_16_bits_are_trained_in_32(tmp_path):
    model = made(tmp_path, "llama").bfloat16()
    state = weights.state_of(model)
    trained = [
        fine_tune(
            FAMILY, start, tmp_path / "config.json", encoded(FAMILY, EXAMPLES, TOKENS), TOKENS,
            Schedule(steps=40, batch=3, rate=1e-5, decay="constant"), seed=2,
        )
        for start in (state, {name: tensor.float() for name, tensor in state.items()})
    ]  # fmt: skip
    assert {tensor.dtype for tensor in trained[0].values()} == {torch.bfloat16}
    for name, exact in trained[1].items():
        assert torch.equal(trained[0][name], exact.bfloat16())
    # Each step alone would be rounded away in most weights; together they are not.
    changed = sum(int((trained[0][n] != state[n]).sum()) for n in state)
    assert changed > 0.1 * sum(tensor.numel() for tensor in state.values())


def test_sampled_targets_are_seeded_and_end(tmp_path):
    model = made(tmp_path, "llama")
    pairs = encoded(FAMILY, EXAMPLES, TOKENS)
    first, again, other = (
        measuring.sampled(model, TOKENS, pairs, longest=6, seed=seed) for seed in (0, 0, 1)
    )
    assert first == again != other
    assert [source for source, _ in first] == [source for source, _ in pairs]
    for _, target in first:
        assert 0 < len(target) <= 6
        assert TOKENS.end not in target[:-1]
