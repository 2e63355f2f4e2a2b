"""Trees, the paths that differ between them, and which of those paths hold tensors."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from gitmerge_eval.git.repository import EMPTY_TREE, FULL_ID, NULL_ID, Repository
from gitmerge_eval.git.scratch import scratch_folder

FILTER = "theta"
"""The value of the ``filter`` attribute that marks a path as a checkpoint."""
COMPANIONS = {"adapter_config.json": "adapter_model.safetensors"}
"""Ordinary files that say what the tensors beside them mean: a change of one changes both."""
_LISTINGS = 64
"""Trees whose files are remembered."""


@dataclass(frozen=True)
class Entry:
    """A file in a tree: mode ('100644') and object id."""

    mode: str
    object_id: str

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file: no filter is run for a symbolic link."""
        return self.mode.startswith("100")


@dataclass(frozen=True)
class Difference:
    """A path that differs between two trees; None where one has no such file."""

    old: Entry | None
    new: Entry | None


def entries(repository: Repository, tree: str) -> Mapping[str, Entry]:
    """path -> Entry for every file below ``tree``."""
    if tree in repository.listings:
        return cast("Mapping[str, Entry]", repository.listings[tree])
    found = {}
    for line in repository.run("ls-tree", "-r", "-z", "--full-tree", tree).fields:
        meta, path = line.split("\t", 1)
        mode, _, object_id = meta.split()
        found[path] = Entry(mode, object_id)
    _keep(repository, tree, found)
    return found


def list_together(repository: Repository, commits: Iterable[str]) -> None:
    """List the files of commits, by their full ids, by a few processes for all; :func:`entries`
    then has them. What they share is in memory once."""
    wanted = [commit for commit in dict.fromkeys(commits) if commit not in repository.listings]
    if len(wanted) < 2:
        return
    first, *others = wanted
    known = entries(repository, first)
    for commit, changes in differences(repository, first, others).items():
        files = {path: entry for path, entry in known.items() if path not in changes}
        files |= {path: one.new for path, one in changes.items() if one.new}
        _keep(repository, commit, files)


def _keep(repository: Repository, tree: str, files: Mapping[str, Entry]) -> None:
    if FULL_ID.fullmatch(tree):
        while len(repository.listings) >= _LISTINGS:
            repository.listings.pop(next(iter(repository.listings)))
        repository.listings[tree] = files


def trees_of(repository: Repository, commits: Iterable[str]) -> dict[str, str]:
    """commit -> its tree; GitError where one is not here."""
    asked = list(dict.fromkeys(commits))
    if not asked:
        return {}
    names = (f"{commit}^{{tree}}" for commit in asked)
    return dict(zip(asked, repository.text("rev-parse", *names).split(), strict=True))


def differences(
    repository: Repository, old: str, commits: Iterable[str]
) -> dict[str, dict[str, Difference]]:
    """commit -> the paths that differ from ``old`` in content or mode, renames not followed; by
    one process for all commits."""
    trees = trees_of(repository, commits)
    by_tree: dict[str, dict[str, Difference]] = {tree: {} for tree in trees.values()}
    for tree, meta, (path,) in _compared(repository, old, by_tree, "--no-renames"):
        modes_and_ids = meta[1:].split()
        before, after = (
            None if mode == "000000" else Entry(mode, blob)
            for mode, blob in zip(modes_and_ids[0:2], modes_and_ids[2:4], strict=True)
        )
        by_tree[tree][path] = Difference(before, after)
    return {commit: by_tree[tree] for commit, tree in trees.items()}


def _compared(
    repository: Repository,
    old: str,
    trees: Iterable[str],
    *options: str,
    names: int = 1,
    paths: Sequence[str] = (),
) -> Iterator[tuple[str, str, list[str]]]:
    """Tree, what Git says, and the path, or old and new path (``names``), of every difference of
    the trees from ``old``."""
    start = old if old == EMPTY_TREE else trees_of(repository, [old])[old]
    fields = repository.run(
        *("diff-tree", "--stdin", "-r", "-z", *options, *(("--", *paths) if paths else ())),
        stdin="".join(f"{start} {tree}\n" for tree in trees),
    ).fields
    tree = ""
    for place in range(0, len(fields) - names, names + 1):
        # The two trees stand on a line before the first of their files, or before other trees.
        *headers, meta = fields[place].split("\n")
        if headers:
            tree = headers[-1].split()[1]
        yield tree, meta, fields[place + 1 : place + 1 + names]


def differing(repository: Repository, old: str, new: str) -> set[str]:
    """The paths whose content or mode differs between two trees, renames not followed."""
    done = repository.run("diff-tree", "-r", "-z", "--name-only", "--no-renames", old, new)
    return set(done.fields)


def renames(
    repository: Repository, old: str, commits: Iterable[str], *, similarity: int = 30
) -> dict[str, dict[str, str]]:
    """commit -> old path -> new path of the files that it renamed since ``old``."""
    trees = trees_of(repository, commits)
    by_tree: dict[str, dict[str, str]] = {tree: {} for tree in trees.values()}
    options = (f"-M{similarity}%", "--diff-filter=R", "--name-status")
    for tree, _, (before, after) in _compared(repository, old, by_tree, *options, names=2):
        by_tree[tree][before] = after
    return {commit: by_tree[tree] for commit, tree in trees.items()}


@contextmanager
def scratch_index(repository: Repository) -> Iterator[dict[str, str]]:
    """The environment of git commands that shall work on an index of their own."""
    with scratch_folder(repository) as folder:
        yield {"GIT_INDEX_FILE": str(folder / "index")}


