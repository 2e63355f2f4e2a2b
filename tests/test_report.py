"""The report: what it gathers, compares, says, and leaves out; on results made up by a formula."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from statistics import fmean, stdev

import pytest
from reported_repositories import HEADS, SAMPLES, SWEPT, made_up, reported

from gitmerge_eval import methods, reporting
from gitmerge_eval.evaluation import evaluating
from gitmerge_eval.evaluation.correlation import pearson
from gitmerge_eval.evaluation.gathering import Gathered, Result, note_of
from gitmerge_eval.report import comparing, studies
from gitmerge_eval.report.content import Report, Section


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        yield reported(tmp_path_factory.mktemp("reported") / "models", patch)


@pytest.fixture(scope="module")
def found(made) -> Report:
    return reporting.report(made.repository)


@pytest.fixture(scope="module")
def page(found, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    reporting.write_page(found, path)
    return path


def section(found: Report, name: str) -> Section:
    return next(s for s in found.sections if s.name == name)


def rows(found: Report, name: str, table: int = 0) -> list[dict]:
    return section(found, name).tables[table].records()


# --- what is said --------------------------------------------------------------------------------


def test_the_comparison_has_every_method_and_baseline_with_its_normalised_scores(found):
    table = {row["model"]: row for row in rows(found, "scores")}
    assert list(table) == [*methods.load(), "pretrained", "individual", "multitask"]
    best = next(r for r in made_up() if r.method == "ties" and r.chosen)
    for status, ratio in (("held-in", "of individual"), ("generalization", "of pretrained")):
        assert table["ties"][status] == best.average(status)
        assert table["ties"][ratio] == best.normalised(status)
    assert table["pretrained"]["of pretrained"] == 1.0
    assert table["individual"]["generalization"] is None
    assert table["multitask"]["of individual"] == pytest.approx(80 / 90)


def test_the_correlation_is_over_the_methods_with_three_digits(found):
    pairs = [(r["held-in"], r["generalization"]) for r in rows(found, "scores")[:9]]
    assert str(pearson(pairs)) in section(found, "scores").text[0]
    assert re.search(r"r = -?\d\.\d{3}, p = 0\.\d+ \(n = 9\)", section(found, "scores").text[0])


def test_points_are_the_tables_numbers(found):
    (panel,) = section(found, "scores").panels
    table = {row["model"]: row for row in rows(found, "scores")}
    for point in panel.points:
        row = table[point.series]
        assert (point.x, point.y) == (row["held-in"], row["generalization"])
    assert {p.series for p in panel.points} == {*methods.load(), "pretrained", "multitask"}
    assert [guide.value for guide in panel.guides] == [90.0]


def test_costs_stand_beside_both_scores(found):
    table = {row["method"]: row for row in rows(found, "cost")}
    assert list(table) == list(methods.load())
    cost = next(r for r in made_up() if r.method == "mats").cost
    assert table["mats"]["merging"] == cost.flops
    assert table["mats"]["statistics"] == cost.statistics_flops
    assert table["mats"]["seconds"] == cost.seconds
    panels = section(found, "cost").panels
    assert [(p.x_label[:5], p.y_label) for p in panels] == [
        ("FLOPs", "held-in, skill"), ("FLOPs", "generalization, skill"),
        ("secon", "held-in, skill"), ("secon", "generalization, skill"),
    ]  # fmt: skip
    (point,) = (p for p in panels[0].points if p.series == "mats")
    assert point.x == cost.flops + cost.statistics_flops


def test_sensitivity_has_a_panel_for_each_swept_method(found):
    panels = section(found, "hyperparameters").panels
    assert [panel.title for panel in panels] == list(SWEPT)
    for panel in panels:
        held_in, general = panel.lines
        assert (held_in.series, general.series) == ("held-in", "generalization")
        assert list(held_in.x) == [step / 10 for step in range(1, 11)]
        assert list(panel.marked) == [0.4]
        assert max(held_in.y) == held_in.y[3]
    assert len(rows(found, "hyperparameters")) == 30


def test_values_that_were_scored_on_validation_data_alone_are_shown_as_such():
    runs = [
        replace(r, scores={"validation": r.scores["test"]} if not r.chosen else
                {"validation": r.scores["test"], "test": r.scores["test"]})
        for r in made_up() if r.method == "ties" and r.source == "sweep"
    ]  # fmt: skip
    every = tuple(
        Result("sweep", "s", note_of(r, split), ("a", "b"), r.cost, chosen=r.chosen)
        for r in runs for split in r.scores
    )  # fmt: skip
    gathered = Gathered(every, (), ())
    found = studies.sensitivity(gathered, gathered.comparisons()[0])
    (panel,) = found.panels
    assert panel.y_label == "skill, validation split"
    assert len(panel.lines[0].x) == 10


def test_scaling_has_means_and_spreads_of_the_samples(found):
    table = {(r["method"], r["models"]): r for r in rows(found, "models")}
    assert set(table) == {(method, count) for method in methods.load() for count in (2, 3)}
    for (method, count), row in table.items():
        own = [
            r.average("held-in") for r in made_up()
            if (r.source, r.method, r.models) == ("scale", method, count)
        ]  # fmt: skip
        assert row["samples"] == len(own) == SAMPLES == len(row["traces"])
        assert row["held-in"] == pytest.approx(fmean(own))
        assert row["± sd"] == pytest.approx(stdev(own))
    held_in, _ = section(found, "models").panels
    assert [line.series for line in held_in.lines] == list(methods.load())


def test_the_grid_outlines_what_is_held_in(found):
    (grid,) = section(found, "tasks").panels
    assert (grid.rows, grid.columns) == (["fruit", "bird", "tool"], ["quickdraw", "real", "sketch"])
    assert grid.outlined == {("fruit", "quickdraw"), ("bird", "real"), ("tool", "sketch")}
    assert ("tool", "real") not in grid.values
    assert len(grid.values) == 8
    table = rows(found, "tasks")
    assert [row["task"] for row in table][:3] == list(HEADS)
    assert all(set(methods.load()) <= set(row) for row in table)


def test_prerequisites_are_what_the_declarations_say(found):
    table = {row["method"]: row for row in rows(found, "prerequisites")}
    assert list(table) == list(methods.load())
    needs = ("pretrained model", "statistics of each model", "data for them")
    assert [table["mats"][n] for n in needs] == ["needed", "gram", "needed"]
    assert [table["ties"][n] for n in needs] == ["needed", "none", "no"]
    assert [table["average"][n] for n in needs] == ["no", "none", "no"]
    assert table["regmean"]["to be chosen"] == "off-diagonal λ"


def test_the_history_is_this_branchs_merges_latest_first(found, made):
    table = rows(found, "history")
    assert [row["method"] for row in table] == ["ties", "mats"]
    (note,) = evaluating.show(made.repository, "HEAD")
    assert table[0]["commit"] == made.repository.commit("HEAD")[:10]
    assert table[0]["held-in"] == note.average("held-in")
    assert table[0]["of individual"] == note.normalised("held-in")
    assert table[0]["traces"][0]["spec"] == note.spec


def test_a_merge_that_a_sweep_chose_says_so(tmp_path, monkeypatch):
    made = reported(tmp_path / "models", monkeypatch)
    made.merge(sweep=f"{'9' * 64} heldin-validation 81.2500 of 10 candidates")
    found = reporting.report(made.repository)
    assert rows(found, "history")[0]["method"] == "mats (iterations=20), chosen by a sweep"
    assert section(found, "history").text[0].startswith("1 of 3 have no evaluation in a note")


def test_every_number_is_traced_to_a_source_with_spec_and_fingerprints(found):
    sources = {(s.trace.spec, s.trace.data): s for s in found.sources}
    for name in ("scores", "cost", "hyperparameters", "models", "tasks", "history"):
        for table in section(found, name).tables:
            for row in table.rows:
                traces = row.traces or table.traces
                assert traces
                for trace in traces:
                    source = sources[trace.spec, trace.data]
                    assert re.fullmatch(r"[0-9a-f]{64}", trace.spec)
                    assert all(score.fingerprint for score in source.scores)


# --- nothing there yet ---------------------------------------------------------------------------


def test_each_empty_section_says_which_command_fills_it(commit, repository, tmp_path):
    commit({"a.txt": "a"})
    found = reporting.report(repository)
    missing = {s.name: s.command for s in found.sections if s.missing}
    assert missing == {
        "scores": comparing.SWEEP, "cost": comparing.SWEEP, "hyperparameters": comparing.SWEEP,
        "models": studies.SCALE, "tasks": comparing.SWEEP,
        "history": "git merge --strategy-option=method=<method> <branches>",
    }  # fmt: skip
    reporting.write_page(found, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert text.count('class="missing"') == len(missing) + 1
    assert reporting.write_figures(found, tmp_path / "figures") == []
    assert comparing.SWEEP.replace("<", "&lt;").replace(">", "&gt;") in text


# --- the page ------------------------------------------------------------------------------------


class Tags(HTMLParser):
    """Everything of a page that could ask for something else, and every anchor."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.ids: list[str] = []
        self.names: set[str] = set()
        self.links: list[str] = []

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.names.add(tag)
        self.loaded += [v for k, v in attributes if k in ("src", "srcset", "data", "action")]
        if tag in ("link", "use", "image"):
            self.loaded.append(values.get("href") or values.get("xlink:href"))
        if tag == "a":
            self.links.append(values["href"])
        if "id" in values:
            self.ids.append(values["id"])


