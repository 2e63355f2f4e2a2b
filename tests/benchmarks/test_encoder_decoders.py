"""The encoder-decoder family against transformers itself and formulas written out."""

import dataclasses
import json

import pytest
import sentencepiece
import torch
from num2words import num2words
from safetensors import safe_open
from torch import nn
from transformers import (
    MT5Config,
    MT5ForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
)

from gitmerge_eval.benchmarks.seq2seq import measuring, scoring, training
from gitmerge_eval.benchmarks.seq2seq import model as seq2seq
from gitmerge_eval.benchmarks.seq2seq.family import FAMILY
from gitmerge_eval.benchmarks.texts import scoring as shared
from gitmerge_eval.benchmarks.texts import weights
from gitmerge_eval.benchmarks.texts.examples import Example
from gitmerge_eval.benchmarks.texts.tokens import CharacterTokens, PretrainedTokens
from gitmerge_eval.benchmarks.texts.training import encoded
from gitmerge_eval.errors import EvaluationError
from gitmerge_eval.statistics import gram

TOKENS = CharacterTokens(["<ask>"], "abcdef")
NUMBERS = {
    "vocab_size": 16, "d_model": 8, "d_kv": 4, "d_ff": 12, "num_layers": 2,
    "num_decoder_layers": 2, "num_heads": 2, "dropout_rate": 0.0,
    "decoder_start_token_id": 0,
}  # fmt: skip
EXAMPLES = (
    Example("<ask>ab", ("c",), ("c", "de")),
    Example("<ask>abcdef", ("de",), ("c", "de", "f")),
    Example("<ask>f", ("abc",), ("abc", "a")),
)


def configuration(folder, kind="mt5", *, tied=False):
    file = folder / "config.json"
    file.write_text(json.dumps({"model_type": kind, "tie_word_embeddings": tied, **NUMBERS}))
    return file


@pytest.fixture
def configured(tmp_path):
    return configuration(tmp_path)


@pytest.fixture
def model(configured):
    torch.manual_seed(1)
    return seq2seq.create(configured).double().eval()


def batch_of(examples=EXAMPLES):
    return seq2seq.batch(encoded(FAMILY, examples, TOKENS), TOKENS.pad)


def alone(model, source, target):
    """log p of each target token, for one example without any padding, by transformers' call."""
    ids, labels = torch.tensor([TOKENS.encode(source)]), torch.tensor([TOKENS.encode(target)])
    logits = model(input_ids=ids, labels=labels).logits[0]
    return logits.log_softmax(-1)[torch.arange(labels.shape[1]), labels[0]]


@pytest.mark.parametrize(("kind", "tied"), [("mt5", False), ("mt5", True), ("t5", True)])
def test_a_checkpoint_is_what_transformers_saves_and_loads(tmp_path, kind, tied):
    real, config = {
        "mt5": (MT5ForConditionalGeneration, MT5Config),
        "t5": (T5ForConditionalGeneration, T5Config),
    }[kind]
    (tmp_path / "ours").mkdir()
    file = configuration(tmp_path / "ours", kind, tied=tied)
    torch.manual_seed(0)
    made = seq2seq.create(file)
    assert type(made) is real
    weights.save(weights.state_of(made), tmp_path / "model.safetensors")
    config(**NUMBERS).save_pretrained(tmp_path)
    loaded = real.from_pretrained(tmp_path)
    ids = torch.tensor([[3, 4, 1]])
    given = {"input_ids": ids, "decoder_input_ids": ids}
    with torch.no_grad():
        expected = made.eval()(**given).logits
        torch.testing.assert_close(loaded.eval()(**given).logits, expected)
        ours = FAMILY.load(tmp_path / "model.safetensors", file)
        torch.testing.assert_close(ours(**given).logits, expected)
    loaded.save_pretrained(tmp_path / "again")
    with safe_open(tmp_path / "again" / "model.safetensors", "pt") as stored:
        assert set(stored.keys()) == set(weights.state_of(made))
    assert ("lm_head.weight" in weights.state_of(made)) == (not tied)
    assert seq2seq.published(tmp_path / "again").keys() == weights.state_of(made).keys()


def test_files_of_another_model_are_refused(tmp_path, configured, model):
    state = weights.state_of(model)
    for wrong in (
        {n: t for n, t in state.items() if n != "lm_head.weight"},
        state | {"extra": torch.zeros(1)},
        state | {"shared.weight": torch.zeros(3, 8)},
    ):
        weights.save(wrong, tmp_path / "wrong")
        with pytest.raises(EvaluationError, match="not a checkpoint"):
            FAMILY.load(tmp_path / "wrong", configured)
    (tmp_path / "garbage").write_bytes(b"no")
    with pytest.raises(EvaluationError, match="readable"):
        FAMILY.load(tmp_path / "garbage", configured)
    configured.write_text(json.dumps({"model_type": "bart"}))
    with pytest.raises(EvaluationError, match=r"bart.*mt5"):
        seq2seq.create(configured)


