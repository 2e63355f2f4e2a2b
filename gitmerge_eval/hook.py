"""The hooks' entry point: ``gitmerge-eval hook <event> <arguments of the event>``.

The scripts in ``hooks/`` call it, and only where there may be something to do.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

from gitmerge_eval.errors import GitMergeEvalError
from gitmerge_eval.git import conflicts, trailers
from gitmerge_eval.git.replay import STRATEGY, replayed
from gitmerge_eval.git.repository import Repository


def main(argv: Sequence[str] | None = None) -> int:
    """Serve one event; 0 whatever happens, except for a push whose tensors cannot be sent.

    A hook that fails before the commit would leave a finished merge uncommitted, one that fails
    after it would look as if the merge had failed.
    """
    event, *arguments = list(sys.argv[1:] if argv is None else argv) or [""]
    try:
        with _held_back() if event == "post-merge" else nullcontext():
            return _serve(event, arguments)
    except KeyboardInterrupt:
        return 130 if event == "pre-push" else 0


def _serve(event: str, arguments: list[str]) -> int:
    try:
        repository = Repository.here()
        if event == "pre-push":
            _pre_push(repository, arguments)
        elif event in SERVED:
            SERVED[event](repository, arguments)
    except (GitMergeEvalError, OSError) as error:
        print(f"gitmerge-eval: {event}: {error}", file=sys.stderr)
        return 1 if event == "pre-push" else 0
    return 0


@contextmanager
def _held_back() -> Iterator[None]:
    """Hold the terminal's signals back until the job's watcher looks for them.

    A Ctrl-C that ends us while modules are imported would leave MERGE_HEAD behind.
    """
    before = signal.pthread_sigmask(
        signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    )
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _prepare_commit_msg(repository: Repository, arguments: list[str]) -> None:
    _say_what_is_left_out(repository)
    state = trailers.read_state(repository)
    if state is not None and trailers.is_current(repository, state):
        trailers.apply_trailers(arguments[0], state, repository)
        return
    # Git copies the old message to the merge that a rebase makes again, whatever came of it, and
    # to what a cherry-pick makes of another commit's changes.
    replay = replayed(repository)
    picked = repository.path("CHERRY_PICK_HEAD").exists()
    if not (replay or picked) or not trailers.drop_copied(arguments[0], repository):
        return
    if replay:
        print(
            f"gitmerge-eval: the model of this merge is not that of {replay.commit[:10]}: it was "
            "merged by Git's own strategy or by hand, and its trailers were taken out of the "
            f"message; '{STRATEGY}' merges models again as they were merged",
            file=sys.stderr,
        )
    else:
        print(
            "gitmerge-eval: left out the trailers Merge-* that came with the message: they are of "
            "another version of the model",
            file=sys.stderr,
        )


def _say_what_is_left_out(repository: Repository) -> None:
    """A 'git commit -a' in a conflict takes the work tree's model, which is one side's, whole."""
    for conflict, side in conflicts.taken_whole(repository, trailers.merge_heads(repository)):
        other = conflict.sides["theirs" if side == "ours" else "ours"].label
        label = conflict.sides[side].label
        print(
            f"gitmerge-eval: '{conflict.path}' is committed as '{label}' has it, and nothing "
            f"of '{other}' is in it; if that is not meant, take the commit back with 'git reset "
            "--keep HEAD^', merge again and choose group by group with 'gitmerge-eval resolve'",
            file=sys.stderr,
        )


def _post_merge(repository: Repository, arguments: list[str]) -> None:
    _unite_fetched(repository)
    state = trailers.read_state(repository)
    if state is not None and arguments[:1] == ["1"]:
        if repository.commit("HEAD") == state.head:
            trailers.mark_squash(repository, state)
        return
    _keep_costs(repository, state)
    trailers.remove_state(repository)
    if trailers.read(repository, "HEAD") is not None:
        from gitmerge_eval.evaluation import job

        job.after_merge(repository)


def _unite_fetched(repository: Repository) -> None:
    """A pull has brought other people's results: 'git log' shows those of this clone's notes."""
    from gitmerge_eval.git import note_union

    if note_union.apart(repository):
        from gitmerge_eval import sharing

        try:
            count = sharing.unite_fetched(repository)
        except Exception as error:
            # Notes are anybody's, and the merge is to be evaluated all the same.
            print(f"gitmerge-eval: fetched notes are not united: {error}", file=sys.stderr)
        else:
            print(f"gitmerge-eval: notes: {count} received", file=sys.stderr)


def _post_commit(repository: Repository, arguments: list[str]) -> None:
    state = trailers.read_state(repository)
    if trailers.merge_heads(repository):
        return
    _keep_costs(repository, state)
    trailers.remove_state(repository)
    if (
        state is not None
        and trailers.read(repository, "HEAD") is not None
        and repository.setting("merge-eval.evaluate") != "off"
        and repository.blob_id("HEAD", "benchmark.toml") is not None
    ):
        print("gitmerge-eval: evaluate this merge with: gitmerge-eval evaluate", file=sys.stderr)


def _keep_costs(repository: Repository, state: trailers.MergeState | None) -> None:
    """What the strategy measured, for whenever this merge is evaluated."""
    if state is None or not state.costs:
        return
    from gitmerge_eval.evaluation import evaluating, merge_costs

    try:
        merge_costs.keep(evaluating.results_path(repository), state.costs)
    except GitMergeEvalError as error:
        print(f"gitmerge-eval: the merge's cost is not kept: {error}", file=sys.stderr)


def _pre_push(repository: Repository, arguments: list[str]) -> None:
    from gitmerge_eval import pushing, sharing

    remote = arguments[0]
    lines = sys.stdin.read().splitlines()
    pushing.push_objects(repository, remote, pushing.updates(lines))
    said = sharing.beside_push(repository, remote, lines)
    if said:
        print(f"gitmerge-eval: {said}", file=sys.stderr)


SERVED = {
    "prepare-commit-msg": _prepare_commit_msg,
    "post-merge": _post_merge,
    "post-commit": _post_commit,
}


if __name__ == "__main__":
    raise SystemExit(main())
