"""Parameter groups for the tests of the methods, with whole-model scalars as an engine would."""

from dataclasses import replace
from functools import partial

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


def as_numpy(group):
    """The group with NumPy arrays of the same values, with an axis at least, as the engine has."""

    def array(tensor):
        return np.atleast_1d(tensor.numpy().copy())

    return replace(
        group,
        constituents=tuple(map(array, group.constituents)),
        base=array(group.base),
        statistics={kind: tuple(map(array, found)) for kind, found in group.statistics.items()},
        references={key: array(tensor) for key, tensor in group.references.items()},
    )


def passed(groups, function):
    """A pass over groups, as an engine makes it."""
    return map(function, groups)


def with_scalars(method, groups, options):
    """The groups with the whole-model scalars that the method declares, one after the other."""
    groups = list(groups)
    for scalar in method.scalars(options, len(groups[0].constituents)):
        streams = [[group] for group in groups] if scalar.per_group else [groups] * len(groups)
        values = [scalar.compute(partial(passed, stream), options) for stream in streams]
        groups = [
            replace(g, scalars={**g.scalars, scalar.name: v})
            for g, v in zip(groups, values, strict=True)
        ]
    return groups


def defaults(method, **given):
    """All options of a method, by Python name."""
    return {p.name: p.default for p in method.hyperparameters} | given


def merge(method, groups, **given):
    """Outcomes of merging all groups under the defaults and ``given``."""
    options = defaults(method, **given)
    return [method.merge(group, options) for group in with_scalars(method, groups, options)]