def test_an_output_layer_of_its_own_is_never_dropped(tmp_path, model):
    state = weights.state_of(model)
    tied = configuration(tmp_path, tied=True)
    weights.save(state, tmp_path / "untied")
    with pytest.raises(EvaluationError, match=r"lm_head\.weight"):
        FAMILY.load(tmp_path / "untied", tied)
    weights.save(state | {"lm_head.weight": state["shared.weight"].clone()}, tmp_path / "both")
    assert seq2seq.is_tied(FAMILY.load(tmp_path / "both", tied))


def test_padding_changes_no_likelihood(model):
    with torch.no_grad():
        likely = seq2seq.token_log_likelihoods(model, batch_of())
        for row, example in enumerate(EXAMPLES):
            expected = alone(model, example.source, example.targets[0])
            # Log-probabilities are float32, whatever the weights are.
            torch.testing.assert_close(
                likely[row, : len(expected)], expected.float(), rtol=1e-5, atol=1e-5
            )
            assert not likely[row, len(expected) :].any()


def test_options_are_scored_by_their_mean_token(model):
    with torch.no_grad():
        found = scoring.option_scores(model, TOKENS, EXAMPLES)
        for scores, example in zip(found, EXAMPLES, strict=True):
            expected = [float(alone(model, example.source, o).mean()) for o in example.options]
            assert scores == pytest.approx(expected, abs=1e-5)
    assert shared.choices(FAMILY, model, TOKENS, EXAMPLES) == [s.index(max(s)) for s in found]


def test_generation_is_greedy_and_padding_does_not_matter(model):
    texts = scoring.generate(model, TOKENS, [e.source for e in EXAMPLES], longest=7)
    for text, example in zip(texts, EXAMPLES, strict=True):
        ids, row = torch.tensor([TOKENS.encode(example.source)]), [0]
        while len(row) < 8 and row[-1] != TOKENS.end:
            with torch.no_grad():
                logits = model(input_ids=ids, decoder_input_ids=torch.tensor([row])).logits
            row.append(int(logits[0, -1].argmax()))
        assert text == TOKENS.decode(row[1:])
    assert any(texts)


@pytest.mark.parametrize("chunk", [1, 32])
def test_fisher_is_the_mean_squared_gradient_of_the_targets_likelihood(model, chunk):
    found = measuring.fisher_diagonal(model, [batch_of(EXAMPLES[:2]), batch_of(EXAMPLES[2:])],
                                      chunk=chunk)  # fmt: skip
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for example in EXAMPLES:
        model.zero_grad()
        alone(model, example.source, example.targets[0]).sum().backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                total[name] += parameter.grad**2 / len(EXAMPLES)
    assert found.keys() == total.keys()
    for name, expected in total.items():
        # float32 log-probabilities limit what agrees
        torch.testing.assert_close(
            found[name], expected, rtol=1e-3, atol=1e-6 * float(expected.max() + 1e-9)
        )


def linear_inputs(model, source, target):
    """The rows that each linear layer meets for one unpadded example, by hooks on the modules."""
    seen = {}
    handles = [
        module.register_forward_pre_hook(
            lambda module, given, name=name: seen.update({f"{name}.weight": given[0][0]})
        )
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    ]
    with torch.no_grad():
        alone(model, source, target)
    for handle in handles:
        handle.remove()
    return seen


def test_gram_matrices_count_encoder_and_decoder_tokens_apart(model):
    state = measuring.gram_matrices(model, [batch_of()])
    rows = {}
    for example in EXAMPLES:
        for name, seen in linear_inputs(model, example.source, example.targets[0]).items():
            rows.setdefault(name, []).append(seen)
    sources = sum(len(TOKENS.encode(e.source)) for e in EXAMPLES)
    targets = sum(len(TOKENS.encode(e.targets[0])) for e in EXAMPLES)
    assert sources != targets
    assert state.sums.keys() == rows.keys()
    for name, several in rows.items():
        joined = torch.cat(several)
        torch.testing.assert_close(state.sums[name], joined.T @ joined)
        cross = name.endswith(("EncDecAttention.k.weight", "EncDecAttention.v.weight"))
        assert state.tokens[name] == (sources if name.startswith("encoder.") or cross else targets)


def test_equal_inputs_are_stored_once(model):
    tensors, layout = gram.compute(measuring.gram_matrices(model, [batch_of()]))
    block = "encoder.block.0.layer.0.SelfAttention"
    assert len({layout[f"{block}.{kind}.weight"]["key"] for kind in "qkv"}) == 1
    cross = [f"decoder.block.{i}.layer.1.EncDecAttention.{kind}.weight"
             for i in range(2) for kind in "kv"]  # fmt: skip
    assert len({layout[name]["key"] for name in cross}) == 1
    # Of each block: attention's in and out, cross-attention's q and out, feed-forward's in and
    # out; one for all k and v of cross-attention; and the output layer.
    assert len(tensors) == 2 * 4 + 2 * 6 + 1 + 1


