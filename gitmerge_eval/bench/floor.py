"""The floors of a merge, each a program of its own: what no merge of these files can do without.

    python -m gitmerge_eval.bench.floor torch OUTPUT INPUT...     read all, write one
    python -m gitmerge_eval.bench.floor numpy OUTPUT INPUT...     the average, by mapped memory

OUTPUT and INPUT are folders of safetensors files that have the same names everywhere. ``torch`` is
plain safetensors: load every input, look at every element once, save the last. ``numpy`` maps the
inputs and writes their mean tile by tile, without an import of torch; it knows float32 only, in
files with one layout.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gitmerge_eval.errors import UsageError

KINDS = ("torch", "numpy")
_TILE = 1 << 18


def main(arguments: Sequence[str]) -> int:
    """Run one floor; the exit status."""
    if len(arguments) < 3 or arguments[0] not in KINDS:
        print(f"usage: python -m {__spec__.name} torch|numpy OUTPUT INPUT...", file=sys.stderr)
        return 2
    kind, output, *inputs = arguments
    run = read_and_write if kind == "torch" else average
    for file in sorted(Path(inputs[0]).glob("*.safetensors")):
        run([Path(folder) / file.name for folder in inputs], Path(output) / file.name)
    return 0


def read_and_write(inputs: Sequence[Path], output: Path) -> None:
    """Load each input by safetensors, one at a time, and save the last one's tensors."""
    from safetensors.torch import load_file, save_file

    tensors: dict[str, Any] = {}
    for path in inputs:
        tensors = load_file(path)
        for tensor in tensors.values():
            tensor.max()  # safetensors maps the file: what nobody looks at is not read
    save_file(tensors, output, {"format": "pt"})


def average(inputs: Sequence[Path], output: Path) -> None:
    """Write the mean of float32 files of one layout; UsageError for others."""
    import numpy as np

    headers = {_header(path) for path in inputs}
    header = headers.pop()
    dtypes = {v["dtype"] for name, v in json.loads(header).items() if name != "__metadata__"}
    if headers or dtypes != {"F32"}:
        raise UsageError("the numpy floor averages float32 files of one layout only")
    maps = [np.memmap(path, np.float32, "r", 8 + len(header)) for path in inputs]
    with output.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for start in range(0, len(maps[0]), _TILE):
            total = np.array(maps[0][start : start + _TILE])
            for other in maps[1:]:
                total += other[start : start + _TILE]
            total *= np.float32(1 / len(maps))
            total.tofile(file)


def _header(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(int.from_bytes(file.read(8), "little"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
