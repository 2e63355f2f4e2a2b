"""Parameter groups for the tests of the methods, with whole-model scalars as an engine would."""

from dataclasses import replace

import numpy as np
import torch

from gitmerge_eval.records import ParameterGroup


def spread(rng, shape, models, *, distance=0.1):
    """A base and M constituents near it, in float64."""
    base = rng.standard_normal(shape)
    return base, [base + distance * rng.standard_normal(shape) for _ in range(models)]


def gram_matrices(rng, inputs, models, *, tokens=None):
    """Mean outer products of correlated inputs, one for each model."""
    grams = []
    for _ in range(models):
        mixing = np.eye(inputs) + 0.3 * rng.standard_normal((inputs, inputs))
        z = rng.standard_normal((tokens or 4 * inputs, inputs)) @ mixing
        grams.append(z.T @ z / len(z))
    return grams


def as_group(
    constituents, base=None, *, name="layer.weight", dtype=torch.float64, identities=None, **fields
):
    """A ParameterGroup of arrays; ``statistics`` and ``references`` may be arrays, too."""

    def tensor(array):
        return torch.as_tensor(np.asarray(array)).to(dtype)

    if "statistics" in fields:
        fields["statistics"] = {
            kind: tuple(map(tensor, arrays)) for kind, arrays in fields["statistics"].items()
        }
    if "references" in fields:
        fields["references"] = {kind: tensor(a) for kind, a in fields["references"].items()}
    tensors = tuple(map(tensor, constituents))
    origin = None if base is None else tensor(base)
    return ParameterGroup(
        name=name,
        constituents=tensors,
        identities=identities or tuple(f"{i:040x}" for i in range(len(tensors))),
        changed=tuple(origin is None or not torch.equal(t, origin) for t in tensors),
        base=origin,
        **fields,
    )


def with_scalars(method, groups, options):
    """The groups with the whole-model scalars that the method declares, one after the other."""
    groups = list(groups)
    for scalar in method.scalars(options, len(groups[0].constituents)):
        values = scalar.compute(groups.__iter__, options)
        groups = [replace(g, scalars={**g.scalars, scalar.name: values}) for g in groups]
    return groups


def defaults(method, **given):
    """All options of a method, by Python name."""
    return {p.name: p.default for p in method.hyperparameters} | given


def merge(method, groups, **given):
    """Outcomes of merging all groups under the defaults and ``given``."""
    options = defaults(method, **given)
    return [method.merge(group, options) for group in with_scalars(method, groups, options)]
