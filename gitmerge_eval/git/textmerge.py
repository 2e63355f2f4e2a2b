"""Ordinary files of a merge with checkpoints, merged as Git merges them, nothing touched.

Round k merges a synthetic commit (the result so far) with the next head by ``git merge-tree
--write-tree``: real ort with renames, modes and criss-cross histories, and right merge bases by
itself, because the synthetic commit has the heads merged so far as its parents.
"""

from __future__ import annotations

import re
from collections.abc import Set
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from gitmerge_eval.errors import MergeRefused
from gitmerge_eval.git.heads import Heads
from gitmerge_eval.git.repository import Repository
from gitmerge_eval.git.trees import FILTER, Entry, differences, entries, write_tree

OPTIONS_SINCE = (2, 43)
"""``git merge-tree`` takes ``-X`` from this version on."""

_IDENTITY = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (
        ("NAME", "gitmerge-eval"),
        ("EMAIL", "gitmerge-eval@invalid"),
        ("DATE", "@0 +0000"),
    )
}


@dataclass(frozen=True)
class StagedEntry:
    """One side of a conflict: stage 1 is the base, 2 ours, 3 theirs."""

    entry: Entry
    stage: int


@dataclass
class TextMerge:
    """The merged tree, the conflicts in it, and what Git said about them."""

    tree: str
    conflicts: dict[str, list[StagedEntry]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)


@dataclass
class _Round:
    tree: str
    conflicts: dict[str, list[StagedEntry]]
    messages: list[str]


def merge_text(
    repository: Repository, heads: Heads, ours: Set[str], git_options: tuple[str, ...] = ()
) -> TextMerge:
    """Merge everything but the paths in ``ours`` (checkpoints and what belongs to them).

    Raises MergeRefused where more than two heads conflict in one file: an index has three stages.
    """
    if git_options and repository.version < OPTIONS_SINCE:
        raise MergeRefused(
            f"{', '.join(git_options)}: needs Git 2.43 in a merge with checkpoints (this is "
            f"{'.'.join(map(str, repository.version))}); leave the option out, or upgrade Git"
        )
    current, merged_names = heads.head, [] if heads.head_is_subsumed else [heads.name(heads.head)]
    result = TextMerge(repository.text("rev-parse", f"{heads.head}^{{tree}}"))
    if not git_options and _is_head_alone(repository, heads, ours):
        return result
    independent = repository.text("merge-base", "--independent", heads.head, *heads.remotes).split()
    for position, remote in enumerate(heads.remotes):
        if remote not in independent:
            continue  # it comes with the one that contains it
        done = _merge_round(repository, heads, current, remote, ours, git_options)
        _refuse_many_sided(repository, heads, result, done, position)
        result.conflicts |= done.conflicts
        labels = {current: _label(merged_names), remote: heads.name(remote)}
        result.messages += [_relabel(message, labels) for message in done.messages]
        result.tree = _relabel_markers(repository, done, labels)
        current = _synthetic_commit(repository, result.tree, current, remote)
        merged_names.append(heads.name(remote))
    return result


def _is_head_alone(repository: Repository, heads: Heads, ours: Set[str]) -> bool:
    """Whether the other heads, since the one base, have changed nothing but ``ours``, in no commit,
    and so that no other path is in the way: then ordinary files stay as HEAD has them."""
    if len(heads.bases) != 1:
        return False
    changed = [
        (path, one)
        for head in differences(repository, heads.bases[0], heads.remotes).values()
        for path, one in head.items()
    ]
    # What is gone may have been renamed, with its folder, and Git takes HEAD's new files along.
    if any(path not in ours or one.new is None for path, one in changed):
        return False
    added = {path for path, one in changed if one.old is None}
    if _in_the_way(added, set(entries(repository, heads.head))):
        return False
    others = [f":(top,exclude,literal){path}" for path in sorted(ours)]
    history = ("rev-list", "--full-history", "--max-count=1", *heads.remotes)
    return not repository.text(*history, f"^{heads.bases[0]}", "--", ":(top)", *others)


def _in_the_way(added: Set[str], files: Set[str]) -> bool:
    """Whether a new file's folder is a file, or a file is where it has a folder."""
    return not _folders(added).isdisjoint(files) or not _folders(files).isdisjoint(added)


