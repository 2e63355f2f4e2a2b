"""Statistics that commits bind to checkpoints: is it the one beside them, and their own?

``statistics/index.json`` says of each statistic which checkpoint it was computed on. Whoever gives
a branch the statistics of another model (by mistake, or to have the merge lean to one side) either
leaves the other checkpoint's id in it, or writes the branch's own: then the same file is bound to
two checkpoints, and the commit that had it first is named.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from gitmerge_eval.auditing.findings import REMARK, UNKNOWN, Finding, short
from gitmerge_eval.checkpoints import statistics_index
from gitmerge_eval.checkpoints.metadata import Metadata
from gitmerge_eval.checkpoints.sharded import is_index
from gitmerge_eval.checkpoints.statistics_index import StatisticEntry
from gitmerge_eval.errors import CheckpointError, GitMergeEvalError, MalformedCheckpoint
from gitmerge_eval.git.history import RecordedCommit
from gitmerge_eval.git.repository import FULL_ID, Repository
from gitmerge_eval.merging.models import single_of
from gitmerge_eval.merging.sources import open_source, value_of

_FOLDERS = f":(glob)**/{statistics_index.FOLDER}/*"
_MOST_ORIGINS, _MOST_VERSIONS = 20, 50
"""How many commits are asked for the owner of a file, and for versions of a model in shards."""


@dataclass(frozen=True)
class Binding:
    """A statistic of a commit: its file, and the checkpoint that its index names."""

    checkpoint: str
    """The checkpoint's path."""
    kind: str
    file: str
    blob: str
    entry: StatisticEntry

    @property
    def claim(self) -> tuple[str, str]:
        """What is claimed: these bytes are of that checkpoint."""
        return self.blob, self.entry.checkpoint


def in_statistics(
    repository: Repository,
    one: RecordedCommit,
    *,
    complete: bool = True,
    tips: Collection[str] = (),
) -> Iterator[Finding]:
    """What is to be said of the statistics that one commit adds, or binds anew.

    Where the history is not ``complete`` (a shallow clone), a checkpoint may have been there.
    ``tips`` are the last commits of the range: what a later one has replaced is no fault.
    """
    touched = {path for path in one.changes if statistics_index.is_statistic(path)}
    for index in sorted({str(PurePosixPath(path).with_name("index.json")) for path in touched}):
        try:
            bindings = list(_bindings(repository, one.commit, index))
        except CheckpointError as error:
            yield Finding.of(one, index, "damaged", str(error))
            continue
        known = set()
        for parent in one.parents:
            known |= _claims(repository, parent, index)
        for binding in bindings:
            if binding.claim not in known:
                yield from _checked(repository, one, binding, complete, tips)


def _claims(repository: Repository, commit: str, index: str) -> set[tuple[str, str]]:
    try:
        return {binding.claim for binding in _bindings(repository, commit, index)}
    except CheckpointError:
        return set()


def _bindings(repository: Repository, commit: str, index: str) -> Iterator[Binding]:
    blob = repository.blob_id(commit, index)
    if blob is None:
        return
    folder = PurePosixPath(index).parent
    for name, kinds in statistics_index.parse(repository.blob(blob)).items():
        for kind, entry in kinds.items():
            file = str(folder / entry.path)
            if not FULL_ID.fullmatch(entry.checkpoint):
                raise MalformedCheckpoint(
                    f"'{index}' names no checkpoint of '{file}' but {entry.checkpoint[:80]!r}; "
                    "compute the statistics again with 'gitmerge-eval stats'"
                )
            if (there := repository.blob_id(commit, file)) is not None:
                yield Binding(str(folder.parent / name), kind, file, there, entry)


