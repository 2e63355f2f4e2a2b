"""``log``, ``compare`` and ``contributions``: what was merged, what differs, and who gave what."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from gitmerge_eval.cli.output import print_json

if TYPE_CHECKING:
    from gitmerge_eval.inspecting.history import ModelMerge


def add_to(application: typer.Typer) -> None:
    """Register the commands."""
    application.command()(log)


def log(
    revision: str = typer.Argument("HEAD", help="A commit, or a range such as main..HEAD."),
    number: int = typer.Option(100, "--number", "-n", min=1, help="How many merges at most."),
    as_json: bool = typer.Option(False, "--json", help="Machine-readable."),
) -> None:
    """List the merges of models, latest first: method, constituents, scores, and their change."""
    from gitmerge_eval.git.repository import Repository
    from gitmerge_eval.inspecting import history

    found = history.merges(Repository.here(), revision, number)
    if as_json:
        print_json([merge.as_dict() for merge in found])
        return
    for merge in found:
        indent = "    " if merge.is_nested else ""
        print("\n".join(f"{indent}{line}" for line in _described(merge)) + "\n")
    if not found:
        typer.echo(f"note: '{revision}' has no merge of models", err=True)


def _described(merge: ModelMerge) -> list[str]:
    """A merge in a few lines."""
    from gitmerge_eval.evaluation.reporting import summary
    from gitmerge_eval.inspecting.history import method_text

    short, note, change = merge.commit[:10], merge.note, merge.change
    names = ", ".join(name for _, name in merge.trailers.constituents)
    lines = [
        f"{short} {merge.date} {merge.subject}",
        f"  {method_text(merge.trailers)}{f' of {names}' if names else ''}",
    ]
    if merge.problem:
        lines.append(f"  its note cannot be read: {merge.problem}")
    elif note is None:
        lines.append(f"  not evaluated; run: gitmerge-eval evaluate {short}")
    else:
        lines.append(f"  {summary(note)}")
    if change and change.difference is None:
        lines.append(f"  no task in common with {change.against[:10]}, the one before")
    elif change:
        tasks = "task" if change.tasks == 1 else "tasks"
        lines.append(
            f"  {change.difference:+.2f} against {change.against[:10]} on the {change.tasks} "
            f"{tasks} of both"
        )
    return lines
