"""The compiled loop of averages and task vectors, against NumPy's operations one by one."""

from functools import cache

import ml_dtypes
import numpy as np
import pytest
import torch
from models import MODEL, ModelRepository

from gitmerge_eval import methods
from gitmerge_eval.checkpoints.chunks import grid
from gitmerge_eval.checkpoints.lfs import ObjectStore
from gitmerge_eval.compiled.differences import add_differences, has_loop
from gitmerge_eval.errors import NonFiniteValue, NumericalError
from gitmerge_eval.git.heads import resolve
from gitmerge_eval.merging import candidates, deciding, quick_sums, tiles
from gitmerge_eval.merging import options as merge_options
from gitmerge_eval.merging.computing import compute
from gitmerge_eval.merging.devices import Resources
from gitmerge_eval.records import ParameterGroup, Positions

DTYPES = pytest.mark.parametrize("name", ["float64", "float32", "float16", "bfloat16"])
BRANCHES = ("a", "b", "c")


def dtype(name):
    return np.dtype(getattr(ml_dtypes, name, name))


def by_hand(reference, others, coefficients, whole, factors, kind):
    first, *rest = (x.astype(np.float64) for x in (reference, *others))
    total = None
    for x, coefficient in zip(rest, coefficients, strict=True):
        part = (x - first) * coefficient
        total = part if total is None else total + part
    values = np.stack([total * factor + first * whole for factor in factors])
    return (values if kind.itemsize == 8 else values.astype(np.float32)).astype(kind)


def tensors(rng, count, rows, run, kind, *, gap=0):
    """Normal numbers, some of them tiny, and zeros of both signs; ``gap`` elements between rows."""
    found = []
    for _ in range(count):
        values = rng.standard_normal((rows, run + gap))
        values *= 10.0 ** rng.integers(-9, 3, values.shape)
        values[rng.random(values.shape) < 0.2] = 0.0
        values[rng.random(values.shape) < 0.2] *= -1.0
        found.append(values.astype(np.float32).astype(kind)[:, :run])
    return found


@DTYPES
@pytest.mark.parametrize("run", [1, 5, 31, 32, 33, 100, 1365])
@pytest.mark.parametrize(("rows", "gap"), [(1, 0), (3, 0), (3, 7)])
@pytest.mark.parametrize("others", [1, 2, 7])
def test_the_bytes_of_one_operation_after_the_other(name, run, rows, gap, others):
    rng, kind = np.random.default_rng(run), dtype(name)
    first, *rest = tensors(rng, others + 1, rows, run, kind, gap=gap)
    coefficients, factors = rng.standard_normal(others).tolist(), [0.3, 1.0, -1.7]
    for given in (coefficients, [1.0] * others):
        for whole in (1.0, 0.7):
            out = np.full((len(factors), rows, run), np.nan).astype(kind)
            assert add_differences(first, rest, given, whole, factors, out)
            expected = by_hand(first, rest, given, whole, factors, kind)
            assert out.tobytes() == expected.tobytes()


def test_zeros_keep_their_sign():
    minus, plus = np.full((1, 40), -0.0, np.float32), np.zeros((1, 40), np.float32)
    out = np.empty((1, 1, 40), np.float32)
    for first in (minus, plus):
        for other in (minus, plus):
            add_differences(first, [other], [1.0], 1.0, [1.0], out)
            assert out.tobytes() == by_hand(first, [other], [1.0], 1.0, [1.0], out.dtype).tobytes()


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16"])
def test_ties_go_to_even_numbers_and_small_ones_are_not_lost(name):
    kind = dtype(name)
    steps = np.arange(1, 65, dtype=np.float64) * float(ml_dtypes.finfo(kind).smallest_subnormal)
    first, other = (values.astype(kind)[None] for values in (steps, np.roll(steps, 1)))
    out = np.empty((2, 1, 64), kind)
    assert add_differences(first, [other], [1.0], 1.0, [0.5, 0.25], out)
    assert out.tobytes() == by_hand(first, [other], [1.0], 1.0, [0.5, 0.25], kind).tobytes()


