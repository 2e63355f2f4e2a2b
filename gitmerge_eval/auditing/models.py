"""The models of commits: what differs from all parents, what trailers say of it, what is broken."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath

from gitmerge_eval import methods
from gitmerge_eval.auditing.contents import Contents
from gitmerge_eval.auditing.findings import REMARK, UNKNOWN, Finding, exists
from gitmerge_eval.checkpoints.sharded import is_index
from gitmerge_eval.checkpoints.statistics_index import is_statistic
from gitmerge_eval.git.history import Change, RecordedCommit
from gitmerge_eval.git.repository import FULL_ID, Repository
from gitmerge_eval.git.trees import COMPANIONS, moved_whole, tensor_paths_in_trees
from gitmerge_eval.merging.models import single_of

MOST_MODELS = 2000
"""Files that a commit's trailers may name: each is looked up, and anybody may write a message."""

Marked = Mapping[str, set[str]]
"""commit -> those of its changed paths that are models' files or statistics."""


def marked(repository: Repository, commits: Sequence[RecordedCommit]) -> Marked:
    """The changed files that hold tensors by the commit's own attributes, or are part of a model.

    Of a merge by its parents' attributes too: it could take the mark off what it spoils.
    """
    trees = _trees(
        repository, {parent for one in commits if one.is_merge for parent in one.parents}
    )
    wanted: dict[str, set[str]] = {}
    asked: dict[str, list[str]] = {}
    for one in commits:
        if one.changes:
            asked[one.commit] = [one.tree]
            asked[one.commit] += [trees[p] for p in one.parents if one.is_merge and p in trees]
            for tree in asked[one.commit]:
                wanted.setdefault(tree, set()).update(map(_holder, one.changes))
    found = tensor_paths_in_trees(repository, wanted)
    return {
        one.commit: {
            path
            for path in one.changes
            if any(_holder(path) in found[tree] for tree in asked[one.commit])
        }
        for one in commits
        if one.changes
    }


def _holder(path: str) -> str:
    """The tensors' file whose attributes decide for ``path``: of a configuration or an index that
    beside it."""
    name = PurePosixPath(path)
    if name.name in COMPANIONS:
        return str(name.with_name(COMPANIONS[name.name]))
    return single_of(path) if is_index(path) else path


def _trees(repository: Repository, commits: Iterable[str]) -> dict[str, str]:
    """commit -> its tree, of those that are here."""
    wanted = sorted(commits)
    listing = repository.run(
        "cat-file", "--batch-check=%(objectname)",
        stdin="".join(f"{commit}^{{tree}}\n" for commit in wanted),
    ).text.splitlines()  # fmt: skip
    return {
        commit: tree for commit, tree in zip(wanted, listing, strict=True) if " missing" not in tree
    }


def in_models(
    repository: Repository,
    one: RecordedCommit,
    paths: set[str],
    contents: Contents,
    *,
    complete: bool = True,
) -> Iterator[Finding]:
    """What is to be said of the models that one commit changed, and of its trailers.

    ``paths`` are its changed files that :func:`marked` found. Where the history is not
    ``complete`` (a shallow clone), it is not asked who is an ancestor.
    """
    recorded = _recorded(one)
    broken = set()
    for path in sorted(paths):
        if (finding := _broken(one, path, one.changes[path], contents)) is not None:
            broken.add(path)
            yield finding
    if one.is_merge:
        for path in sorted(paths - broken - set(recorded)):
            if _is_merged(repository, one, path):
                yield _unrecorded(one, path, one.changes[path], contents)
    yield from _trailers(repository, one, recorded)
    if attested(repository, one):
        yield from _hollow(one)
        if one.is_merge and complete:
            yield from _strangers(repository, one)


def unnamed(one: RecordedCommit, paths: set[str]) -> set[str]:
    """Those of a commit's changed models of which no trailer speaks."""
    return {path for path in paths - set(_recorded(one)) if not is_statistic(path)}


def _recorded(one: RecordedCommit) -> dict[str, str]:
    """path -> the blob that the trailers say it has."""
    return {path: blob for blob, path in one.record.models} if one.record else {}


def _is_merged(repository: Repository, one: RecordedCommit, path: str) -> bool:
    """Whether a file that differs from all parents of a merge has to be told of by trailers."""
    if not exists(one.changes[path].new) or (is_statistic(path) and one.record):
        return False  # a merge of ours adds statistics up; their index says of which checkpoint
    alone = PurePosixPath(path).name in COMPANIONS
    if alone and actual_blob(repository, one, _holder(path)) is None:
        return False
    # Renamed by one parent and changed by another, it is that one's whole model.
    return not moved_whole(repository, one.parents, one.commit, one.changes[path].new)


def _broken(one: RecordedCommit, path: str, change: Change, contents: Contents) -> Finding | None:
    """A file that is to be metadata, and is none."""
    if not exists(change.new) or not change.is_file or _holder(path) != path:
        return None
    if not contents.is_here(change.new):
        absent = f"its content ({change.new[:10]}) is not in this clone; fetch it"
        return Finding.of(one, path, "not-here", absent, UNKNOWN)
    damage = contents.damage(change.new)
    if damage is None:
        return None
    kind, what = damage
    if one.is_merge and kind == "damaged":
        what = f"was merged as text, and can no longer be read: {what}"
    return Finding.of(one, path, kind, what)