def _checked(
    repository: Repository,
    one: RecordedCommit,
    binding: Binding,
    complete: bool,
    tips: Collection[str],
) -> Iterator[Finding]:
    own = _identity(repository, one.commit, binding.checkpoint)
    of = binding.entry.checkpoint
    what = f"statistic '{binding.kind}' of '{binding.checkpoint}'"
    if of == own:
        if (other := _first_owner(repository, one, binding)) is not None:
            yield Finding.of(
                one, binding.file, "statistic",
                f"{what} is said to be of {of[:10]}, but the very same file belongs to the "
                f"checkpoint {other[1][:10]} by commit {short(repository, other[0])}: it was "
                "copied; compute it with 'gitmerge-eval stats', or accept it with --allow "
                f"{one.commit[:10]} where two models really have the same one",
            )  # fmt: skip
    elif _had_before(repository, one.commit, binding):
        yield Finding.of(
            one, binding.file, "stale-statistic",
            f"{what} is of an earlier version ({of[:10]}): a merge that needs it will be refused; "
            "compute it again with 'gitmerge-eval stats'",
            REMARK,
        )  # fmt: skip
    elif complete and _is_replaced(repository, binding, tips):
        yield Finding.of(
            one, binding.file, "stale-statistic",
            f"{what} is of another checkpoint ({of[:10]}), as after a rebase; a later commit has "
            "replaced it",
            REMARK,
        )  # fmt: skip
    elif complete:
        yield Finding.of(
            one, binding.file, "statistic",
            f"{what} is of another checkpoint ({of[:10]}), which this branch never had (a rebase "
            "or a cherry-pick brings it along); compute it again with 'gitmerge-eval stats' and "
            "commit that on top, or 'git rm' it",
        )  # fmt: skip
    else:
        yield Finding.of(
            one, binding.file, "not-here",
            f"{what} is of a checkpoint ({of[:10]}) that is not in this shallow clone; run 'git "
            "fetch --unshallow'",
            UNKNOWN,
        )  # fmt: skip


def _is_replaced(repository: Repository, binding: Binding, tips: Collection[str]) -> bool:
    """Whether none of the last commits has the statistic as it is."""
    index = statistics_index.index_path(binding.checkpoint)
    return bool(tips) and all(binding.claim not in _claims(repository, tip, index) for tip in tips)


def _identity(repository: Repository, commit: str, path: str) -> str | None:
    """What statistics name a checkpoint by: its blob; of one in several files that of the whole."""
    if not is_index(path):
        return repository.blob_id(commit, path)
    try:
        return open_source(repository, commit, path, commit[:10]).blob
    except GitMergeEvalError:
        return repository.blob_id(commit, single_of(path))


def _had_before(repository: Repository, commit: str, binding: Binding) -> bool:
    """Whether a commit's history has had the checkpoint that a statistic names."""
    blob = binding.entry.checkpoint
    if is_index(binding.checkpoint):
        folder = str(PurePosixPath(binding.checkpoint).parent)
        versions = repository.text(
            "log", f"--max-count={_MOST_VERSIONS}", "--format=%H", commit, "--", folder
        )
        return any(
            _identity(repository, version, binding.checkpoint) == blob
            for version in versions.split()
        )
    if not repository.succeeds("cat-file", "-e", blob):
        return False
    found = repository.run(
        *("log", "-1", "--format=%H", "-m", f"--find-object={blob}", commit, "--"), check=False
    )
    return bool(found.text)


def _first_owner(
    repository: Repository, one: RecordedCommit, binding: Binding
) -> tuple[str, str] | None:
    """(commit, checkpoint) where the same file is bound to a checkpoint with other tensors."""
    listing = repository.run(
        *("log", "--format=%H", "-m", f"--find-object={binding.blob}"),
        *("--all", one.commit, "--", _FOLDERS),
        check=False,
    ).text
    oldest_first = [*reversed(dict.fromkeys(listing.split()))]
    for commit in oldest_first[:_MOST_ORIGINS]:
        for file in _files_with(repository, commit, binding.blob):
            index = str(PurePosixPath(file).with_name("index.json"))
            for blob, checkpoint in _claims(repository, commit, index):
                if blob == binding.blob and not _alike(
                    repository, checkpoint, binding.entry.checkpoint
                ):
                    return commit, checkpoint
    return None


def _files_with(repository: Repository, commit: str, blob: str) -> list[str]:
    listing = repository.run("ls-tree", "-r", "-z", "--full-tree", commit).fields
    return [
        path
        for meta, _, path in (line.partition("\t") for line in listing)
        if meta.split()[2] == blob and statistics_index.is_statistic(path)
    ]


def _alike(repository: Repository, first: str, second: str) -> bool:
    """Whether two checkpoints are the same model, however their metadata spells it."""
    if first == second:
        return True
    found: list[Mapping[str, object]] = []
    for blob in (first, second):
        content = repository.run("cat-file", "blob", blob, check=False)
        try:
            groups = Metadata.parse(content.stdout).groups
        except CheckpointError:
            return False
        found.append({name: value_of(record) for name, record in groups.items()})
    return found[0] == found[1]