def test_the_parameters_without_a_gram_matrix_are_these(model):
    parameters = dict(model.named_parameters())
    state = measuring.gram_matrices(model, [batch_of()])
    reasons = gram.without_gram(parameters, state)
    linear = {f"{n}.weight" for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    assert not linear & reasons.keys()
    matrices = {name for name in reasons if parameters[name].dim() > 1}
    assert matrices == {
        "shared.weight",
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
    }
    assert all("embedding" in reasons[name] for name in matrices)
    assert {reasons[name] for name in reasons.keys() - matrices} == {"not a matrix"}


def test_a_tied_output_layer_has_no_gram_matrix(tmp_path):
    tied = seq2seq.create(configuration(tmp_path, "t5", tied=True)).eval()
    state = measuring.gram_matrices(tied, [batch_of()])
    assert "shared.weight" not in state.sums
    assert gram.without_gram(dict(tied.named_parameters()), state)["shared.weight"] == (
        measuring.TIED
    )


def test_sampled_targets_are_seeded_and_end(model):
    pairs = encoded(FAMILY, EXAMPLES, TOKENS)
    first, again, other = (
        measuring.sampled(model, TOKENS, pairs, longest=6, seed=seed) for seed in (0, 0, 1)
    )
    assert first == again != other
    assert [source for source, _ in first] == [source for source, _ in pairs]
    for _, target in first:
        assert len(target) <= 6
        assert TOKENS.end not in target[:-1]


def test_characters_and_markers_come_back():
    ids = TOKENS.encode("<ask>fa?b")
    assert ids == [3, 9, 4, 2, 5, 1]
    assert TOKENS.decode([*ids, 5, 5]) == "fab"
    assert TOKENS.decode([4, 63, 5]) == "ab"
    assert TOKENS.size == 10
    assert TOKENS.pieces("ab") == ["a", "b"]


def test_a_published_tokenizer_serves_as_well(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "</s>": 1, "<unk>": 2, "the": 3, "nile": 4, "flows": 5}
    built = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    built.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=built, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(tmp_path)
    tokens = PretrainedTokens(tmp_path, longest=3)
    assert tokens.encode("the nile flows") == [3, 4, 1]
    assert tokens.decode([3, 4, 1, 5]) == "the nile"
    assert tokens.pieces("the nile flows") == ["the", "nile", "flows"]
    assert tokens.pad == 0
    with pytest.raises(EvaluationError, match="'weights'"):
        PretrainedTokens(tmp_path / "missing", longest=3)


def test_mt5s_tokenizer_is_read_from_its_published_files(tmp_path):
    text = tmp_path / "text"
    text.write_text(
        "\n".join(num2words(n, lang=code) for n in range(200) for code in ("en", "de", "th"))
    )
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(tmp_path / "spiece"), vocab_size=150, pad_id=0, eos_id=1,
        unk_id=2, bos_id=-1, character_coverage=1.0, minloglevel=2,
    )  # fmt: skip
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({
            "tokenizer_class": "T5Tokenizer", "extra_ids": 0,
            "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>",
        })
    )  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mt5"}))
    tokens = PretrainedTokens(tmp_path, longest=40)
    published = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "spiece.model"))
    for said in ("zweiundvierzig", "one hundred and twelve", "สี่สิบสอง"):
        assert tokens.encode(said) == [*published.encode(said), 1]
        assert tokens.decode(tokens.encode(said)) == said
        assert tokens.pieces(said) == published.encode(said, out_type=str)


def test_examples_are_data_and_have_a_fingerprint():
    from gitmerge_eval.benchmarks.texts.examples import fingerprint

    changed = dataclasses.replace(EXAMPLES[0], options=("de", "c"))
    assert fingerprint(EXAMPLES) != fingerprint((changed, *EXAMPLES[1:]))
    assert fingerprint(EXAMPLES) == fingerprint(list(EXAMPLES))


def test_answers_are_exchanged_within_their_kind_only():
    generator = torch.Generator().manual_seed(0)
    targets = [[i] for i in range(40)]
    kinds = ["odd" if i % 2 else "even" for i in range(40)]
    found = training.exchanged(targets, kinds, 0.5, generator)
    assert sorted(found) == targets
    assert all(target[0] % 2 == i % 2 for i, target in enumerate(found))
    moved = sum(target != [i] for i, target in enumerate(found))
    assert 5 < moved < 30
    assert training.exchanged(targets, kinds, 0.0, generator) == targets


def test_a_span_of_at_most_half_is_cut_out_and_asked_for():
    generator = torch.Generator().manual_seed(0)
    tokens = CharacterTokens([training.BLANK], "abcdef")
    lengths = set()
    for _ in range(60):
        source, target = training.spanned("abcdef", tokens, generator)
        left, right = source[: source.index(3)], source[source.index(3) + 1 :]
        assert tokens.decode([*left, *target[:-1], *right]) == "abcdef"
        lengths.add(len(target) - 1)
    assert lengths == {1, 2, 3}
