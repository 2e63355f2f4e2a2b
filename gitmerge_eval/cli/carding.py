"""``card``: a merged model's card for the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

import typer

from gitmerge_eval.cli.output import print_json


def add_to(application: typer.Typer) -> None:
    """Register the command."""
    application.command()(card)


def card(
    revision: str = typer.Argument("HEAD", help="A merge of models."),
    output: Path | None = typer.Option(
        None, "--output", "-o", help="The README to write it into; what else is there stays."
    ),
    name: str = typer.Option("", help="What the model is called; the repository's folder."),
    checkpoint: str = typer.Option("", help="Which model, where several were merged."),
    force: bool = typer.Option(
        False, "--force", help="Replace fields of the README that are not the card's."
    ),
    as_json: bool = typer.Option(False, "--json", help="Machine-readable."),
) -> None:
    """Print the model card of a merge: lineage, method, evaluation, and what licences allow.

    Its front matter is what the Hugging Face Hub reads: base models, tags, results, licence.
    """
    from dataclasses import asdict

    from gitmerge_eval import carding
    from gitmerge_eval.errors import InvalidOption
    from gitmerge_eval.git.repository import Repository

    if force and output is None:
        raise InvalidOption("--force is about the README that --output names; name it")
    made = carding.card(Repository.here(), revision, name=name, checkpoint=checkpoint)
    for remark in made.remarks:
        typer.echo(f"note: {remark}", err=True)
    if output is not None:
        for kept in carding.write(made, output, force=force):
            typer.echo(f"note: {output} keeps its own: {kept}; --force changes it", err=True)
        typer.echo(f"wrote {output}", err=True)
    if as_json:
        print_json(asdict(made))
    elif output is None:
        print(made.text, end="")
