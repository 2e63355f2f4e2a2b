"""``init`` and ``doctor``: a clone made ready, and what is wrong with it."""

from __future__ import annotations

import typer

from gitmerge_eval.cli.output import print_json, print_table


def add_to(application: typer.Typer) -> None:
    """Register the commands."""
    application.command()(init)
    application.command()(doctor)
    application.command()(track)


def init(
    undo: bool = typer.Option(False, "--undo", help="Restore what was there before."),
) -> None:
    """Make this clone ready: filter, merge strategy, merge driver, hooks, notes.

    Once for each clone; running it again changes nothing.
    """
    from gitmerge_eval.git import configuration
    from gitmerge_eval.git.repository import Repository

    repository = Repository.here()
    act = configuration.uninstall if undo else configuration.install
    changes = act(repository)
    for line in changes.made:
        print(line)
    for line in changes.notices:
        # What git-lfs will say is news once, and harmless.
        if changes.made or not line.startswith("'git lfs install'"):
            typer.echo(f"note: {line}", err=True)
    if not changes.made:
        print("nothing to undo" if undo else "everything is in place already")


def track(
    patterns: list[str] = typer.Argument(help="Paths or patterns, e.g. '*.safetensors'."),
) -> None:
    """Store the files that match PATTERNS as checkpoints (adds lines to .gitattributes)."""
    from gitmerge_eval.git import tracking
    from gitmerge_eval.git.repository import Repository

    repository = Repository.here()
    for pattern in patterns:
        state = "tracked" if tracking.track(repository, pattern) else "tracked already"
        print(f"{pattern}: {state} (.gitattributes is staged)")
    for path in tracking.ordinary(repository):
        typer.echo(
            f"note: '{path}' is committed as an ordinary file; store it anew: "
            f"git add --renormalize '{path}' && git commit",
            err=True,
        )


def doctor(as_json: bool = typer.Option(False, "--json", help="Machine-readable.")) -> None:
    """Say in plain words what is missing or overridden. Exit status 1 where there is a problem."""
    from dataclasses import asdict

    from gitmerge_eval import diagnosing
    from gitmerge_eval.errors import GitError
    from gitmerge_eval.git.repository import Repository

    try:
        repository = Repository.here()
    except GitError:
        repository = None
    findings = diagnosing.diagnose(repository)
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        rows = ((f.status, f.name, f.what, f.remedy or "") for f in findings)
        print_table(("", "what", "found", "remedy"), rows)
    raise typer.Exit(1 if any(f.status == "problem" for f in findings) else 0)
