"""Every method through the real ``git merge``, against float64 formulas written out here."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from models import MODEL, ModelRepository, base_model, fine_tuned, statistics_for

from gitmerge_eval.git import trailers

OPTIONS = {
    "average": {},
    "slerp": {},
    "task-arithmetic": {"scale": 0.4},
    "dare": {"scale": 0.4, "drop-rate": 0.5, "seed": 7},
    "ties": {"scale": 0.8, "density": 0.4},
    "dare-ties": {"scale": 0.8, "drop-rate": 0.5, "seed": 7},
    "fisher": {},
    "regmean": {"off-diagonal": 0.7},
    "mats": {"iterations": 6, "init-scale": 0.3},
}
SOLVED = {"regmean", "mats"}
FLOATING = ["first.weight", "second.weight", "first.bias", "scale"]


@pytest.fixture(
    scope="module",
    params=[(m, d) for d in ("float32", "bfloat16") for m in (1, 2, 3, 6)],
    ids=lambda p: f"{p[1]}-M{p[0]}",
)
def case(request, tmp_path_factory):
    models, dtype = request.param
    base = base_model(getattr(torch, dtype))
    repository = ModelRepository(tmp_path_factory.mktemp("repository") / "model", base)
    constituents, statistics = [], []
    for number in range(models):
        constituents.append(fine_tuned(base, number))
        statistics.append(statistics_for(base, number))
        repository.branch(f"b{number}", constituents[-1], statistics[-1])
    return repository, base, constituents, statistics


@pytest.mark.parametrize("method", OPTIONS)
def test_checkpoint_equals_the_formula(case, method):
    repository, base, constituents, statistics = case
    heads = [f"b{i}" for i in range(len(constituents))]
    options = [f"--strategy-option={k}={v}" for k, v in OPTIONS[method].items()]
    repository.run("reset", "--quiet", "--hard", "main@{0}")
    before = repository.git.text("rev-parse", "HEAD")
    repository.merge(f"--strategy-option=method={method}", *options, *heads)
    merged = repository.tensors("HEAD")
    work_tree = repository.tensors()
    assert repository.git.text("status", "--porcelain") == ""
    blobs = [repository.git.blob_id(head, MODEL) for head in heads]
    record = trailers.read(repository.git, "HEAD")
    again = repository.run("status", "--porcelain").stdout
    repository.run("reset", "--quiet", "--hard", before)

    assert again == ""
    assert record.method == method
    assert {name for _, name in record.constituents} == set(heads)
    assert merged.keys() == base.keys()
    for name in base:
        assert torch.equal(merged[name], work_tree[name]), name
        assert merged[name].dtype == base[name].dtype
    assert torch.equal(merged["steps"], base["steps"])
    assert torch.equal(merged["frozen.weight"], base["frozen.weight"])
    expected = oracle(method, base, constituents, statistics, blobs)
    for name in FLOATING:
        got = merged[name].double().numpy()
        if method in SOLVED:
            error = np.linalg.norm(got - expected[name]) / np.linalg.norm(expected[name])
            rounding = 2.0**-8 if base[name].dtype == torch.bfloat16 else 0
            assert error <= 1e-4 + rounding, (name, error)
        else:
            digits = torch.finfo(base[name].dtype).eps
            # One rounding: half a unit in the last place of the exact value.
            unit = 2.0 ** np.floor(np.log2(np.abs(expected[name]))) * digits
            assert (np.abs(got - expected[name]) <= 0.5001 * unit).all(), name


def oracle(method, base, constituents, statistics, blobs):
    """The merged floating groups in float64."""
    theta0 = {n: base[n].double().numpy() for n in FLOATING}
    thetas = [{n: c[n].double().numpy() for n in FLOATING} for c in constituents]
    order = np.argsort(blobs)
    thetas = [thetas[i] for i in order]
    statistics = [statistics[i] for i in order]
    blobs = [blobs[i] for i in order]
    taus = [{n: t[n] - theta0[n] for n in FLOATING} for t in thetas]
    models, options = len(thetas), OPTIONS[method]
    if method == "average":
        return {n: sum(t[n] for t in thetas) / models for n in FLOATING}
    if method == "slerp":
        return {n: slerp([t[n] for t in thetas]) for n in FLOATING}
    if method == "task-arithmetic":
        return {n: theta0[n] + options["scale"] * sum(t[n] for t in taus) for n in FLOATING}
    if method == "dare":
        kept = dare_vectors(taus, blobs, options)
        return {n: theta0[n] + options["scale"] * sum(t[n] for t in kept) for n in FLOATING}
    if method == "ties":
        kept = [trimmed(tau, options["density"]) for tau in taus]
        return {n: theta0[n] + options["scale"] * elect([t[n] for t in kept]) for n in FLOATING}
    if method == "dare-ties":
        kept = dare_vectors(taus, blobs, options)
        return {n: theta0[n] + options["scale"] * elect([t[n] for t in kept]) for n in FLOATING}
    if method == "fisher":
        fishers = [{n: s["fisher"][n].astype(np.float64) for n in FLOATING} for s in statistics]
        return {
            n: sum(f[n] * t[n] for f, t in zip(fishers, thetas, strict=True))
            / sum(f[n] for f in fishers)
            for n in FLOATING
        }
    grams = [{n: g.astype(np.float64) for n, g in s["gram"].items()} for s in statistics]
    result = {n: sum(t[n] for t in thetas) / models for n in FLOATING}
    for name in grams[0]:
        if models == 1:
            result[name] = thetas[0][name]
        elif method == "regmean":
            result[name] = regmean(grams, thetas, name, options["off-diagonal"])
        else:
            start = theta0[name] + options["init-scale"] * sum(t[name] for t in taus)
            result[name] = mats(grams, thetas, name, start, options["iterations"])
    return result


def slerp(vectors):
    norms = [np.sqrt((v**2).sum()) for v in vectors]
    if len(vectors) == 1:
        return vectors[0]
    if len(vectors) == 2:
        cosine = np.clip((vectors[0] * vectors[1]).sum() / (norms[0] * norms[1]), -1, 1)
        angle = np.arccos(cosine)
        if np.sin(angle) < 1e-6:
            return (vectors[0] + vectors[1]) / 2
        return np.sin(angle / 2) / np.sin(angle) * (vectors[0] + vectors[1])
    mean = sum(vectors) / len(vectors)
    return max(norms) * mean / np.sqrt((mean**2).sum())


def trimmed(tau, density):
    every = np.sort(np.concatenate([np.abs(t).ravel() for t in tau.values()]))
    least = every[-max(1, int(density * every.size))]
    return {n: np.where(np.abs(t) >= least, t, 0) for n, t in tau.items()}


def elect(vectors):
    sign = np.sign(sum(vectors))
    majority = np.sign(sign.sum())
    sign = np.where(sign == 0, majority, sign)
    agreeing = [np.where((np.sign(v) == sign) & (v != 0), v, 0) for v in vectors]
    count = sum((a != 0).astype(float) for a in agreeing)
    return np.where(count > 0, sum(agreeing) / np.maximum(count, 1), 0)


def dare_vectors(taus, blobs, options):
    # The masks themselves are tested against known answers in tests/methods.
    from gitmerge_eval.methods._random import kept

    rate, seed = options["drop-rate"], options["seed"]

    def thinned(name, tau, blob):
        mask = kept(tau, rate, (seed, name, blob))
        return np.where(mask, tau, 0) / (1 - rate)

    return [
        {name: thinned(name, vector, blob) for name, vector in tau.items()}
        for tau, blob in zip(taus, blobs, strict=True)
    ]


def regmean(grams, thetas, name, factor):
    damped = [factor * g[name] + (1 - factor) * np.diag(np.diag(g[name])) for g in grams]
    right = sum(g @ t[name].T for g, t in zip(damped, thetas, strict=True))
    return np.linalg.solve(sum(damped), right).T


def mats(grams, thetas, name, start, iterations):
    matrix = sum(g[name] for g in grams)
    right = sum(g[name] @ t[name].T for g, t in zip(grams, thetas, strict=True))
    x = start.T.copy()
    residual = right - matrix @ x
    direction, old = residual.copy(), (residual**2).sum()
    for _ in range(iterations):
        image = matrix @ direction
        step = old / (direction * image).sum()
        x, residual = x + step * direction, residual - step * image
        new = (residual**2).sum()
        direction, old = residual + new / old * direction, new
    return x.T


def test_order_of_heads_does_not_matter(tmp_path):
    base = base_model()
    repository = ModelRepository(tmp_path / "model", base)
    for number in range(3):
        repository.branch(f"b{number}", fine_tuned(base, number), statistics_for(base, number))
    before = repository.git.text("rev-parse", "HEAD")
    for method in OPTIONS:
        blobs = set()
        for heads in (("b0", "b1", "b2"), ("b2", "b0", "b1")):
            repository.merge(f"--strategy-option=method={method}", *heads)
            blobs.add(repository.git.blob_id("HEAD", MODEL))
            repository.run("reset", "--quiet", "--hard", before)
        assert len(blobs) == 1, method


def test_options_and_all_defaults_are_in_the_trailers(tmp_path):
    base = base_model()
    repository = ModelRepository(tmp_path / "model", base)
    for number in range(2):
        repository.branch(f"b{number}", fine_tuned(base, number))
    repository.merge("-Xmethod=ties", "-Xdensity=0.5", "b0", "b1")
    pairs = dict(trailers.parse(repository.git, "HEAD"))
    options = json.loads(pairs["Merge-Options"])
    assert options["density"] == 0.5
    assert options.keys() == {"scale", "density", "scope", "accumulate"}
    assert pairs["Merge-Base"] == repository.git.commit("main~1")
