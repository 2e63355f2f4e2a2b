"""``verify`` and ``preview``: merges that others made, and one that they would like to be made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from gitmerge_eval.cli.output import print_json
from gitmerge_eval.errors import UsageError

if TYPE_CHECKING:
    from gitmerge_eval.auditing.audit import Depth
    from gitmerge_eval.auditing.findings import Audit
    from gitmerge_eval.git.repository import Repository
    from gitmerge_eval.merging.devices import Resources
    from gitmerge_eval.verifying import Verification


def add_to(application: typer.Typer) -> None:
    """Register the commands."""
    application.command()(verify)
    application.command()(preview)


def verify(
    revisions: list[str] = typer.Argument(
        None, help="A merge commit (HEAD), or a range such as origin/main..HEAD; several are one."
    ),
    recompute: bool = typer.Option(
        False, "--recompute", help="Of a range: compute every merge again, hash every new tensor."
    ),
    everything: bool = typer.Option(False, "--all", help="The history of all branches and tags."),
    pushed: bool = typer.Option(
        False, "--pushed", help="What a push brings: standard input is a pre-receive hook's."
    ),
    objects: bool = typer.Option(
        False, "--objects", help="Of a range: every new tensor must be in this very repository."
    ),
    allow: list[str] = typer.Option(
        [], "--allow", help="A commit whose faults somebody has looked at; repeat the option."
    ),
    device: str = typer.Option("auto", help="auto, cpu, cuda or cuda:<n>."),
    memory: str = typer.Option("auto", help="What tensors may take together: auto, or 4G."),
    fresh: bool = typer.Option(
        False, "--fresh", help="Compute also the groups that an earlier merge here has computed."
    ),
    as_json: bool = typer.Option(False, "--json", help="Machine-readable."),
) -> None:
    """Verify a merge commit by computing it again, or look through a range of history.

    Of a single merge every object is compared with what its trailers give. Of a range every
    commit is looked at: merges of models without trailers that match, merges as text, damaged
    metadata, statistics of other checkpoints; tensors are read with --recompute alone.

    Exit status: 0 everything is as the trailers say, 1 something is wrong, 2 it cannot be told.
    """
    from gitmerge_eval.git.history import is_range
    from gitmerge_eval.git.repository import Repository
    from gitmerge_eval.merging.devices import Resources

    repository, words = Repository.anywhere().as_committed(), list(revisions or [])
    resources = Resources(device, memory)
    found: Audit | Verification
    if everything or pushed or len(words) > 1 or any(map(is_range, words)):
        from gitmerge_eval.auditing.audit import Depth

        depth = Depth(recompute, objects, fresh, resources)
        found = _audit(repository, _range(repository, words, everything, pushed), depth, allow)
        print_json(found.as_dict()) if as_json else _print_audit(found)
    elif allow or objects:
        raise UsageError(
            "--allow and --objects are for a range of commits; write it as main..HEAD, or as "
            "HEAD^! for one commit"
        )
    else:
        found = _recomputed(repository, words, resources, fresh, as_json)
    raise typer.Exit(0 if found.sound else 2 if found.undecided else 1)


def _range(repository: Repository, words: list[str], everything: bool, pushed: bool) -> list[str]:
    """Arguments for git rev-list."""
    import sys

    from gitmerge_eval.git import history

    if sum((everything, pushed, bool(words))) > 1:
        raise UsageError("give a range, --all, or --pushed, and only one of them")
    if pushed:
        return history.pushed(repository, sys.stdin)
    if everything:
        return [*history.NOT_OURS, "--all"]
    return history.arguments(repository, words)


def _audit(repository: Repository, revisions: list[str], depth: Depth, allow: list[str]) -> Audit:
    from gitmerge_eval.auditing.audit import audit
    from gitmerge_eval.cli import progress

    with progress.bar() as show:
        return audit(repository, revisions, depth, allowed=allow, progress=show)


def _print_audit(found: Audit) -> None:
    for each in found.recomputed:
        known = f", {each.reused} of them computed earlier" if each.reused else ""
        print(f"{each.commit[:10]} {each.path}: {each.verdict}, {each.groups} groups{known}")
    for finding in found.findings:
        print(f"{finding.commit[:10]} ({_harmless(finding.subject[:60])})")
        about = f"'{finding.path}' " if finding.path else ""
        print(_harmless(f"  {finding.verdict}, {finding.kind}: {about}{finding.problem}"))
    verdict = "verified" if found.sound else "NOT verified"
    merges = "1 merge" if found.merges == 1 else f"{found.merges} merges"
    commits = "1 commit" if found.commits == 1 else f"{found.commits} commits"
    print(f"{commits}, {merges} of models: {verdict}")


def _harmless(text: str) -> str:
    """Without what a terminal would obey: whoever made the commits wrote part of it."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _recomputed(
    repository: Repository, words: list[str], resources: Resources, fresh: bool, as_json: bool
) -> Verification:
    from dataclasses import asdict

    from gitmerge_eval import verifying
    from gitmerge_eval.cli import progress

    with progress.bar() as show:
        found = verifying.verify(
            repository,
            words[0] if words else "HEAD",
            resources=resources,
            fresh=fresh,
            progress=show,
        )
    if as_json:
        print_json({**asdict(found), "sound": found.sound})
        return found
    for finding in found.findings:
        known = f", {finding.reused} of them computed earlier" if finding.reused else ""
        print(f"{finding.path}: {finding.verdict}, {finding.groups} parameter groups{known}")
        for problem in finding.problems:
            print(f"  {problem}")
    for problem in found.problems:
        print(problem)
    print(f"{found.commit[:10]}: {'verified' if found.sound else 'NOT verified'}")
    return found


def preview(
    heads: list[str] = typer.Argument(help="The branches that are offered."),
    into: str = typer.Option("HEAD", help="What they would be merged into."),
    strategy_option: list[str] = typer.Option(
        [], "--strategy-option", "-X", help="As for git merge: method=mats, iterations=50, …"
    ),
    split: str = typer.Option("test", help="The split of the data to score on."),
    device: str = typer.Option("auto", help="auto, cpu, cuda or cuda:<n>."),
    as_json: bool = typer.Option(False, "--json", help="Machine-readable, instead of Markdown."),
) -> None:
    """Merge branches in a work tree of its own, evaluate the result, and print it as Markdown.

    The text is for a comment on a pull request; its first line tells the comment from others.
    Nothing that you have checked out changes, and no branch.

    Exit status: 0 the merge goes through, 1 it has conflicts or is refused (the text says why).
    """
    from gitmerge_eval import previewing
    from gitmerge_eval.evaluation import reporting
    from gitmerge_eval.git.repository import Repository
    from gitmerge_eval.report import preview as report

    with reporting.evaluation_bar() as bar:
        found = previewing.preview(
            Repository.here(),
            heads,
            into=into,
            options=strategy_option,
            split=split,
            device=device,
            progress=lambda step: bar(f"{step.model} on {step.task}", step.completed),
        )
    print_json(report.as_dict(found)) if as_json else print(report.comment(found), end="")
    raise typer.Exit(0 if found.possible else 1)
