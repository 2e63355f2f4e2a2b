"""A merge that ``git rebase --rebase-merges`` makes again keeps its method and its options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

from gitmerge_eval.checkpoints.lfs import ObjectStore
from gitmerge_eval.checkpoints.metadata import Metadata
from gitmerge_eval.errors import MergeRefused
from gitmerge_eval.git import trailers
from gitmerge_eval.git.heads import Heads, arranged
from gitmerge_eval.git.replay import STRATEGY, Replay, base_given, renamed, replayed
from gitmerge_eval.git.repository import Repository
from gitmerge_eval.merging import deciding, provenance
from gitmerge_eval.merging import options as merge_options
from gitmerge_eval.merging.computing import compute
from gitmerge_eval.merging.options import MergeOptions

Items = Sequence[tuple[str, str | None]]


def prepared(
    repository: Repository, heads: Heads, items: Items
) -> tuple[Heads, MergeOptions, tuple[str, ...]]:
    """The heads and options of the merge under way, and what is to be said of them.

    They are those of the merge that a rebase is making again, the names only where ``items`` name a
    method; else those that the command and the configuration ask for.
    """
    settings = merge_options.settings(repository)
    replay = replayed(repository)
    if replay is None:
        return heads, merge_options.parse(items, settings), ()
    if "method" in dict(items):
        return renamed(repository, heads, replay), merge_options.parse(items, settings), ()
    chosen = _options(repository, replay, items)
    said = f"merging again by '{chosen.method.name}', with the options of {replay.commit[:10]}"
    return renamed(repository, heads, replay), chosen, (said,)


def _options(repository: Repository, replay: Replay, items: Items) -> MergeOptions:
    settings = merge_options.settings(repository)
    record = replay.record
    general = {k: v for k, v in settings.items() if k in ("device", "memory")}
    chosen = merge_options.recorded(record.method, record.options, items, general)
    return replace(chosen, base=chosen.base or base_given(repository, replay))


def merge_file(repository: Repository, path: str) -> tuple[Metadata, tuple[str, ...]] | None:
    """One file of a model as the merge driver is to leave it, where a rebase is making a merge of
    ours again by Git's own strategy; None where it is not, or not of this model.

    It is merged from the heads and not from the three versions that Git has. What the hook needs
    for the trailers is left for it. Raises MergeRefused where a driver cannot do what the strategy
    does, and what deciding and computing raise.
    """
    replay = replayed(repository)
    if replay is None or path not in [recorded for _, recorded in replay.record.models]:
        return None
    remotes = trailers.merge_heads(repository)
    if len(remotes) != 1:
        return None
    options = _options(repository, replay, ())
    heads = renamed(repository, arranged(repository, remotes), replay)
    tensors = deciding.decide(repository, heads, options, {path})
    (decision,) = tensors.decisions
    alone = len(replay.record.specs) == 1 and len(decision.known) == 1
    if decision.plan is None or not alone:
        raise MergeRefused(
            f"'{path}': the merge {replay.commit[:10]} cannot be made again by a merge driver; "
            f"repeat the rebase with '{STRATEGY}'"
        )
    done = compute(decision.plan, ObjectStore(repository), resources=options.resources)
    metadata = done.files.tensors[path]
    blob = repository.write_blob(metadata.serialize())
    models = {path: ((blob, path),)}
    record = provenance.recorded(options, [decision], models)
    costs = {done.report.digest: asdict(done.report.cost)}
    merged = provenance.merged_models([decision.plan], models)
    state = provenance.state_of(heads.head, heads.remotes, record, merged, costs)
    trailers.write_state(repository, state)
    said = (
        f"{path}: merged again by '{options.method.name}', with the options of "
        f"{replay.commit[:10]}; statistics stay those of HEAD ('{STRATEGY}' settles them)"
    )
    return metadata, (said, *provenance.told([decision]))