def _unrecorded(one: RecordedCommit, path: str, change: Change, contents: Contents) -> Finding:
    """A merged model that no trailer speaks of."""
    lost = " (the Merge-* trailers that it has are torn)" if one.is_torn else ""
    merged = contents.groups(change.new)
    parents = [contents.groups(blob) for blob in change.old]
    as_text = bool(merged) and all(
        any(groups.get(name) == record for groups in parents) for name, record in merged.items()
    )
    if as_text:
        return Finding.of(
            one, path, "text-merge",
            f"was merged as text: each of its {len(merged)} parameter groups is that of one of the "
            "parents, as a forge puts two versions together, and no method was applied; merge the "
            f"branches in a clone by 'git merge', and push that merge{lost}",
        )  # fmt: skip
    return Finding.of(
        one, path, "no-trailer",
        "differs from all parents, and no trailer Merge-Model names it: it was merged by hand or "
        "by another tool, or the trailers were lost ('git commit --amend -m'); merge again, or "
        f"have whoever has looked at it accept it with --allow {one.commit[:10]}{lost}",
    )  # fmt: skip


def _trailers(
    repository: Repository, one: RecordedCommit, recorded: Mapping[str, str]
) -> Iterator[Finding]:
    """Trailers that speak of another model than the one that the commit has."""
    if len(recorded) > MOST_MODELS:
        yield Finding.of(
            one, "", "torn-trailers", f"its trailers name {len(recorded)} files of models, and no "
            f"merge has more than {MOST_MODELS}: they were not looked at",
        )  # fmt: skip
        return
    for path, blob in recorded.items():
        actual = actual_blob(repository, one, path)
        if actual == blob:
            continue
        there = f"is {actual[:10]}" if actual else "is not there"
        if path in one.changes:
            yield Finding.of(
                one, path, "other-model",
                f"{there}, but its trailer Merge-Model says {blob[:10]}: the model was changed "
                "after the merge, or the trailers were copied from another commit; merge again, or "
                "take the Merge-* lines out of the message",
            )  # fmt: skip
        else:
            yield Finding.of(
                one, path, "stale-trailers",
                f"{there} as before this commit, and its trailer Merge-Model says {blob[:10]}: the "
                "trailers were copied from another commit and mean nothing here",
                REMARK,
            )  # fmt: skip
    if one.is_torn and not one.is_merge:
        yield Finding.of(
            one, "", "torn-trailers", "its Merge-* trailers name no method, or are not readable: "
            "they mean nothing", REMARK,
        )  # fmt: skip


def _hollow(one: RecordedCommit) -> Iterator[Finding]:
    """Trailers that anybody can write and nobody could recompute."""
    assert one.record is not None
    if not one.record.constituents:
        yield Finding.of(
            one, "", "torn-trailers",
            "its trailers name a merged model and none of its constituents, so that no merge can "
            "be told from them; merge again",
        )  # fmt: skip
    elif one.record.method not in methods.load():
        yield Finding.of(
            one, "", "torn-trailers",
            f"its trailers say that it was merged by '{one.record.method}', which is no method "
            "here; install the package that provides it, or merge again",
            UNKNOWN,
        )  # fmt: skip


def _strangers(repository: Repository, one: RecordedCommit) -> Iterator[Finding]:
    """Constituents that a merge does not have behind it: its parents say other than its trailers.

    A merge that was squashed has none of them behind it, and says so by having one parent; what is
    made of it may name them.
    """
    assert one.record is not None
    for commit, name in one.record.constituents[:MOST_MODELS]:
        if commit in one.parents or _reaches(repository, one, commit):
            continue
        yield Finding.of(
            one, "", "other-constituent",
            f"its trailers say that it merged '{name}' ({commit[:10]}), and none of its parents "
            "leads there: they were written for another merge, or the history was rewritten; merge "
            "again",
        )  # fmt: skip


def _reaches(repository: Repository, one: RecordedCommit, commit: str) -> bool:
    """Whether a merge has a commit behind it, or a commit whose trailers name it."""
    if not FULL_ID.fullmatch(commit):
        return False
    if repository.succeeds("merge-base", "--is-ancestor", commit, one.commit):
        return True
    named = ("--fixed-strings", f"--grep=: {commit} ")
    return bool(repository.text("log", "-1", "--format=%H", *named, *one.parents, "--"))


def actual_blob(repository: Repository, one: RecordedCommit, path: str) -> str | None:
    """What a commit has at a path."""
    if path in one.changes:
        return one.changes[path].new if exists(one.changes[path].new) else None
    return repository.blob_id(one.commit, path)


def attested(repository: Repository, one: RecordedCommit) -> bool:
    """Whether trailers speak of a model that is in the commit, or that the commit changed."""
    return len(_recorded(one)) <= MOST_MODELS and any(
        path in one.changes or actual_blob(repository, one, path) == blob
        for path, blob in _recorded(one).items()
    )
