"""Models in several files through the real Git: merged as one, object for object."""

import json

import pytest
import safetensors.torch
import torch
from models import (
    MODEL,
    ModelRepository,
    base_model,
    fine_tuned,
    statistic_file,
    statistics_for,
)

from gitmerge_eval import collecting, diagnosing
from gitmerge_eval.auditing.audit import audit
from gitmerge_eval.checkpoints.lfs import ObjectStore
from gitmerge_eval.checkpoints.metadata import Metadata
from gitmerge_eval.git import trailers
from gitmerge_eval.merging.sources import open_source
from gitmerge_eval.verifying import verify

INDEX = "model.safetensors.index.json"
TIES = ("-Xmethod=ties", "-Xdensity=0.3", "-Xscale=0.8")


def shard_name(number, count):
    return f"model-{number:05}-of-{count:05}.safetensors"


class ShardedRepository(ModelRepository):
    """Saves a model as transformers does: its tensors in order, cut into ``count`` files."""

    count = 2

    def save(self, tensors, path=MODEL):
        for old in [*self.folder.glob("model-*.safetensors"), self.folder / INDEX]:
            old.unlink(missing_ok=True)
        (self.folder / MODEL).unlink(missing_ok=True)
        if self.count == 1:
            return super().save(tensors, path)
        weight_map = {}
        for number in range(self.count):
            name = shard_name(number + 1, self.count)
            part = {n: tensors[n] for n in sorted(tensors)[number :: self.count]}
            super().save(part, name)
            weight_map |= dict.fromkeys(part, name)
        size = sum(t.numel() * t.element_size() for t in tensors.values())
        document = {"metadata": {"total_size": size}, "weight_map": weight_map}
        (self.folder / INDEX).write_text(json.dumps(document, indent=2, sort_keys=True) + "\n")
        return None

    def index(self):
        return json.loads((self.folder / INDEX).read_text())

    def tensors(self, revision=None):
        assert revision is None
        found = {}
        for path in sorted(self.folder.glob("*.safetensors")):
            found |= safetensors.torch.load_file(path)
        return found

    def objects(self):
        """group -> object id, of all files of the model in HEAD."""
        found = {}
        for path in self.git.text("ls-files", "*.safetensors").splitlines():
            metadata = Metadata.parse(self.git.blob(self.git.blob_id("HEAD", path)))
            found |= {name: record.object_id for name, record in metadata.groups.items()}
        return found


def built(folder, counts, models, count=2):
    repository = ShardedRepository.__new__(ShardedRepository)
    repository.count = count
    repository.__init__(folder, base_model())
    for (name, tensors), cut in zip(models.items(), counts, strict=True):
        repository.count = cut
        repository.branch(name, tensors)
    return repository


@pytest.fixture(scope="module")
def models():
    base = base_model()
    return {
        "one": {**fine_tuned(base, 1), "added.weight": torch.ones(3)},
        "two": fine_tuned(base, 2),
    }


@pytest.fixture(scope="module")
def whole(models, tmp_path_factory):
    """The same model in one file, merged: what all the others must be, object for object."""
    repository = built(tmp_path_factory.mktemp("whole") / "model", (1, 1), models, 1)
    repository.merge(*TIES, "one", "two")
    return repository


def verified(repository):
    """Whether 'gitmerge-eval verify HEAD' finds nothing; here, without importing torch anew."""
    found = verify(repository.git, "HEAD", fresh=True)
    assert audit(repository.git, ["HEAD"]).sound is found.sound
    return found.sound and [(f.path, f.verdict) for f in found.findings] == [(INDEX, "exact")]


def spec(repository):
    return trailers.read(repository.git, "HEAD").specs[0][0]


