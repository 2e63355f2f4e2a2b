"""What a merge of ours is made of, down to the models that are no merges themselves.

A merge is ours where the model in its tree is the one that its trailers record: these may be copied
to another commit, and then do not count.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from gitmerge_eval.errors import EvaluationError
from gitmerge_eval.evaluation.declarations import (
    ConstituentDeclaration,
    constituent,
    constituent_blobs,
)
from gitmerge_eval.git import trailers
from gitmerge_eval.git.repository import Repository
from gitmerge_eval.git.trailers import MergeTrailers


def merge_of_ours(repository: Repository, commit: str) -> MergeTrailers | None:
    """The trailers of a merge whose recorded model is the one in its tree, else None."""
    merge = trailers.read(repository, commit)
    if merge is None:
        return None
    true = any(repository.blob_id(commit, path) == blob for blob, path in merge.models)
    return merge if true else None


@dataclass(frozen=True)
class Part:
    """A model that was merged and is no merge of ours itself."""

    commit: str
    name: str
    base: str | None
    """What it was merged on; None for a model that is evaluated by itself."""


def parts_of(
    repository: Repository, commit: str, name: str, base: str | None = None
) -> Iterator[Part]:
    """The models that ``commit`` is made of; of a merge of merges, those of all of them.

    Raises EvaluationError where one of them is not in this clone.
    """
    if not repository.succeeds("cat-file", "-e", f"{commit}^{{commit}}"):
        raise EvaluationError(
            f"constituent '{name}' ({commit[:10]}) is not in this clone; fetch its branch, or all "
            "of a shallow clone with 'git fetch --unshallow'"
        )
    merge = merge_of_ours(repository, commit)
    if merge is None or not merge.constituents:
        yield Part(commit, name, base)
        return
    origin = merge.bases[0] if merge.bases else None
    for part, part_name in merge.constituents:
        yield from parts_of(repository, part, part_name, origin)


def declarations_of(repository: Repository, part: Part) -> list[ConstituentDeclaration]:
    """What the branch of ``part`` declares of itself; EvaluationError for a malformed file."""
    return [
        constituent(repository.blob(blob), f"'{path}' of '{part.name}'")
        for path, blob in _own_declarations(repository, part).items()
    ]


def _own_declarations(repository: Repository, part: Part) -> Mapping[str, str]:
    present = constituent_blobs(repository, part.commit)
    if part.base is None:
        return present
    # A branch that started from another model carries that model's files too.
    for stem in (part.name, part.name.rsplit("/", 1)[-1]):
        path = f"constituents/{stem}.toml"
        if path in present:
            return {path: present[path]}
    inherited = constituent_blobs(repository, part.base)
    own = {path: blob for path, blob in present.items() if inherited.get(path) != blob}
    return own or present
