"""``sweep`` and ``scale``: merges that are tried, scored and thrown away."""

from __future__ import annotations

import os
from typing import Any

import typer

from gitmerge_eval.cli.output import print_json, print_table, size

# What both commands take.
_CHECKPOINT: Any = typer.Option("", help="Which model, where the constituents have several.")
_DEVICE: Any = typer.Option("auto", help="auto, cpu, cuda or cuda:<n>.")
_MEMORY: Any = typer.Option("auto", help="What tensors may take together: auto, or 4G.")
_EXECUTOR: Any = typer.Option("local", help="local, or ray: the workers of a Ray cluster.")
_RAY_ADDRESS: Any = typer.Option(
    "", help="auto or host:port of a running cluster; none: one of this machine."
)
_REPOSITORY_ON_NODES: Any = typer.Option(
    "", help="A clone's folder on nodes that do not see this repository."
)
_JSON: Any = typer.Option(False, "--json", help="Machine-readable.")


def add_to(application: typer.Typer) -> None:
    """Register the commands."""
    application.command()(sweep)
    application.command()(scale)


def sweep(
    heads: list[str] = typer.Argument(help="The branches to merge into HEAD."),
    methods: str = typer.Option("all", help="Separated by commas, or all that can be used."),
    select: str = typer.Option(
        "heldin-validation", help="What chooses: heldin-validation, generalization or none."
    ),
    grid: list[str] = typer.Option(
        [], help="<method>.<option>=<value>,<value>,… in the place of the paper's; repeat it."
    ),
    brief: bool = typer.Option(
        False, "--brief", help="Score candidates only on the tasks that decide."
    ),
    merge: bool = typer.Option(False, "--merge", help="Make the winner the merge commit."),
    checkpoint: str = _CHECKPOINT,
    device: str = _DEVICE,
    memory: str = _MEMORY,
    executor: str = _EXECUTOR,
    ray_address: str = _RAY_ADDRESS,
    repository_on_nodes: str = _REPOSITORY_ON_NODES,
    as_json: bool = _JSON,
) -> None:
    """Merge by every method and option of a grid, score the results, and choose the best.

    Nothing is committed unless --merge says so. A sweep that was stopped goes on where it was.
    """
    from gitmerge_eval import sweeping
    from gitmerge_eval.cli.watching import watched
    from gitmerge_eval.errors import InvalidOption
    from gitmerge_eval.git.repository import Repository

    if merge and select == "none":
        raise InvalidOption("--merge needs a choice; leave out --select none")
    _let_threads_sleep()
    repository = Repository.here()
    if merge:
        sweeping.check_mergeable(repository, heads)
    settings = sweeping.Settings(
        methods=_names(methods),
        select=select,
        grid=tuple(grid),
        brief=brief,
        checkpoint=checkpoint or None,
        device=device,
        resources=_resources(device, memory),
        where=_where(executor, ray_address, repository_on_nodes),
    )
    with watched("sweep") as watch:
        found = sweeping.sweep(repository, heads, settings, watch)
    commit = sweeping.merge_winner(repository, heads, found) if merge else None
    if as_json:
        print_json({**found.as_dict(), "merge": commit})
    else:
        _print_sweep(found)
        if commit:
            print(f"merged as {commit[:10]}")


def scale(
    heads: list[str] = typer.Argument(help="The branches of which samples are merged into HEAD."),
    methods: str = typer.Option("all", help="Separated by commas, or all that can be used."),
    samples: int = typer.Option(
        0, min=0, help="Nested samples; 0: 20, or 5 where the benchmark has languages."
    ),
    seed: int = typer.Option(0, help="Of the samples."),
    options: str = typer.Option(
        "default", help="default, or swept: what the latest sweep of these constituents chose."
    ),
    checkpoint: str = _CHECKPOINT,
    device: str = _DEVICE,
    memory: str = _MEMORY,
    executor: str = _EXECUTOR,
    ray_address: str = _RAY_ADDRESS,
    repository_on_nodes: str = _REPOSITORY_ON_NODES,
    as_json: bool = _JSON,
) -> None:
    """Merge 2, 3, … all of the constituents, and average the scores over nested samples.

    Nothing is committed. What is known from an earlier sweep or scaling is not computed again.
    """
    from gitmerge_eval import scaling
    from gitmerge_eval.cli.watching import watched
    from gitmerge_eval.git.repository import Repository

    _let_threads_sleep()
    settings = scaling.Settings(
        methods=_names(methods),
        samples=samples or None,
        seed=seed,
        options=options,
        checkpoint=checkpoint or None,
        device=device,
        resources=_resources(device, memory),
        where=_where(executor, ray_address, repository_on_nodes),
    )
    with watched("scale") as watch:
        found = scaling.scale(Repository.here(), heads, settings, watch)
    if as_json:
        print_json(found.as_dict())
    else:
        _print_scaling(found)


