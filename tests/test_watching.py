"""The live table of a sweep: what it says at each step."""

import io

from rich.console import Console
from test_runs import RUN

from gitmerge_eval.cli.watching import Board, Lines, watched
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


def test_without_a_terminal_lines_say_it_at_each_tenth_and_every_half_minute(capsys):
    times = iter([0.0, 0.5, 2.0, 3.0, 4.0, 40.0, 41.0])
    lines = Lines(Board("sweep"), clock=lambda: next(times))
    for done, left in (
        (0, None),
        (9, None),
        (10, 90.0),
        (11, 80.0),
        (13, 70.0),
        (13, 60.0),
        (20, 9),
    ):
        lines.see(Step("ties", "merging", None, 50, done, left))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "gitmerge-eval: sweep: 10 of 50, about 1 min 30 s left; merging",
        "gitmerge-eval: sweep: 13 of 50, about 1 min 0 s left; merging",
        "gitmerge-eval: sweep: 20 of 50, about 9 s left; merging",
    ]


def test_what_takes_no_second_says_nothing_where_there_is_no_terminal(capsys):
    with watched("sweep") as watch:
        for done in range(11):
            watch(Step("ties", "merging", None, 10, done))
    assert capsys.readouterr() == ("", "")
