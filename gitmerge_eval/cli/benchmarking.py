"""``benchmark`` and ``quickstart``: model repositories built from recipes, models trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from gitmerge_eval.cli.output import print_json, print_table

benchmark = typer.Typer(
    help="Build the repositories of benchmarks, and train models for them.", no_args_is_help=True
)


def add_to(application: typer.Typer) -> None:
    """Register the commands."""
    application.add_typer(benchmark, name="benchmark")
    application.command()(quickstart)


@benchmark.command("list")
def list_benchmarks(
    as_json: bool = typer.Option(False, "--json", help="Machine-readable."),
) -> None:
    """List the benchmarks that are installed, and the one that this repository declares."""
    from gitmerge_eval import benchmarks
    from gitmerge_eval.errors import EvaluationError
    from gitmerge_eval.evaluation import resolving

    known = list(benchmarks.load().values())
    try:
        declared = resolving.declared_here()
    except EvaluationError as error:
        typer.echo(f"note: this repository's own benchmark is left out: {error}", err=True)
    else:
        known += [declared] if declared else []
    if as_json:
        print_json(
            [
                {
                    "name": b.name,
                    "title": b.title,
                    "axes": {axis: list(values) for axis, values in b.axes.items()},
                    "tasks": [
                        {"name": t.name, "status": t.status, "metric": t.metric or b.metric}
                        for t in b.tasks
                    ],
                    "metric": b.metric,
                }
                for b in known
            ]
        )
        return
    rows = (
        (b.name, b.title, sum(t.status == "held-in" for t in b.tasks), len(b.tasks)) for b in known
    )
    print_table(("name", "what", "held-in tasks", "all tasks"), rows)


@benchmark.command()
def build(
    name: str = typer.Argument(help="A benchmark's name, see 'gitmerge-eval benchmark list'."),
    directory: Path = typer.Argument(help="A folder that does not exist yet, or is empty."),
    seed: int = typer.Option(0, help="Everything in the repository is determined by it."),
    setting: list[str] = typer.Option(
        [], help="<name>=<value> for benchmark.toml, e.g. data=/pictures/domainnet; repeats."
    ),
    device: str = typer.Option("", help="cpu, cuda or cuda:<n>; the recipe's own by default."),
    precision: str = typer.Option("", help="float32 or bfloat16; the recipe's own by default."),
) -> None:
    """Train the models of a benchmark and commit them: main, a branch each, multitask."""
    from gitmerge_eval import building
    from gitmerge_eval.cli import progress
    from gitmerge_eval.evaluation import resolving

    resolving.check_recipe(name)
    with progress.bar() as show:
        built = building.build(
            name,
            directory,
            seed=seed,
            settings=_settings(setting),
            device=device or None,
            precision=precision or None,
            progress=show,
        )
    print(f"built {built.directory} in {built.seconds:.0f} s; its branches:")
    print_table(("branch", "commit"), built.commits.items())


def _settings(texts: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise typer.BadParameter(f"'{text}' is not <name>=<value>")
        found[name] = int(value) if value.lstrip("-").isdecimal() else value
    return found


@benchmark.command()
def train(
    task: list[str] = typer.Argument(
        help="A task of this repository's benchmark; several, or 'multitask' for all held-in "
        "tasks, train one model on all of them."
    ),
    base: str = typer.Option("main", help="The revision whose model is fine-tuned."),
    branch: str = typer.Option(
        "", help="The new branch's name; the task's, or 'multitask', by default."
    ),
    statistics: str = typer.Option(
        "", help="Statistics to compute and commit beside the model: fisher,gram,trimmed."
    ),
    device: str = typer.Option("auto", help="auto, cpu, cuda or cuda:<n>."),
    precision: str = typer.Option(
        "", help="float32, or bfloat16 for mixed precision; the recipe's own by default."
    ),
    restart: bool = typer.Option(
        False, "--restart", help="Forget what an interrupted training has saved."
    ),
    as_json: bool = typer.Option(False, "--json", help="Machine-readable."),
) -> None:
    """Fine-tune the base model on a task, by the benchmark's recipe, and commit it on a new branch.

    The current branch and the work tree stay as they are. After an interruption the same command
    goes on where the training was last saved.
    """
    from dataclasses import asdict

    from gitmerge_eval import training
    from gitmerge_eval.cli import progress
    from gitmerge_eval.git.repository import Repository

    try:
        with progress.bar() as show:
            done = training.train(
                Repository.here(),
                task,
                branch=branch or None,
                base=base,
                kinds=[kind for kind in statistics.split(",") if kind],
                device=device,
                precision=precision or None,
                restart=restart,
                progress=show,
            )
    except KeyboardInterrupt:
        typer.echo("gitmerge-eval: the same command goes on where it was last saved", err=True)
        raise
    if as_json:
        print_json(asdict(done))
    else:
        print(f"{done.branch} {done.commit[:10]}: trained in {done.seconds:.0f} s")


def quickstart(
    directory: Path = typer.Argument(
        Path("gitmerge-eval-quickstart"), help="Where to build the repository."
    ),
    seed: int = typer.Option(0, help="Everything in the repository is determined by it."),
) -> None:
    """Build a small model repository, merge two fine-tuned branches in it, and show the result."""
    from gitmerge_eval import building
    from gitmerge_eval.cli import progress

    def say(line: str) -> None:
        print(f"\n{line}", flush=True)

    tour = building.quickstart(directory, seed=seed, progress=progress.bar, say=say)
    print(f"\nBuilt in {tour.built.seconds:.0f} s and merged as {tour.merge[:10]}. Try next:\n")
    for command, what in tour.next_commands:
        print(f"  # {what}\n  {command}")


@benchmark.command()
def measure(
    name: str = typer.Argument(help="A benchmark's name, see 'gitmerge-eval benchmark list'."),
    seed: list[int] = typer.Option([0, 1, 2], help="Seeds to build with; repeat the option."),
    method: list[str] = typer.Option([], help="Methods to merge by; all by default."),
    option: list[str] = typer.Option([], help="method:name=value, e.g. ties:scale=0.7."),
    as_json: bool = typer.Option(False, "--json", help="Machine-readable."),
) -> None:
    """Build a benchmark for each seed, merge all constituents by each method, print the table."""
    from gitmerge_eval import measuring
    from gitmerge_eval.cli import progress
    from gitmerge_eval.evaluation import resolving

    resolving.check_recipe(name)
    options: dict[str, list[str]] = {}
    for text in option:
        owner, colon, pair = text.partition(":")
        if not colon or "=" not in pair:
            raise typer.BadParameter(f"'{text}' is not method:name=value")
        options.setdefault(owner, []).append(pair)
    with progress.bar() as show:
        found = measuring.measure(
            name,
            seed,
            options=options,
            chosen=method or None,
            progress=show,
            say=lambda line: typer.echo(line, err=True),
        )
    if as_json:
        print_json(measuring.as_records(found))
    else:
        print(measuring.markdown(found))
