"""``gitmerge-eval contributions`` against sums written out, and with planted forgeries."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from models import MODEL, ModelRepository, base_model, fine_tuned, statistics_for
from small_repositories import copied, settle

from gitmerge_eval import cli
from gitmerge_eval.checkpoints.lfs import ObjectStore
from gitmerge_eval.checkpoints.metadata import Metadata
from gitmerge_eval.errors import CorruptObject, MissingBase, UsageError
from gitmerge_eval.inspecting import contributions
from gitmerge_eval.inspecting.contributions import WHOLE
from gitmerge_eval.inspecting.reading import Wanted, measured, slot
from gitmerge_eval.merging.computing import silent
from gitmerge_eval.merging.sources import open_source

NAMES = ("fruit", "bird", "tool", "bike")


def wide_model(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        f"layer.{i}.{kind}": torch.randn(shape, generator=generator)
        for i in range(3)
        for kind, shape in (("weight", (60, 50)), ("bias", (60,)))
    }


def task_vectors(seed: int, shared: float = 0.7) -> dict[str, torch.Tensor]:
    """Of honest constituents, which go the same way in part."""
    common = wide_model(100)
    own = wide_model(200 + seed)
    return {
        name: 0.01
        * (1 + 0.2 * seed)
        * (shared**0.5 * common[name] + (1 - shared) ** 0.5 * own[name])
        for name in common
    }


def moved(factor: float = 1.0, seed: int = 0) -> dict[str, torch.Tensor]:
    return {name: w + factor * task_vectors(seed)[name] for name, w in wide_model().items()}


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    made = ModelRepository(tmp_path_factory.mktemp("honest") / "models", wide_model())
    for seed, name in enumerate(NAMES):
        made.branch(name, moved(seed=seed))
    settle(made)
    return made


@pytest.fixture
def honest(template, tmp_path):
    return copied(template, tmp_path / "models")


@pytest.fixture
def run(capsys, monkeypatch):
    def command(repository, *arguments):
        monkeypatch.chdir(repository.folder)
        monkeypatch.setattr(sys, "argv", ["gitmerge-eval", *arguments])
        return cli.main(), *capsys.readouterr()

    return command


def double(tensors) -> dict[str, np.ndarray]:
    return {name: tensor.double().numpy().ravel() for name, tensor in tensors.items()}


def test_every_figure_is_what_the_sums_written_out_give(tmp_path):
    base = base_model()
    made = ModelRepository(tmp_path / "models", base)
    models, statistics = {}, {}
    for seed, name in enumerate(NAMES[:3]):
        models[name] = fine_tuned(base, seed)
        statistics[name] = statistics_for(models[name], seed)
        made.branch(name, models[name], statistics[name])
    made.merge("--strategy-option=method=fisher", *NAMES[:3])
    (found,) = contributions.of_merge(made.git)
    assert (found.path, found.groups) == (MODEL, 4)  # 'frozen.weight' and 'steps' did not change
    assert list(found.constituents) == list(NAMES[:3])
    assert set(found.modules) == {WHOLE, "first", "second", "(top)"}
    parts = {
        WHOLE: ["first.weight", "first.bias", "second.weight", "scale"],
        "first": ["first.weight", "first.bias"],
    }
    before = double(base)
    for module, groups in parts.items():
        vectors = [
            np.concatenate([double(models[name])[g] - before[g] for g in groups])
            for name in NAMES[:3]
        ]
        total = sum(vectors)
        norms = [float(np.sqrt((vector**2).sum())) for vector in vectors]
        fisher = [
            sum(float(statistics[name]["fisher"][g].astype(np.float64).sum()) for g in groups)
            for name in NAMES[:3]
        ]
        for i, share in enumerate(found.modules[module]):
            vector = vectors[i]
            assert share.norm == pytest.approx(norms[i], rel=1e-12)
            assert share.share == pytest.approx(norms[i] / sum(norms), rel=1e-12)
            cosine = vector @ total / (norms[i] * np.sqrt(total @ total))
            assert share.cosine == pytest.approx(cosine, rel=1e-12)
            opposed = np.count_nonzero(np.sign(vector) * np.sign(total) < 0)
            assert share.conflict == opposed / np.count_nonzero(vector)
            assert share.largest == pytest.approx(np.abs(vector).max(), rel=1e-12)
            assert share.weights == {"fisher": pytest.approx(fisher[i] / sum(fisher), rel=1e-9)}


def test_gram_matrices_weigh_by_their_traces(tmp_path):
    base = base_model()
    made = ModelRepository(tmp_path / "models", base)
    traces = []
    for seed, name in enumerate(NAMES[:2]):
        model = fine_tuned(base, seed)
        statistics = statistics_for(model, seed)
        made.branch(name, model, {"gram": statistics["gram"]})
        traces.append(float(np.trace(statistics["gram"]["first.weight"].astype(np.float64))))
    (found,) = contributions.of_heads(made.git, NAMES[:2])
    weights = [share.weights for share in found.modules["first"]]
    assert weights == [{"gram": pytest.approx(t / sum(traces), rel=1e-9)} for t in traces]
    assert any("'fisher'" in remark for remark in found.remarks)


def test_honest_branches_give_no_alarm_and_json_is_whole(honest, run):
    honest.merge("--strategy-option=method=average", *NAMES)
    status, out, _ = run(honest, "contributions", "--json")
    assert status == 0
    (found,) = json.loads(out)
    assert not [s for shares in found["modules"].values() for s in shares if s["marks"]]
    assert [s["constituent"] for s in found["modules"]["layer.1"]] == list(NAMES)
    status, out, _ = run(honest, "contributions")
    assert status == 0
    assert "nothing stands out" in out
    assert "layer.2" in out


def forged_weights(kind: str) -> dict[str, torch.Tensor]:
    if kind == "scaled":
        return moved(100.0, seed=1)
    if kind == "negated":
        return moved(-1.0, seed=1)
    if kind == "equal":
        return moved(seed=0)
    model = moved(seed=1)
    model["layer.1.weight"] = torch.randn(60, 50, generator=torch.Generator().manual_seed(7))
    return model


@pytest.mark.parametrize(
    ("kind", "module", "words"),
    [
        ("scaled", WHOLE, "times the median"),
        ("negated", WHOLE, "with the others"),
        ("noise", "layer.1", "times the median"),
        ("equal", WHOLE, "equals 'fruit'"),
    ],
)
def test_a_forged_contribution_is_merged_in_silence_and_stands_out_here(
    honest, run, kind, module, words
):
    honest.git.run("switch", "--quiet", "bird")
    honest.save(forged_weights(kind))
    honest.commit("forged")
    honest.git.run("switch", "--quiet", "main")
    # Without a look at the contributions nothing says that one of them is not like the others.
    done = honest.merge("--strategy-option=method=average", *NAMES)
    assert "bird" not in done.stderr
    (found,) = contributions.of_merge(honest.git)
    shares = {share.constituent: share for share in found.modules[module]}
    assert any(words in mark for mark in shares["bird"].marks)
    marked = {share.constituent for _, share in found.marked}
    assert marked == ({"bird", "fruit"} if kind == "equal" else {"bird"})
    if kind == "noise":
        assert {m for m, _ in found.marked} <= {WHOLE, "layer.1"}
    status, out, _ = run(honest, "contributions")
    assert status == 0
    assert words.split()[0] in out
    assert " !" in out


def test_not_finite_ones_are_counted_before_the_merge_refuses_them(honest):
    broken = moved(seed=1)
    broken["layer.0.bias"][3] = float("nan")
    honest.git.run("switch", "--quiet", "bird")
    honest.save(broken)
    honest.commit("broken")
    honest.git.run("switch", "--quiet", "main")
    (found,) = contributions.of_heads(honest.git, NAMES)
    assert [(m, s.constituent, s.non_finite) for m, s in found.marked] == [
        (WHOLE, "bird", 1), ("layer.0", "bird", 1),
    ]  # fmt: skip


def test_any_number_of_threads_gives_the_same_numbers(tmp_path):
    shape = (1100, 1000)  # two chunks, many tiles
    generator = torch.Generator().manual_seed(1)
    base = {"a.weight": torch.randn(shape, generator=generator)}
    made = ModelRepository(tmp_path / "models", base)
    for name in NAMES[:3]:
        made.branch(name, {"a.weight": torch.randn(shape, generator=generator)})
    sources = [open_source(made.git, name, MODEL, name) for name in ("main", *NAMES[:3])]
    wanted = [Wanted("a.weight", tuple(slot(source, "a.weight") for source in sources))]
    results = [
        measured(
            ObjectStore(made.git), wanted, contributions._task_vectors,
            what="", progress=silent, workers=workers,
        )["a.weight"]
        for workers in (1, 2, 5)
    ]  # fmt: skip
    for other in results[1:]:
        for name, value in vars(results[0]).items():
            assert np.array_equal(value, getattr(other, name)), name
    vectors = [double(made.tensors(n))["a.weight"] - double(base)["a.weight"] for n in NAMES[:3]]
    expected = np.array([[first @ second for second in vectors] for first in vectors])
    assert results[0].products == pytest.approx(expected, rel=1e-11)
    assert results[0].elements == 1_100_000
    assert results[0].against[0, 1] == np.count_nonzero(vectors[0] * vectors[1] < 0)


def test_what_one_constituent_lacks_is_named(honest):
    honest.git.run("switch", "--quiet", "bird")
    less = moved(seed=1)
    less["head.weight"] = torch.ones(2, 2)
    honest.save(less)
    honest.commit("another head")
    honest.git.run("switch", "--quiet", "main")
    (found,) = contributions.of_heads(honest.git, NAMES)
    assert any("'head.weight' (1 of 7)" in remark for remark in found.remarks)
    assert found.groups == 6


def test_heads_that_are_merges_are_taken_apart_as_by_a_merge(honest):
    (together,) = contributions.of_heads(honest.git, NAMES)
    honest.merge("--strategy-option=method=average", *NAMES[:2])
    (found,) = contributions.of_heads(honest.git, NAMES)
    assert found.constituents == together.constituents
    assert found.modules == together.modules
    assert any(f"'{NAMES[0]}' is merged already" in remark for remark in found.remarks)
    assert any("'main' is a merge: its constituents" in remark for remark in found.remarks)


def test_wrong_revisions_say_what_to_do(honest, run):
    with pytest.raises(UsageError, match="gitmerge-eval log"):
        contributions.of_merge(honest.git, "main")
    status, _, err = run(honest, "contributions", "nothing")
    assert status == 2
    assert "'nothing' is not a commit" in err
    honest.git.run("switch", "--quiet", "--orphan", "alone")
    honest.git.run("checkout", "main", "--", ".gitattributes")
    honest.save(moved())
    honest.commit("no common ancestor")
    with pytest.raises(MissingBase, match="--base"):
        contributions.of_heads(honest.git, ["bird"])
    (found,) = contributions.of_heads(honest.git, ["bird"], base="main")
    assert list(found.constituents) == ["alone", "bird"]


def test_copied_trailers_are_said_to_be_of_another_model(honest):
    honest.merge("--strategy-option=method=average", *NAMES)
    message = honest.git.text("log", "-1", "--format=%B")
    honest.save(moved(seed=9))
    honest.git.run("add", "--all")
    honest.git.run("commit", "--quiet", "--file=-", stdin=message)
    (found,) = contributions.of_merge(honest.git)
    assert "not the one that the trailers record" in found.remarks[0]


def test_a_damaged_object_is_named_with_its_branch(honest):
    metadata = Metadata.parse(honest.git.blob(honest.git.blob_id("bird", MODEL)))
    path = ObjectStore(honest.git).path(metadata.groups["layer.0.weight"].object_id)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(CorruptObject, match=r"'layer.0.weight'.*'bird'"):
        contributions.of_heads(honest.git, NAMES)
