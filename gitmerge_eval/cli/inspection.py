"""``plan``: a merge before it is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import typer

from gitmerge_eval.cli.output import print_json, print_table, size


def add_to(application: typer.Typer) -> None:
    """Register the command."""
    application.command()(plan)


def plan(
    heads: list[str] = typer.Argument(help="The branches that would be merged into HEAD."),
    strategy_option: list[str] = typer.Option(
        [], "--strategy-option", "-X", help="As for git merge: method=mats, iterations=50, …"
    ),
    as_json: bool = typer.Option(False, "--json", help="Machine-readable."),
) -> None:
    """Say what 'git merge' of these heads would do to checkpoints, and what it would cost.

    Nothing is touched and no tensor is read. Exit status 1 where the merge would be refused or
    would conflict.
    """
    from gitmerge_eval import dryrun
    from gitmerge_eval.git.repository import Repository

    items = [item(text) for text in strategy_option]
    preview = dryrun.preview(Repository.here(), heads, items)
    if as_json:
        print_json(preview.as_dict())
    else:
        _print_preview(preview)
    raise typer.Exit(0 if preview.feasible else 1)


def item(text: str) -> tuple[str, str | None]:
    """A strategy option's name and value, None where it has none."""
    name, equals, value = text.removeprefix("--").partition("=")
    return name, value if equals else None


def _print_preview(preview: Any) -> None:
    for checkpoint in preview.checkpoints:
        rows = [
            ("outcome", checkpoint.outcome),
            ("method", checkpoint.method),
            ("base", checkpoint.base or "none"),
            ("constituents", "\n".join(checkpoint.constituents)),
            ("parameter groups", _counts(checkpoint.states)),
            ("missing", "\n".join(checkpoint.problems) or "nothing"),
            ("merging", f"{checkpoint.merging_flops:,} FLOPs on {checkpoint.device}"),
            ("statistics", _statistics(checkpoint)),
            (
                "memory",
                f"about {size(checkpoint.peak_bytes)}, for the tensors of its largest group",
            ),
            (
                "to be fetched",
                size(checkpoint.absent_bytes) if checkpoint.absent_bytes else "nothing",
            ),
            ("read, written", f"{size(checkpoint.read_bytes)}, {size(checkpoint.written_bytes)}"),
            (
                "applicable methods",
                "\n".join(
                    f"{name}: {_applicable(lacking, checkpoint.costs.get(name))}"
                    for name, lacking in checkpoint.applicable.items()
                ),
            ),
        ]
        print_table(("checkpoint", checkpoint.path), rows)
    for note in preview.notes:
        print(note)


def _statistics(checkpoint: Any) -> str:
    """``1,200 FLOPs, on 40 tokens of a (0123456789)``: what those that are needed took."""
    text = f"{checkpoint.statistics_flops:,} FLOPs"
    on = ", ".join(f"{n:,} tokens of {name}" for name, n in checkpoint.statistics_tokens.items())
    return f"{text}, on {on}" if on else text


def _applicable(lacking: Sequence[str], costs: Mapping[str, int] | None) -> str:
    if costs is None:
        return f"lacks {', '.join(lacking)}"
    statistics = costs["statistics_flops"]
    after = f", statistics {statistics:,} FLOPs" if statistics else ""
    return f"yes, {costs['merging_flops']:,} FLOPs{after}"


def _counts(states: dict[str, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in states.items()) or "none"
