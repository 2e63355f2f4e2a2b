"""The merge strategy ``git-merge-theta``, as Git starts it.

    git-merge-theta [--<option>[=<value>]]… <base>… -- <head> <remote>…

Exit status: 0 Git commits from the index; 1 conflicts are in index and work tree; 2 nothing was
done. After 2 Git resets the work tree, which would destroy what the user did meanwhile: then we
end ``git merge`` itself instead.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from gitmerge_eval import startup
from gitmerge_eval.errors import GitMergeEvalError, UsageError
from gitmerge_eval.git import journal, landing, ordinary, process
from gitmerge_eval.git.heads import gather, left_out, named_by_user
from gitmerge_eval.git.repository import Repository
from gitmerge_eval.merging.merge_report import MergeReport


@dataclass(frozen=True)
class Arguments:
    """Git's arguments, sorted."""

    options: tuple[tuple[str, str | None], ...]
    bases: tuple[str, ...]
    head: str
    remotes: tuple[str, ...]


def parse(argv: Sequence[str]) -> Arguments:
    """Sort the arguments; UsageError when they are not a strategy's."""
    if "--" not in argv:
        raise UsageError(
            "git-merge-theta is started by 'git merge', not by hand; "
            "try 'git merge --strategy-option=method=average BRANCH…'"
        )
    split = list(argv).index("--")
    options: list[tuple[str, str | None]] = []
    bases = []
    for argument in argv[:split]:
        if argument.startswith("--"):
            name, equals, value = argument[2:].partition("=")
            options.append((name, value if equals else None))
        else:
            bases.append(argument)
    heads = list(argv[split + 1 :])
    if len(heads) < 2:
        raise UsageError("git-merge-theta needs HEAD and at least one other head")
    return Arguments(tuple(options), tuple(bases), heads[0], tuple(heads[1:]))


def run() -> NoReturn:
    """What Git starts: the strategy in a process of its own."""
    startup.prepare()
    startup.end(main())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the strategy; the exit status."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    running = _Run()
    try:
        return running.merge(parse(sys.argv[1:] if argv is None else argv))
    except GitMergeEvalError as error:
        _say(str(error))
    except KeyboardInterrupt:
        _say("interrupted; nothing was changed")
    except OSError as error:
        where = f" '{error.filename}'" if error.filename else ""
        _say(f"{error.strerror or error}{where}; nothing was changed")
    except Exception as error:
        # Python's own status 1 would tell Git that conflicts wait in the index.
        traceback.print_exc()
        _say(f"unexpected error, nothing was changed; please report it: {error!r}")
    running.protect_edits()
    return 2


class _Run:
    """One run of the strategy, and what is needed to leave it safely."""

    def __init__(self) -> None:
        self._merger: process.Process | None = None
        self._repository: Repository | None = None
        self._before: object = None

    def merge(self, arguments: Arguments) -> int:
        """Merge, or become Git's own merge where no checkpoint takes part."""
        self._merger = process.merging_git()
        self._repository = repository = Repository.here()
        os.chdir(repository.directory)
        if arguments.head != "HEAD":
            # A cherry-pick or rebase that found its way here: Git's own three-way merge.
            ordinary.hand_over(repository, arguments.bases, arguments.head, arguments.remotes)
        for line in journal.recover(repository):
            _say(line)
        from gitmerge_eval.merging import deciding, replaying

        heads = gather(repository, arguments.bases, arguments.remotes)
        heads, chosen, said = replaying.prepared(repository, heads, arguments.options)
        for line in said:
            _say(line)
        if chosen.explicit and self._merger:
            for line in left_out(repository, named_by_user(self._merger.command), heads):
                _say(line)
        paths = deciding.touched(repository, heads)
        wanted = chosen.explicit and bool(paths)
        if not wanted and not deciding.needs_us(repository, heads, paths):
            if chosen.explicit:
                _say(
                    f"no checkpoint differs between these heads: method '{chosen.method.name}' "
                    "has nothing to merge; ordinary files are merged as usual"
                )
            ordinary.hand_over(
                repository, arguments.bases, arguments.head, arguments.remotes, chosen.git
            )
        repository.run("update-index", "-q", "--refresh", check=False)
        self._before = landing.fingerprint(repository)
        from gitmerge_eval.cli import progress
        from gitmerge_eval.merging.merge import merge

        with progress.bar() as show:
            merged = merge(repository, heads, chosen, paths, self._merger, show)
        if not chosen.explicit and merged.reports:
            _say(
                f"checkpoints are merged by '{chosen.method.name}'; choose another method with "
                "--strategy-option=method=<name> (see 'gitmerge-eval methods')"
            )
        for message in merged.messages:
            print(message, flush=True)
        for report in merged.reports:
            _say(summary(report))
        return 1 if merged.conflicts else 0

    def protect_edits(self) -> None:
        """End ``git merge`` where its reset would destroy what the user did meanwhile."""
        if not (self._repository and self._before and self._merger):
            return
        if landing.fingerprint(self._repository) != self._before:
            _say("files changed while the merge was computed; they are left as they are")
            self._merger.terminate()


def summary(report: MergeReport) -> str:
    """One line on a merged checkpoint, and one for each kind of fallback in it."""
    states = Counter(group.state for group in report.groups)
    counts = ", ".join(f"{count} {state}" for state, count in states.most_common())
    cost = report.cost
    what = "parameter group" if len(report.groups) == 1 else "parameter groups"
    lines = [f"{report.path}: {counts} {what} in {cost.seconds:.1f} s on {cost.device}"]
    if cost.reused_groups:
        lines[0] += f"; {cost.reused_groups} of the merged ones were computed by an earlier merge"
    lines += [f"  {notice}" for notice in report.notices]
    remarks = Counter(remark for group in report.groups for remark in group.remarks)
    lines += [f"  {count} × {remark}" for remark, count in remarks.most_common(10)]
    if len(remarks) > 10:
        lines.append(f"  … and {len(remarks) - 10} more kinds of remarks")
    return "\n".join(lines)


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _say(message: str) -> None:
    print(f"gitmerge-eval: {message}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    run()