@DTYPES
@pytest.mark.parametrize("run", [3, 32, 50])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_noticed_wherever_it_is(name, run, value):
    kind = dtype(name)
    for tensor in range(3):
        for place in range(run):
            given = [np.ones((2, run), kind) for _ in range(3)]
            given[tensor][1, place] = value
            out = np.empty((1, 2, run), kind)
            assert not add_differences(given[0], given[1:], [1.0, 1.0], 1.0, [0.0], out)


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16"])
def test_overflow_of_one_value_is_noticed(name):
    kind = dtype(name)
    first, other = np.zeros((1, 64), kind), np.full((1, 64), ml_dtypes.finfo(kind).max, kind)
    out = np.empty((3, 1, 64), kind)
    assert add_differences(first, [other], [1.0], 1.0, [0.1, 0.5, 1.0], out)
    assert not add_differences(first, [other], [1.0], 1.0, [0.1, 1.1, 1.0], out)


def test_other_dtypes_have_no_loop():
    assert has_loop("float32")
    assert not any(map(has_loop, ("float8_e5m2", "int32", "bool", "complex64")))


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16, torch.float16])
def repository(request, tmp_path_factory):
    """Groups of whole chunks, of padded rows, of one row, and smaller than a vector."""
    generator = torch.Generator().manual_seed(1)

    def normal(*shape):
        return torch.randn(shape, generator=generator)

    shapes = {"wide": (7, 1100), "long": (1101, 1030), "vector": (300,), "few": (3,)}
    base = {name: normal(*shape).to(request.param) for name, shape in shapes.items()}
    made = ModelRepository(tmp_path_factory.mktemp("models") / "repository", base)
    for number, branch in enumerate(BRANCHES):
        moved = {
            name: (value.float() + 0.1 * normal(*value.shape)).to(request.param)
            for name, value in base.items()
        }
        if number == 0:
            moved["vector"] = base["vector"]
        made.branch(branch, moved)
    made.branch("nan", {**base, "wide": torch.full_like(base["wide"], float("nan"))})
    return made


def plans_of(repository, branches, *choices):
    heads = resolve(repository.git, branches)
    paths = deciding.touched(repository.git, heads)
    return [
        deciding.decide(repository.git, heads, merge_options.parse(one), paths).plans[0]
        for one in choices
    ]


MERGES = [
    ("average", (), BRANCHES, True),
    ("average", ("weights=0.5,0.2,0.3",), BRANCHES, True),
    ("average", ("weights=0.5,0,0.5",), BRANCHES, True),
    ("average", (), BRANCHES[:2], False),
    ("average", ("accumulate=float32",), BRANCHES, False),
    ("task-arithmetic", ("scale=0.4",), BRANCHES, True),
    ("task-arithmetic", ("scale=1.0",), BRANCHES[1:], True),
]


@pytest.fixture
def loops(monkeypatch):
    """Every tile goes through the loop, which notes how many elements it was given."""
    sizes = []

    def noted(first, *rest):
        sizes.append(first.size)
        return add_differences(first, *rest)

    monkeypatch.setattr(quick_sums, "_compiled", cache(lambda dtype: noted))
    monkeypatch.setattr(quick_sums, "_SMALL", 0)
    return sizes


def computed(plan, repository, folder):
    """The blob and the file of one merge, without what an earlier one has kept."""
    folder.mkdir()
    store = ObjectStore(repository.git, keep=False)
    done = compute(plan, store, folder=folder, fresh=True)
    ((path, metadata),) = done.files.tensors.items()
    return metadata.serialize(), done.files.contents[path].read_bytes()


@pytest.mark.parametrize(("method", "given", "branches", "by_loop"), MERGES)
def test_merges_are_those_of_the_kernels(
    repository, tmp_path, loops, monkeypatch, method, given, branches, by_loop
):
    choice = [("method", method), *(tuple(one.split("=")) for one in given)]
    (plan,) = plans_of(repository, branches, choice)
    quick = computed(plan, repository, tmp_path / "quick")
    assert sum(loops) == (1101 * 1030 + 7 * 1100 + 300 + 3 if by_loop else 0)
    monkeypatch.setattr(quick_sums, "_compiled", cache(lambda dtype: None))
    assert quick == computed(plan, repository, tmp_path / "slow")


@pytest.mark.parametrize("workers", [1, 4])
def test_one_pass_for_all_scales(repository, tmp_path, loops, monkeypatch, workers):
    scales = ("0.0", "0.3", "1.0")
    choices = [[("method", "task-arithmetic"), ("scale", scale)] for scale in scales]
    plans, resources = plans_of(repository, BRANCHES, *choices), Resources(workers=workers)
    found, _ = candidates.compute_candidates(
        plans, "scale", repository.git, tmp_path, resources=resources
    )
    assert loops
    monkeypatch.setattr(quick_sums, "_compiled", cache(lambda dtype: None))
    for plan, ours in zip(plans, found, strict=True):
        assert (
            ours.file.read_bytes() == computed(plan, repository, tmp_path / plan.spec.digest[:9])[1]
        )


