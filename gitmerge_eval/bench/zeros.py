"""The floor of a checkout: a filter for Git that gives zeros for any blob, and nothing else.

    git -c filter.theta.process='python -m gitmerge_eval.bench.zeros BYTES' checkout -- FILE

What Git needs for itself: it takes a filter's whole answer into memory, then writes the file.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from gitmerge_eval.git.pkt_line import PacketReader, PacketWriter

_PIECE = bytes(1 << 24)


def main(arguments: Sequence[str]) -> int:
    """Serve Git until it ends; the exit status."""
    if len(arguments) != 1 or not arguments[0].isdecimal():
        print(f"usage: python -m {__spec__.name} BYTES, started by Git", file=sys.stderr)
        return 2
    size, reader, writer = int(arguments[0]), PacketReader(0), PacketWriter(1)
    reader.read_list()
    writer.write_list("git-filter-server", "version=2")
    reader.read_list()
    writer.write_list("capability=smudge")
    while reader.read_list():
        reader.begin()
        reader.drain()
        writer.write_list("status=success")
        for start in range(0, size, len(_PIECE)):
            writer.write(memoryview(_PIECE)[: size - start])
        writer.write_list()
        writer.write_list()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
