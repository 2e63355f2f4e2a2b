"""``evaluate``, ``show`` and ``stats``: what a model can do, and what merging it will need."""

from __future__ import annotations

from typing import Any

import typer

from gitmerge_eval.cli.output import print_json


def add_to(application: typer.Typer) -> None:
    """Register the commands."""
    application.command()(evaluate)
    application.command()(show)
    application.command()(stats)


def evaluate(
    revision: str = typer.Argument("HEAD", help="A merge, or any commit with a checkpoint."),
    task: list[str] = typer.Option(
        [], help="Score on these tasks instead, and write no note; repeat the option."
    ),
    split: str = typer.Option("test", help="The split of the data to score on."),
    device: str = typer.Option("auto", help="auto, cpu, cuda or cuda:<n>."),
    force: bool = typer.Option(False, "--force", help="Score again what is known already."),
    as_json: bool = typer.Option(False, "--json", help="Machine-readable."),
) -> None:
    """Evaluate a commit's model on its tasks, and keep the result as a note."""
    from gitmerge_eval.evaluation import evaluating, reporting
    from gitmerge_eval.git.repository import Repository

    with reporting.evaluation_bar() as bar:
        note = evaluating.evaluate(
            Repository.here(),
            revision,
            split=split,
            device=device,
            force=force,
            tasks=task or None,
            progress=lambda step: bar(f"{step.model} on {step.task}", step.completed),
        )
    if as_json:
        print_json(reporting.note_record(note))
    else:
        print(reporting.note_table(note))


def show(
    revision: str = typer.Argument("HEAD", help="An evaluated commit."),
    as_json: bool = typer.Option(False, "--json", help="Machine-readable."),
) -> None:
    """Show the evaluation that a commit's note holds. Exit status 1 where there is none."""
    from gitmerge_eval.evaluation import evaluating, reporting
    from gitmerge_eval.git.repository import Repository

    repository = Repository.here()
    notes = evaluating.show(repository, revision)
    if as_json:
        print_json([reporting.note_record(note) for note in notes])
    else:
        for note in notes:
            print(reporting.note_table(note))
    if not notes:
        typer.echo(
            f"'{revision}' has no evaluation here; run 'gitmerge-eval evaluate {revision}', or, "
            "where somebody else did, 'gitmerge-eval notes sync'",
            err=True,
        )
        raise typer.Exit(1)


def stats(
    kinds: list[str] = typer.Argument(help="fisher, gram, trimmed."),
    constituent: str = typer.Option("", help="Which constituents/<name>.toml, where several are."),
    base: str = typer.Option("", help="The revision that the task vector is taken from."),
    option: list[str] = typer.Option([], "--option", "-o", help="name=value, e.g. density=0.1."),
    device: str = typer.Option("auto", help="auto, cpu, cuda or cuda:<n>."),
    as_json: bool = typer.Option(False, "--json", help="Machine-readable."),
) -> None:
    """Compute statistics of the work tree's checkpoint, to be committed beside it."""
    from dataclasses import asdict

    from gitmerge_eval import collecting
    from gitmerge_eval.cli import progress
    from gitmerge_eval.git.repository import Repository

    with progress.bar() as show_progress:
        done = collecting.collect(
            Repository.here(), kinds, constituent=constituent or None, base=base or None,
            options=_values(option), device=device, progress=show_progress,
        )  # fmt: skip
    if as_json:
        print_json(asdict(done))
    else:
        print(f"statistics of {done.checkpoint} ({done.blob[:10]}); commit them with it:")
        print(f"  git add {' '.join(done.files)}")


def _values(options: list[str]) -> dict[str, Any]:
    import json

    found: dict[str, Any] = {}
    for text in options:
        name, equals, value = text.partition("=")
        if not equals:
            raise typer.BadParameter(f"'{text}' is not name=value")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found
