"""``python -m gitmerge_eval.bench storage|merge|sweep|layer|fisher``: the command line."""

from __future__ import annotations

import argparse
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from gitmerge_eval import __version__
from gitmerge_eval.bench.report import Report
from gitmerge_eval.errors import GitMergeEvalError, UsageError

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}


def size(text: str) -> int:
    """Bytes from '350MB', '7GB', '2.5 GB' or '1000'.

    >>> size("350MB"), size("2.5 GB")
    (350000000, 2500000000)
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]?)B?\s*", text, re.IGNORECASE)
    if not match or float(match[1]) == 0:
        raise argparse.ArgumentTypeError(f"'{text}' is not a size such as 350MB or 7GB")
    return round(float(match[1]) * _UNITS[match[2].upper()])


def positive(text: str) -> int:
    """A whole number from 1 upwards."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of at least 1")
    return int(text)


def positives(text: str) -> tuple[int, ...]:
    """Whole numbers from 1 upwards, separated by commas.

    >>> positives("2,5,24")
    (2, 5, 24)
    """
    return tuple(positive(part) for part in text.split(","))


def names(text: str) -> tuple[str, ...]:
    """Names separated by commas.

    >>> names("average,ties")
    ('average', 'ties')
    """
    return tuple(part.strip() for part in text.split(",") if part.strip())


def parser() -> argparse.ArgumentParser:
    """The options of all benchmarks."""
    root = argparse.ArgumentParser(
        prog="python -m gitmerge_eval.bench",
        description="Measure gitmerge-eval against its peers and against what the machine can do.",
    )
    root.add_argument("--version", action="version", version=f"gitmerge-eval {__version__}")
    commands = root.add_subparsers(dest="benchmark", required=True)
    _storage_options(_command(commands, "storage", _storage, "add, checkout, status, diff"))
    _merge_options(_command(commands, "merge", _merge, "git merge of M models"))
    _sweep_options(_command(commands, "sweep", _sweep, "ten option values against one merge"))
    _layer_options(_command(commands, "layer", _layer, "each method's kernel on one layer", 10))
    _fisher_options(_command(commands, "fisher", _fisher, "the Fisher diagonal of a ViT"))
    return root


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    start: Callable[[argparse.Namespace], Report],
    help: str,
    repeat: int = 3,
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=help, description=help)
    command.set_defaults(start=start)
    command.add_argument(
        "--repeat", type=positive, default=repeat, help=f"runs of each (default {repeat})"
    )
    form = command.add_mutually_exclusive_group()
    form.add_argument(
        "--json", dest="form", action="store_const", const="json", help="machine-readable"
    )
    form.add_argument(
        "--markdown", dest="form", action="store_const", const="markdown", help="for documents"
    )
    command.set_defaults(form="table")
    command.add_argument(
        "--into", type=Path, metavar="DOCUMENT", help="put the tables into this Markdown file, too"
    )
    return command


def _checkpoint_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--size", type=size, default=size("351MB"), help="of a checkpoint (default: ViT-B/32's)"
    )
    command.add_argument(
        "--noise",
        choices=("dense", "sparse"),
        default="dense",
        help="whether fine-tuning moves all elements or a tenth",
    )
    command.add_argument(
        "--folder", type=Path, help="where to work (default: the folder for temporary files)"
    )


def _storage_options(command: argparse.ArgumentParser) -> None:
    _checkpoint_options(command)
    command.add_argument("--without-stock", action="store_true", help="do not run git-theta")


def _merge_options(command: argparse.ArgumentParser) -> None:
    _checkpoint_options(command)
    command.add_argument(
        "--methods", type=names, default=(), help="separated by commas (default: all)"
    )
    command.add_argument(
        "-M", "--models", type=positives, default=(2, 5, 24), help="numbers of models, e.g. 2,5"
    )
    command.add_argument(
        "--bf16-sharded",
        type=size,
        metavar="SIZE",
        help="models of that size instead: bfloat16, in shards, groups of up to 262 MB",
    )
    command.add_argument("--mergekit", metavar="PROGRAM", help="the path of mergekit-pytorch")
    command.add_argument("--without-mergekit", action="store_true", help="do not run mergekit")
    command.add_argument("--without-floor", action="store_true", help="do not run the floors")
    command.add_argument(
        "-X",
        dest="options",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a further strategy option of ours, such as device=cuda",
    )


