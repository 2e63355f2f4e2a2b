"""``methods`` and ``cost``: what the declarations of the methods say; no repository needed."""

from __future__ import annotations

import itertools
from typing import Any

import typer

from gitmerge_eval.cli.output import print_json, print_table
from gitmerge_eval.errors import InvalidOption
from gitmerge_eval.hyperparameters import Hyperparameter
from gitmerge_eval.records import LayerShape, MergeMethod

_EXTRA = {"allow_extra_args": True, "ignore_unknown_options": True}


def add_to(application: typer.Typer) -> None:
    """Register the commands."""
    application.command()(methods)
    application.command(context_settings=_EXTRA)(cost)


def methods(as_json: bool = typer.Option(False, "--json", help="Machine-readable.")) -> None:
    """List the merge methods: what they need, their options, their cost (the paper's Table 2)."""
    from gitmerge_eval import methods as registry

    known = list(registry.load().values())
    if as_json:
        print_json([_declaration(method) for method in known])
        return
    print_table(
        ("method", "needs", "options (range; default; the paper's sweep)", "FLOPs of merging d×k"),
        (
            (
                method.name,
                ", ".join(_needs(method)) or "nothing",
                "\n".join(_option(p) for p in method.hyperparameters) or "none",
                method.flops_formula,
            )
            for method in known
        ),
        title="Merge methods: git merge --strategy-option=method=<name> [--strategy-option=…]",
    )


def cost(
    context: typer.Context,
    method: str = typer.Argument(help="A method's name."),
    models: int = typer.Option(..., min=1, help="M, the number of constituents."),
    inputs: int = typer.Option(..., "--in", min=1, help="d, the layer's inputs."),
    outputs: int = typer.Option(..., "--out", min=1, help="k, the layer's outputs."),
    tokens: int = typer.Option(0, min=0, help="T, tokens that statistics are computed on."),
    as_json: bool = typer.Option(False, "--json", help="Machine-readable."),
) -> None:
    """Say what merging one d×k linear layer costs (the paper's Table 3, natural logarithms).

    The method's own options are taken too: gitmerge-eval cost mats --models 5 --in 768 --out 768
    --iterations 50.
    """
    from gitmerge_eval import methods as registry

    chosen = registry.get(method)
    options = chosen.options(_pairs(context.args), models=models)
    shape = LayerShape(inputs, outputs, models)
    result = {
        "method": chosen.name,
        "models": models,
        "in": inputs,
        "out": outputs,
        "tokens": tokens,
        "options": options,
        "merging_flops": chosen.merging_flops(shape, options),
        "merging_formula": chosen.flops_formula,
        "statistics_flops": chosen.statistics_flops(shape, tokens, options),
        "statistics_formula": chosen.statistics_formula,
    }
    if as_json:
        print_json(result)
        return
    print_table(
        ("", "FLOPs", "formula"),
        (
            ("merging", f"{result['merging_flops']:,}", chosen.flops_formula),
            ("statistics", f"{result['statistics_flops']:,}", chosen.statistics_formula or "none"),
        ),
        title=f"{chosen.name}: one {inputs}×{outputs} layer, {models} models",
    )


def _pairs(arguments: list[str]) -> dict[str, str]:
    """``--iterations 50 --scope=model`` as a mapping."""
    found: dict[str, str] = {}
    rest = iter(arguments)
    for argument in rest:
        if not argument.startswith("--"):
            raise InvalidOption(f"'{argument}' is not an option; write --<option> <value>")
        name, equals, value = argument[2:].partition("=")
        if not equals:
            value = next(itertools.islice(rest, 1), "")
        found[name] = value
    return found


def _needs(method: MergeMethod) -> list[str]:
    defaults = method.options({})
    base = ["base"] if method.needs_base(defaults) else []
    return base + list(method.statistics(defaults))


def _option(parameter: Hyperparameter) -> str:
    symbol = f" {parameter.symbol}" if parameter.symbol else ""
    sweep = f"; {_span(parameter.sweep)}" if parameter.sweep else ""
    return f"{parameter.option}{symbol}: {parameter.range}; {parameter.default}{sweep}"


def _span(values: tuple[Any, ...]) -> str:
    if len(values) < 4:
        return ", ".join(map(str, values))
    return f"{values[0]}, {values[1]}, … {values[-1]}"


def _declaration(method: MergeMethod) -> dict[str, Any]:
    return {
        "name": method.name,
        "title": method.title,
        "needs": _needs(method),
        "elementwise": method.elementwise,
        "hyperparameters": [
            {
                "option": p.option,
                "symbol": p.symbol,
                "type": p.type.__name__,
                "range": p.range,
                "minimum": p.minimum,
                "maximum": p.maximum,
                "choices": list(p.choices),
                "default": p.default,
                "sweep": list(p.sweep),
                "help": p.help,
            }
            for p in method.hyperparameters
        ],
        "merging_flops": method.flops_formula,
        "statistics_flops": method.statistics_formula,
        "reference": method.reference,
    }
