"""Which paths a sparse checkout keeps out of the work tree: Git itself decides."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gitmerge_eval.git.repository import Repository
from gitmerge_eval.git.scratch import scratch_folder
from gitmerge_eval.git.trees import Entry, index_lines


def kept_out(repository: Repository, files: Mapping[str, Entry]) -> frozenset[str]:
    """Those of ``files`` that would not be checked out.

    A tree of their metadata blobs is checked out into a scratch work tree, unfiltered; the paths
    with the skip-worktree bit are the answer.
    """
    if not files or repository.setting("core.sparseCheckout") != "true":
        return frozenset()
    with scratch_folder(repository) as scratch:
        environment = {
            "GIT_INDEX_FILE": str(scratch / "index"),
            "GIT_DIR": str(repository.git_directory),
            "GIT_WORK_TREE": str(scratch / "tree"),
        }
        (scratch / "tree").mkdir()
        repository.run(
            "update-index", "-z", "--index-info", stdin=index_lines(files), environment=environment
        )
        tree = repository.run("write-tree", environment=environment).text
        Path(environment["GIT_INDEX_FILE"]).unlink()
        repository.run("read-tree", "-m", "-u", tree, environment=environment)
        lines = repository.run("ls-files", "-t", "-z", environment=environment).fields
    return frozenset(line[2:] for line in lines if line.startswith("S "))