def _let_threads_sleep() -> None:
    """Before torch is loaded: its threads shall sleep, not spin, while they wait for one another.

    Hundreds of small models are scored in short operations, between which spinning threads take
    the processor from whoever else needs it, and ten times the CPU time where somebody does.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def _names(text: str) -> tuple[str, ...]:
    """The methods that ``--methods`` names; none for all."""
    from gitmerge_eval.errors import InvalidOption

    if text == "all":
        return ()
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    if not names:
        raise InvalidOption(
            f"--methods '{text}' names no method; separate names by commas, or leave it out for all"
        )
    return names


def _resources(device: str, memory: str) -> Any:
    from gitmerge_eval.merging.devices import Resources, parse_bytes

    if memory != "auto":
        parse_bytes(memory)
    return Resources(device, memory)


def _where(executor: str, address: str, clone: str) -> Any:
    from gitmerge_eval.errors import InvalidOption
    from gitmerge_eval.studies.executor import Where

    if executor != "ray" and (address or clone):
        raise InvalidOption("--ray-address and --repository-on-nodes need --executor ray")
    return Where(executor, address, clone)


def _print_sweep(found: Any) -> None:
    runs = found.chosen.values() if found.chosen else found.candidates
    columns = ["method", "options", "held-in", "of individual", "generalization", "of pretrained"]
    columns += ["FLOPs", "statistics", "seconds", "memory"]
    rows = [
        [
            *_named(run, found.winner),
            _percent(run.average("held-in")),
            _ratio(run.normalised("held-in")),
            _percent(run.average("generalization")),
            _ratio(run.normalised("generalization")),
            f"{run.cost.flops:.3g}",
            f"{run.cost.statistics_flops:.3g}",
            f"{run.cost.seconds:.2f}",
            size(run.cost.peak_memory_bytes),
        ]
        for run in runs
    ]
    print_table(columns, rows, f"{found.benchmark}, test split, {found.metric}")
    _print_rest(found)
    if found.winner:
        print(
            f"the best of {len(found.candidates)} candidates by {found.select} "
            f"({found.score(found.winner):.2f}): {found.winner.method}"
        )
    print(f"sweep {found.digest[:10]}: {found.computed} candidates computed now")


def _named(run: Any, winner: Any) -> list[str]:
    hidden = ("accumulate", "precision", "seed")
    options = ", ".join(f"{name}={value}" for name, value in run.options.items())
    shown = ", ".join(o for o in options.split(", ") if o.partition("=")[0] not in hidden)
    best = winner is not None and run.spec == winner.spec
    return [f"{run.method}{' *' if best else ''}", shown]


def _print_scaling(found: Any) -> None:
    rows = [
        [
            point.method,
            point.models,
            point.heldin.samples if point.heldin else 0,
            _spread(point.heldin),
            _spread(point.generalization),
        ]
        for point in found.points
    ]
    title = f"{found.benchmark}, test split, {found.metric}: mean ± standard error"
    print_table(("method", "M", "samples", "held-in", "generalization"), rows, title)
    _print_rest(found)
    print(f"scaling {found.digest[:10]}: {found.computed} merges computed now")


def _print_rest(found: Any) -> None:
    for method, why in found.skipped.items():
        print(f"{method} was left out: {why}")
    for remark in found.remarks:
        print(f"note: {remark}")


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _spread(value: Any) -> str:
    return "-" if value is None else f"{value.mean:.2f} ± {value.error:.2f}"