def test_chunks_that_are_not_stored_alike_are_read_side_by_side(tmp_path, monkeypatch):
    """One that Blosc could not make smaller has no blocks, and its neighbour has."""
    rng = np.random.default_rng(0)

    def mixed():
        bits = rng.integers(0, 0x7F00_0000, (1100, 1200), dtype=np.uint32)
        values = bits.view(np.float32)
        values[:, 1024:] = 1.0
        return {"w": torch.from_numpy(values)}

    made = ModelRepository(tmp_path / "repository", mixed())
    for branch in BRANCHES:
        made.branch(branch, mixed())
    (plan,) = plans_of(made, BRANCHES, [("method", "average")])
    (found,), _ = candidates.compute_candidates([plan], None, made.git, tmp_path)
    assert found.file.read_bytes() == computed(plan, made, tmp_path / "alone")[1]


@pytest.mark.parametrize(
    "shape", [(), (5,), (0, 3), (3, 1 << 20), (1100, 2500), (2, 3, 700, 900), (40, 70000), (9, 9)]
)
@pytest.mark.parametrize("most", [1, 2, 4])
def test_bands_are_the_chunks_in_order_and_make_longer_rows(shape, most):
    found = list(tiles.bands(shape, most))
    assert [chunk for band in found for chunk in band] == list(grid(shape))
    assert max(map(len, found), default=0) <= most
    for band in found:
        parts = [Positions(chunk.starts[chunk.starts >= 0].tolist(), chunk.run) for chunk in band]
        places = np.concatenate([elements(part) for part in parts])
        assert np.array_equal(np.sort(places), elements(tiles.joined(parts)))


def test_many_models_are_merged_chunk_by_chunk():
    assert [tiles.most_together(models + 11, 4) for models in (1, 5, 12, 24, 1000)] == [
        4,
        3,
        2,
        1,
        1,
    ]
    assert tiles.most_together(16, 2) == 6


def elements(positions):
    """The flat positions, row after row."""
    return (np.array(positions.starts)[:, None] + np.arange(positions.run)).reshape(-1)


def test_a_constituent_alone_is_itself_at_scale_one_only(repository, tmp_path, loops):
    """Ten scales of one task vector are two formulas: the kernel's."""
    choices = [[("method", "task-arithmetic"), ("scale", scale)] for scale in ("0.5", "1.0")]
    plans = plans_of(repository, BRANCHES[:1], *choices)
    found, _ = candidates.compute_candidates(plans, "scale", repository.git, tmp_path)
    assert not loops
    theirs = repository.git.run("cat-file", "--filters", f"{BRANCHES[0]}:{MODEL}").stdout
    assert found[1].file.read_bytes() == theirs


def test_a_branch_that_is_not_finite_is_named(repository, tmp_path, loops):
    for method in ("average", "task-arithmetic"):
        (plan,) = plans_of(repository, (*BRANCHES, "nan"), [("method", method)])
        with pytest.raises(NonFiniteValue, match=r"group 'wide' .*branch 'nan': it holds NaN"):
            computed(plan, repository, tmp_path / method)
    assert loops


def test_what_does_not_fit_is_refused(repository, tmp_path, loops):
    choice = [("method", "task-arithmetic"), ("scale", "1e39")]
    (plan,) = plans_of(repository, BRANCHES, choice)
    with pytest.raises(NumericalError, match=r"do not fit .*; choose a smaller scale"):
        computed(plan, repository, tmp_path / "model")
    assert loops


@pytest.mark.parametrize("models", [1, 2, 3, 5])
def test_formulas_are_the_kernels(models):
    rng = np.random.default_rng(models)
    base, *constituents = tensors(rng, models + 1, 4, 50, np.dtype(np.float64))
    for name, options in [
        ("average", {"weights": None}),
        ("average", {"weights": tuple(rng.random(models))}),
        ("task-arithmetic", {"scale": 0.3}),
    ]:
        method = methods.get(name)
        group = ParameterGroup("w", constituents, ("",) * models, (True,) * models, base=base)
        form = method.differences(group.changed, options)
        if form is None or not form.terms:
            continue
        reference = base if form.reference is None else constituents[form.reference]
        out = np.empty((1, 4, 50))
        others, coefficients = zip(*((constituents[i], c) for i, c in form.terms), strict=True)
        add_differences(reference, others, coefficients, form.whole, [form.factor], out)
        assert out.tobytes() == method.merge(group, options).value.tobytes()
