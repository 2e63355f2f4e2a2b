"""The typer application: the commands of all files in this room, and how errors end."""

from __future__ import annotations

import sys

import typer

from gitmerge_eval import __version__
from gitmerge_eval.cli import (
    advising,
    benchmarking,
    carding,
    cleaning,
    converting,
    declaring,
    evaluation,
    inspection,
    remerging,
    reporting,
    resolving,
    seeing,
    setup,
    sharing,
    studying,
    verifying,
)
from gitmerge_eval.errors import GitMergeEvalError

application = typer.Typer(
    name="gitmerge-eval",
    help="Merge fine-tuned models in Git, and see what the merge can do.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for room in (
    setup, inspection, verifying, seeing, remerging, resolving, declaring, evaluation, studying,
    benchmarking, cleaning, converting, reporting, advising, sharing, carding,
):  # fmt: skip
    room.add_to(application)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"gitmerge-eval {__version__}")
        raise typer.Exit


@application.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True),
) -> None:
    """Merge fine-tuned models in Git, and see what the merge can do."""


def run() -> int:
    """Run the command line; the exit status. Errors of ours become one clear line on stderr."""
    try:
        application()
    except SystemExit as end:
        # Typer shows errors of usage itself (status 2) and ends every command so.
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except GitMergeEvalError as error:
        print(f"gitmerge-eval: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("gitmerge-eval: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 141
    except OSError as error:
        where = f" '{error.filename}'" if error.filename else ""
        print(f"gitmerge-eval: {error.strerror or error}{where}", file=sys.stderr)
        return 2
    return 0