def test_the_page_loads_nothing_and_its_links_lead_somewhere(page):
    tags = Tags()
    text = page.read_text()
    tags.feed(text)
    assert "script" not in tags.names
    assert all(place.startswith(("#", "data:,")) for place in tags.loaded)
    assert len(set(tags.ids)) == len(tags.ids)
    assert all(link.startswith("#") and link[1:] in tags.ids for link in tags.links)
    assert not re.search(r"@import|url\((?!#)", text)
    assert text.count("<svg") == 1 + 4 + 3 + 2 + 1


def test_colours_of_the_page_are_variables_that_both_schemes_define(page):
    text = page.read_text()
    used = set(re.findall(r"var\((--[\w-]+)\)", text))
    light, dark = re.findall(r":root \{([^}]*)\}", text)[:2]
    for scheme in (light, dark):
        assert used <= set(re.findall(r"(--[\w-]+):", scheme))
    assert not re.search(r"#0102|#0103", text)


def test_what_comes_from_the_repository_is_escaped(found, tmp_path):
    evil = "<script>alert(1)</script>"
    table = replace(section(found, "history").tables[0], caption=evil)
    changed = replace(
        found, title=evil, remarks=(evil,),
        sections=tuple(
            replace(s, tables=(table,)) if s.name == "history" else s for s in found.sections
        ),
    )  # fmt: skip
    reporting.write_page(changed, tmp_path / "page.html")
    assert "<script" not in (tmp_path / "page.html").read_text()
    assert "<script" not in reporting.markdown(changed)


