"""``gc``: disk space that nothing needs any more."""

from __future__ import annotations

from typing import Any

import typer

from gitmerge_eval.cli.output import print_json, size


def add_to(application: typer.Typer) -> None:
    """Register the command."""
    application.command()(gc)


def gc(
    dry_run: bool = typer.Option(False, "--dry-run", "-n", help="Say what would be removed."),
    older_than: float = typer.Option(
        14.0, min=0.0, metavar="DAYS", help="Keep what was written or used within so many days."
    ),
    cache_days: float = typer.Option(
        14.0, min=0.0, metavar="DAYS", help="Keep merged groups that a merge used so recently."
    ),
    as_json: bool = typer.Option(False, "--json", help="Machine-readable; lists every object."),
) -> None:
    """Remove tensors that nothing in this repository names, old entries of the merge cache, and
    what evaluations kept of models that are gone.

    What any branch, tag, note, stash, reflog, index or work tree names is kept. A repository that
    borrows objects from this one (git clone --shared or --reference) cannot be known from here:
    do not run this where there is one. Git's own objects are 'git gc''s.
    """
    from gitmerge_eval import pruning
    from gitmerge_eval.git.repository import Repository

    pruned = pruning.prune(
        Repository.here(), older_than_days=older_than, cache_days=cache_days, dry_run=dry_run
    )
    for notice in pruned.notices:
        typer.echo(f"note: {notice}", err=True)
    if as_json:
        print_json(_document(pruned))
    else:
        _print(pruned, older_than)


def _print(pruned: Any, older_than: float) -> None:
    would = "would remove" if pruned.dry_run else "removed"
    print(f"{would} {_count(pruned.removed)} that nothing names")
    if pruned.cache_entries:
        print(f"{would} {pruned.cache_entries} entries of the cache of merged groups")
    if pruned.evaluated:
        print(f"{would} {_count(pruned.evaluated, 'output')} of evaluations that nothing refers to")
    if pruned.temporary:
        print(f"{would} {len(pruned.temporary)} files that killed commands left")
    print(f"kept {_count(pruned.named)} that commits, indexes or reflogs name")
    if pruned.cached:
        print(f"kept {_count(pruned.cached)} for merges to reuse (--cache-days)")
    if pruned.young:
        days = f"{older_than:g} day" + ("" if older_than == 1 else "s")
        print(f"kept {_count(pruned.young)} younger than {days} (--older-than)")


def _count(objects: Any, noun: str = "object") -> str:
    plural = "" if len(objects) == 1 else "s"
    return f"{len(objects)} {noun}{plural} ({size(sum(found.size for found in objects))})"


def _document(pruned: Any) -> dict[str, Any]:
    groups = ("removed", "young", "cached", "named")
    return {
        "dry_run": pruned.dry_run,
        **{
            name: [
                {"object_id": found.object_id, "size": found.size}
                for found in getattr(pruned, name)
            ]
            for name in groups
        },
        **{f"{name}_bytes": sum(found.size for found in getattr(pruned, name)) for name in groups},
        "cache_entries": pruned.cache_entries,
        "temporary": list(pruned.temporary),
        "evaluated": [{"path": found.path, "size": found.size} for found in pruned.evaluated],
    }