def _sweep_options(command: argparse.ArgumentParser) -> None:
    _checkpoint_options(command)
    command.add_argument(
        "--methods", type=names, default=(), help="separated by commas (default: those with an aim)"
    )
    command.add_argument("-M", "--models", type=positive, default=5, help="how many are merged")


def _layer_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--methods", type=names, default=(), help="separated by commas (default: all)"
    )
    command.add_argument("--inputs", type=positive, default=5120, help="of the layer (d)")
    command.add_argument("--outputs", type=positive, default=2048, help="of the layer (k)")
    command.add_argument("-M", "--models", type=positive, default=5, help="how many are merged")
    command.add_argument("-N", "--iterations", type=positive, default=50, help="of mats")
    command.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    command.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    command.add_argument(
        "--tf32", action="store_true", help="solve linear systems in TF32, too (CUDA)"
    )
    command.add_argument("--threads", type=positive, help="of torch on a processor")


def _fisher_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--examples", type=positive, default=64, help="pictures (default 64)")
    command.add_argument(
        "--layers", type=positive, default=12, help="of ViT-B/32's shape (default: all 12)"
    )
    command.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    command.add_argument("--threads", type=positive, help="of torch on a processor")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _storage(given: argparse.Namespace) -> Report:
    from gitmerge_eval.bench import storage

    settings = storage.Settings(
        size_bytes=given.size,
        repeat=given.repeat,
        stock=not given.without_stock,
        noise=given.noise,
        folder=given.folder,
    )
    return storage.run(settings, _say)


def _merge(given: argparse.Namespace) -> Report:
    from gitmerge_eval import methods
    from gitmerge_eval.bench import merge, peers

    if min(given.models) < 2:
        raise UsageError("a merge needs at least two models; give -M 2 or more")
    if given.bf16_sharded and given.mergekit:
        raise UsageError("mergekit-pytorch reads no sharded checkpoints; leave out --mergekit")
    without = given.without_mergekit or given.bf16_sharded
    settings = merge.Settings(
        methods=tuple(methods.get(name).name for name in given.methods or methods.load()),
        models=given.models,
        size_bytes=given.bf16_sharded or given.size,
        repeat=given.repeat,
        noise=given.noise,
        sharded=bool(given.bf16_sharded),
        mergekit=None if without else peers.located(given.mergekit),
        floor=not given.without_floor,
        options=tuple(given.options),
        folder=given.folder,
    )
    return merge.run(settings, _say)


def _sweep(given: argparse.Namespace) -> Report:
    from gitmerge_eval import methods
    from gitmerge_eval.bench import sweep

    if given.models < 2:
        raise UsageError("a merge needs at least two models; give -M 2 or more")
    for name in given.methods:
        if not methods.get(name).sweeps:
            raise UsageError(f"'{name}' has nothing to sweep; leave it out of --methods")
    settings = sweep.Settings(
        methods=given.methods or tuple(sweep.AIMS),
        models=given.models,
        size_bytes=given.size,
        repeat=given.repeat,
        noise=given.noise,
        folder=given.folder,
    )
    return sweep.run(settings, _say)


def _layer(given: argparse.Namespace) -> Report:
    from gitmerge_eval import methods
    from gitmerge_eval.bench import layer

    if given.models < 2:
        raise UsageError("a merge needs at least two models; give -M 2 or more")
    settings = layer.Settings(
        methods=tuple(methods.get(name).name for name in given.methods or methods.load()),
        inputs=given.inputs,
        outputs=given.outputs,
        models=given.models,
        iterations=given.iterations,
        repeat=given.repeat,
        device=given.device,
        dtype=given.dtype,
        precisions=("float64", "float32", *(["tf32"] if given.tf32 else [])),
        threads=given.threads,
    )
    return layer.run(settings, _say)


def _fisher(given: argparse.Namespace) -> Report:
    from gitmerge_eval.bench import fisher

    settings = fisher.Settings(
        given.examples, given.layers, given.repeat, given.device, given.threads
    )
    return fisher.run(settings, _say)


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM, too, leaves no folder behind; and SIGINT where a shell had it ignored."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = {one: signal.signal(one, interrupt) for one in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one benchmark and print its report; the exit status."""
    given = parser().parse_args(arguments)
    try:
        with _interruptible():
            report: Report = given.start(given)
        report.write(given.form)
        if given.into:
            report.put_into(given.into)
    except GitMergeEvalError as error:
        _say(f"gitmerge-eval bench: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        _say("gitmerge-eval bench: interrupted")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
