"""Squared per-example gradients against a loop with one backward pass for each example."""

import pytest
import torch
from torch import nn

from gitmerge_eval.statistics import fisher


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.norm(x + self.attn(x, x, x, need_weights=False)[0]).mean(1))


def loop(model, inputs, labels):
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for x, y in zip(inputs, labels, strict=True):
        model.zero_grad()
        nn.functional.cross_entropy(model(x[None]), y[None]).backward()
        for name, parameter in model.named_parameters():
            total[name] += parameter.grad**2
    return {name: value / len(inputs) for name, value in total.items()}


def loss_of(model):
    def loss(parameters, x, y):
        output = torch.func.functional_call(model, parameters, (x[None],))
        return nn.functional.cross_entropy(output, y[None])

    return loss


def test_equals_a_loop_over_single_examples():
    torch.manual_seed(0)
    model = Model()
    inputs, labels = torch.randn(11, 4, 8), torch.randint(3, (11,))
    state = fisher.FisherState()
    fisher.update(
        state, loss_of(model), dict(model.named_parameters()), (inputs[:7], labels[:7]), chunk=3
    )
    fisher.update(state, loss_of(model), dict(model.named_parameters()), (inputs[7:], labels[7:]))
    assert state.examples == 11
    found, expected = fisher.compute(state), loop(model, inputs, labels)
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-9)


def test_fewer_gradients_are_held_of_a_larger_model():
    def chunk(size):
        # One number stands for all: nothing has to be held.
        return fisher.likely_chunk({"weight": torch.zeros(1).expand(size)})

    assert [chunk(size) for size in (1000, 1_000_000, 87_849_216)] == [128, 16, 1]


@pytest.mark.parametrize("chunk", [1, 2, 11])
def test_how_many_are_held_changes_nothing_beyond_rounding(chunk):
    torch.manual_seed(0)
    model = Model()
    inputs, labels = torch.randn(11, 4, 8), torch.randint(3, (11,))
    state = fisher.FisherState()
    parameters = dict(model.named_parameters())
    for rows in (slice(0, 5), slice(5, 11)):
        fisher.update(state, loss_of(model), parameters, (inputs[rows], labels[rows]), chunk=chunk)
    assert state.examples == 11
    expected = loop(model, inputs, labels)
    for name, value in fisher.compute(state).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-9)


def test_is_not_the_square_of_the_mean_gradient():
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    inputs, labels = torch.randn(6, 3), torch.randint(2, (6,))
    state = fisher.FisherState()
    fisher.update(state, loss_of(model), dict(model.named_parameters()), (inputs, labels))
    nn.functional.cross_entropy(model(inputs), labels).backward()
    assert (fisher.compute(state)["weight"] > 1.5 * model.weight.grad**2).any()


def test_half_precision_gradients_are_squared_in_float32():
    parameters = {"w": torch.full((2,), 1e-4, dtype=torch.float16)}
    state = fisher.FisherState()
    fisher.update(
        state, lambda p, x: (p["w"] * x).sum(), parameters, (torch.full((5, 2), 1e-4).half(),)
    )
    value = fisher.compute(state)["w"]
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, torch.full((2,), 1e-8), rtol=1e-2, atol=0)


def test_combination_is_the_sum():
    combined = fisher.combine([{"a": torch.tensor([1.0])}, {"a": torch.tensor([2.0])}])
    assert combined["a"].tolist() == [3.0]
