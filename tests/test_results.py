"""The cache of scores: what is found again, by whom, and what is not."""

import sqlite3
import subprocess
import sys
from dataclasses import fields, replace

import pytest

from gitmerge_eval.errors import EvaluationError
from gitmerge_eval.evaluation.results import Score, ScoreKey, open_results

KEY = ScoreKey(
    checkpoint="a" * 40,
    benchmark="grid",
    settings='{"seed":0}',
    task="fruit-quickdraw",
    split="test",
    evaluator_version="1",
    fingerprint="f" * 64,
)
SCORE = Score(value=81.25, seconds=0.5, device="cpu")


def test_a_stored_score_is_found_by_another_connection_to_the_last_bit(tmp_path):
    path = tmp_path / "deep" / "results.sqlite"
    score = Score(value=100 / 3, seconds=1 / 7, device="cuda")
    with open_results(path) as results:
        results.store({KEY: score})
    with open_results(path) as results:
        assert results.find([KEY]) == {KEY: score}


@pytest.mark.parametrize("name", [field.name for field in fields(ScoreKey)])
def test_every_member_of_the_key_tells_scores_apart(tmp_path, name):
    other = replace(KEY, **{name: "other"})
    with open_results(tmp_path / "results.sqlite") as results:
        results.store({KEY: SCORE})
        assert results.find([other]) == {}
        results.store({other: replace(SCORE, value=1.0)})
        assert results.find([KEY, other]) == {KEY: SCORE, other: replace(SCORE, value=1.0)}


def test_a_new_score_replaces_the_old_one(tmp_path):
    with open_results(tmp_path / "results.sqlite") as results:
        results.store({KEY: SCORE})
        results.store({KEY: replace(SCORE, value=2.0)})
        assert results.find([KEY])[KEY].value == 2.0


def test_a_failing_store_leaves_nothing_of_itself(tmp_path):
    second = replace(KEY, task="bird-real")
    with open_results(tmp_path / "results.sqlite") as results:
        with pytest.raises(sqlite3.Error):
            results.store({KEY: SCORE, second: replace(SCORE, device=None)})
        assert results.find([KEY, second]) == {}


def test_processes_that_open_and_write_at_once_lose_nothing(tmp_path):
    path = tmp_path / "results.sqlite"
    code = (
        "import sys; from pathlib import Path\n"
        "from gitmerge_eval.evaluation.results import *\n"
        "for i in range(25):\n"
        "    key = ScoreKey(sys.argv[2], 'grid', '{}', str(i), 'test', '1', 'f')\n"
        "    with open_results(Path(sys.argv[1])) as results:\n"
        "        results.store({key: Score(float(i), 0.0, 'cpu')})\n"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", code, path, str(number)]) for number in range(4)
    ]
    assert [process.wait(60) for process in running] == [0] * 4
    keys = [
        ScoreKey(str(number), "grid", "{}", str(i), "test", "1", "f")
        for number in range(4)
        for i in range(25)
    ]
    with open_results(path) as results:
        assert len(results.find(keys)) == 100


def test_the_journal_is_a_write_ahead_log(tmp_path):
    path = tmp_path / "results.sqlite"
    with open_results(path) as results:
        results.store({KEY: SCORE})
    connection = sqlite3.connect(path)
    try:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    finally:
        connection.close()


def test_an_unreadable_file_is_set_aside(tmp_path):
    path = tmp_path / "results.sqlite"
    path.write_bytes(b"not a database, but long enough to be one" * 100)
    with open_results(path) as results:
        results.store({KEY: SCORE})
        assert results.find([KEY]) == {KEY: SCORE}
    assert path.with_name("results.sqlite.unreadable").read_bytes().startswith(b"not a database")


def test_the_file_of_another_schema_is_set_aside(tmp_path):
    path = tmp_path / "results.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with open_results(path) as results:
        assert results.find([KEY]) == {}
    assert path.with_name("results.sqlite.unreadable").exists()


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(EvaluationError, match=r"results cache .* cannot be opened"),
        open_results(tmp_path / "file" / "results.sqlite"),
    ):
        pass
