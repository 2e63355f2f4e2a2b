"""``results`` and ``report`` on the command line."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
import sys

import pytest
from reported_repositories import made_up, reported

from gitmerge_eval import cli, reporting
from gitmerge_eval.evaluation import evaluating
from gitmerge_eval.evaluation.published import Published, open_published
from gitmerge_eval.evaluation.runs import open_runs
from gitmerge_eval.report.content import Report, Section
from gitmerge_eval.report.figures import Panel
from gitmerge_eval.report.markdown import LONGEST


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        yield reported(tmp_path_factory.mktemp("reported") / "models", patch)


@pytest.fixture(scope="module")
def found(made) -> Report:
    return reporting.report(made.repository)


@pytest.fixture
def command(made, capsys, monkeypatch):
    """Runs a command in the reported repository; (status, stdout, stderr)."""
    monkeypatch.chdir(made.repository.directory)

    def run_it(*arguments):
        monkeypatch.setattr(sys, "argv", ["gitmerge-eval", *map(str, arguments)])
        status = cli.main()
        return status, *capsys.readouterr()

    return run_it


def section(found: Report, name: str) -> Section:
    return next(s for s in found.sections if s.name == name)


def rows(found: Report, name: str, table: int = 0) -> list[dict]:
    return section(found, name).tables[table].records()


def test_markdown_fits_into_one_comment(command):
    status, out, _ = command("report", "--markdown")
    assert status == 0
    assert len(out) <= LONGEST + 200
    assert out.startswith("## Merged models: models\n")
    assert "| mats |" in out
    assert "### Merges on this branch" in out


def test_json_is_the_data(command, found):
    status, out, _ = command("report", "--json")
    assert status == 0
    document = json.loads(out)
    assert [s["name"] for s in document["sections"]] == [s.name for s in found.sections]
    assert document["sections"][0]["tables"][0]["rows"] == rows(found, "scores")


def test_results_are_listed_as_a_table_as_csv_and_as_json(command):
    status, out, _ = command("results", "--json")
    assert status == 0
    records = json.loads(out)
    assert len(records) == len(made_up()) + 2
    status, out, _ = command("results", "--csv")
    table = list(csv.DictReader(io.StringIO(out)))
    assert len(table) == len(records)
    for record, row in zip(records, table, strict=True):
        assert float(row["held_in"]) == record["held_in"]
        assert float(row["held_in_normalised"]) == record["held_in_normalised"]
        assert len(row["spec"]) == len(row["data"]) == 64
    status, out, err = command("results", "--split", "test")
    assert "regmean" in out
    assert "held-in against generalization over methods: r = " in err
    assert json.loads(command("results", "--split", "validation", "--json")[1]) == []


def test_results_unite_with_those_of_another_machine(command, made, tmp_path, monkeypatch):
    file = tmp_path / "results.jsonl"
    assert command("results", "export", file)[0] == 0
    status, out, _ = command("results", "import", file)
    assert (status, out.split()[0]) == (0, "0")
    other = made.copy(tmp_path / "other")
    evaluating.results_path(other.repository).unlink()
    monkeypatch.chdir(other.repository.directory)
    status, out, _ = command("results", "import", file)
    assert status == 0
    assert command("results", "export", "-")[1] == file.read_text()


def test_a_conflict_is_named_and_ends_with_one(command, tmp_path):
    _, out, _ = command("results", "export", "-")
    line = json.loads(out.splitlines()[0])
    line["value"] += 1
    file = tmp_path / "theirs.jsonl"
    file.write_text(json.dumps(line))
    status, out, err = command("results", "import", file)
    assert (status, out) == (1, "0 added, 0 known already, 1 in conflict\n")
    assert f"conflict: score of {line['task']} (test)" in err
    assert "--replace takes the file's" in err


def test_a_file_that_is_no_text_is_one_clear_line(command, tmp_path):
    file = tmp_path / "table.csv"
    file.write_bytes("method,held-in,generalization\nMétode,1,2\n".encode("latin-1"))
    status, out, err = command("results", "import", file)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "is no text in UTF-8" in err
    file.write_text("method,held-in,generalization\nties,1,2\n", encoding="utf-16")
    assert command("results", "import", file)[0] == 2


@pytest.mark.parametrize("arguments", [("report", "-o"), ("results", "export")])
def test_a_folder_that_is_not_there_is_named_and_not_our_own_file(command, tmp_path, arguments):
    status, out, err = command(*arguments, tmp_path / "no" / "x.html")
    assert (status, out) == (2, "")
    assert f"there is no folder '{tmp_path / 'no'}'; make it, or name another file" in err
    assert "partial" not in err


def test_published_numbers_lie_beside_ones_own(tmp_path, monkeypatch, capsys):
    made = reported(tmp_path / "models", monkeypatch)
    table = tmp_path / "table.csv"
    table.write_text("method,held-in,generalization\nTask Arithmetic,70,49\nTIES,55,\n")
    arguments = ["results", "import", str(table), "--source", "A paper, Table 4"]
    monkeypatch.setattr(sys, "argv", ["gitmerge-eval", *arguments])
    assert cli.main() == 0
    assert capsys.readouterr().out == "2 added, 0 known already, 0 in conflict\n"
    with open_published(evaluating.results_path(made.repository)) as published:
        assert published.find()[0] == Published("A paper, Table 4", "Task Arithmetic", 70.0, 49.0)
    scores = section(reporting.report(made.repository), "scores")
    _, theirs = scores.panels
    assert isinstance(theirs, Panel)
    assert theirs.title == "Published: A paper, Table 4"
    assert [(p.series, p.x, p.y) for p in theirs.points] == [("task-arithmetic", 70.0, 49.0)]
    assert scores.tables[1].caption.startswith("Published numbers, not measured here")
    with open_runs(evaluating.results_path(made.repository)) as runs:
        assert len(runs.find()) == len(made_up())


def test_a_published_table_is_listed_and_removed_again(tmp_path, monkeypatch, capsys):
    made = reported(tmp_path / "models", monkeypatch)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["gitmerge-eval", "results", *map(str, arguments)])
        return cli.main(), *capsys.readouterr()

    table = tmp_path / "table.csv"
    table.write_text("method,held-in,generalization\nTIES,70,49\nMaTS,55,\n")
    run("import", table, "--source", "A paper, Table 4")
    run("import", table, "--source", "another")
    before = len(json.loads(run("--json")[1]))
    assert json.loads(run("--published", "--json")[1]) == [
        {"source": "A paper, Table 4", "rows": 2}, {"source": "another", "rows": 2}
    ]  # fmt: skip
    assert "A paper, Table 4" in run("--published")[1]
    assert run("--published", "--csv")[1] == 'source,rows\n"A paper, Table 4",2\nanother,2\n'
    status, out, err = run("remove", "A paper, Table")
    assert (status, out) == (2, "")
    assert "unknown published table 'A paper, Table'; did you mean 'A paper, Table 4'?" in err
    assert run("remove", "A paper, Table 4") == (0, "removed 2 rows of 'A paper, Table 4'\n", "")
    assert len(json.loads(run("--json")[1])) == before - 2
    with open_runs(evaluating.results_path(made.repository)) as runs:
        assert len(runs.find()) == len(made_up())
    assert run("remove", "another")[0] == 0
    assert "unknown published table 'another' (known: none)" in run("remove", "another")[2]


def test_results_are_sorted_by_benchmark_method_and_options(command):
    records = json.loads(command("results", "--json")[1])
    methods = [record["method"] for record in records]
    assert methods == sorted(methods)
    swept = [
        r["options"].partition(",")[0]
        for r in records
        if r["method"] == "regmean" and r["source"] == "sweep"
    ]
    assert swept == [f"off-diagonal={step / 10:g}" for step in range(1, 11)]
    out = command("results")[1]
    assert out.index(" average ") < out.index(" mats ") < out.index(" task-arithmetic ")


@pytest.mark.parametrize(
    "arguments",
    [
        ("sweep", "fruit-quickdrw"),
        ("scale", "fruit-quickdrw", "bird-real"),
        ("plan", "fruit-quickdrw"),
        ("advise", "fruit-quickdrw"),
        ("evaluate", "fruit-quickdrw"),
        ("card", "fruit-quickdrw"),
    ],
)
def test_an_unknown_branch_is_named_with_the_near_one(command, arguments):
    status, out, err = command(*arguments)
    assert (status, out) == (2, "")
    assert (
        "'fruit-quickdrw' is not a commit in this repository; did you mean 'fruit-quickdraw'?"
        in err
    )


@pytest.mark.parametrize("name", ["sweep", "scale"])
@pytest.mark.parametrize("methods", ["", " , "])
def test_no_method_at_all_is_not_all_of_them(command, name, methods):
    status, out, err = command(name, "fruit-quickdraw", "bird-real", "--methods", methods)
    assert (status, out) == (2, "")
    assert f"--methods '{methods}' names no method; separate names by commas" in err


def test_a_run_that_cannot_be_read_is_said_and_hides_nothing(tmp_path, monkeypatch, capsys):
    made = reported(tmp_path / "models", monkeypatch)
    path = evaluating.results_path(made.repository)
    with sqlite3.connect(path) as connection:
        connection.execute("INSERT INTO runs VALUES ('sweep', 'd', 0, 's', 'm', 'r', '{}')")
    connection.close()
    for arguments in (("--json",), ("export", "-")):
        monkeypatch.setattr(sys, "argv", ["gitmerge-eval", "results", *arguments])
        assert cli.main() == 0
        out, err = capsys.readouterr()
        assert "note: a stored run is left out (sweep d, sample 0, spec s): a run lacks" in err
        assert out.count('"regmean"') >= 10
