"""``resolve``: parameter groups in conflict, one side's version of each."""

from __future__ import annotations

from typing import Any

import typer

from gitmerge_eval.cli.output import print_json, print_table


def add_to(application: typer.Typer) -> None:
    """Register the command."""
    application.command()(resolve)


def resolve(
    groups: list[str] = typer.Argument(
        None, help="Parameter groups in conflict, or patterns; none: all that are left."
    ),
    ours: bool = typer.Option(False, "--ours", help="Take stage 2: HEAD's, as Git means it."),
    theirs: bool = typer.Option(False, "--theirs", help="Take stage 3: the other side's."),
    base: bool = typer.Option(False, "--base", help="Take stage 1: the version before both."),
    path: str = typer.Option("", "--path", help="Only this model."),
    strategy_option: list[str] = typer.Option(
        [], "--strategy-option", "-X", help="For the other groups: method=ties, scale=0.5, …"
    ),
    only_list: bool = typer.Option(False, "--list", help="List the groups and change nothing."),
    as_json: bool = typer.Option(False, "--json", help="Machine-readable."),
) -> None:
    """Resolve a model in conflict: the groups named are taken from one side, or deleted with it.

    All other groups are merged as they would have been. Choices add up over several calls; when
    no group is left in conflict the model is written and staged, and you commit. Without a side
    the groups in conflict are listed, and a model without any is finished. Sides mean what they
    mean to Git: in a revert theirs is the version before the reverted commit, in a rebase ours is
    the new base and theirs the commit that is replayed. Exit status: 0 nothing is left, 1 groups
    are left, 2 nothing was done.
    """
    from gitmerge_eval import resolving
    from gitmerge_eval.cli import progress
    from gitmerge_eval.git import conflicts
    from gitmerge_eval.git.repository import Repository

    side = _side(groups or [], {"base": base, "ours": ours, "theirs": theirs})
    repository = Repository.here()
    with progress.bar() as show:
        found = resolving.resolve(
            repository,
            side,
            groups or [],
            path=path,
            options=dict(_pair(text) for text in strategy_option),
            only_list=only_list,
            progress=show,
        )
    conclusion = conflicts.conclusion(repository)
    if as_json:
        print_json({"models": [_document(model) for model in found], "conclusion": conclusion})
    else:
        for model in found:
            _print(model)
        if all(model.report for model in found):
            stashed = "nothing has to be concluded (Git keeps a stash: 'git stash drop')"
            print(f"conclude with '{conclusion}'" if conclusion else stashed)
    raise typer.Exit(1 if any(model.left for model in found) else 0)


def _side(groups: list[str], given: dict[str, bool]) -> str:
    """The side that is asked for; '' for none."""
    from gitmerge_eval.errors import UsageError

    sides = [side for side, wanted in given.items() if wanted]
    if len(sides) > 1:
        raise UsageError("only one of --ours, --theirs and --base; name the groups of each in turn")
    if groups and not sides:
        raise UsageError("say which side's groups are taken: --ours, --theirs or --base")
    return sides[0] if sides else ""


def _pair(text: str) -> tuple[str, str]:
    from gitmerge_eval.errors import UsageError

    name, equals, value = text.removeprefix("--").partition("=")
    if not equals:
        raise UsageError(f"option '{name}' needs a value: {name}=<value>")
    return name, value


def _print(model: Any) -> None:
    if model.report is None:
        columns = ("group", "base", "ours", "theirs", "taken", "why")
        rows = [
            (d.name, *(d.versions.get(side, "-") for side in columns[1:4]), d.chosen or "-", d.why)
            for d in model.disputes
        ]
        title = f"{model.path}: {len(model.left)} of {len(rows)} groups are left in conflict"
        print_table(columns, rows, title)
        return
    chosen = ", ".join(f"'{d.name}' as {d.chosen}" for d in model.disputes)
    merged = model.report.count("merged") + model.report.count("tied")
    resolved = f"{chosen}; " if chosen else ""
    print(f"{model.path}: {resolved}{merged} groups merged by {model.method}; staged")
    for notice in model.report.notices:
        print(f"  {notice}")


def _document(model: Any) -> dict[str, Any]:
    return {
        "path": model.path,
        "method": model.method,
        "staged": model.report is not None,
        "recorded": model.recorded,
        "groups": [
            {"name": d.name, "why": d.why, "versions": dict(d.versions), "taken": d.chosen or None}
            for d in model.disputes
        ],
    }