def test_shards_are_merged_as_one_model(models, whole, tmp_path):
    repository = built(tmp_path / "model", (2, 2), models)
    done = repository.merge(*TIES, "one", "two")
    assert f"{INDEX}: " in done.stderr
    assert repository.objects() == whole.objects()
    assert spec(repository) == spec(whole)
    merged = repository.tensors()
    for name, tensor in whole.tensors().items():
        assert torch.equal(merged[name], tensor)
    index = repository.index()
    assert set(index["weight_map"]) == set(merged)
    for name, file in index["weight_map"].items():
        assert name in safetensors.torch.load_file(repository.folder / file)
    size = sum(t.numel() * t.element_size() for t in merged.values())
    assert index["metadata"] == {"total_size": size}
    assert repository.git.text("status", "--porcelain") == ""
    record = trailers.read(repository.git, "HEAD")
    assert [path for _, path in record.models] == [shard_name(1, 2), shard_name(2, 2), INDEX]
    assert [path for _, path in record.specs] == [INDEX]
    assert verified(repository)
    # A shard that is changed by hand is found out.
    part = safetensors.torch.load_file(repository.folder / shard_name(1, 2))
    name = next(name for name, tensor in part.items() if tensor.is_floating_point())
    ModelRepository.save(repository, {**part, name: part[name] + 1}, shard_name(1, 2))
    repository.git.run("commit", "--all", "--amend", "--no-edit", "--quiet")
    assert not verified(repository)


def test_branches_that_cut_it_otherwise_merge_by_name(models, whole, tmp_path):
    repository = built(tmp_path / "model", (3, 2), models)
    repository.merge(*TIES, "one", "two")
    assert repository.objects() == whole.objects()
    # The base's shards, and no file that only the other branch had.
    assert sorted(p.name for p in repository.folder.glob("*.safetensors")) == [
        shard_name(1, 2),
        shard_name(2, 2),
    ]
    assert set(repository.index()["weight_map"]) == set(repository.objects())
    assert repository.git.text("status", "--porcelain") == ""
    assert verified(repository)


def test_one_file_on_main_and_shards_on_the_branches(models, whole, tmp_path):
    repository = built(tmp_path / "model", (2, 2), models, 1)
    repository.merge(*TIES, "one", "two")
    assert repository.objects() == whole.objects()
    assert not (repository.folder / MODEL).exists()
    assert set(repository.index()["weight_map"].values()) == {shard_name(1, 2), shard_name(2, 2)}
    assert repository.git.text("status", "--porcelain") == ""


def test_what_does_not_fit_together_is_refused(models, tmp_path):
    repository = built(tmp_path / "model", (2,), {"one": models["one"]})
    repository.git.run("switch", "--quiet", "--create", "two")
    repository.count = 2
    repository.save(models["two"])
    (repository.folder / shard_name(2, 2)).unlink()
    repository.commit("a shard is missing")
    before = repository.state()
    done = repository.merge("-Xmethod=average", "one", status=2)
    assert f"'{shard_name(2, 2)}', which is not there" in done.stderr
    assert "'two'" in done.stderr
    assert repository.state() == before
    problems = {f.name: f.what for f in diagnosing.diagnose(repository.git)}
    assert f"'{shard_name(2, 2)}', which is not there" in problems[INDEX]


def test_a_shard_in_which_nothing_changed_is_not_written(tmp_path):
    base = base_model()
    repository = built(
        tmp_path / "model",
        (2, 2),
        {
            "one": {**base, "first.bias": torch.ones(6)},
            "two": {**base, "second.weight": torch.ones(4, 6)},
        },
    )
    changed, other = (repository.folder / shard_name(number, 2) for number in (1, 2))
    before = [(path.stat().st_ino, path.stat().st_mtime_ns) for path in (changed, other)]
    repository.merge("-Xmethod=average", "one", "two")
    after = [(path.stat().st_ino, path.stat().st_mtime_ns) for path in (changed, other)]
    assert [a == b for a, b in zip(before, after, strict=True)] == [False, True]
    assert repository.git.text("status", "--porcelain") == ""
    assert verified(repository)


