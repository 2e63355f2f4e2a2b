"""The merge strategy with something done to it at one point of its run; see test_crash.

CRASH_AT names the point ('kept:3': the third group is in the cache), CRASH_DO a signal and its
victims ('KILL:self+merge'), or a shell command ('sh:git add x'), or 'fail'. CRASH_PID is a file
that gets our process id.
"""

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from gitmerge_eval import strategy
from gitmerge_eval.checkpoints.group_cache import GroupCache
from gitmerge_eval.checkpoints.lfs import ObjectStore
from gitmerge_eval.errors import MergeRefused
from gitmerge_eval.git import landing, process
from gitmerge_eval.git.repository import Repository
from gitmerge_eval.merging import merge
from gitmerge_eval.records import MergeMethod

MERGER = process.merging_git()


def act():
    what, _, detail = os.environ["CRASH_DO"].partition(":")
    if what == "fail":
        raise MergeRefused("failed on purpose")
    if what == "sh":
        subprocess.run(detail, shell=True, check=True)
        return
    victims = {"self": os.getpid(), "wrapper": os.getppid(), "merge": MERGER.pid}
    for victim in detail.split("+"):
        os.kill(victims[victim], getattr(signal, f"SIG{what}"))
    time.sleep(0.3)


def before(owner, name):
    original = getattr(owner, name)

    def acting(*arguments, **named):
        act()
        return original(*arguments, **named)

    setattr(owner, name, acting)


def after(owner, name, wanted=lambda arguments, named: True):
    original = getattr(owner, name)

    def acting(*arguments, **named):
        result = original(*arguments, **named)
        if wanted(arguments, named):
            act()
        return result

    setattr(owner, name, acting)


def counted(name, number, wanted=lambda arguments: True):
    """After the given call of a method of the cache, by whichever thread."""
    original, calls = getattr(GroupCache, name), itertools.count(1)

    def acting(*arguments):
        result = original(*arguments)
        if wanted(arguments) and next(calls) == number:
            act()
        return result

    setattr(GroupCache, name, acting)


def watch():
    """Note which groups' kernels run, one name a line, and crash nowhere."""
    original = MergeMethod.merge

    def noting(method, group, options):
        with open(os.environ["CRASH_DO"], "a") as file:
            file.write(f"{group.name}\n")
        return original(method, group, options)

    MergeMethod.merge = noting


POINTS = {
    "watch": watch,
    "scalar": lambda: counted("put_scalars", 1),
    # In a transaction of the cache's own, which is then neither here nor there.
    "storing": lambda: before(GroupCache, "_keep"),
    "objects": lambda: before(ObjectStore, "_settle"),
    "computed": lambda: before(merge, "land"),
    "journal": lambda: before(landing, "_apply"),
    "read-tree": lambda: after(
        Repository,
        "run",
        lambda arguments, named: (
            arguments[1] == "read-tree" and "-u" in arguments and "-n" not in arguments
        ),
    ),
    "model": lambda: after(landing, "place"),
    "before-swap": lambda: before(landing, "swap_index"),
    "after-swap": lambda: after(landing, "swap_index"),
    "landed": lambda: after(merge, "land"),
}

if __name__ == "__main__":
    Path(os.environ["CRASH_PID"]).write_text(str(os.getpid()))
    point, _, count = os.environ["CRASH_AT"].partition(":")
    if point == "kept":
        counted("_keep", int(count), lambda arguments: arguments[1] == "groups")
    else:
        POINTS[point]()
    sys.exit(strategy.main())
