"""Adapters through the real Git: merged on ΔW, factored again, configuration settled."""

import json

import numpy as np
import pytest
import safetensors.torch
import torch
from models import ModelRepository
from safetensors import safe_open
from small_repositories import copied, settle

from gitmerge_eval import resolving
from gitmerge_eval.auditing.audit import audit
from gitmerge_eval.errors import MergeRefused
from gitmerge_eval.git import trailers
from gitmerge_eval.merging.expansion import Expansion
from gitmerge_eval.verifying import verify

FILE, CONFIGURATION = "adapter_model.safetensors", "adapter_config.json"
PREFIX = "base_model.model."
SHAPES = {"q": (6, 5), "v": (4, 6)}


def settings(**changes):
    found = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q", "v"]}
    return {**found, "bias": "none", "base_model_name_or_path": "tiny", **changes}


def factors(seed, modules=("q", "v"), rank=2, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for module in modules:
        outputs, inputs = SHAPES[module]
        a = torch.randn((rank, inputs), generator=generator).to(dtype)
        b = torch.randn((outputs, rank), generator=generator).to(dtype)
        found |= {f"{PREFIX}{module}.lora_A.weight": a, f"{PREFIX}{module}.lora_B.weight": b}
    return found


def changes(tensors, configuration):
    """The oracle: ΔW = alpha / r · B·A in float64, the rank from the factors."""
    found = {}
    for name, a in tensors.items():
        if name.endswith("lora_A.weight"):
            b = tensors[name.replace("lora_A", "lora_B")].double().numpy()
            module = name.removeprefix(PREFIX).removesuffix(".lora_A.weight")
            rank = configuration.get("rank_pattern", {}).get(module, configuration["r"])
            alpha = configuration.get("alpha_pattern", {}).get(module, configuration["lora_alpha"])
            assert rank == a.shape[0] == b.shape[1]
            found[module] = alpha / rank * (b @ a.double().numpy())
    return found


class AdapterRepository(ModelRepository):
    def adapter(self, tensors, configuration):
        self.save(tensors, FILE)
        (self.folder / CONFIGURATION).write_text(json.dumps(configuration, indent=2))

    def adapter_branch(self, name, tensors, configuration, start="main"):
        self.git.run("switch", "--quiet", "--create", name, start)
        self.adapter(tensors, configuration)
        commit = self.commit(name)
        self.git.run("switch", "--quiet", start)
        return commit

    def merged(self):
        tensors = safetensors.torch.load_file(self.folder / FILE)
        return tensors, json.loads((self.folder / CONFIGURATION).read_text())

    def verify(self):
        """What 'gitmerge-eval verify HEAD' finds; here, without importing torch anew."""
        found = verify(self.git, "HEAD", fresh=True)
        looked_through = audit(self.git, ["HEAD"])
        assert [f.kind for f in looked_through.findings if found.sound] == []
        return found


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    made = AdapterRepository(tmp_path_factory.mktemp("template") / "model")
    settle(made)
    return made


@pytest.fixture
def repository(template, tmp_path):
    made = copied(template, tmp_path / "model")
    made.__class__ = AdapterRepository
    return made


def clean(repository):
    assert repository.git.text("status", "--porcelain") == ""


def assert_changes(repository, expected, tolerance=2e-6):
    tensors, configuration = repository.merged()
    found = changes(tensors, configuration)
    assert found.keys() == expected.keys()
    for module, delta in expected.items():
        np.testing.assert_allclose(found[module], delta, rtol=0, atol=tolerance)


def test_both_branches_added_one_of_another_rank(repository):
    one, two = factors(1), factors(2, ("q",), rank=3)
    first, second = settings(), settings(r=3, lora_alpha=1, target_modules=["q"])
    repository.adapter_branch("one", one, first)
    repository.adapter_branch("two", two, second)
    repository.merge("-Xmethod=task-arithmetic", "-Xscale=0.5", "one", "two")
    a, b = changes(one, first), changes(two, second)
    assert_changes(repository, {"q": 0.5 * (a["q"] + b["q"]), "v": 0.5 * a["v"]})
    _, configuration = repository.merged()
    assert sorted(configuration["target_modules"]) == ["q", "v"]
    assert configuration["r"] in (2, 5)
    clean(repository)
    record = trailers.read(repository.git, "HEAD")
    assert [path for _, path in record.models] == [CONFIGURATION, FILE]
    assert [path for _, path in record.specs] == [FILE]
    assert [(f.path, f.verdict) for f in repository.verify().findings] == [(FILE, "exact")]


def test_the_bases_adapter_is_the_base(repository):
    base, one, two = factors(0), factors(1, rank=3), factors(2)
    repository.adapter(base, settings())
    repository.commit("adapter")
    repository.adapter_branch("one", one, settings(r=3, lora_alpha=3))
    repository.adapter_branch("two", two, settings(lora_alpha=16))
    repository.merge("-Xmethod=ties", "-Xdensity=1", "-Xscale=1", "one", "two")
    p, a, b = (
        changes(t, s)
        for t, s in (
            (base, settings()),
            (one, settings(r=3, lora_alpha=3)),
            (two, settings(lora_alpha=16)),
        )
    )
    expected = {}
    for module in SHAPES:
        vectors = np.stack([a[module] - p[module], b[module] - p[module]])
        sign = np.sign(vectors.sum(0))
        agree = np.sign(vectors) == sign
        expected[module] = p[module] + (vectors * agree).sum(0) / np.maximum(agree.sum(0), 1)
    assert_changes(repository, expected, 1e-4)
    clean(repository)
    assert repository.verify().sound


def test_a_rank_that_is_asked_for(repository):
    one, two = factors(1), factors(2)
    repository.adapter_branch("one", one, settings())
    repository.adapter_branch("two", two, settings())
    done = repository.merge("-Xmethod=average", "-Xrank=3", "one", "two")
    assert "2 × cut to rank 3" in done.stderr
    assert "rank=3 loses at most " in done.stderr
    tensors, configuration = repository.merged()
    assert (configuration["r"], configuration["lora_alpha"]) == (3, 3)
    a, b = changes(one, settings()), changes(two, settings())
    expected = {}
    for module in SHAPES:
        left, values, right = np.linalg.svd((a[module] + b[module]) / 2, full_matrices=False)
        expected[module] = (left[:, :3] * values[:3]) @ right[:3]
    assert_changes(repository, expected)
    assert trailers.read(repository.git, "HEAD").options["rank"] == 3
    assert repository.verify().sound
    # Edited by hand afterwards: found out.
    repository.adapter({**tensors, f"{PREFIX}q.lora_B.weight": torch.ones(6, 3)}, configuration)
    repository.git.run("commit", "--all", "--amend", "--no-edit", "--quiet")
    assert "is not what average gives" in repository.verify().findings[0].problems[0]


def test_modules_that_nobody_changed_keep_their_factors_and_scale(repository):
    base = factors(0)
    repository.adapter(base, settings(lora_alpha=6))
    repository.commit("adapter")
    changed = {}
    for seed, name in ((1, "one"), (2, "two")):
        changed[name] = {**base, **factors(seed, ("q",))}
        repository.adapter_branch(name, changed[name], settings(lora_alpha=6))
    repository.merge("-Xmethod=average", "one", "two")
    tensors, _ = repository.merged()
    for part in ("lora_A", "lora_B"):
        name = f"{PREFIX}v.{part}.weight"
        assert torch.equal(tensors[name], base[name])
    one, two = (changes(changed[name], settings(lora_alpha=6)) for name in ("one", "two"))
    assert_changes(repository, {"q": (one["q"] + two["q"]) / 2, "v": one["v"]})
    clean(repository)


def test_renamed_on_one_branch_and_only_rescaled_on_another(repository):
    def put(folder, tensors, configuration):
        repository.save(tensors, f"{folder}/{FILE}")
        (repository.folder / folder / CONFIGURATION).write_text(json.dumps(configuration))
        return changes(tensors, configuration)

    base = factors(0)
    put("a", base, settings())
    repository.commit("adapter")
    repository.git.run("switch", "--quiet", "--create", "one")
    repository.git.run("mv", "a", "b")
    name = f"{PREFIX}q.lora_A.weight"
    one = put("b", {**base, name: factors(1)[name]}, settings())
    repository.commit("renamed and trained")
    repository.git.run("switch", "--quiet", "--create", "two", "main")
    two = put("a", base, settings(lora_alpha=12))
    repository.commit("rescaled")
    repository.git.run("switch", "--quiet", "main")
    repository.merge("-Xmethod=average", "one", "two")
    tensors = safetensors.torch.load_file(repository.folder / "b" / FILE)
    found = changes(tensors, json.loads((repository.folder / "b" / CONFIGURATION).read_text()))
    for module in SHAPES:
        expected = (one[module] + two[module]) / 2
        np.testing.assert_allclose(found[module], expected, rtol=0, atol=1e-5)
    assert not [*(repository.folder / "a").glob("*")]
    clean(repository)
    assert repository.verify().sound


def test_other_differences_are_a_conflict_that_names_them(repository):
    repository.adapter(factors(0), settings())
    repository.commit("adapter")
    repository.adapter_branch("one", factors(1), settings(bias="all"))
    repository.git.run("switch", "--quiet", "--create", "two", "main")
    repository.adapter(factors(2), settings(bias="lora_only"))
    repository.commit("two")
    done = repository.merge("-Xmethod=average", "one", status=1)
    assert "'bias' is" in done.stdout
    assert "then merge again" in done.stdout
    unmerged = repository.git.text("diff", "--name-only", "--diff-filter=U").splitlines()
    assert unmerged == [CONFIGURATION, FILE]
    assert "<<<<" not in (repository.folder / CONFIGURATION).read_text()
    repository.git.run("merge", "--abort")
    clean(repository)


def test_what_is_no_matrix_added_to_a_weight_is_refused(repository):
    repository.adapter_branch("one", factors(1), settings(use_dora=True))
    repository.adapter_branch("two", factors(2), settings())
    before = repository.state()
    done = repository.merge("-Xmethod=average", "one", "two", status=2)
    assert "DoRA" in done.stderr
    assert "'one'" in done.stderr
    assert "merge_and_unload" in done.stderr
    assert repository.state()[:4] == before[:4]


def test_statistics_are_of_the_changes(repository):
    """RegMean on ΔW with Gram matrices by the weights' names, and kept in the merge."""
    from models import statistic_file

    from gitmerge_eval import collecting
    from gitmerge_eval.checkpoints.lfs import ObjectStore

    grams, parts = {}, {}
    for seed, name in ((1, "one"), (2, "two")):
        parts[name] = factors(seed)
        repository.git.run("switch", "--quiet", "--create", name, "main")
        repository.adapter(parts[name], settings())
        generator = np.random.default_rng(seed)
        grams[name] = {}
        for module, (_, inputs) in SHAPES.items():
            z = generator.normal(size=(40, inputs))
            grams[name][f"{module}.weight"] = (z.T @ z / 40).astype(np.float32)
        blob = collecting.checkpoint_blob(repository.git, ObjectStore(repository.git), FILE)
        file = statistic_file("gram", grams[name])
        collecting.write_statistics(repository.git, FILE, blob, [file])
        repository.commit(name)
        repository.git.run("switch", "--quiet", "main")
    repository.merge("-Xmethod=regmean", "-Xoff-diagonal=1", "one", "two")
    expected = {}
    for module in SHAPES:
        total, right = 0.0, 0.0
        for name in ("one", "two"):
            gram = grams[name][f"{module}.weight"].astype(np.float64)
            total = total + gram
            right = right + changes(parts[name], settings())[module] @ gram
        expected[module] = np.linalg.solve(total, right.T).T
    assert_changes(repository, expected, 1e-5)
    _, configuration = repository.merged()
    assert configuration["r"] == 4  # two of rank two: RegMean stays in their columns' span
    assert (repository.folder / "statistics/adapter_model.gram.safetensors").exists()
    assert repository.verify().sound


def test_cherry_pick_and_revert_are_finished_by_resolve(repository):
    """The driver is given one file, and the configuration has to change with it."""
    start, one, two = factors(0), factors(1), factors(2, rank=3)
    repository.adapter(start, settings())
    repository.commit("adapter")
    repository.adapter_branch("one", one, settings())
    repository.git.run("switch", "--quiet", "--create", "two", "main")
    repository.adapter(two, settings(r=3))
    repository.commit("two")
    done = repository.run("cherry-pick", "one", status=1)
    assert "'gitmerge-eval resolve' merges both" in done.stderr
    (resolved,) = resolving.resolve(repository.git)
    assert resolved.report is not None
    repository.run("cherry-pick", "--continue")
    clean(repository)
    sides = [changes(start, settings()), changes(one, settings()), changes(two, settings(r=3))]
    picked = {module: sides[2][module] + sides[1][module] - sides[0][module] for module in SHAPES}
    assert_changes(repository, picked, 5e-6)
    # Another commit, so that the revert has to subtract.
    moved = factors(3)
    repository.adapter(moved, settings())
    repository.commit("trained on")
    repository.run("revert", "--no-edit", "HEAD~1", status=1)
    resolving.resolve(repository.git)
    repository.run("revert", "--continue")
    clean(repository)
    later = changes(moved, settings())
    assert_changes(repository, {m: later[m] + sides[2][m] - picked[m] for m in SHAPES}, 1e-5)


def test_configurations_in_conflict_are_replaced_and_local_ones_are_not(repository):
    for name, rank in (("one", 2), ("two", 3)):
        repository.adapter_branch(name, factors(rank, rank=rank), settings(r=rank))
    repository.git.run("switch", "--quiet", "two")
    repository.run("cherry-pick", "one", status=1)
    configuration = repository.folder / CONFIGURATION
    assert "<<<<<<< " in configuration.read_text()
    as_git_left_it = configuration.read_bytes()
    configuration.write_text(json.dumps(settings(r=7)))
    with pytest.raises(MergeRefused, match=r"'adapter_config\.json' in the work tree is"):
        resolving.resolve(repository.git)
    configuration.write_bytes(as_git_left_it)
    resolving.resolve(repository.git)
    repository.run("cherry-pick", "--continue")
    one, two = (changes(factors(r, rank=r), settings(r=r)) for r in (2, 3))
    assert_changes(repository, {module: one[module] + two[module] for module in SHAPES}, 5e-6)
    # A setting that cannot be merged is named.
    repository.adapter_branch("biased", factors(4), settings(bias="all"))
    repository.git.run("switch", "--quiet", "one")
    repository.run("cherry-pick", "biased", status=1)
    with pytest.raises(MergeRefused, match="bias"):
        resolving.resolve(repository.git)


def test_diffusers_files_with_alphas_and_headers(repository):
    """No configuration file: scales are in .alpha tensors, or in the header."""
    repository.git.run("switch", "--quiet", "main")
    path = "lora.safetensors"
    stem = "lora_unet_mid_to_q"

    def tensors(seed, rank, alpha):
        generator = torch.Generator().manual_seed(seed)
        return {
            f"{stem}.lora_down.weight": torch.randn((rank, 5), generator=generator),
            f"{stem}.lora_up.weight": torch.randn((6, rank), generator=generator),
            f"{stem}.alpha": torch.tensor(alpha),
        }

    def delta(found):
        b, a = (found[f"{stem}.lora_{part}.weight"].double().numpy() for part in ("up", "down"))
        return float(found[f"{stem}.alpha"]) / a.shape[0] * (b @ a)

    one, two = tensors(1, 2, 4.0), tensors(2, 3, 1.0)
    for name, found in (("one", one), ("two", two)):
        repository.git.run("switch", "--quiet", "--create", name, "main")
        repository.save(found, path)
        repository.commit(name)
        repository.git.run("switch", "--quiet", "main")
    repository.merge("-Xmethod=average", "one", "two")
    found = safetensors.torch.load_file(repository.folder / path)
    np.testing.assert_allclose(delta(found), (delta(one) + delta(two)) / 2, atol=2e-6)
    assert found[f"{stem}.lora_down.weight"].shape[0] == 5
    assert repository.verify().sound
    with safe_open(repository.folder / path, "pt") as file:
        assert file.metadata() == {"format": "pt"}
    # One file is all there is, so that the driver can do it too: ours + theirs, no base.
    repository.git.run("switch", "--quiet", "two")
    repository.run("cherry-pick", "one")
    picked = safetensors.torch.load_file(repository.folder / path)
    np.testing.assert_allclose(delta(picked), delta(one) + delta(two), atol=5e-6)
    clean(repository)


def test_one_after_the_other_is_the_merge_of_all(repository):
    for number, name in enumerate(("one", "two", "three")):
        repository.adapter_branch(name, factors(number), settings(r=2, lora_alpha=2 + number))
    repository.run("switch", "--quiet", "--create", "together")
    repository.merge("-Xmethod=task-arithmetic", "-Xscale=0.5", "one", "two", "three")
    repository.run("switch", "--quiet", "main")
    repository.merge("-Xmethod=task-arithmetic", "-Xscale=0.5", "one", "two")
    done = repository.merge("-Xmethod=task-arithmetic", "-Xscale=0.5", "three")
    assert "'main' is a merge: its constituents take part in its place (one, two)" in done.stdout
    for path in (FILE, CONFIGURATION):
        assert repository.git.blob_id("HEAD", path) == repository.git.blob_id("together", path)
    clean(repository)
    assert repository.verify().sound
    # A configuration that was changed after the merge makes it another model.
    _, configuration = repository.merged()
    (repository.folder / CONFIGURATION).write_text(json.dumps({**configuration, "note": 1}))
    repository.commit("changed by hand")
    assert Expansion(repository.git).composite(repository.git.commit("HEAD"), FILE) is None
