"""The command line: arguments, exit codes, terminal. ``main`` is the script ``gitmerge-eval``.

What Git itself starts (filter, driver, hook, differ) is dispatched before typer is imported, since
Git starts it often.
"""

from __future__ import annotations

import sys

PROGRAMS = ("filter", "driver", "hook", "differ")


def main() -> int:
    """Run the command; the exit status."""
    if len(sys.argv) > 1 and sys.argv[1] in PROGRAMS:
        return _program(sys.argv[1], sys.argv[2:])
    from gitmerge_eval.cli.application import run

    return run()


def _program(name: str, arguments: list[str]) -> int:
    if name == "filter":
        from gitmerge_eval import filter as program
    elif name == "driver":
        from gitmerge_eval import driver as program  # type: ignore[no-redef]
    elif name == "differ":
        from gitmerge_eval import differ as program  # type: ignore[no-redef]
    else:
        from gitmerge_eval import hook as program  # type: ignore[no-redef]
    return program.main(arguments)
