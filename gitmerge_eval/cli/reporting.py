"""``report`` and ``results``: what is known of merged models, on a page, as lines, as tables."""

from __future__ import annotations

from pathlib import Path

import typer

from gitmerge_eval.cli.output import print_json, print_table
from gitmerge_eval.errors import UsageError

results = typer.Typer(
    help="List what is known of merged models; exchange it with other machines.",
    invoke_without_command=True,
)

SPLITS = ("test", "validation")


def add_to(application: typer.Typer) -> None:
    """Register the commands."""
    application.command()(report)
    application.add_typer(results, name="results")


def report(
    output: Path | None = typer.Option(
        None, "--output", "-o", help="The HTML file to write (report.html)."
    ),
    figures: Path | None = typer.Option(
        None, "--figures", help="A folder for each figure as PNG and SVG."
    ),
    split: str = typer.Option("test", help="The split of the data that methods are compared on."),
    as_markdown: bool = typer.Option(
        False, "--markdown", help="Print a text for a comment on a pull request instead."
    ),
    as_json: bool = typer.Option(False, "--json", help="Machine-readable, instead of the page."),
) -> None:
    """Make a page of all results: methods compared, costs, hyperparameters, tasks, history."""
    from gitmerge_eval import reporting
    from gitmerge_eval.git.repository import Repository

    found = reporting.report(Repository.here(), split=_known(split))
    written = list(reporting.write_figures(found, figures)) if figures else []
    if as_json:
        print_json(found.as_dict())
    elif as_markdown:
        print(reporting.markdown(found))
    if output or not (as_json or as_markdown or figures):
        path = output or Path("report.html")
        reporting.write_page(found, path)
        written.append(path)
    for path in written:
        typer.echo(f"wrote {path}", err=True)
    for section in found.sections:
        if section.missing:
            typer.echo(f"note: {section.title}: {section.missing} {section.command}", err=True)


def _known(split: str) -> str:
    """A split that evaluations have; UnknownName suggests near ones."""
    from gitmerge_eval.errors import UnknownName

    if split not in SPLITS:
        raise UnknownName.among("split", split, SPLITS)
    return split


@results.callback()
def list_results(
    context: typer.Context,
    split: str = typer.Option("", help="Only those of this split of the data."),
    published: bool = typer.Option(
        False, "--published", help="Only the tables of published numbers that were imported."
    ),
    as_json: bool = typer.Option(False, "--json", help="Machine-readable."),
    as_csv: bool = typer.Option(False, "--csv", help="Comma-separated, for a spreadsheet."),
) -> None:
    """List every result: notes of merges, sweeps, scalings, and published numbers."""
    if context.invoked_subcommand:
        return
    import csv
    import sys

    from gitmerge_eval.evaluation import listing
    from gitmerge_eval.git.repository import Repository

    if published:
        _list_published(as_json, as_csv)
        return
    found = listing.listed(Repository.here(), _known(split) if split else "")
    for remark in found.remarks:
        typer.echo(f"note: {remark}", err=True)
    if as_json:
        print_json(found.records)
    elif as_csv:
        writer = csv.DictWriter(sys.stdout, listing.COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(found.records)
    else:
        print_table(listing.SHOWN, (listing.row(record) for record in found.records))
        if found.correlation:
            typer.echo(
                f"held-in against generalization over methods: {found.correlation}", err=True
            )


def _list_published(as_json: bool, as_csv: bool) -> None:
    """Each table's name, which ``results remove`` takes, and its number of rows."""
    import csv
    import sys

    from gitmerge_eval.evaluation import evaluating
    from gitmerge_eval.evaluation.published import open_published
    from gitmerge_eval.git.repository import Repository

    with open_published(evaluating.results_path(Repository.here())) as table:
        sources = table.sources()
    if as_json:
        print_json([{"source": source, "rows": rows} for source, rows in sources.items()])
    elif as_csv:
        csv.writer(sys.stdout, lineterminator="\n").writerows(
            [("source", "rows"), *sources.items()]
        )
    else:
        print_table(("published table", "rows"), sources.items())


@results.command("remove")
def remove_results(
    name: str = typer.Argument(help="A published table's name, as 'results --published' lists it."),
) -> None:
    """Remove a table of published numbers again. Results of this repository's own stay."""
    from gitmerge_eval.evaluation import evaluating
    from gitmerge_eval.evaluation.published import open_published
    from gitmerge_eval.git.repository import Repository

    with open_published(evaluating.results_path(Repository.here())) as table:
        removed = table.remove(name)
    print(f"removed {removed} rows of '{name}'")


@results.command("export")
def export_results(
    file: Path = typer.Argument(help="The file to write; - for standard output."),
) -> None:
    """Write every score, run and published number as lines of JSON."""
    from gitmerge_eval.evaluation import evaluating, exchange
    from gitmerge_eval.git.repository import Repository
    from gitmerge_eval.whole_file import write_whole

    path = evaluating.results_path(Repository.here())
    lines = list(exchange.export(path))
    for remark in exchange.unreadable(path):
        typer.echo(f"note: {remark}", err=True)
    text = "".join(f"{line}\n" for line in lines)
    if str(file) == "-":
        print(text, end="")
    else:
        write_whole(file, text)
    typer.echo(f"{len(lines)} results", err=True)


@results.command("import")
def import_results(
    file: Path = typer.Argument(
        help="What 'results export' wrote, or a table .csv with method, held-in, generalization."
    ),
    source: str = typer.Option(
        "", help="Of a table: whose numbers these are; the file's name by default."
    ),
    benchmark: str = typer.Option("", help="Of a table: the benchmark that they are of."),
    replace: bool = typer.Option(
        False, "--replace", help="Let the file's values count where they differ from those here."
    ),
) -> None:
    """Add the results of a file. Exit status 1 where one differs from what is known here."""
    from gitmerge_eval.evaluation import evaluating, exchange, published
    from gitmerge_eval.git.repository import Repository

    path = evaluating.results_path(Repository.here())
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"'{file}' is no text in UTF-8 ({error.reason}); save it so, or give another file"
        ) from error
    if file.suffix.lower() == ".csv":
        rows = published.read_csv(text, source or file.stem, benchmark)
        taken = exchange.take_published(path, rows, replacing=replace)
    else:
        taken = exchange.take(path, text.splitlines(), replacing=replace)
    print(f"{taken.added} added, {taken.known} known already, {len(taken.conflicts)} in conflict")
    for conflict in taken.conflicts:
        typer.echo(f"conflict: {conflict}", err=True)
    if taken.conflicts and not taken.replaced:
        typer.echo("those here were kept; --replace takes the file's", err=True)
        raise typer.Exit(1)
