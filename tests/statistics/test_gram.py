"""Gram matrices against outer products written out in numpy, without hooks."""

import numpy as np
import pytest
import torch
from torch import nn

from gitmerge_eval.statistics import gram


def record(model, *inputs, **options):
    model.eval()
    watched = dict(model.named_parameters())
    with gram.recording(watched, dtype=torch.float64, **options) as recorder:
        model(*inputs)
    return recorder.state


def outer(rows):
    rows = rows.detach().double().reshape(-1, rows.shape[-1]).numpy()
    return sum(np.outer(row, row) for row in rows)


def assert_sum(state, name, rows, *, axis=1):
    np.testing.assert_allclose(state.sums[name].numpy(), outer(rows), rtol=1e-5, atol=1e-5)
    assert state.tokens[name] == rows.numel() // rows.shape[-1]
    assert state.input_axis[name] == axis


def attention_by_hand(module, q, k, v):
    """The concatenated heads that out_proj sees, for batch-first (batch, length, width) inputs."""
    width, heads = module.embed_dim, module.num_heads
    if module.in_proj_weight is None:
        weights = [module.q_proj_weight, module.k_proj_weight, module.v_proj_weight]
    else:
        weights = module.in_proj_weight.chunk(3)
    biases = module.in_proj_bias.chunk(3)
    q, k, v = (
        (x @ w.T + b).reshape(*x.shape[:2], heads, width // heads).transpose(1, 2)
        for x, w, b in zip((q, k, v), weights, biases, strict=True)
    )
    scores = (q @ k.transpose(-1, -2)) / (width // heads) ** 0.5
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("batch_first", [True, False])
def test_self_attention_has_in_proj_and_out_proj(batch_first):
    torch.manual_seed(0)

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.attn = nn.MultiheadAttention(8, 2, batch_first=batch_first)
            nn.init.normal_(self.attn.in_proj_bias)

        def forward(self, x):
            return self.attn(x, x, x, need_weights=False)[0]

    block, x = Block(), torch.randn(3, 5, 8)
    state = record(block, x)
    batched = x if batch_first else x.transpose(0, 1)
    assert_sum(state, "attn.in_proj_weight", x)
    assert_sum(
        state, "attn.out_proj.weight", attention_by_hand(block.attn, batched, batched, batched)
    )


def test_attention_returns_the_same_under_the_recorder():
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    x = torch.randn(2, 4, 8)
    with torch.no_grad():
        expected = attention(x, x, x)
    with gram.recording(dict(attention.named_parameters())):
        seen = attention(x, x, x)
    torch.testing.assert_close(seen[0], expected[0])
    torch.testing.assert_close(seen[1], expected[1])


def test_cross_attention_with_separate_weights_counts_each_ones_tokens():
    torch.manual_seed(0)

    class Cross(nn.Module):
        def __init__(self):
            super().__init__()
            self.attn = nn.MultiheadAttention(8, 2, kdim=6, vdim=4, batch_first=True)

        def forward(self, q, k, v):
            return self.attn(q, k, v)[0]

    cross = Cross()
    q, k, v = torch.randn(2, 3, 8), torch.randn(2, 7, 6), torch.randn(2, 7, 4)
    state = record(cross, q, k, v)
    assert_sum(state, "attn.q_proj_weight", q)
    assert_sum(state, "attn.k_proj_weight", k)
    assert_sum(state, "attn.v_proj_weight", v)
    assert_sum(state, "attn.out_proj.weight", attention_by_hand(cross.attn, q, k, v))


def test_fused_cross_attention_is_refused_by_name():
    class Cross(nn.Module):
        def __init__(self):
            super().__init__()
            self.attn = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, q, k):
            return self.attn(q, k, k)[0]

    cross = Cross()
    state = record(cross, torch.randn(2, 3, 8), torch.randn(2, 5, 8))
    reasons = gram.without_gram(dict(cross.named_parameters()), state)
    assert "cross-attention" in reasons["attn.in_proj_weight"]
    assert "attn.out_proj.weight" in state.sums


class Mixed(nn.Module):
    """Linear layers, a matrix applied from the right, a patch convolution, an embedding."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 6, 4, stride=4, bias=False)
        self.first = nn.Linear(6, 5)
        self.second = nn.Linear(6, 7)
        self.third = nn.Linear(5, 5)
        self.proj = nn.Parameter(torch.randn(5, 2))
        self.position = nn.Parameter(torch.randn(4, 6))
        self.never = nn.Linear(2, 2)

    def forward(self, image):
        tokens = self.tokens(image)
        return (
            self.third(self.first(tokens)).sum()
            + (self.second(tokens)).sum()
            + (self.first(tokens) @ self.proj).sum()
        )

    def tokens(self, image):
        return self.patch(image).flatten(2).transpose(1, 2) + self.position


def test_linear_layers_projections_and_patches():
    torch.manual_seed(0)
    model, image = Mixed(), torch.randn(2, 3, 8, 8)
    state = record(model, image, convolutions=True)
    tokens = model.tokens(image)
    assert_sum(state, "first.weight", torch.cat([tokens, tokens]))
    assert_sum(state, "third.weight", model.first(tokens))
    assert_sum(state, "proj", model.first(tokens), axis=0)
    patches = image.reshape(2, 3, 2, 4, 2, 4).permute(0, 2, 4, 1, 3, 5).reshape(-1, 48)
    assert_sum(state, "patch.weight", patches)


def test_what_has_no_gram_is_listed_with_the_reason():
    model = Mixed()
    state = record(model, torch.randn(2, 3, 8, 8))
    reasons = gram.without_gram(dict(model.named_parameters()), state)
    assert "convolutions" in reasons["patch.weight"]
    assert reasons["first.bias"] == "not a matrix"
    assert "embedding" in reasons["position"]
    assert "not used" in reasons["never.weight"]
    assert set(reasons).isdisjoint(state.sums)


def test_an_overlapping_convolution_is_refused():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, stride=1, padding=1))
    state = record(model, torch.randn(1, 3, 8, 8), convolutions=True)
    assert "overlap" in gram.without_gram(dict(model.named_parameters()), state)["0.weight"]


def test_masked_tokens_do_not_count():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4))
    x, mask = torch.randn(2, 3, 4), torch.tensor([[True, True, False], [True, False, False]])
    with gram.recording(dict(model.named_parameters()), dtype=torch.float64) as recorder:
        recorder.mask = mask
        model(x)
    assert_sum(recorder.state, "0.weight", x[mask])


def test_layers_that_see_the_same_input_share_a_key():
    torch.manual_seed(0)

    class Projections(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k = nn.Linear(4, 4), nn.Linear(4, 4)
            self.o = nn.Linear(4, 3)

        def forward(self, x):
            return self.o(self.q(x) * self.k(x))

    model, x = Projections(), torch.randn(5, 4)
    tensors, layout = gram.compute(record(model, x))
    assert layout["q.weight"] == layout["k.weight"] == {"key": "q.weight", "input_axis": 1}
    assert set(tensors) == {"q.weight", "o.weight"}
    expected = torch.from_numpy(outer(x) / 5).float()
    torch.testing.assert_close(gram.unpack_symmetric(tensors["q.weight"]), expected)


def test_the_recorder_restores_the_fast_path():
    before = torch.backends.mha.get_fastpath_enabled()
    seen = []

    def fail():
        with gram.recording({}):
            seen.append(torch.backends.mha.get_fastpath_enabled())
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        fail()
    assert seen == [False]
    assert torch.backends.mha.get_fastpath_enabled() == before


@pytest.mark.parametrize("side", [1, 2, 7])
def test_packing_is_exact(side):
    half = torch.randn(side, side)
    matrix = half + half.T
    packed = gram.pack_symmetric(matrix)
    assert packed.shape == (side * (side + 1) // 2,)
    assert torch.equal(gram.unpack_symmetric(packed), matrix)


def test_a_length_that_is_no_half_is_refused():
    with pytest.raises(ValueError, match="4 numbers"):
        gram.unpack_symmetric(torch.zeros(4))


def test_combination_is_the_sum_over_shared_keys():
    first = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([5.0])}
    second = {"a": torch.tensor([10.0, 20.0])}
    combined = gram.combine([first, second])
    assert set(combined) == {"a"}
    assert combined["a"].tolist() == [11.0, 22.0]


def test_a_parameter_may_have_a_mask_of_its_own():
    torch.manual_seed(0)
    first, second = nn.Linear(4, 3, bias=False), nn.Linear(4, 2, bias=False)
    x = torch.randn(2, 5, 4)
    ours = torch.tensor([[True] * 5, [True, True, False, False, False]])
    others = torch.tensor([[True] * 3 + [False] * 2, [True] * 5])
    watched = {"first": first.weight, "second": second.weight}
    with gram.recording(watched, dtype=torch.float64) as recorder:
        recorder.mask, recorder.masks = others, {"first": ours}
        first(x), second(x)
        assert_sum(recorder.state, "first", x[ours])
        assert_sum(recorder.state, "second", x[others])
        with pytest.raises(ValueError, match=r"'first'.*\(2, 5\).*\(2, 4, 4\)"):
            first(x[:, :4])
