"""The live table of a sweep: what it says at each step."""

import io
from types import SimpleNamespace

from rich.console import Console
from test_runs import RUN

from gitmerge_eval.cli.watching import Board, watched
from gitmerge_eval.studies.trials import Step


def shown(board):
    output = io.StringIO()
    Console(file=output, width=120).print(board.table())
    return " ".join(output.getvalue().split())


def test_the_table_has_the_best_scores_and_the_time_left():
    board = Board("sweep")
    assert "looking at the heads" in shown(board)
    board.see(Step("ties", "merging", None, 11, 0))
    assert "sweep: 0 of 11; merging" in shown(board)
    board.see(Step("ties", "", RUN, 11, 1, 130.2))
    assert "ties 1 55.00 40.00" in shown(board)
    assert "sweep: 1 of 11, about 2 min 10 s left" in shown(board)


def test_nothing_is_shown_where_there_is_no_terminal(capsys):
    with watched("sweep") as watch:
        watch(SimpleNamespace(run=None, doing="", method="x"))
    assert capsys.readouterr() == ("", "")
