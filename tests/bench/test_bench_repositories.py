"""``bench storage`` and ``bench merge`` on small models: the real Git, git-theta, and merges."""

import pytest

from gitmerge_eval.bench import merge, storage, sweep, synthetic
from gitmerge_eval.bench.models import Sharded, Towers
from gitmerge_eval.bench.scratch import FILTERS, Scratch
from gitmerge_eval.bench.synthetic import Float32Model
from gitmerge_eval.errors import UsageError

SIZE = 1_000_000


@pytest.fixture(autouse=True)
def one_layer(monkeypatch):
    """Nobody has time for twelve layers: they differ in the number of groups only."""
    monkeypatch.setattr(synthetic, "tower_of", lambda size: synthetic.vision_tower(24, 1))


@pytest.fixture
def scratch(tmp_path):
    with Scratch(tmp_path) as opened:
        yield opened
    assert not opened.folder.exists()


def test_both_tools_go_through_the_same_day(scratch):
    model = Float32Model(synthetic.vision_tower(24, 1))
    files = storage._written(scratch.folder, model)
    days = {
        tool: {step.name: step for step in storage.day(scratch, tool, files)}
        for tool in (storage.OURS, storage.STOCK)
    }
    ours, stock = days[storage.OURS], days[storage.STOCK]
    assert list(ours) == [*stock, storage.ZEROS]
    assert ours[storage.AGAIN].filters == 1  # git-theta reads the file that goes once more
    for steps in (ours, stock):
        assert steps["add"].filters == 1
        assert steps[storage.FIRST].filters == 1
        assert steps["diff --stat of two branches"].filters == 0
        assert "1 file changed" in steps["diff --stat of two branches"].usage.output
        assert steps["status after add"].usage.output == "A  model.safetensors\n"
        assert steps["status after checkout"].usage.output == ""


def test_storage_reports_medians_and_floors(tmp_path):
    settings = storage.Settings(SIZE, repeat=2, stock=False, folder=tmp_path)
    report = storage.run(settings)
    rows = {row["command"]: row for row in report.tables[0].rows}
    assert len(rows["add"]["ours_runs"]) == 2
    assert rows["add"]["ours_seconds"] == pytest.approx(sum(rows["add"]["ours_runs"]) / 2)
    assert rows["add"]["ratio"] is None
    assert [row["program"] for row in report.tables[1].rows] == ["cp", "sha256sum", storage.ZEROS]
    assert not list(tmp_path.iterdir())


def test_merge_makes_commits_and_takes_them_back(tmp_path):
    settings = merge.Settings(
        ("average", "regmean"), (2,), SIZE, repeat=1, noise="sparse", folder=tmp_path
    )
    lines = []
    report = merge.run(settings, lines.append)
    merges, floors = (table.rows for table in report.tables)
    assert [(row["models"], row["method"]) for row in merges] == [(2, "average"), (2, "regmean")]
    floor = {(row["models"], row["program"]): row["floor_seconds"] for row in floors}
    assert len(floor) == 2
    for row in merges:
        least = floor[row["models"], merge._FLOOR_NAMES["torch"]]
        assert row["floor_ratio"] == pytest.approx(row["ours_seconds"] / least)
        assert row["ratio"] is None
    assert sum(line.startswith("built") for line in lines) == 2
    assert not list(tmp_path.iterdir())


def test_a_session_leaves_the_repository_as_it_was(scratch):
    models = Towers(SIZE, "dense")
    clone = models.build(scratch, 2, (), plain=True, say=lambda line: None)
    settings = merge.Settings(("average",), (2,), SIZE, floor=False)
    session = merge.Session(settings, scratch, clone, models)
    before = merge._files(merge._objects(clone)), clone.quietly("for-each-ref")
    for _ in range(2):
        session.round(2, lambda line: None)
    assert (merge._files(merge._objects(clone)), clone.quietly("for-each-ref")) == before
    assert clone.quietly("status", "--short") == ""
    assert len(session.runs.ours[2, "average"]) == 2
    assert models.distance(models.folder(1), models.folder(1)) == 0.0
    assert models.distance(models.folder(1), models.folder(2)) > 1e-3


def test_a_sweep_is_measured_against_a_merge(tmp_path):
    settings = sweep.Settings(("task-arithmetic",), 2, SIZE, repeat=1, folder=tmp_path)
    ((row,),) = (table.rows for table in sweep.run(settings).tables)
    assert (row["method"], row["swept"], row["aim"]) == ("task-arithmetic", "scale", 1.5)
    assert row["ratio"] == pytest.approx(row["sweep_seconds"] / row["merge_seconds"])
    assert not list(tmp_path.iterdir())


def test_sharded_models_have_no_statistics(scratch, monkeypatch):
    shapes = {"a": (50, 40), "b": (30, 40)}
    monkeypatch.setattr(synthetic, "language_model", lambda size: shapes)
    monkeypatch.setattr("gitmerge_eval.bench.models._SHARD_BYTES", 5000)
    models = Sharded(10_000)
    assert models.largest_group_bytes == 4000
    clone = models.build(scratch, 2, (), plain=False, say=lambda line: None)
    usage = clone.git("merge", "--quiet", "-X", "method=average", *models.branches(2))
    assert usage.status == 0
    assert clone.git("status", "--short").started(*FILTERS) == 0
    with pytest.raises(UsageError, match="no statistics"):
        models.add_statistics(clone, 1, ("gram",))