def _folders(files: Set[str]) -> set[str]:
    return {str(folder) for path in files for folder in PurePosixPath(path).parents}


def _merge_round(
    repository: Repository,
    heads: Heads,
    current: str,
    remote: str,
    ours: Set[str],
    git_options: tuple[str, ...],
) -> _Round:
    before = _driver_files(repository)
    done = repository.run(
        *("merge-tree", "--write-tree", "-z", "--messages"),
        *([] if heads.bases else ["--allow-unrelated-histories"]),
        *[f"-X{option}" for option in git_options],
        *(current, remote),
        # The paths that are ours are set afterwards: here they must neither conflict nor compute.
        config={f"merge.{FILTER}.driver": "true", f"merge.{FILTER}.recursive": "binary"},
        check=False,
    )
    if done.status not in (0, 1):
        for file in _driver_files(repository) - before:
            file.unlink(missing_ok=True)
        said = (done.stderr or done.text or "git was killed").splitlines()[0]
        raise MergeRefused(f"ordinary files cannot be merged: {said}")
    fields = iter(done.stdout.decode(errors="surrogateescape").split("\0"))
    outcome = _Round(next(fields), {}, [])
    for line in fields:
        if not line:
            break
        meta, path = line.split("\t", 1)
        mode, object_id, stage = meta.split()
        if path not in ours:
            outcome.conflicts.setdefault(path, []).append(
                StagedEntry(Entry(mode, object_id), int(stage))
            )
    for count in fields:  # <n> <path>×n <kind> <message>
        if not count.isdigit():
            break
        paths = {next(fields) for _ in range(int(count))}
        kind, message = next(fields), next(fields)
        if kind.startswith("CONFLICT") and not paths & ours:
            outcome.messages.append(message.strip())
    return outcome


def _driver_files(repository: Repository) -> set[Path]:
    """What Git hands to merge drivers, in the work tree, and forgets where the disk is full."""
    return set(repository.directory.glob(".merge_file_??????"))


def _refuse_many_sided(
    repository: Repository, heads: Heads, result: TextMerge, done: _Round, position: int
) -> None:
    twice = set(result.conflicts) & set(done.conflicts)
    later: set[str] = set()
    base = entries(repository, heads.bases[0]) if heads.bases and done.conflicts else {}
    if done.conflicts:
        for remote in heads.remotes[position + 1 :]:
            files = entries(repository, remote)
            later |= {path for path in done.conflicts if files.get(path) != base.get(path)}
    if twice | later:
        raise MergeRefused(
            f"more than two heads conflict in {', '.join(sorted(twice | later))}; merge these "
            "branches one at a time, or resolve the file on one of them first"
        )


def _label(names: list[str]) -> str:
    return f"merge of {' + '.join(names)}" if len(names) > 1 else (names or ["HEAD"])[0]


def _relabel(text: str, labels: dict[str, str]) -> str:
    for commit, label in labels.items():
        text = text.replace(commit, label)
    return text


def _relabel_markers(repository: Repository, done: _Round, labels: dict[str, str]) -> str:
    """The tree with branch names instead of synthetic commit ids in conflict markers."""
    if not done.conflicts:
        return done.tree
    marker = re.compile(
        rb"^(<{3,}|>{3,}) (" + b"|".join(c.encode() for c in labels) + rb")", re.MULTILINE
    )
    changes: dict[str, Entry | None] = {}
    files = entries(repository, done.tree)
    for path in set(done.conflicts) & set(files):
        if files[path].mode not in ("100644", "100755"):
            continue
        old = repository.blob(files[path].object_id)
        new = marker.sub(lambda m: m[1] + b" " + labels[m[2].decode()].encode(), old)
        if new != old:
            changes[path] = Entry(files[path].mode, repository.write_blob(new))
    return write_tree(repository, done.tree, changes) if changes else done.tree


def _synthetic_commit(repository: Repository, tree: str, *parents: str) -> str:
    arguments = [part for parent in parents for part in ("-p", parent)]
    return repository.run(
        *("commit-tree", tree, *arguments, "-m", "gitmerge-eval: synthetic"), environment=_IDENTITY
    ).text
