"""``drop`` and ``remerge``: the merge that HEAD's model is, made again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer

from gitmerge_eval.cli.output import print_json, print_table

_OPTIONS = typer.Option(
    [], "--strategy-option", "-X", help="As for git merge: method=mats, iterations=50, …"
)
_MESSAGE = typer.Option("", "--message", "-m", help="The commit's message.")
_DRY_RUN = typer.Option(False, "--dry-run", "-n", help="Say what would be done.")
_JSON = typer.Option(False, "--json", help="Machine-readable.")


def add_to(application: typer.Typer) -> None:
    """Register the commands."""
    application.command()(drop)
    application.command()(remerge)


def drop(
    names: list[str] = typer.Argument(help="Constituents of the merge that HEAD's model is."),
    strategy_option: list[str] = _OPTIONS,
    message: str = _MESSAGE,
    dry_run: bool = _DRY_RUN,
    as_json: bool = _JSON,
) -> None:
    """Take constituents out of the merge that HEAD's model is: a new commit on top.

    The rest is merged again as it was, or as -X says, and evaluated; 'git revert' takes it back.
    """
    _run(names, strategy_option, message, dry_run, as_json)


def remerge(
    strategy_option: list[str] = _OPTIONS,
    message: str = _MESSAGE,
    dry_run: bool = _DRY_RUN,
    as_json: bool = _JSON,
) -> None:
    """Merge the constituents of HEAD's model again, by another method: a new commit on top.

    Without 'method' it is that of the merge, with the options that -X gives in their place.
    """
    _run([], strategy_option, message, dry_run, as_json)


def _run(
    names: Sequence[str], options: Sequence[str], message: str, dry_run: bool, as_json: bool
) -> None:
    from dataclasses import asdict

    from gitmerge_eval import remerging
    from gitmerge_eval.cli import progress
    from gitmerge_eval.cli.inspection import item
    from gitmerge_eval.evaluation import differences, job
    from gitmerge_eval.git.repository import Repository

    repository = Repository.here()
    with progress.bar() as show:
        done = remerging.remerge(
            repository, names, [item(text) for text in options],
            message=f"{message}\n" if message else None, dry_run=dry_run, progress=show,
        )  # fmt: skip
    if not as_json:
        _print(done, dry_run)
    found: list[Any] = []
    if done.commit:
        job.after_commit(repository)
        earlier = (done.previous, *(model.before for model in done.models))
        before = differences.evaluation_of(repository, earlier)
        now = differences.evaluation_of(repository, (done.commit,))
        found = list(differences.differences(before, now)) if before and now else []
    if as_json:
        print_json({**asdict(done), "comparison": [asdict(one) for one in found]})
    elif found:
        _print_comparison(found)


def _print(done: Any, dry_run: bool) -> None:
    would = "would be " if dry_run else ""
    for model in done.models if done.commit or dry_run else ():
        without = f", without {', '.join(model.dropped)}" if model.dropped else ""
        listed = ", ".join(model.constituents)
        print(f"{model.path}: {would}merged by {model.method} of {listed}{without}")
    for path in done.removed:
        print(f"{would}removed: {path}")
    for remark in done.remarks:
        print(remark)
    if done.commit:
        print(f"{done.commit[:10]} on top of {done.previous[:10]}")


def _print_comparison(found: Sequence[Any]) -> None:
    def shown(value: float | None, form: str = ".2f") -> str:
        return "-" if value is None else format(value, form)

    rows = [
        (one.status, one.task, shown(one.before), shown(one.now), shown(one.change, "+.2f"))
        for one in found
    ]
    print_table(("", "task", "before", "now", "change"), rows)
