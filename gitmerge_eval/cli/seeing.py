"""``log``, ``compare`` and ``contributions``: what was merged, what differs, and who gave what."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from gitmerge_eval.cli.output import print_json, print_table

if TYPE_CHECKING:
    from gitmerge_eval.inspecting.comparison import Difference, ModelComparison
    from gitmerge_eval.inspecting.contributions import Contributions, Share
    from gitmerge_eval.inspecting.history import ModelMerge


MOST_COLUMNS = 6
"""Constituents that get a column each beside the modules."""


def add_to(application: typer.Typer) -> None:
    """Register the commands."""
    application.command()(log)
    application.command()(compare)
    application.command()(contributions)


def log(
    revision: str = typer.Argument("HEAD", help="A commit, or a range such as main..HEAD."),
    number: int = typer.Option(100, "--number", "-n", min=1, help="How many merges at most."),
    as_json: bool = typer.Option(False, "--json", help="Machine-readable."),
) -> None:
    """List the merges of models, latest first: method, constituents, scores, and their change."""
    from gitmerge_eval.git.repository import Repository
    from gitmerge_eval.inspecting import history

    found = history.merges(Repository.here(), revision, number)
    if as_json:
        print_json([merge.as_dict() for merge in found])
        return
    for merge in found:
        indent = "    " if merge.is_nested else ""
        print("\n".join(f"{indent}{line}" for line in _described(merge)) + "\n")
    if not found:
        typer.echo(f"note: '{revision}' has no merge of models", err=True)


def _described(merge: ModelMerge) -> list[str]:
    """A merge in a few lines."""
    from gitmerge_eval.evaluation.reporting import summary
    from gitmerge_eval.inspecting.history import method_text

    short, note, change = merge.commit[:10], merge.note, merge.change
    names = ", ".join(name for _, name in merge.trailers.constituents)
    lines = [
        f"{short} {merge.date} {merge.subject}",
        f"  {method_text(merge.trailers)}{f' of {names}' if names else ''}",
    ]
    if merge.problem:
        lines.append(f"  its note cannot be read: {merge.problem}")
    elif note is None:
        lines.append(f"  not evaluated; run: gitmerge-eval evaluate {short}")
    else:
        lines.append(f"  {summary(note)}")
    if change and change.difference is None:
        lines.append(f"  no task in common with {change.against[:10]}, the one before")
    elif change:
        tasks = "task" if change.tasks == 1 else "tasks"
        lines.append(
            f"  {change.difference:+.2f} against {change.against[:10]} on the {change.tasks} "
            f"{tasks} of both"
        )
    return lines


def compare(
    a: str = typer.Argument(help="A revision."),
    b: str = typer.Argument(help="Another one."),
    base: str = typer.Option(
        "", "--base", help="Where their task vectors are from; else their merge base."
    ),
    checkpoint: str = typer.Option("", "--checkpoint", help="Only this one of several models."),
    groups: bool = typer.Option(False, "--groups", help="Every group that differs."),
    as_json: bool = typer.Option(False, "--json", help="Machine-readable."),
) -> None:
    """Compare two revisions task by task and module by module: norms, cosines, sign conflicts."""
    from gitmerge_eval import startup

    startup.prepare()
    from gitmerge_eval.cli import progress
    from gitmerge_eval.git.repository import Repository
    from gitmerge_eval.inspecting import comparison

    with progress.bar() as show:
        found = comparison.compare(
            Repository.here(), a, b,
            base=base or None, checkpoint=checkpoint or None, progress=show,
        )  # fmt: skip
    if as_json:
        print_json(found.as_dict())
        return
    print(f"A {found.a[:10]} {a}\nB {found.b[:10]} {b}")
    if found.base:
        print(f"base {found.base[:10]}")
    for benchmark, split in dict.fromkeys((pair.benchmark, pair.split) for pair in found.scores):
        pairs = [p for p in found.scores if (p.benchmark, p.split) == (benchmark, split)]
        rows = ((p.task, p.status, f"{p.a:.2f}", f"{p.b:.2f}", f"{p.difference:+.2f}")
                for p in pairs)  # fmt: skip
        print_table(("task", "status", "A", "B", "B-A"), rows, title=f"{benchmark}, {split} split")
    if not found.scores:
        print("no task that both were scored on; 'gitmerge-eval evaluate <revision>' scores one")
    for model in found.models:
        _print_model(model, groups)
    for remark in found.remarks:
        print(f"note: {remark}")


def _print_model(model: ModelComparison, groups: bool) -> None:
    from gitmerge_eval.inspecting.listing import safe

    states = ", ".join(f"{count} {state}" for state, count in model.states.items())
    print(f"{model.path}: {model.remark or f'parameter groups: {states}'}")
    columns = (
        "", "elements", "‖A‖", "‖B‖", "‖B-A‖/‖A‖", "cosine", "cosine of task vectors",
        "sign conflict", "max |B-A|",
    )  # fmt: skip
    if model.modules:
        rows = (_figures(name, each) for name, each in model.modules.items())
        print_table(("module", *columns[1:]), rows, title="of the groups that differ")
    if groups and model.groups:
        rows = (_figures(name, each) for name, each in model.groups.items())
        print_table(("parameter group", *columns[1:]), rows)
    for other in model.others:
        print(f"  {other.state}: {safe(other.name)} {other.described}")


def _figures(name: str, found: Difference) -> tuple[str, ...]:
    from gitmerge_eval.inspecting.listing import safe

    broken = f" ({found.non_finite:,} not finite)" if found.non_finite else ""
    return (
        safe(name),
        f"{found.elements:,}{broken}",
        f"{found.norm_a:.4g}",
        f"{found.norm_b:.4g}",
        _number(found.relative, ".3g"),
        _number(found.cosine, ".6f"),
        _number(found.task_cosine, ".3f"),
        _percent(found.sign_conflict),
        f"{found.largest:.3g}",
    )


def _number(value: float | None, how: str) -> str:
    return "-" if value is None else format(value, how)


def contributions(
    revision: str = typer.Argument("HEAD", help="A merge of models."),
    heads: list[str] = typer.Option(
        [], "--heads", help="A branch that would be merged into HEAD, instead; repeat it."
    ),
    base: str = typer.Option("", "--base", help="With --heads: the revision that is the base."),
    every_module: bool = typer.Option(
        False, "--modules", help="Every constituent in every module, not only what stands out."
    ),
    as_json: bool = typer.Option(False, "--json", help="Machine-readable."),
) -> None:
    """Say what each constituent gave to a merge, module by module, and mark what stands out."""
    from gitmerge_eval import startup

    startup.prepare()
    from gitmerge_eval.cli import progress
    from gitmerge_eval.git.repository import Repository
    from gitmerge_eval.inspecting import contributions as inspecting

    repository = Repository.here()
    with progress.bar() as show:
        if heads:
            found = inspecting.of_heads(repository, heads, base=base or None, progress=show)
        else:
            found = inspecting.of_merge(repository, revision, progress=show)
    if as_json:
        print_json([one.as_dict() for one in found])
        return
    for one in found:
        _print_contributions(one, every_module)


def _print_contributions(found: Contributions, every_module: bool) -> None:
    from gitmerge_eval.inspecting.contributions import WHOLE
    from gitmerge_eval.inspecting.listing import safe

    print(f"{found.path}: {found.groups} parameter groups, base {found.base[:10] or 'zero'}")
    kinds = sorted(
        {kind for shares in found.modules.values() for s in shares for kind in s.weights}
    )
    columns = (
        "module", "constituent", "norm", "share", "cosine to sum", "sign conflict",
        *kinds, "largest", "remarkable",
    )  # fmt: skip
    rows = [(m, s) for m, shares in found.modules.items() for s in shares]
    whole = [(m, s) for m, s in rows if every_module or m == WHOLE]
    print_table(columns, (_row(m, s, kinds) for m, s in whole))
    if not every_module and len(found.constituents) <= MOST_COLUMNS:
        cells = (
            (safe(m), *map(_cell, shares)) for m, shares in found.modules.items() if m != WHOLE
        )
        title = "share of the norms, cosine to the sum; ! where something is remarkable"
        print_table(("module", *found.constituents), cells, title=title)
    standing_out = [(m, s) for m, s in found.marked if m != WHOLE]
    if standing_out and not every_module:
        rows_of = (_row(m, s, kinds) for m, s in standing_out)
        print_table(columns, rows_of, title="remarkable in a module")
    if not found.marked:
        few = len(found.constituents) < 3
        print(f"nothing stands out{'; of so few little can be told' if few else ''}")
    for remark in found.remarks:
        print(f"note: {safe(remark)}")


def _cell(share: Share) -> str:
    return f"{_percent(share.share)} {_number(share.cosine, '.2f')}{' !' if share.marks else ''}"


def _row(module: str, share: Share, kinds: list[str]) -> tuple[str, ...]:
    from gitmerge_eval.inspecting.listing import safe

    return (
        safe(module),
        share.constituent,
        f"{share.norm:.4g}",
        _percent(share.share),
        _number(share.cosine, ".3f"),
        _percent(share.conflict),
        *(_percent(share.weights.get(kind)) for kind in kinds),
        f"{share.largest:.3g}",
        "; ".join(share.marks),
    )


def _percent(part: float | None) -> str:
    return "-" if part is None else f"{100 * part:.1f} %"
