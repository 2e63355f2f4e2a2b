"""``convert``: a PyTorch pickle made a safetensors file."""

from __future__ import annotations

from pathlib import Path

import typer

from gitmerge_eval.cli.output import size


def add_to(application: typer.Typer) -> None:
    """Register the command."""
    application.command()(convert)


def convert(
    source: Path = typer.Argument(help="A file that torch.save wrote: .pt, .pth, .bin, .ckpt."),
    target: Path | None = typer.Argument(
        None, help="The safetensors file to write; SOURCE with that ending where left out."
    ),
    key: str = typer.Option("", "--key", help="Where the weights are, e.g. 'state_dict'."),
    strip_prefix: str = typer.Option(
        "", "--strip-prefix", help="What to take off the names' start, e.g. 'module.'."
    ),
    drop: bool = typer.Option(False, "--drop", help="Leave out what is no tensor."),
    force: bool = typer.Option(False, "--force", help="Overwrite TARGET."),
) -> None:
    """Write the tensors of a PyTorch pickle to a safetensors file; no code in it is run."""
    from gitmerge_eval import converting

    written = converting.convert(
        source, target, key=key, strip_prefix=strip_prefix, drop=drop, force=force
    )
    where = target or converting.default_target(source)
    print(f"{where}: {written.tensors} tensors, {size(written.nbytes)}")
    if written.dropped:
        typer.echo(f"note: left out {', '.join(written.dropped)}", err=True)
    for note in written.notes:
        typer.echo(f"note: {note}", err=True)
