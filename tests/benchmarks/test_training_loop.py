"""The training loop against plain torch, and against its own uninterrupted self."""

import math

import pytest
import torch
from torch import nn

from gitmerge_eval.benchmarks.learning import loop
from gitmerge_eval.benchmarks.learning.loop import Stopping, Trained, optimise, reproducible
from gitmerge_eval.benchmarks.learning.schedule import Schedule
from gitmerge_eval.errors import EvaluationError, InvalidOption

X = torch.randn(64, 5, generator=torch.Generator().manual_seed(1))
Y = X @ torch.tensor([1.0, -2.0, 0.5, 0.0, 3.0]) + 0.1


class Killed(Exception):
    """The process ends here."""


def model_of(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1))


def drawn(model, generator, batch, *, until=10**9):
    def loss(number):
        if number == until:
            raise Killed
        rows = torch.randint(len(X), (batch,), generator=generator)
        return nn.functional.mse_loss(model(X[rows])[:, 0], Y[rows])

    return loss


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def run(schedule, *, state=None, until=10**9, validate=None, stopping=None, seed=0, **more):
    with reproducible(seed) as generator:
        model = model_of()
        loss = drawn(model, generator, schedule.part, until=until)
        score = (lambda: validate(model)) if validate else None
        done = optimise(
            model, schedule, loss, generator=generator, validate=score, stopping=stopping,
            state=state, **more,
        )  # fmt: skip
    return model, done


def fit(model):
    with torch.no_grad():
        return -float(nn.functional.mse_loss(model(X)[:, 0], Y))


def test_it_is_adamw_with_a_cosine():
    schedule = Schedule(steps=7, batch=4, rate=0.05, weight_decay=0.1, warm_up=2)
    ours, done = run(schedule)
    assert done == Trained(7, 7, None)
    theirs, generator = model_of(), torch.Generator().manual_seed(0)
    matrices = [p for p in theirs.parameters() if p.dim() > 1]
    vectors = [p for p in theirs.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups)
    loss = drawn(theirs, generator, 4)
    for step in range(7):
        rate = (step + 1) / 2 if step < 2 else 0.5 * (1 + math.cos(math.pi * (step - 2) / 5))
        for group in optimiser.param_groups:
            group["lr"] = 0.05 * rate
        optimiser.zero_grad()
        loss(step).backward()
        optimiser.step()
    torch.testing.assert_close(weights(ours), weights(theirs), rtol=1e-6, atol=1e-7)


def test_accumulated_parts_are_one_batch():
    whole = Schedule(steps=3, batch=8, rate=0.1, decay="constant", optimiser="adam")
    parts = Schedule(steps=3, batch=8, rate=0.1, decay="constant", optimiser="adam", accumulate=4)
    results = []
    for schedule in (whole, parts):
        model, part = model_of(), schedule.part

        def loss(number, model=model, part=part):
            rows = (torch.arange(part) + number * part) % len(X)
            return nn.functional.mse_loss(model(X[rows])[:, 0], Y[rows])

        optimise(model, schedule, loss)
        results.append(weights(model))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("until", [1, 9, 10, 11, 24])
def test_a_killed_training_goes_on_as_if_nothing_had_happened(tmp_path, until):
    schedule = Schedule(steps=25, batch=4, rate=0.05, warm_up=3)
    how = {"validate": fit, "stopping": Stopping(every=5, patience=3)}
    expected, all_done = run(schedule, **how)
    with pytest.raises(Killed):
        run(schedule, state=tmp_path, until=until, **how)
    assert (tmp_path / "training.pt").exists() == (until >= 5)
    found, done = run(schedule, state=tmp_path, seed=0, **how)
    assert torch.equal(weights(found), weights(expected))
    assert done == all_done
    assert not list(tmp_path.iterdir())


def test_the_best_weights_are_kept_and_patience_ends_it():
    schedule = Schedule(steps=100, batch=4, rate=0.05, decay="constant")
    scores, seen = iter([1.0, 3.0, 2.0, 2.5, 9.0]), []

    def validate(model):
        seen.append(weights(model))
        return next(scores)

    model, done = run(schedule, validate=validate, stopping=Stopping(every=10, patience=2))
    assert done == Trained(steps=40, best_step=20, score=3.0)
    assert done.stopped_early
    assert torch.equal(weights(model), seen[1])
    assert not torch.equal(seen[1], seen[3])


def test_bfloat16_keeps_the_weights_in_float32():
    schedule = Schedule(steps=60, batch=32, rate=0.05)
    model, _ = run(schedule, precision="bfloat16")
    assert all(p.dtype == torch.float32 for p in model.parameters())
    exact, _ = run(schedule)
    assert not torch.equal(weights(model), weights(exact))
    assert fit(model) > fit(model_of()) + 1


def test_gradients_are_clipped():
    schedule = Schedule(steps=1, batch=4, rate=1.0, clip=1e-30, optimiser="adam", epsilon=1.0)
    model, _ = run(schedule)
    torch.testing.assert_close(weights(model), weights(model_of()))


def test_a_training_that_never_looks_is_saved_too(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SAVED_EVERY", 4)
    schedule = Schedule(steps=11, batch=4, rate=0.05)
    expected, _ = run(schedule)
    with pytest.raises(Killed):
        run(schedule, state=tmp_path, until=7)
    steps = []
    found, done = run(schedule, state=tmp_path, progress=lambda step, _: steps.append(step))
    assert steps[0] == 5
    assert torch.equal(weights(found), weights(expected))
    assert (done.steps, done.best_step, done.score) == (11, 11, None)


def test_a_training_killed_after_its_last_look_does_not_go_on(tmp_path, monkeypatch):
    schedule = Schedule(steps=40, batch=4, rate=0.05)
    how = {"validate": lambda model: 0.0, "stopping": Stopping(every=2, patience=2)}
    expected, all_done = run(schedule, **how)
    assert all_done.steps == 6
    with monkeypatch.context() as patch:
        patch.setattr(loop._Saved, "remove", kill)
        with pytest.raises(Killed):
            run(schedule, state=tmp_path, **how)
    found, done = run(schedule, state=tmp_path, **how)
    assert done == all_done
    assert torch.equal(weights(found), weights(expected))


def kill(saved):
    raise Killed


def test_what_makes_no_training_is_refused(tmp_path):
    with pytest.raises(InvalidOption, match="choose one of cosine, linear, constant"):
        Schedule(steps=1, batch=1, rate=1, decay="steps")
    with pytest.raises(InvalidOption, match="cannot be cut into 3 equal parts"):
        Schedule(steps=1, batch=4, rate=1, accumulate=3)
    schedule = Schedule(steps=20, batch=4, rate=0.1)
    with pytest.raises(InvalidOption, match="'precision' is 'float16'"):
        run(schedule, precision="float16")
    model = model_of()
    with pytest.raises(EvaluationError, match="the loss of step 1 is nan"):
        optimise(model, schedule, lambda number: model[0].weight.sum() * math.nan)
    with pytest.raises(Killed):
        run(schedule, state=tmp_path, until=15, stopping=Stopping(every=5, patience=9))
    other = Schedule(steps=30, batch=4, rate=0.1)
    with pytest.raises(EvaluationError, match="is the state of another training"):
        run(other, state=tmp_path, stopping=Stopping(every=5, patience=9))