def test_figures_are_png_for_both_grounds_and_one_svg(found, tmp_path):
    (scores,) = (s for s in found.sections if s.name == "scores")
    written = reporting.write_figures(replace(found, sections=(scores,)), tmp_path / "figures")
    assert [path.name for path in written] == ["scores.png", "scores-dark.png", "scores.svg"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written[:2])
    assert written[0].read_bytes() != written[1].read_bytes()
    svg = written[2].read_text()
    assert "prefers-color-scheme: dark" in svg
    for name in methods.load():
        assert f">{name}</text>" in svg


def test_without_the_packages_there_is_one_clear_line(made):
    code = (
        "import sys; sys.modules['matplotlib'] = None; "
        "sys.argv = ['gitmerge-eval', 'report']; "
        "from gitmerge_eval import cli; sys.exit(cli.main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=made.repository.directory, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr == (
        "gitmerge-eval: the report needs matplotlib, which is not installed; run "
        "'pip install \"gitmerge-eval[report]\"'\n"
    )
    assert not (made.repository.directory / "report.html").exists()


def test_the_wheel_has_the_template_and_the_style_sheet(tmp_path):
    import zipfile

    from hatchling.builders.wheel import WheelBuilder

    root = Path(__file__).parents[1]
    (wheel,) = WheelBuilder(str(root)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {"gitmerge_eval/report/page.html.jinja", "gitmerge_eval/report/page.css"} <= names
