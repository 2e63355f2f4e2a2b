"""The merge driver for checkpoints: what never reaches a strategy (cherry-pick, rebase, stash …).

    gitmerge-eval driver %O %A %B %P

Git gives three cleaned versions; the result replaces %A. Status 0: merged; 1: conflict, %A stays
ours, and ``gitmerge-eval resolve`` goes on from there. The default is the algebra of task vectors,
ours + (theirs - base): ``git cherry-pick`` adds a task vector, ``git revert`` subtracts it. Other
methods by ``merge-eval.driver.method`` and ``merge-eval.driver.<option>``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from gitmerge_eval import startup
from gitmerge_eval.errors import GitMergeEvalError, UsageError
from gitmerge_eval.git.repository import Repository

CONFLICT = 1
_REMEDY = (
    "  the file is as it was; go on with 'gitmerge-eval resolve', or give up with Git's own --abort"
)


def main(argv: Sequence[str]) -> int:
    """Merge one file; the exit status."""
    startup.prepare()
    try:
        if len(argv) != 4:
            raise UsageError("the merge driver takes four arguments: %O %A %B %P")
        from gitmerge_eval.merging import threeway

        base, ours, theirs, path = argv
        for line in threeway.merge_files(
            Repository.here(), Path(base), Path(ours), Path(theirs), path
        ):
            print(f"gitmerge-eval: {line}", file=sys.stderr)
    except (GitMergeEvalError, OSError) as error:
        print(f"gitmerge-eval: {error}\n{_REMEDY}", file=sys.stderr, flush=True)
        return CONFLICT
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
