"""``notes`` and ``push-tensors``: what is exchanged with a remote beside commits."""

from __future__ import annotations

import typer

from gitmerge_eval.cli.output import print_json

notes = typer.Typer(help="Exchange results with the clones of others.", no_args_is_help=True)


def add_to(application: typer.Typer) -> None:
    """Register the commands."""
    application.add_typer(notes, name="notes")
    application.command("push-tensors")(push_tensors)


def push_tensors(
    remote: str = typer.Argument("", help="A remote; the one that this branch is pushed to."),
    as_json: bool = typer.Option(False, "--json", help="Machine-readable."),
) -> None:
    """Send a remote the tensors that it lacks of any commit of the branches and tags here.

    'git push' does this by itself for what it pushes, unless its hooks are switched off
    ('git push --no-verify').
    """
    from dataclasses import asdict

    from gitmerge_eval import pushing
    from gitmerge_eval.git.repository import Repository

    sent = pushing.push_every_tensor(Repository.here(), remote)
    if as_json:
        print_json(asdict(sent))
        return
    print(f"{sent.tensors} tensors offered to '{sent.remote}', which has taken what it lacked")
    if sent.missing:
        print(f"{sent.missing} others are not in this clone")


@notes.command()
def sync(
    remote: str = typer.Argument("", help="A remote; the one that this branch is pushed to."),
    dry_run: bool = typer.Option(False, "--dry-run", "-n", help="Say what would be exchanged."),
    as_json: bool = typer.Option(False, "--json", help="Machine-readable."),
) -> None:
    """Fetch the remote's notes, unite them with this clone's, and push the result.

    Where both sides evaluated the same merge, the results of both stay. Nothing is ever forced.
    """
    from dataclasses import asdict

    from gitmerge_eval import sharing
    from gitmerge_eval.git.repository import Repository

    done = sharing.sync(Repository.here(), remote, dry_run=dry_run)
    for notice in done.notices:
        typer.echo(f"note: {notice}", err=True)
    if as_json:
        print_json(asdict(done))
    else:
        print(f"{'would be: ' if dry_run else ''}{sharing.said(done)}")
