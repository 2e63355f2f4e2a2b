"""``advise``: which method to merge by, and why."""

from __future__ import annotations

from typing import Any

import typer

from gitmerge_eval.cli.output import print_json, print_table, size


def add_to(application: typer.Typer) -> None:
    """Register the command."""
    application.command()(advise)


def advise(
    heads: list[str] = typer.Argument(help="The branches that would be merged into HEAD."),
    goal: str = typer.Option("both", help="What matters: held-in, generalization, or both."),
    memory: str = typer.Option("auto", help="What tensors may take together: auto, or 4G."),
    flops: float | None = typer.Option(None, help="What the merge may take, e.g. 1e12."),
    no_data: bool = typer.Option(
        False, "--no-data", help="There are no data to compute statistics on or choose options by."
    ),
    as_json: bool = typer.Option(False, "--json", help="Machine-readable."),
) -> None:
    """Rank the methods that these heads can be merged by, from this repository's own results first.

    Nothing is touched and nothing is computed. Exit status 1 where no method can be used.
    """
    from gitmerge_eval import advising
    from gitmerge_eval.git.repository import Repository

    budget = advising.Budget(memory, flops, data=not no_data)
    found = advising.advise(Repository.here(), heads, goal=goal, budget=budget)
    if as_json:
        print_json([advice.as_dict() for advice in found])
    else:
        for advice in found:
            _print(advice)
    if not found:
        typer.echo("no checkpoint has to be merged between these heads", err=True)
    if not all(any(one.rank for one in advice.methods) for advice in found):
        raise typer.Exit(1)


def _print(advice: Any) -> None:
    rows = (
        (
            one.rank or "–",
            one.method,
            "\n".join((*one.obstacles, *one.reasons)),
            "–" if one.merging_flops is None else f"{one.merging_flops:,}",
            "–" if one.peak_bytes is None else size(one.peak_bytes),
        )
        for one in advice.methods
    )
    title = f"{advice.path}: {', '.join(advice.constituents)}"
    print_table(("", "method", "why", "FLOPs", "memory"), rows, title=title)
    for remark in advice.remarks:
        typer.echo(f"note: {remark}", err=True)