def identities_of_files(repository: Repository, paths: Iterable[str]) -> dict[str, str]:
    """path -> the id that the work tree's file or folder has once it is added; '' where none is.

    What is staged and unchanged is not read. Raises GitError where a path cannot be added.
    """
    found = dict.fromkeys(paths, "")
    there = [path for path in found if (repository.directory / path).exists()]
    if not there:
        return found
    with scratch_index(repository) as environment:
        own = repository.path("index")
        if own.exists():
            # With its time: Git looks again at files as young as their index.
            shutil.copy2(own, environment["GIT_INDEX_FILE"])
        repository.run("add", "--all", "--", *there, environment=environment)
        tree = repository.run("write-tree", environment=environment).text
    return found | {path: repository.text("rev-parse", f"{tree}:{path}") for path in there}


def index_lines(files: Mapping[str, Entry | None]) -> str:
    """Input for ``git update-index -z --index-info``; None removes the path."""
    return "".join(
        f"{entry.mode} {entry.object_id}\t{path}\0" if entry else f"0 {NULL_ID}\t{path}\0"
        for path, entry in files.items()
    )


def write_tree(repository: Repository, tree: str, changes: Mapping[str, Entry | None]) -> str:
    """The id of ``tree`` with some of its files replaced, added or removed (None)."""
    with scratch_index(repository) as environment:
        repository.run("read-tree", tree, environment=environment)
        if changes:
            repository.run(
                *("update-index", "-z", "--index-info"),
                stdin=index_lines(changes),
                environment=environment,
            )
        return repository.run("write-tree", environment=environment).text


def tensor_paths(repository: Repository, commit: str, paths: Iterable[str]) -> set[str]:
    """Those of ``paths`` whose ``filter`` attribute is ours as ``commit`` has it."""
    wanted = set(paths)
    if not wanted:
        return wanted
    tree = repository.text("rev-parse", f"{commit}^{{tree}}")
    return tensor_paths_in_trees(repository, {tree: wanted})[tree]


def tensor_paths_in_trees(
    repository: Repository, wanted: Mapping[str, set[str]]
) -> dict[str, set[str]]:
    """tree -> those of its ``wanted`` paths whose ``filter`` attribute is ours by that tree.

    Only the attribute files of the trees are read into a scratch index, so that the cost does not
    grow with the number of files (``check-attr --source`` exists from Git 2.40 on only), and trees
    with the same attribute files are asked together.
    """
    alike: dict[tuple[tuple[str, Entry], ...], list[str]] = {}
    for tree, files in _attribute_files(repository, wanted).items():
        alike.setdefault(tuple(sorted(files.items(), key=lambda one: one[0])), []).append(tree)
    found: dict[str, set[str]] = {}
    for files_alike, trees in alike.items():
        paths = sorted(set().union(*(wanted[tree] for tree in trees)))
        with scratch_index(repository) as environment:
            repository.run(
                *("update-index", "-z", "--index-info"),
                stdin=index_lines(dict(files_alike)),
                environment=environment,
            )
            values = repository.attribute("filter", paths, index=environment["GIT_INDEX_FILE"])
        ours = {path for path, value in values.items() if value == FILTER}
        found |= {tree: wanted[tree] & ours for tree in trees}
    return found


def _attribute_files(repository: Repository, trees: Iterable[str]) -> dict[str, dict[str, Entry]]:
    """tree -> its attribute files, by one process for all."""
    found: dict[str, dict[str, Entry]] = {tree: {} for tree in trees}
    files = (".gitattributes", ":(glob)**/.gitattributes")
    for tree, meta, (path,) in _compared(
        repository, EMPTY_TREE, found, "--no-renames", paths=files
    ):
        _, mode, _, blob, _ = meta.split()
        found[tree][path] = Entry(mode, blob)
    return found


def changed_tensor_paths(
    repository: Repository, base: str | None, heads: Iterable[str]
) -> set[str]:
    """The checkpoints and statistics that differ from ``base`` on any of the heads.

    A branch may be the first to add ``.gitattributes``, so each head's own attributes count. An
    adapter differs where its configuration does.
    """
    commits = list(heads)
    by_head = differences(repository, base or EMPTY_TREE, commits)
    changed = set().union(*by_head.values())
    for path in list(changed):
        folder, slash, name = path.rpartition("/")
        if name in COMPANIONS:
            changed.add(f"{folder}{slash}{COMPANIONS[name]}")
    if not changed:
        return changed
    wanted = dict.fromkeys(trees_of(repository, commits).values(), changed)
    tensors = set().union(*tensor_paths_in_trees(repository, wanted).values())
    files = {
        path
        for one in by_head.values()
        for path, side in one.items()
        if any(entry and entry.is_file for entry in (side.old, side.new))
    }
    return {
        path
        for path in tensors
        if path in files or any(_is_file(repository, head, path) for head in [*commits, base])
    }


def moved_whole(repository: Repository, parents: Iterable[str], commit: str, blob: str) -> bool:
    """Whether a merge has a parent's file as it is, under another name: one side renamed it, and
    the other changed it."""
    now = entries(repository, commit)
    return any(
        entry.object_id == blob and path not in now
        for parent in parents
        for path, entry in entries(repository, parent).items()
    )


def _is_file(repository: Repository, commit: str | None, path: str) -> bool:
    """Whether ``commit`` has a regular file there."""
    if commit is None:
        return False
    line = repository.run("ls-tree", "-z", "--full-tree", commit, "--", path)
    return line.text.startswith("100")


def same_file_system(first: Path, second: Path) -> bool:
    """Whether a file can be renamed from one folder to the other."""
    return os.stat(first).st_dev == os.stat(second).st_dev