def test_statistics_are_of_the_whole_model(models, whole, tmp_path):
    repository = built(tmp_path / "model", (3,), {"one": models["one"]})
    repository.git.run("switch", "--quiet", "one")
    store = ObjectStore(repository.git)
    blob = collecting.checkpoint_blob(repository.git, store, INDEX)
    # The same model in one file has this very blob.
    assert blob == whole.git.blob_id("one", MODEL)
    assert blob == open_source(repository.git, "one", INDEX, "one").blob
    assert not [f for f in diagnosing.diagnose(repository.git) if f.name == INDEX]
    found = collecting.collect(repository.git, ["trimmed"], base="main", options={"density": 0.2})
    assert (found.checkpoint, found.blob) == (INDEX, blob)
    repository.commit("statistics")
    source = open_source(repository.git, "HEAD", INDEX, "one")
    assert source.statistics["trimmed"].entry.checkpoint == source.blob
    changed = {n for n, t in models["one"].items() if not torch.equal(t, base_model().get(n, t))}
    assert set(source.statistics["trimmed"].entry.layout) == changed - {"added.weight"}
    assert audit(repository.git, ["HEAD"]).findings == ()
    repository.save(fine_tuned(base_model(), 5))
    repository.commit("further")
    made_up = statistic_file("fisher", statistics_for(base_model(), 1)["fisher"])
    for checkpoint, expected in ((blob, "stale-statistic"), ("1" * 40, "statistic")):
        collecting.write_statistics(repository.git, INDEX, checkpoint, [made_up])
        repository.commit("a statistic of another model")
        assert [f.kind for f in audit(repository.git, ["HEAD", "^HEAD^"]).findings] == [expected]


def test_conflicts_and_ordinary_merges_leave_no_markers_in_the_index(models, tmp_path):
    shaped = {**models["two"], "first.bias": torch.ones(9)}
    repository = built(tmp_path / "model", (2, 2), {"one": models["one"], "two": shaped})
    repository.git.run("switch", "--quiet", "one")
    before = repository.state()
    done = repository.merge("-Xmethod=average", "two", status=1)
    assert "first.bias" in done.stdout
    assert "<<<<" not in (repository.folder / INDEX).read_text()
    repository.git.run("merge", "--abort")
    assert repository.state() == before
    # Each branch changed another shard: that is one model, changed by both.
    first, second = (
        {**base_model(), name: torch.ones_like(base_model()[name])}
        for name in ("first.bias", "first.weight")
    )
    repository.git.run("switch", "--quiet", "main")
    repository.branch("first", first)
    repository.branch("second", second)
    repository.git.run("switch", "--quiet", "first")
    repository.merge("second")
    merged = repository.tensors()
    for name in ("first.bias", "first.weight"):
        torch.testing.assert_close(merged[name], (base_model()[name] + 1) / 2)
    # Without a method Git takes the side that changed, all of it.
    repository.git.run("switch", "--quiet", "main")
    repository.merge("--no-ff", "one")
    assert repository.tensors().keys() == models["one"].keys()
    assert repository.git.text("status", "--porcelain") == ""


def test_one_after_the_other_is_the_merge_of_all(tmp_path):
    base = base_model()
    tensors = {name: fine_tuned(base, number) for number, name in enumerate("abc")}
    repository = built(tmp_path / "model", (2, 2, 1), tensors)
    repository.run("switch", "--quiet", "--create", "together")
    repository.merge(*TIES, "a", "b", "c")
    together = repository.objects()
    repository.run("switch", "--quiet", "main")
    repository.merge(*TIES, "a", "b")
    done = repository.merge(*TIES, "c")
    assert "'main' is a merge: its constituents take part in its place (a, b)" in done.stdout
    assert repository.objects() == together
    assert repository.run("status", "--porcelain").stdout == ""
    assert verify(repository.git, "HEAD").sound
